"""Samples that Ceilometer's UDP and TCP publishers send: one metering message each, in msgpack; on TCP behind its length (8 bytes, little endian).

Guarantee: at most once. The protocols have no acknowledgement: what was received and is not in the log when the process is killed is lost, and
so is what the kernel drops of UDP. Everything else is counted: samples, dead letters, and what did not fit while the log was away.
"""

from __future__ import annotations

import contextlib
import logging
import os
import random
import socket
import threading
import time
from collections import deque
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec

from nephoscope.dead_letters import DeadLetter, bury
from nephoscope.errors import SampleError, Unavailable
from nephoscope.known_meters import KnownMeters
from nephoscope.metering import sample_of
from nephoscope.metrics import Counts
from nephoscope.push import MAX_SAMPLE_BYTES, push
from nephoscope.sample import Sample, sample_from_dict, verify
from nephoscope.topics import Log
from sources.datagrams import Datagrams

_log = logging.getLogger(__name__)
_decode = msgspec.msgpack.Decoder().decode
_BLOCK = 16_384
"""Messages that are put on the topic together, at most."""
_WINDOW = 0.2
"""Seconds that a message waits for others."""
_LOOK = 5.0
"""Seconds between looks at what the kernel dropped."""
_BUFFER = 64 << 20
"""Bytes of the kernel's buffer that are asked for."""


class Inbox:
    """Messages on their way to the log: bounded, in the order of their arrival.

    Args:
        log: where to.
        counts: received, dropped by reason, sent.
        secret: signs messages; empty: signatures are not checked.
        known: is shown the samples, if given.
        max_sample_bytes: a larger sample goes to the dead letters.
        pending: messages that may wait.

    """

    def __init__(
        self,
        log: Log,
        counts: Counts,
        *,
        secret: str = "",
        known: KnownMeters | None = None,
        max_sample_bytes: int = MAX_SAMPLE_BYTES,
        pending: int = 500_000,
    ) -> None:
        self.counts = counts
        self.max_message = 6 * max_sample_bytes + 4096
        self._log = log
        self._secret = secret
        self._known = known
        self._max_sample_bytes = max_sample_bytes
        self._pending = pending
        self._messages: deque[bytes] = deque()
        self._room = threading.Event()
        self._room.set()
        self._stop = threading.Event()
        self._gave_up = threading.Event()
        self._lost = 0
        self.error: BaseException | None = None
        self.detail = ""
        self._thread = threading.Thread(target=self._run, name="nephoscope-push", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Messages that are not in the log yet."""
        return len(self._messages)

    def put(self, message: bytes) -> bool:
        """Take a message; False, counted, where there is no room."""
        if len(self._messages) >= self._pending:
            self.counts.dropped(1, "overflow")
            return False
        self._messages.append(message)
        return True

    def put_many(self, messages: list[bytes]) -> int:
        """Take messages; how many there was room for. The rest is counted."""
        room = self._pending - len(self._messages)
        if room < len(messages):
            self.counts.dropped(len(messages) - max(room, 0), "overflow")
            messages = messages[: max(room, 0)]
        self._messages.extend(messages)
        return len(messages)

    def put_or_wait(self, message: bytes, timeout: float) -> bool:
        """Take a message, waiting for room; False: there was none within `timeout` seconds."""
        self._room.clear()
        if len(self._messages) >= self._pending and not self._room.wait(timeout):
            return False
        self._messages.append(message)
        return True

    def close(self, timeout: float) -> bool:
        """Stop once all is in the log, or after `timeout` seconds; whether all is."""
        self._stop.set()
        self._thread.join(timeout)
        self._gave_up.set()
        self._thread.join(5)
        return not self._thread.is_alive() and not self._lost

    def _run(self) -> None:
        try:
            while not (self._stop.is_set() and not self._messages):
                if len(self._messages) < _BLOCK:
                    self._stop.wait(_WINDOW)
                count = min(len(self._messages), _BLOCK)
                if count:
                    self._deliver(list(islice(self._messages, count)))
                    for _ in range(count):
                        self._messages.popleft()
                    self._room.set()
        except BaseException as error:  # noqa: BLE001 -- told by the part of /ready, and by `error`
            self.error = error
            self.detail = str(error)
            _log.exception("pushed samples are no longer taken")

    def _deliver(self, messages: list[bytes]) -> None:
        """Put messages on the topic, however often it takes."""
        samples, letters = self._opened(messages)
        self.counts.received(len(messages))
        wait = 0.1
        while True:
            try:
                bury(self._log, letters)
                letters = []
                if samples:
                    pushed = push(self._log, samples, max_sample_bytes=self._max_sample_bytes, seen=self._seen)
                    self.counts.sent(pushed.sent)
            except Unavailable as error:
                self.counts.failed("log")
                if not self.detail:
                    _log.warning("%s; trying again until it can", error)
                self.detail = str(error)
                stopping = self._stop.wait(wait * random.uniform(0.5, 1.0))  # noqa: S311 -- a jitter, no secret
                if stopping and self._gave_up.wait(0.2):
                    self.counts.dropped(len(samples), "log")
                    self._lost += len(samples)
                    return
                wait = min(2 * wait, 10.0)
            else:
                self.detail = ""
                return

    def _seen(self, samples: list[Sample]) -> None:
        if self._known is not None:
            self._known.look_at(samples)

    def _opened(self, messages: list[bytes]) -> tuple[list[Sample], list[DeadLetter]]:
        """The samples of some messages, once: one without an id keeps the fresh one however often it is sent."""
        samples: list[Sample] = []
        letters: list[DeadLetter] = []
        for message in messages:
            # Signatures are of all that a message says, so they want all of it.
            plain = None if self._secret else sample_of(message)
            if plain is not None:
                samples.append(plain)
                continue
            try:
                found = _decode(message)
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, ValueError) as error:
                self._refuse(letters, message, SampleError("msgpack", f"not msgpack: {error}"))
                continue
            for item in found if isinstance(found, list) else [found]:
                try:
                    sample = sample_from_dict(item)
                    if not verify(item, self._secret):
                        raise SampleError("signature", "the signature is missing or not of this secret")
                except SampleError as error:
                    self._refuse(letters, message, error)
                else:
                    samples.append(sample)
        return samples, letters

    def _refuse(self, letters: list[DeadLetter], message: bytes, error: SampleError) -> None:
        self.counts.dropped(1, error.reason)
        letters.append(DeadLetter(reason=error.reason, detail=str(error), data=message))


class UdpReceiver:
    """Takes datagrams at `address` (host, port). Raises OSError where it cannot listen there."""

    def __init__(self, address: tuple[str, int], inbox: Inbox) -> None:
        family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self._socket = socket.socket(family, socket.SOCK_DGRAM)
        _enlarge(self._socket)
        self._socket.bind(address)
        self._datagrams = Datagrams(self._socket, 0.2)
        self.address: tuple[str, int] = self._socket.getsockname()[:2]
        self._inbox = inbox
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="nephoscope-udp", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop; what the kernel has is taken first."""
        self._stop.set()
        self._thread.join(5)
        self._socket.close()

    def _run(self) -> None:
        receive, put_many = self._datagrams.receive, self._inbox.put_many
        look = time.monotonic() + _LOOK
        lost = 0
        while True:
            try:
                messages = receive()
            except OSError as error:
                self._inbox.counts.failed("udp")
                _log.warning("receiving at %s:%s failed: %s", *self.address, error)
                if self._stop.wait(0.2):
                    return
                continue
            if messages:
                put_many(messages)
            elif self._stop.is_set():
                return
            if time.monotonic() >= look:
                look = time.monotonic() + _LOOK
                lost, before = _dropped_by_kernel(self._socket), lost
                if lost > before:
                    self._inbox.counts.dropped(lost - before, "kernel")


class TcpReceiver:
    """Takes connections at `address` (host, port), a thread each. Raises OSError where it cannot listen there."""

    def __init__(self, address: tuple[str, int], inbox: Inbox, *, connections: int = 256) -> None:
        family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self._socket = socket.create_server(address, family=family, backlog=128)
        self._socket.settimeout(0.2)
        self.address: tuple[str, int] = self._socket.getsockname()[:2]
        self._inbox = inbox
        self._free = threading.Semaphore(connections)
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        self._thread = threading.Thread(target=self._run, name="nephoscope-tcp", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop; what was sent in full before is taken."""
        self._stop.set()
        self._thread.join(5)
        for thread in self._threads:
            thread.join(2)
        self._socket.close()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                connection, peer = self._socket.accept()
            except TimeoutError:
                continue
            except OSError as error:
                self._inbox.counts.failed("tcp")
                _log.warning("accepting at %s:%s failed: %s", *self.address, error)
                self._stop.wait(0.2)
                continue
            if not self._free.acquire(blocking=False):
                self._inbox.counts.failed("connections")
                connection.close()
                continue
            self._threads = [thread for thread in self._threads if thread.is_alive()]
            thread = threading.Thread(target=self._serve, args=(connection, peer), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket, peer: Any) -> None:
        try:
            with connection, contextlib.suppress(TimeoutError, ConnectionError):
                connection.settimeout(0.2)
                while (head := self._exactly(connection, 8)) is not None:
                    length = int.from_bytes(head, "little")
                    if length > self._inbox.max_message:
                        # What follows cannot be told from a new message: the connection ends here.
                        self._inbox.counts.dropped(1, "too_large")
                        _log.warning("a message of %d bytes from %s: the connection is closed", length, peer[0])
                        return
                    message = self._exactly(connection, length)
                    if message is None:
                        self._inbox.counts.failed("tcp")
                        return
                    while not self._inbox.put_or_wait(message, 0.2):
                        if self._stop.is_set():
                            self._inbox.counts.dropped(1, "overflow")
                            return
        finally:
            self._free.release()

    def _exactly(self, connection: socket.socket, count: int) -> bytes | None:
        """So many bytes; None where the other side has ended, or this one is to stop and nothing has come."""
        pieces: list[bytes] = []
        missing = count
        idle = 0
        while missing:
            try:
                piece = connection.recv(min(missing, 1 << 20))
            except TimeoutError:
                idle += 1
                if self._stop.is_set() and (not pieces or idle > 5):
                    return None
                continue
            if not piece:
                return None
            idle = 0
            pieces.append(piece)
            missing -= len(piece)
        return b"".join(pieces)


def _enlarge(server: socket.socket) -> None:
    """The largest buffer that the kernel gives: while a block is written, thousands of datagrams arrive."""
    force = getattr(socket, "SO_RCVBUFFORCE", 33)
    try:
        server.setsockopt(socket.SOL_SOCKET, force, _BUFFER)
    except OSError:  # Not root.
        with contextlib.suppress(OSError):
            server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)


def _dropped_by_kernel(server: socket.socket) -> int:
    """Datagrams that found the buffer full, as /proc/net/udp has it; 0 where there is none."""
    inode = str(os.fstat(server.fileno()).st_ino)
    for name in ("udp", "udp6"):
        try:
            lines = Path("/proc/net", name).read_text().splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            words = line.split()
            if len(words) >= 13 and words[9] == inode:
                return int(words[12])
    return 0
