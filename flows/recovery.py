"""The recovery store as a folder: whose it is, and whether there is room in it.

The engine itself lets two executions overwrite each other's snapshots. Here the processes of one execution share a lock that no other
execution gets; the kernel gives it back when the last of them is gone, however it ended.
"""

from __future__ import annotations

import fcntl
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

import xxhash

from nephoscope.errors import NephoscopeError, Unavailable

_ROOM = 1 << 20
"""Bytes that must be free before a flow starts: the engine opens its files, and each takes its share at once."""
_GRACE = 3.0
"""Seconds in which those that were just killed may still be going."""
_LOOK = 0.05
_held: list[IO[str]] = []
"""Open lock files: held until the process ends."""


def hold(folder: Path, execution: str, process_id: int, make: Callable[[], object] = lambda: None) -> None:
    """Take a recovery store for this process of an execution.

    Args:
        folder: made, for us alone, where there is none.
        execution: what the processes of one execution have in common and no other has.
        process_id: the process's number in it.
        make: called while no other process is at this point; what it makes is there for all of them.

    Raises NephoscopeError where another execution, or the same process of this one, has it; Unavailable where the disk takes nothing.

    """
    with _of_the_disk(folder):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.chmod(0o700)
    deadline = time.monotonic() + _GRACE
    while True:
        with _guarded(folder):
            holder = _take(folder, execution, process_id)
            if holder is None:
                with _of_the_disk(folder):
                    see_room(folder)
                    make()
                return
        if time.monotonic() > deadline:
            raise NephoscopeError(
                f"another flow{f' (process {holder})' if holder else ''} runs on the recovery store {folder}: stop it first"
            )
        time.sleep(_LOOK)


def mark_of(folder: Path) -> Path:
    """The file that is there while the partition count of a recovery store grows."""
    return folder.with_name(f"{folder.name}.growing")


def grown_to(folder: Path, partitions: int) -> None:
    """Note how many partitions a store was made for."""
    (folder / "partitions").write_text(str(partitions))


def see_whole(folder: Path, partitions: int) -> None:
    """NephoscopeError where a store is about to get more partitions, or has been made for another number of them."""
    if mark_of(folder).exists():
        raise NephoscopeError(
            f"{folder}: its partition count is being changed; if that was interrupted, repeat `nephoscope repartition`"
        )
    with suppress(FileNotFoundError):
        found = int((folder / "partitions").read_text())
        if found != partitions:
            raise NephoscopeError(
                f"{folder} has {found} partitions, the settings say {partitions}: write `partitions: {found}`"
            )


def see_room(folder: Path) -> None:
    """Unavailable unless the folder takes a megabyte."""
    probe = folder / f"probe-{os.getpid()}"
    with _of_the_disk(folder):
        try:
            with probe.open("wb") as file:
                file.write(bytes(_ROOM))
                file.flush()
                os.fsync(file.fileno())
        finally:
            probe.unlink(missing_ok=True)


def beginning(folder: Path, url: str, position: str) -> str:
    """Where a publisher's output ended when the flow first wrote to it: `position`, if this is the first time."""
    path = folder / f"began-{xxhash.xxh64_hexdigest(url.encode())}"
    with _of_the_disk(folder):
        try:
            return path.read_text(encoding="utf-8")
        except FileNotFoundError:
            pass
        new = path.with_suffix(".new")
        with new.open("w", encoding="utf-8") as file:
            file.write(position)
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
        return position


@contextmanager
def explained(folder: Path, *, together: bool) -> Iterator[None]:
    """Says why the engine ended, where it does so in words of its own. `together`: in a cluster.

    Unavailable: the disk takes nothing, or another process of the cluster has ended. What our own parts raise goes through.
    """
    try:
        yield
    except Exception as error:
        if "SqliteFailure" not in str(error):
            raise
        see_room(folder)
        found = re.search(r'Some\("([^"]*)"\)', str(error))
        said = found[1] if found else str(error)
        raise Unavailable(f"the recovery store {folder} cannot be used: {said}") from None
    except BaseException as error:
        # A panic of the engine's: no Exception. In a cluster it stands for whatever has happened, here or elsewhere.
        if not together or type(error).__name__ != "PanicException":
            raise
        see_room(folder)
        raise Unavailable("another process of this flow has ended, or the connection to it") from None


@contextmanager
def _of_the_disk(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise Unavailable(f"the recovery store {folder} cannot be written: {error.strerror or error}") from error


@contextmanager
def _guarded(folder: Path) -> Iterator[None]:
    """One process at a time, for a moment."""
    with _of_the_disk(folder):
        file = (folder / "lock").open("a+")
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _take(folder: Path, execution: str, process_id: int) -> str | None:
    """None if it is ours now, else who has it."""
    with _of_the_disk(folder):
        all_of_them, own = (folder / "lock-all").open("a+"), (folder / f"lock-{process_id}").open("a+")
    try:
        first = _locked(all_of_them, fcntl.LOCK_EX)
        if not first and (not _locked(all_of_them, fcntl.LOCK_SH) or _read(all_of_them) != execution):
            return _somebody(folder)
        if not _locked(own, fcntl.LOCK_EX):
            return _read(own)
        with _of_the_disk(folder):
            if first:
                _write(all_of_them, execution)
                # The kernel lets go for a moment; nobody else is looking: that is what the guard is for.
                _locked(all_of_them, fcntl.LOCK_SH)
            _write(own, str(os.getpid()))
        _held.extend((all_of_them, own))
        return None
    finally:
        for file in (all_of_them, own):
            if file not in _held:
                file.close()


def _somebody(folder: Path) -> str:
    """The number of a process that has the store."""
    for path in sorted(folder.glob("lock-[0-9]*")):
        with suppress(OSError), path.open("a+") as file:
            if not _locked(file, fcntl.LOCK_SH):
                return _read(file)
    return ""


def _locked(file: IO[str], how: int) -> bool:
    try:
        fcntl.flock(file, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _read(file: IO[str]) -> str:
    file.seek(0)
    return file.read().strip()


def _write(file: IO[str], text: str) -> None:
    file.seek(0)
    file.truncate(0)
    file.write(text)
    file.flush()


__all__ = ["beginning", "explained", "grown_to", "hold", "mark_of", "see_room", "see_whole"]
