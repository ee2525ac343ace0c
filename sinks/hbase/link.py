"""The connections to HBase's Thrift server: a pool that survives idle time-outs and restarts, and the calls that the store makes.

happybase's own pool hands out connections that the server has closed meanwhile; here a call on a connection that was used before is tried once
more on a fresh one. Every call may be repeated: what is written is written under names of its own, and what is compared is looked at
again by the caller.
"""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Final, TypeVar

import happybase  # type: ignore[import-untyped]
import Hbase_thrift as thrift  # type: ignore[import-not-found]
from thriftpy2.protocol import TBinaryProtocol, TCompactProtocol
from thriftpy2.thrift import TClient, TException
from thriftpy2.transport import TBufferedTransport, TFramedTransport, TSocket

from nephoscope.errors import StoreError, Unavailable

T = TypeVar("T")

Cell = tuple[bytes, int]
"""(value, timestamp in milliseconds)."""
Row = tuple[bytes, dict[bytes, Cell]]

_IDLE: Final = 30.0
"""Seconds after which an unused connection is not trusted any more: Thrift servers close theirs after 60 by default."""
_KEPT: Final = 8
_BUFFER: Final = 65536
"""Bytes that go to the server, or come from it, at once: happybase's own 4096 wake both sides up a dozen times for a write."""
MOST_BYTES: Final = 4_000_000
"""Bytes of mutations in one call."""
# thriftpy2 has no types.
_Socket: Final[Any] = TSocket
_TRANSPORTS: Final[Mapping[str, Any]] = {
    "buffered": partial(TBufferedTransport, buf_size=_BUFFER),
    "framed": TFramedTransport,
}
_PROTOCOLS: Final[Mapping[str, Any]] = {"binary": TBinaryProtocol, "compact": TCompactProtocol}
_REFUSED: Final = ("IllegalArgumentException", "KeyValue size too large", "Row length", "DoNotRetryIOException: Cell")


class Link:
    """Calls of a Thrift server. Safe for several threads.

    Raises Unavailable where the server does not answer, or says that HBase does not; StoreError for what HBase will never take.
    """

    def __init__(self, host: str, port: int, *, timeout: float, prefix: bytes, **form: str) -> None:
        self.host, self.port, self.prefix = host, port, prefix
        self._timeout = timeout
        self._form = form
        self._free: queue.LifoQueue[tuple[happybase.Connection, float]] = queue.LifoQueue()
        self._closed = False

    def table(self, name: bytes) -> bytes:
        """The full name of one of the store's tables."""
        return self.prefix + b"_" + name

    def call(self, act: Callable[[Any], T]) -> T:
        """What `act` makes of a Thrift client."""
        if self._closed:
            raise Unavailable("the store is closed")
        while True:
            connection, used = self._connection()
            try:
                result = act(connection.client)
            except thrift.IllegalArgument as error:
                self._free.put((connection, time.monotonic()))
                raise StoreError(f"HBase refuses: {_short(error)}") from error
            except (thrift.IOError, thrift.AlreadyExists) as error:
                # The server answered: the connection is good.
                self._free.put((connection, time.monotonic()))
                text = str(error.message)
                if any(word in text for word in _REFUSED):
                    raise StoreError(f"HBase refuses: {_short(error)}") from error
                raise Unavailable(f"HBase: {_short(error)}") from error
            except (TException, OSError, EOFError) as error:
                connection.close()
                if used and not isinstance(error, TimeoutError):
                    continue
                raise Unavailable(f"HBase's Thrift server at {self.host}:{self.port}: {_short(error)}") from error
            except BaseException:
                # Half a call may be on the wire.
                connection.close()
                raise
            if self._free.qsize() < _KEPT and not self._closed:
                self._free.put((connection, time.monotonic()))
            else:
                connection.close()
            return result

    def close(self) -> None:
        """Close the connections."""
        self._closed = True
        self._drop()

    def _drop(self) -> None:
        while True:
            try:
                connection, _ = self._free.get_nowait()
            except queue.Empty:
                return
            connection.close()

    def _connection(self) -> tuple[happybase.Connection, bool]:
        """(a connection, whether it was used before)."""
        while True:
            try:
                connection, since = self._free.get_nowait()
            except queue.Empty:
                break
            if time.monotonic() - since < _IDLE:
                return connection, True
            connection.close()
        try:
            return self._opened(), False
        except (TException, OSError) as error:
            raise Unavailable(f"HBase's Thrift server at {self.host}:{self.port}: {_short(error)}") from error

    def _opened(self) -> happybase.Connection:
        timeout = round(self._timeout * 1000)
        connection = happybase.Connection(self.host, self.port, timeout=timeout, autoconnect=False, **self._form)
        socket = _Socket(host=self.host, port=self.port, socket_timeout=timeout)
        connection.transport = _TRANSPORTS[self._form.get("transport", "buffered")](socket)
        protocol = _PROTOCOLS[self._form.get("protocol", "binary")](connection.transport, decode_response=False)
        connection.client = TClient(thrift.Hbase, protocol)
        connection.open()
        return connection

    # -- reading

    def rows(self, table: bytes, keys: Sequence[bytes], columns: Sequence[bytes] | None = None) -> Iterator[Row]:
        """The rows that there are, a bounded number at a time."""
        name = self.table(table)
        for begin in range(0, len(keys), 256):
            some = list(keys[begin : begin + 256])
            if columns is None:
                found = self.call(partial(_get, "getRows", name, some))
            else:
                found = self.call(partial(_get, "getRowsWithColumns", name, some, list(columns)))
            for row in found:
                if row.columns:
                    yield row.row, {k: (v.value, v.timestamp) for k, v in row.columns.items()}

    def scan(
        self,
        table: bytes,
        start: bytes,
        stop: bytes,
        *,
        columns: Sequence[bytes] | None = None,
        backwards: bool = False,
        at_once: int = 256,
    ) -> Iterator[Row]:
        """The rows from `start` (included) to `stop` (not included; backwards: from the last one down). Each part is a scan of its own.

        A scanner does not live longer than a call of this iterator: who reads slowly finds no scanner that has timed out.
        """
        name = self.table(table)
        while True:
            some = self.call(partial(_part, name, start, stop, columns, backwards=backwards, most=at_once))
            for row in some:
                yield row.row, {k: (v.value, v.timestamp) for k, v in row.columns.items()}
            if len(some) < at_once:
                return
            if backwards:
                stop = some[-1].row
            else:
                start = some[-1].row + b"\x00"

    # -- writing

    def put(self, table: bytes, rows: Mapping[bytes, Mapping[bytes, bytes]], timestamp: int | None = None) -> None:
        """Put cells; returns when the write-ahead log has them."""
        changes = [
            (row, [thrift.Mutation(column=c, value=v) for c, v in cells.items()], sum(map(len, cells.values())))
            for row, cells in rows.items()
        ]
        self._mutate(table, changes, timestamp)

    def delete(self, table: bytes, cells: Mapping[int, Mapping[bytes, Sequence[bytes]]]) -> None:
        """Delete cells, by timestamp, row and column. Later ones of the same name, but younger, live."""
        for timestamp, rows in cells.items():
            changes = [(r, [thrift.Mutation(column=c, isDelete=True) for c in cs], 32) for r, cs in rows.items()]
            self._mutate(table, changes, timestamp)

    def swap(self, table: bytes, row: bytes, column: bytes, old: bytes, new: bytes) -> bool:
        """Put a cell if it has the old value (empty: if it is not there). Whether it had."""
        name = self.table(table)
        change = thrift.Mutation(column=column, value=new)
        return bool(self.call(lambda c: c.checkAndPut(name, row, column, old, change, {})))

    def _mutate(self, table: bytes, changes: Sequence[tuple[bytes, list[Any], int]], timestamp: int | None) -> None:
        name = self.table(table)
        some: list[Any] = []
        size = 0
        for i, (row, mutations, bytes_) in enumerate(changes):
            some.append(thrift.BatchMutation(row=row, mutations=mutations))
            size += bytes_ + 64 * len(mutations)
            if size >= MOST_BYTES or len(some) >= 4096 or i == len(changes) - 1:
                part, some, size = some, [], 0
                if timestamp is None:
                    self.call(partial(_get, "mutateRows", name, part))
                else:
                    self.call(partial(_get, "mutateRowsTs", name, part, timestamp))


def _get(method: str, *values: Any) -> Any:
    """What a method of the client gives for some values (the client comes last), with no attributes."""
    *some, client = values
    return getattr(client, method)(*some, {})


def _part(
    name: bytes, start: bytes, stop: bytes, columns: Sequence[bytes] | None, client: Any, *, backwards: bool, most: int
) -> list[Any]:
    # Backwards, HBase begins at the row itself: the stop of a scan forwards is not meant to be in it.
    begin, end = (_before(stop), _before(start)) if backwards else (start, stop)
    scan = thrift.TScan(
        startRow=begin or None,
        stopRow=end or None,
        columns=list(columns) if columns else None,
        caching=most,
        reversed=backwards,
    )
    scanner = client.scannerOpenWithScan(name, scan, {})
    try:
        found: list[Any] = client.scannerGetList(scanner, most)
    finally:
        client.scannerClose(scanner)
    return found


def _before(key: bytes) -> bytes:
    """A key just below one, as near as rows of this store need it."""
    if not key:
        return b""
    return key[:-1] if key[-1] == 0 else key[:-1] + bytes([key[-1] - 1]) + b"\xff" * 40


def _short(error: BaseException) -> str:
    text = str(getattr(error, "message", None) or error)
    return text.splitlines()[0][:300] if text else type(error).__name__
