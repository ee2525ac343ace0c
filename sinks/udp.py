"""udp://HOST[:PORT]: a datagram for each sample, msgpack of Ceilometer's metering message, as Ceilometer sent them (port 4952).

Guarantee: at most once, each time that the flow publishes a sample; nobody answers. What does not fit into a datagram is refused.
"""

from __future__ import annotations

import errno
import socket
from typing import ClassVar
from urllib.parse import urlsplit

import msgspec
import pyarrow as pa

from nephoscope.batch import Batch
from nephoscope.errors import ConfigError, Problem, Unavailable
from nephoscope.publishers import read_url
from nephoscope.sample import sample_to_ceilometer
from nephoscope.store import Refused, Rows, batches

PORT = 4952
_encode = msgspec.msgpack.Encoder().encode


def _place(url: str) -> tuple[str, int]:
    address = read_url(url, {})
    try:
        parts = urlsplit(f"//{address.place}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if not host or port == 0 or "@" in address.place or address.path.strip("/"):
        raise ConfigError([Problem(f"{url.partition('?')[0]!r} names no receiver", hint="udp://HOST[:PORT]")])
    return host, port or PORT


class UDPPublisher:
    """Raises ConfigError for a URL that cannot be used, Unavailable where nothing can be sent there now."""

    guarantee = "at most once, each time that the flow publishes a sample"
    policy = "drop"
    secrets: ClassVar = True

    def __init__(self, url: str, telemetry_secret: str = "") -> None:
        self._host, self._port = _place(url)
        self._secret = telemetry_secret
        self._waiting: list[pa.RecordBatch] = []
        self._socket: socket.socket | None = None

    @staticmethod
    def check(url: str) -> None:
        """ConfigError for a URL that cannot be used."""
        _place(url)

    def publish(self, rows: Rows) -> None:
        """Take the rows; flush sends them."""
        self._waiting += batches(rows)

    def flush(self) -> None:
        """Send what was published."""
        refused: list[pa.RecordBatch] = []
        while self._waiting:
            batch = self._waiting[0]
            for place, sample in enumerate(Batch(batch).samples()):
                try:
                    self._send(_encode(sample_to_ceilometer(sample, self._secret)))
                except OSError as error:
                    if error.errno == errno.EMSGSIZE:
                        refused.append(batch.slice(place, 1))
                        continue
                    self._waiting[0] = batch.slice(place)
                    self._close()
                    raise Unavailable(f"udp://{self._host}:{self._port}: {error.strerror or error}") from None
            del self._waiting[0]
        if refused:
            raise Refused(f"udp://{self._host}:{self._port}: larger than a datagram", refused)

    def _send(self, raw: bytes) -> None:
        if self._socket is None:
            family, kind, proto, _, place = socket.getaddrinfo(self._host, self._port, type=socket.SOCK_DGRAM)[0]
            self._socket = socket.socket(family, kind, proto)
            self._to = place
        self._socket.sendto(raw, self._to)

    def discard(self) -> int:
        """Forget what was not sent. How many samples that were."""
        count = int(sum(rows.num_rows for rows in self._waiting))
        self._waiting.clear()
        return count

    def close(self) -> None:
        """Send what was published, and close the socket."""
        try:
            self.flush()
        finally:
            self._close()

    def _close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None
