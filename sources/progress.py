"""What an agent has done, kept over restarts: for each slot the first period that is not done.

It is written after the log has acknowledged the samples. Whoever dies in between polls that period again; the samples have the same ids.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import msgspec

_log = logging.getLogger(__name__)


class Progress(Protocol):
    """Where it is kept."""

    def load(self) -> dict[int, int]:
        """Slot to the start (microseconds) of its first period that is not done."""
        ...

    def save(self, done: Mapping[int, int]) -> None:
        """Replace all of it."""
        ...


class MemoryProgress:
    """Kept for as long as the process lives: for tests, and for agents without a folder."""

    def __init__(self) -> None:
        self.done: dict[int, int] = {}

    def load(self) -> dict[int, int]:
        """As saved."""
        return dict(self.done)

    def save(self, done: Mapping[int, int]) -> None:
        """Keep it."""
        self.done = dict(done)


class _File(msgspec.Struct):
    version: int
    slots: dict[int, int]


class FileProgress:
    """A small JSON file, replaced at once. An unreadable one counts as none: the period that runs is polled again."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def load(self) -> dict[int, int]:
        """As saved; empty where there is nothing, or nothing that can be read."""
        try:
            kept = msgspec.json.decode(self.path.read_bytes(), type=_File)
        except FileNotFoundError:
            return {}
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
            _log.warning("%s cannot be read (%s): the periods that run are polled again", self.path, error)
            return {}
        return kept.slots if kept.version == 1 else {}

    def save(self, done: Mapping[int, int]) -> None:
        """Replace the file. Raises OSError."""
        fresh = self.path.with_name(self.path.name + ".new")
        fresh.write_bytes(msgspec.json.encode(_File(1, dict(done))))
        os.replace(fresh, self.path)  # noqa: PTH105 -- Path.replace is the same call
