"""The tables: made, and altered in place when a time to live changes.

happybase speaks Thrift 1, which can make a table with a time to live, but neither split it nor alter it. What it lacks is asked of a
Thrift 2 server, where the URL names one (``admin=host:port``).
"""

from __future__ import annotations

import contextlib
import io
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import Hbase_thrift as thrift  # type: ignore[import-not-found]
import thriftpy2
from thriftpy2.protocol import TBinaryProtocol
from thriftpy2.thrift import TClient, TException
from thriftpy2.transport import TBufferedTransport, TSocket

from nephoscope.errors import ConfigError, Problem, Unavailable
from nephoscope.lifetimes import Lifetimes, Plan
from sinks.hbase import layout
from sinks.hbase.layout import COMMIT, EVENT, FACT, ID, SAMPLE, TABLES
from sinks.hbase.link import Link

FOR_EVER: Final = 2**31 - 1
"""HBase's word for it."""
MARGIN: Final = 2 * 86_400
"""Seconds that what samples refer to outlives them: they may be stamped a day ahead."""

# Of HBase's Thrift 2 interface what is used here; the numbers are the interface's own.
_INTERFACE: Final = """
exception TIOError { 1: optional string message }
struct TTableName { 1: optional binary ns, 2: required binary qualifier }
struct TColumnFamilyDescriptor {
    1: required binary name, 5: optional i32 bloomFilterType, 6: optional i32 compressionType,
    8: optional i32 dataBlockEncoding, 10: optional i32 maxVersions, 13: optional i32 timeToLive
}
struct TTableDescriptor { 1: required TTableName tableName, 2: optional list<TColumnFamilyDescriptor> columns }
service THBaseService {
    void createTable(1: TTableDescriptor desc, 2: list<binary> splitKeys) throws (1: TIOError io)
    void addColumnFamily(1: TTableName tableName, 2: TColumnFamilyDescriptor column) throws (1: TIOError io)
    void modifyColumnFamily(1: TTableName tableName, 2: TColumnFamilyDescriptor column) throws (1: TIOError io)
}
"""
_thrift2: Final = thriftpy2.load_fp(io.StringIO(_INTERFACE), "nephoscope_hbase_thrift")
# thriftpy2 has no types.
_Buffered: Final[Any] = TBufferedTransport
_Socket: Final[Any] = TSocket
_Binary: Final[Any] = TBinaryProtocol
_ROW, _GZ, _FAST_DIFF = 1, 1, 4
_ADMIN_PATIENCE: Final = 120.0


@dataclass(frozen=True, slots=True)
class Admin:
    """Where a Thrift 2 server is."""

    host: str
    port: int


class Tables:
    """The store's tables. `admin` None: what needs Thrift 2 is left to a person, and `problems` says what to do."""

    def __init__(self, link: Link, admin: Admin | None) -> None:
        self._link = link
        self._admin = admin

    def make(self, lifetimes: Lifetimes, plan: Plan, buckets: int) -> None:
        """Make the tables that are not there."""
        there = set(self._link.call(lambda c: c.getTableNames()))
        missing = [(n, families) for n, families in wanted(lifetimes, plan).items() if self._link.table(n) not in there]
        # HBase takes its time for each, most of it waiting.
        with ThreadPoolExecutor(len(TABLES)) as pool:
            made = [pool.submit(self.create, n, f, buckets) for n, f in missing]
        for one in made:
            one.result()
        deadline = time.monotonic() + _ADMIN_PATIENCE
        for name in TABLES:
            full = self._link.table(name)
            while not self._enabled(full):
                if time.monotonic() > deadline:
                    raise Unavailable(f"HBase: {full.decode()} is not enabled")
                time.sleep(0.1)

    def alter(self, lifetimes: Lifetimes, plan: Plan) -> None:
        """Give the families their times to live, and classes their families.

        ConfigError where a class has no family and there is no Thrift 2 server to make it.
        """
        for name, family, there, seconds in self._differences(lifetimes, plan):
            full = self._link.table(name)
            if self._admin is not None:
                verb = "modifyColumnFamily" if there else "addColumnFamily"
                with self._second() as client:
                    getattr(client, verb)(_table_name(full), _described(family, seconds))
            elif not there:
                raise ConfigError([self._problem(full, family, seconds, "is missing")])

    def problems(self, lifetimes: Lifetimes | None, plan: Plan) -> list[Problem]:
        """What is not as it should be."""
        there = set(self._link.call(lambda c: c.getTableNames()))
        absent = [self._link.table(name) for name in TABLES if self._link.table(name) not in there]
        out = [Problem(f"the table {name.decode()} is missing") for name in absent]
        out += [
            Problem(f"the table {self._link.table(name).decode()} is disabled", hint="in the HBase shell: enable")
            for name in TABLES
            if self._link.table(name) in there and not self._enabled(self._link.table(name))
        ]
        if not out and lifetimes is not None:
            for name, family, is_there, seconds in self._differences(lifetimes, plan):
                what = "has another time to live" if is_there else "is missing"
                out.append(self._problem(self._link.table(name), family, seconds, what))
        return out

    def families(self) -> dict[bytes, int]:
        """The families of the samples' table, and their times to live in seconds."""
        name = self._link.table(SAMPLE)
        found = self._link.call(partial(_columns_of, name))
        return {bytes(f.name).rstrip(b":"): f.timeToLive for f in found.values()}

    def _differences(self, lifetimes: Lifetimes, plan: Plan) -> Iterator[tuple[bytes, bytes, bool, int]]:
        """(table, family, whether it is there, seconds it should live) of what differs."""
        for name, families in wanted(lifetimes, plan).items():
            full = self._link.table(name)
            found = self._link.call(partial(_columns_of, full))
            there = {bytes(f.name).rstrip(b":"): f.timeToLive for f in found.values()}
            for family, seconds in families.items():
                if there.get(family) != seconds:
                    yield name, family, family in there, seconds

    def _problem(self, full: bytes, family: bytes, seconds: int, what: str) -> Problem:
        hint = (
            f"name a Thrift 2 server in the store's URL (admin=host:port), or in the HBase shell: alter '{full.decode()}', "
            f"{{NAME => '{family.decode()}', TTL => {seconds}, COMPRESSION => 'GZ', VERSIONS => 1}}"
        )
        return Problem(f"the column family {family.decode()} of {full.decode()} {what}", hint=hint)

    def _enabled(self, full: bytes) -> bool:
        try:
            return bool(self._link.call(lambda c: c.isTableEnabled(full)))
        except Unavailable as error:
            if "TableNotFound" in str(error):
                return False
            raise

    def create(self, name: bytes, families: Mapping[bytes, int], buckets: int) -> None:
        """Make a table, unless another process is quicker."""
        full, splits = self._link.table(name), _splits(name, buckets)
        if self._admin is not None:
            described = _thrift2.TTableDescriptor(
                tableName=_table_name(full), columns=[_described(f, s) for f, s in families.items()]
            )
            # What takes longer than the servers' own time-outs goes on in the master: `make` waits for it.
            with self._second("TableExists", "CallTimeout") as client:
                client.createTable(described, splits)
            return
        columns = [
            thrift.ColumnDescriptor(
                name=f + b":",
                maxVersions=1,
                compression="GZ",
                bloomFilterType="ROW",
                blockCacheEnabled=True,
                timeToLive=s,
            )
            for f, s in families.items()
        ]
        try:
            self._link.call(lambda c: c.createTable(full, columns))
        except Unavailable as error:
            if "exists" not in str(error).lower():
                raise

    @contextlib.contextmanager
    def _second(self, *fine: str) -> Iterator[Any]:
        """A client of the Thrift 2 server. `fine`: words of errors that say that it has been done, or is being done."""
        assert self._admin is not None
        host, port = self._admin.host, self._admin.port
        transport = _Buffered(_Socket(host=host, port=port, socket_timeout=round(_ADMIN_PATIENCE * 1000)))
        try:
            transport.open()
            yield TClient(_thrift2.THBaseService, _Binary(transport, decode_response=False))
        except _thrift2.TIOError as error:
            message = error.message
            text = (message.decode(errors="replace") if isinstance(message, bytes) else str(message)).strip()
            # The cause stands behind the attempts.
            text = " ".join(text.split())[:300]
            if not any(word in text for word in fine):
                raise Unavailable(f"HBase: {text}") from error
        except (TException, OSError, EOFError) as error:
            raise Unavailable(f"HBase's Thrift 2 server at {host}:{port}: {error}") from error
        finally:
            transport.close()


def wanted(lifetimes: Lifetimes, plan: Plan) -> dict[bytes, dict[bytes, int]]:
    """The families of each table, and how many seconds they keep their cells."""
    classes = {layout.family(n): lifetimes.seconds(plan.name(n)) for n in range(len(plan.names) + 1)}
    longest = -1 if -1 in classes.values() else max(classes.values())
    return {
        SAMPLE: {family: _seconds(seconds) for family, seconds in classes.items()},
        COMMIT: {b"c": _seconds(longest, MARGIN)},
        FACT: {b"f": _seconds(longest, MARGIN), b"a": FOR_EVER},
        ID: {b"c": _seconds(longest, MARGIN), b"m": _seconds(lifetimes.events, MARGIN)},
        EVENT: {b"e": _seconds(lifetimes.events)},
    }


def _columns_of(full: bytes, client: Any) -> dict[bytes, Any]:
    found: dict[bytes, Any] = client.getColumnDescriptors(full)
    return found


def _seconds(seconds: int, more: int = 0) -> int:
    return FOR_EVER if seconds < 0 else min(FOR_EVER, max(1, seconds + more))


def _splits(name: bytes, buckets: int) -> list[bytes]:
    """Sixteen regions for what is written all the time."""
    if name in {SAMPLE, COMMIT, ID}:
        count = min(16, buckets)
        return [bytes([i * 256 // count]) for i in range(1, count)]
    return []


def _table_name(full: bytes) -> Any:
    space, _, name = full.rpartition(b":")
    return _thrift2.TTableName(ns=space or b"default", qualifier=name)


def _described(family: bytes, seconds: int) -> Any:
    return _thrift2.TColumnFamilyDescriptor(
        name=family,
        bloomFilterType=_ROW,
        compressionType=_GZ,
        dataBlockEncoding=_FAST_DIFF,
        maxVersions=1,
        timeToLive=seconds,
    )


__all__ = ["Admin", "Tables", "wanted"]
