"""The stores' figures: each against the plain way on the same server, with the same samples, in the same run.

``python -m bench stores [--store NAME]… [--case CASE]… [--quick]``

100,480 series (10k instances of three resources and ten meters, bench/_cloud.py) in the 64 partitions that the resources' hashes give, a batch a
partition and period of a minute. Cases, each once a store:

ingest                samples/s, against the plain way's, once the server is warm (the store's Bench says when that is)
bytes-per-sample      what the store takes on disk once all is loaded, indexes and resources included, against the plain way's
statistics            milliseconds for one meter and resource over a day of 60 s samples, with all else stored; against a query written by
                      hand for the plain way's layout, which then holds only its few periods, and three more that come in between. The ratio is
                      theirs by ours: more is faster
expire-while-writing  samples/s while a million samples are removed, against the rate just before

What is prepared beforehand (our batches, the plain way's rows) is in no rate. The two ways take turns batch by batch, so that what else the
machine does meets both. With ``--quick`` ten times less is loaded and removed: a look, no figure.
"""

from __future__ import annotations

import contextlib
import gc
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Final

from bench._cloud import START, Periods, by_partition, instances
from bench._stores import Bench
from nephoscope.batch import Batch
from nephoscope.filters import And, Compare
from nephoscope.store import StatisticsQuery, Store

STORES: Final = {name: f"bench._store_{name}" for name in ("hbase", "mongodb", "postgresql", "sqlite")}
"""Where each store's Bench is: a class `BENCH` of that module."""
CASES: Final = ("ingest", "bytes-per-sample", "statistics", "expire-while-writing")
PARTITIONS: Final = 64
INSTANCES: Final = 10_048
"""Of ten meters each: 100,480 series."""
PLAIN_PERIODS: Final = 2
INGEST_PERIODS: Final = 10
LOADED_PERIODS: Final = 100
"""10 million samples."""
EXPIRED_PERIODS: Final = 10
"""A million samples."""
MINUTE: Final = 60_000_000
DAY: Final = 1440
ASKED: Final = 15
AMONG: Final = 200
"""Samples of others between two minutes of the day that is asked for: 288,000 in all."""


def cases(*, quick: bool = False, only: Sequence[str] = (), stores: Sequence[str] = ()) -> Iterator[dict[str, Any]]:
    """The cases that are asked for, store by store; all by default."""
    for name in stores or STORES:
        with contextlib.ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=f"bench-{name}-")))
            bench: Bench = stack.enter_context(import_module(STORES[name]).BENCH(folder))
            yield from _Run(name, bench, quick=quick).cases(only or CASES)


class _Rate:
    """Samples and the seconds of the clock that they took."""

    def __init__(self) -> None:
        self.samples = 0
        self.seconds = 0.0

    def __call__(self, samples: int, work: Callable[[], Any]) -> None:
        begin = time.perf_counter()
        work()
        self.seconds += time.perf_counter() - begin
        self.samples += samples

    @property
    def value(self) -> float:
        return self.samples / self.seconds


class _Run:
    """The cases of one store."""

    def __init__(self, name: str, bench: Bench, *, quick: bool) -> None:
        self._name, self._bench = name, bench
        self._less = 10 if quick else 1
        self._cloud = Periods(by_partition(INSTANCES, PARTITIONS))
        self._period = 0
        self._plain_samples = 0

    def cases(self, wanted: Sequence[str]) -> Iterator[dict[str, Any]]:
        """A line for each case."""
        bench = self._bench
        store = bench.open()
        try:
            if "ingest" in wanted or "bytes-per-sample" in wanted:
                ours, theirs = self._ingest(store)
                if "ingest" in wanted:
                    yield _case(f"{self._name}-ingest", ours.value, "samples/s", theirs.value)
            if "bytes-per-sample" in wanted or "statistics" in wanted:
                self._load(store, LOADED_PERIODS // self._less)
            if "bytes-per-sample" in wanted:
                size = bench.size() / (self._period * self._cloud.rows)
                yield _case(f"bytes-per-sample-{self._name}", size, "B", bench.plain_size() / self._plain_samples)
            if "statistics" in wanted:
                yield self._statistics(store)
            if "expire-while-writing" in wanted:
                self._load(store, EXPIRED_PERIODS // self._less)
                yield self._expire(store)
        finally:
            store.close()

    def _ingest(self, store: Store) -> tuple[_Rate, _Rate]:
        ours, theirs = _Rate(), _Rate()
        warm_ours, warm_theirs = _Rate(), _Rate()
        warm_periods = self._bench.warm_periods
        for period in range(max(2, INGEST_PERIODS // self._less) + warm_periods):
            warm = period < warm_periods
            for partition in range(PARTITIONS):
                batch = self._cloud.batch(partition, period)
                n = len(batch)
                if period < warm_periods + PLAIN_PERIODS:
                    rows = self._bench.plain_rows(batch)
                    (warm_theirs if warm else theirs)(n, lambda rows=rows: self._bench.plain_write(rows))
                    self._plain_samples += n
                (warm_ours if warm else ours)(n, lambda rows=batch.rows: store.write(rows))
        self._period = period + 1
        return ours, theirs

    def _load(self, store: Store, periods: int) -> None:
        while self._period < periods:
            self._write_period(store, _Rate())

    def _write_period(self, store: Store, rate: _Rate) -> None:
        for partition in range(PARTITIONS):
            rows = self._cloud.batch(partition, self._period).rows
            rate(rows.num_rows, lambda rows=rows: store.write(rows))
        self._period += 1

    def _statistics(self, store: Store) -> dict[str, Any]:
        # A day of one instance more, on both sides. Each minute of it comes with some samples of others before and after, as it does in life:
        # written in one go, a day of one instance would lie together where neither way puts it together.
        one, others = Periods([instances(PARTITIONS, 1)]), self._pieces()
        for period in range(DAY):
            for batch in (one.batch(0, period), next(others)):
                store.write(batch.rows)
                self._bench.plain_write(self._bench.plain_rows(batch))
        resource, end = f"{PARTITIONS:08x}-5e4a-4000-8000-{0:012x}", START + DAY * MINUTE
        query = StatisticsQuery(
            And((
                Compare("resource_id", "=", resource),
                Compare("name", "=", "cpu"),
                Compare("timestamp", ">=", START),
                Compare("timestamp", "<", end),
            ))
        )  # fmt: skip
        (ours,) = store.statistics(query)
        theirs = self._bench.plain_statistics(resource, "cpu", START, end)
        if ours.count != DAY or theirs[0] != DAY:
            raise AssertionError(f"{ours.count} and {theirs[0]} samples instead of {DAY}")
        times: tuple[list[float], list[float]] = ([], [])
        for _ in range(ASKED):
            for which, ask in enumerate((
                lambda: store.statistics(query),
                lambda: self._bench.plain_statistics(resource, "cpu", START, end),
            )):  # fmt: skip
                begin = time.perf_counter()
                ask()
                times[which].append((time.perf_counter() - begin) * 1e3)
        mine, plain = (statistics.median(t) for t in times)
        return _case(f"statistics-{self._name}", mine, "ms", plain, ratio=plain / mine)

    def _pieces(self) -> Iterator[Batch]:
        """Further periods, some samples at a time."""
        while True:
            for partition in range(PARTITIONS):
                batch = self._cloud.batch(partition, self._period)
                for begin in range(0, len(batch), AMONG):
                    yield Batch(batch.rows.slice(begin, AMONG), batch.header)
            self._period += 1

    def _expire(self, store: Store) -> dict[str, Any]:
        before = START + (EXPIRED_PERIODS // self._less) * MINUTE
        self._load(store, self._period + 2)
        undisturbed, meanwhile = _Rate(), _Rate()
        for _ in range(3):
            self._write_period(store, undisturbed)
        done = threading.Event()
        failed: list[BaseException] = []

        def expire() -> None:
            try:
                self._bench.expire(store, before)
            except BaseException as error:  # noqa: BLE001 - told below, in the thread that reports
                failed.append(error)
            finally:
                done.set()

        thread = threading.Thread(target=expire)
        gc.collect()
        thread.start()
        while not done.is_set():
            for partition in range(PARTITIONS):
                rows = self._cloud.batch(partition, self._period).rows
                if done.is_set():
                    break
                meanwhile(rows.num_rows, lambda rows=rows: store.write(rows))
            self._period += 1
        thread.join()
        if failed:
            raise failed[0]
        if not meanwhile.samples:
            raise AssertionError("the expiry was over before anything was written")
        return _case(f"expire-while-writing-{self._name}", meanwhile.value, "samples/s", undisturbed.value)


def _case(name: str, value: float, unit: str, against: float, *, ratio: float | None = None) -> dict[str, Any]:
    return {
        "case": name,
        "value": round(value) if value > 1000 else round(value, 2),
        "unit": unit,
        "against": round(against) if against > 1000 else round(against, 2),
        "ratio": round(value / against if ratio is None else ratio, 3),
    }
