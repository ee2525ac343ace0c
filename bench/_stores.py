"""What `python -m bench stores` needs of a store: a server, the store in it, and the same work done the plain way.

A store adds one file, ``bench/_store_NAME.py`` with a class named BENCH, and a line in `bench.stores.STORES`.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, Self

from nephoscope.batch import Batch
from nephoscope.lifetimes import Lifetimes
from nephoscope.store import Store
from nephoscope.times import SECOND, now


class Bench(ABC):
    """A store and its plain way, on one server in `folder`. A context manager: the server runs inside."""

    warm_periods = 1
    """Periods that are in no rate, on both sides: what is new to a store is new once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @abstractmethod
    def __enter__(self) -> Self:
        """Start the server, prepare the plain way."""

    @abstractmethod
    def __exit__(self, *_: object) -> None:
        """Stop it."""

    @abstractmethod
    def open(self) -> Store:
        """The store, empty."""

    @abstractmethod
    def size(self) -> int:
        """Bytes that the store takes on disk, indexes and resources included, once all is really there."""

    def expire(self, store: Store, before: int) -> None:
        """Remove what is older than `before`; returns when it is gone. Override where the server deletes by itself."""
        moment = now()
        # Whole seconds: rounded towards keeping less.
        done = store.expire(Lifetimes(samples=(moment - before) // SECOND), moment)
        if not done.samples:
            raise AssertionError("nothing was removed")

    # -- the plain way: one full document or row a sample, with the indexes that its queries need

    @abstractmethod
    def plain_rows(self, batch: Batch) -> Any:
        """What the plain way writes of a batch; not in the timing."""

    @abstractmethod
    def plain_write(self, rows: Any) -> None:
        """Write it, as safely as the store does."""

    @abstractmethod
    def plain_statistics(self, resource: str, meter: str, start: int, end: int) -> tuple[Any, ...]:
        """(count, sum, avg, min, max, first, last, unit) of a meter and resource, by a query written by hand."""

    @abstractmethod
    def plain_size(self) -> int:
        """Bytes that it takes on disk."""


def patiently(condition: Any, what: str, seconds: float = 300.0) -> None:
    """Wait for something that a server does by itself."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: not within {seconds:g} s")
        time.sleep(0.02)
