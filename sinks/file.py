"""file:///path?max_bytes=N&backup_count=M: JSON lines in a file, rotating as Ceilometer's.

Guarantee: with its position in the flow's snapshot, each sample is in the file once: after a crash the file is truncated to
the snapshot's end, and what follows is published again. Without, at least once. One publisher writes a file at a time.

A file that would reach max_bytes becomes ``path.1``, the one before ``path.2``, up to backup_count; without both options it
only grows.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import parse_qsl, unquote, urlsplit

import msgspec
import xxhash

from nephoscope.errors import ConfigError, Problem, StoreError, Unavailable
from nephoscope.event import Event
from nephoscope.event_forms import event_message
from nephoscope.store import Rows, batches
from sinks.lines import json_lines

_log = logging.getLogger(__name__)

_OPTIONS: Final = ("max_bytes", "backup_count")
_HEAD: Final = 4096
_BUFFERED: Final = 1 << 20


class _Mark(msgspec.Struct, frozen=True):
    """A file at a moment: how long it was, and a digest of how it begins (inode numbers are used again)."""

    size: int
    head: str


class _Position(msgspec.Struct, frozen=True):
    """The file that was being written, and the one rotated out last."""

    current: _Mark
    previous: _Mark | None


@dataclass(frozen=True, slots=True)
class _Options:
    path: Path
    max_bytes: int
    backup_count: int


class FilePublisher:
    """Appends JSON lines to a file. Raises ConfigError for a URL that cannot be used, Unavailable where the file cannot be written."""

    guarantee = (
        "once, with its position in the snapshot (the file is truncated to it after a crash); else at least once"
    )

    def __init__(self, url: str) -> None:
        self._options = _options(url)
        self._path = self._options.path
        self._rotating = self._options.max_bytes > 0 and self._options.backup_count > 0
        self._lines: list[bytes] = []
        self._waiting = 0
        self._file: int | None = None
        self._size = 0
        try:
            self._open()
        except OSError as error:
            raise ConfigError([Problem(f"cannot write to {self._path}: {error.strerror}")]) from error

    @staticmethod
    def check(url: str) -> None:
        """ConfigError for a URL that cannot be used."""
        _options(url)

    def publish(self, rows: Rows) -> None:
        """Take the rows; many of them are written at once, all of them by flush."""
        for batch in batches(rows):
            lines = json_lines(batch)
            self._lines += lines
            self._waiting += sum(map(len, lines))
            if self._waiting > _BUFFERED:
                self.flush()

    def publish_events(self, events: Sequence[Event]) -> None:
        """Take events, a line each."""
        lines = [event_message(event) + b"\n" for event in events]
        self._lines += lines
        self._waiting += sum(map(len, lines))

    def flush(self) -> None:
        """Write what was published."""
        try:
            while self._lines:
                fitting = self._fitting()
                if not fitting:
                    self._rotate()
                    continue
                self._write(fitting)
        except OSError as error:
            raise Unavailable(f"{self._path}: {error.strerror}") from error

    def discard(self) -> int:
        """Forget what is not written."""
        count = len(self._lines)
        self._lines.clear()
        self._waiting = 0
        return count

    def close(self) -> None:
        """Flush, and close the file."""
        if self._file is not None:
            self.flush()
            os.close(self._file)
            self._file = None

    def position(self) -> str:
        """Where the output ends now; it is on disk."""
        self.flush()
        try:
            os.fsync(self._descriptor())
        except OSError as error:
            raise Unavailable(f"{self._path}: {error.strerror}") from error
        current = _mark(self._path)
        return msgspec.json.encode(_Position(current or _Mark(0, _digest(b"")), _mark(self._backup(1)))).decode()

    def truncate(self, position: str) -> None:
        """Take back what was written after a position, rotations included. Where its file is gone, nothing is removed."""
        try:
            wanted = msgspec.json.decode(position, type=_Position)
        except msgspec.DecodeError as error:
            raise StoreError(f"{self._path}: {position[:60]!r} is no position in a file") from error
        self._lines.clear()
        self._waiting = 0
        try:
            self._go_back(wanted)
        except OSError as error:
            raise Unavailable(f"{self._path}: {error.strerror}") from error

    # -- the file

    def _descriptor(self) -> int:
        if self._file is None:
            self._open()
        assert self._file is not None
        return self._file

    def _open(self) -> None:
        self._file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
        self._size = os.fstat(self._file).st_size

    def _fitting(self) -> int:
        """How many of the lines go into the file as it is. An empty file takes one of any length."""
        if not self._rotating:
            return len(self._lines)
        size, count = self._size, 0
        for line in self._lines:
            size += len(line)
            if size >= self._options.max_bytes and (self._size or count):
                break
            count += 1
        return count

    def _write(self, count: int) -> None:
        raw = b"".join(self._lines[:count])
        descriptor = self._descriptor()
        before = self._size
        view = memoryview(raw)
        try:
            while view:
                view = view[os.write(descriptor, view) :]
        except OSError:
            # No half line stays behind: the same lines come again.
            os.ftruncate(descriptor, before)
            raise
        self._size = before + len(raw)
        self._waiting -= len(raw)
        del self._lines[:count]

    def _rotate(self) -> None:
        os.close(self._descriptor())
        self._file = None
        for number in range(self._options.backup_count - 1, 0, -1):
            if self._backup(number).exists():
                self._backup(number).replace(self._backup(number + 1))
        self._path.replace(self._backup(1))
        self._open()

    def _backup(self, number: int) -> Path:
        return self._path.with_name(f"{self._path.name}.{number}") if number else self._path

    def _go_back(self, wanted: _Position) -> None:
        count = self._options.backup_count if self._rotating else 0
        for number in range(count + 1):
            if wanted.current.size and _begins_as(self._backup(number), wanted.current):
                self._shift_back(number)
                os.truncate(self._path, wanted.current.size)
                self._reopen()
                return
            # The file was new and empty then: all that came after the one before it goes.
            if not wanted.current.size and wanted.previous and _begins_as(self._backup(number + 1), wanted.previous):
                self._shift_back(number)
                os.truncate(self._path, 0)
                self._reopen()
                return
        if not wanted.current.size and not wanted.previous:
            # There was nothing at all: whatever is there came after.
            self._shift_back(max((k for k in range(1, count + 1) if self._backup(k).exists()), default=0))
            os.truncate(self._path, 0)
            self._reopen()
            return
        _log.warning("%s: the file of the snapshot is gone; samples since then may be in the output twice", self._path)

    def _shift_back(self, number: int) -> None:
        """Make the backup of this number the current file."""
        if not number:
            return
        for k in range(self._options.backup_count + 1):
            old, new = self._backup(k + number), self._backup(k)
            if old.exists():
                old.replace(new)
            elif k:
                new.unlink(missing_ok=True)

    def _reopen(self) -> None:
        if self._file is not None:
            os.close(self._file)
        self._open()


def _digest(head: bytes) -> str:
    return str(xxhash.xxh3_128_hexdigest(head))


def _mark(path: Path) -> _Mark | None:
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            return _Mark(size, _digest(file.read(min(size, _HEAD))))
    except FileNotFoundError:
        return None


def _begins_as(path: Path, mark: _Mark) -> bool:
    """Whether a file is the one of the mark, grown or not."""
    try:
        with path.open("rb") as file:
            return (
                os.fstat(file.fileno()).st_size >= mark.size and _digest(file.read(min(mark.size, _HEAD))) == mark.head
            )
    except FileNotFoundError:
        return False


def _options(url: str) -> _Options:
    parts = urlsplit(url)
    problems = []
    if parts.netloc not in {"", "localhost"}:
        problems.append(Problem(f"{url!r} names the host {parts.netloc!r}", hint=f"file:///{parts.netloc}{parts.path}"))
    if not parts.path or parts.path.endswith("/"):
        problems.append(Problem(f"{url!r} names no file", hint="file:///var/log/samples.jsonl"))
    given = dict.fromkeys(_OPTIONS, 0)
    for name, value in parse_qsl(parts.query, keep_blank_values=True):
        if name not in given:
            problems.append(Problem(f"unknown option {name!r} in {url!r}", hint=f"known: {', '.join(_OPTIONS)}"))
        elif not value.isdecimal():
            problems.append(Problem(f"{name}={value} in {url!r}", hint="a whole number, 0 or more"))
        else:
            given[name] = int(value)
    if problems:
        raise ConfigError(problems)
    return _Options(Path(unquote(parts.path)), given["max_bytes"], given["backup_count"])
