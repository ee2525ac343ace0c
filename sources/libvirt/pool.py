"""Worker processes: some that wait for work, each with its connection, and none that hangs for long."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from multiprocessing import Pipe
from multiprocessing.connection import Connection

import msgspec

from nephoscope.errors import MissingExtra
from nephoscope.redaction import redacted
from sources.libvirt.messages import Answer, Ask, Done, Failure, decode_answer, encode
from sources.pollster import PermanentError

_SOON = 1.0
"""A call that takes longer (seconds) is not counted among those that are made at once."""


def _nothing() -> None:
    """What is done about a slow answer, where nothing is."""


class LibvirtError(Exception):
    """libvirt could not be asked, or said no."""


class Hung(LibvirtError):
    """No answer in time: the process that asked was killed."""


class _Worker:
    """A process and the pipe to it."""

    def __init__(self, uri: str) -> None:
        ours, theirs = Pipe()
        with theirs:
            # -P: whatever folder the agent was started in, nothing is imported from there.
            command = [sys.executable, "-P", "-m", "sources.libvirt.worker", str(theirs.fileno())]
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()])  # noqa: S603 - our own interpreter and arguments
        self.started = False
        self._uri = uri
        self._pipe: Connection = ours  # type: ignore[assignment,unused-ignore]  # PipeConnection is Windows'

    def start(self, seconds: float) -> None:
        """Wait until it has started."""
        self.receive(seconds)
        # Not by the command line, which everybody can read.
        self._pipe.send_bytes(self._uri.encode())
        self.started = True

    def send(self, ask: Ask) -> None:
        self._pipe.send_bytes(encode(ask))

    def receive(self, seconds: float, slow: Callable[[], None] = _nothing) -> Answer:
        """The next answer; `slow` is called where it does not come soon.

        Hung where none comes, EOFError or OSError where the process has ended.
        """
        if not self._pipe.poll(max(0.0, min(seconds, _SOON))):
            slow()
            if not self._pipe.poll(max(0.0, seconds - _SOON)):
                raise Hung
        return decode_answer(self._pipe.recv_bytes())

    def end(self) -> None:
        self._process.kill()
        self._pipe.close()
        # It cannot be killed while it waits for a broken disk: let it, Popen buries it some time.
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(1.0)


class Pool:
    """Asks libvirt from several threads: at most `size` calls at once, and those that seem to hang."""

    def __init__(self, uri: str, size: int) -> None:
        self._uri = uri
        self.uri = redacted(uri)
        self._size = size
        self._free = threading.BoundedSemaphore(size)
        self._lock = threading.Lock()
        self._idle: list[_Worker] = []
        self._busy: set[_Worker] = set()
        self._closed = False

    def ask(self, ask: Ask, patience: float, deadline: float) -> Iterator[Answer]:
        """What a worker answers, as it comes.

        Each answer may take `patience` seconds, a process's start not counted, and nothing longer than until `deadline`
        (monotonic). Raises Hung, LibvirtError, PermanentError; MissingExtra where there is no client.
        """
        if not self._free.acquire(timeout=max(0.0, deadline - time.monotonic())):
            raise Hung(f"{self.uri}: all {self._size} connections wait for answers")
        with contextlib.ExitStack() as place:
            place.callback(self._free.release)
            # Whoever waits for a guest that hangs leaves its place to others.
            yield from self._answers(ask, patience, deadline, place.close)

    def _answers(self, ask: Ask, patience: float, deadline: float, slow: Callable[[], None]) -> Iterator[Answer]:
        worker = self._take()
        healthy = False
        try:
            if not worker.started:
                # A machine that is busy is not libvirt that hangs.
                worker.start(deadline - time.monotonic())
            worker.send(ask)
            while True:
                answer = worker.receive(min(patience, deadline - time.monotonic()), slow)
                if isinstance(answer, Done):
                    healthy = True
                    return
                if isinstance(answer, Failure):
                    # Its connection may be broken: the next one makes a new one.
                    text = f"{self.uri}: {redacted(answer.text)}"
                    raise PermanentError(text) if answer.permanent else LibvirtError(text)
                yield answer
        except Hung:
            raise Hung(f"{self.uri}: no answer within {patience:.1f} s") from None
        except (EOFError, OSError, msgspec.DecodeError) as error:
            raise LibvirtError(f"{self.uri}: the process that asks it has ended ({type(error).__name__})") from None
        finally:
            self._give_back(worker, healthy=healthy)

    def _take(self) -> _Worker:
        with self._lock:
            if self._closed:
                raise LibvirtError(f"{self.uri}: closed")
            worker = self._idle.pop() if self._idle else None
            if worker is not None:
                self._busy.add(worker)
                return worker
        if find_spec("libvirt") is None:
            raise MissingExtra("polling instances", "libvirt")
        worker = _Worker(self._uri)
        with self._lock:
            self._busy.add(worker)
        return worker

    def _give_back(self, worker: _Worker, *, healthy: bool) -> None:
        with self._lock:
            self._busy.discard(worker)
            keep = healthy and not self._closed and len(self._idle) < self._size
            if keep:
                self._idle.append(worker)
        if not keep:
            worker.end()

    def close(self) -> None:
        """End all processes, those that hang as well."""
        with self._lock:
            self._closed = True
            workers = [*self._idle, *self._busy]
            self._idle.clear()
        for worker in workers:
            worker.end()
