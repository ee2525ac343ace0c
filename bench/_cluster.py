"""Flows as processes, for bench/cluster.py: a settings file, the workers, what they used, what they published."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np
import psutil

from bench._cloud import Periods, instances
from nephoscope.batch import Batch, split_by
from nephoscope.partition import partitions_of
from nephoscope.topics import SAMPLES, Log, Record

PARTITIONS = 64
INSTANCES = 157
"""Of ten meters, a partition on average: 100,480 series, and as many samples in a period."""
_PATIENCE = 120.0


def cloud() -> Periods:
    """100,480 series in 64 partitions: each resource in its own, as agents send them."""
    rows = instances(0, PARTITIONS * INSTANCES)
    parts = split_by(Batch(rows), partitions_of(rows.column("resource_id").to_pylist(), PARTITIONS))
    return Periods([parts[p].rows for p in range(PARTITIONS)])


def records(made: Periods, periods: range) -> Iterator[Record]:
    """The messages of some periods, one a partition and period."""
    for period in periods:
        for message in made.messages(period):
            yield Record(message.partition, message.value)


def fill(log: Log, many: Iterator[Record]) -> None:
    """Append, a period at a time."""
    while block := list(islice(many, PARTITIONS)):
        log.append(SAMPLES, block)


_NOTING = '''
"""A publisher that encodes what it gets and throws it away; when, and how much, is noted in a file of its process's own."""

import multiprocessing
import os
import time

import pyarrow as pa

from nephoscope.batch import SCHEMA
from nephoscope.store import batches


class Discard:
    guarantee = "none"

    def __init__(self, url="discard://"):
        self._file = open(f"{os.environ['DISCARD_NOTES']}-{os.getpid()}", "a", buffering=1)

    def publish(self, rows):
        count = 0
        for batch in batches(rows):
            count += batch.num_rows
            sink = pa.BufferOutputStream()
            with pa.ipc.new_stream(sink, SCHEMA) as writer:
                writer.write_batch(batch)
            sink.getvalue()
        self._file.write(f"{time.time()} {count}\\n")

    def flush(self):
        pass

    def close(self):
        self._file.close()
'''


@dataclass
class Flow:
    """`nephoscope flow` in a folder of its own, as whoever installs it starts it."""

    folder: Path
    settings: Mapping[str, str]
    workers: int = 1
    process: subprocess.Popen[bytes] | None = None
    _all: list[psutil.Process] = field(default_factory=list)

    def prepare(self, pipeline: str) -> None:
        """Write the pipeline, and the distribution of the publisher discard://."""
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "pipeline.yaml").write_text(pipeline)
        more = self.folder / "path"
        info = more / "bench_discard-0.dist-info"
        info.mkdir(parents=True, exist_ok=True)
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: bench-discard\nVersion: 0\n")
        (info / "entry_points.txt").write_text("[nephoscope.publisher]\ndiscard = bench_discard:Discard\n")
        (more / "bench_discard.py").write_text(_NOTING)

    def start(self) -> None:
        """Start it; returns at once."""
        command = [sys.executable, "-m", "nephoscope.cli", "flow", "--workers", str(self.workers)]
        for name, value in self.settings.items():
            command += ["--set", f"{name}={value}"]
        own = {k: v for k, v in os.environ.items() if not k.startswith("NEPHOSCOPE_")}
        own["PYTHONPATH"] = os.pathsep.join([str(self.folder / "path"), *filter(None, [own.get("PYTHONPATH")])])
        own["DISCARD_NOTES"] = str(self.folder / "notes")
        with (self.folder / "errors").open("ab") as errors:
            self.process = subprocess.Popen(
                command, cwd=self.folder, env=own, stdout=errors, stderr=errors, start_new_session=True
            )
        self._all = []

    @property
    def processes(self) -> list[psutil.Process]:
        """Those that work: the supervisor's children."""
        assert self.process is not None
        if len(self._all) < self.workers:
            self._all = psutil.Process(self.process.pid).children()
        return self._all

    def cpu(self) -> float:
        """CPU-seconds that all of it has used."""
        used = [p.cpu_times() for p in self.processes]
        return sum(u.user + u.system for u in used)

    def alive(self) -> None:
        """RuntimeError, with what it said, where it has ended."""
        assert self.process is not None
        if self.process.poll() is not None:
            raise RuntimeError(
                f"the flow ended with {self.process.returncode}:\n{(self.folder / 'errors').read_text()}"
            )

    def until(self, done: Callable[[], bool], pause: float = 0.05) -> None:
        """Wait until something is so. RuntimeError where that takes too long, or the flow ends."""
        deadline = time.monotonic() + _PATIENCE
        while not done():
            self.alive()
            if time.monotonic() > deadline:
                raise RuntimeError(f"not done in {_PATIENCE:g} s:\n{(self.folder / 'errors').read_text()[-3000:]}")
            time.sleep(pause)

    def notes(self) -> list[tuple[float, int]]:
        """(time, samples) of each call of discard://, oldest first."""
        lines = [line.split() for file in self.folder.glob("notes-*") for line in file.read_text().splitlines()]
        return sorted((float(at), int(count)) for at, count in (line for line in lines if len(line) == 2))

    def send(self, number: int) -> None:
        """A signal to each process that works."""
        for process in self.processes:
            with suppress(psutil.NoSuchProcess):
                process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL to all, and gone."""
        if self.process is not None and self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    @contextmanager
    def running(self) -> Iterator[Flow]:
        """Started, and killed in the end."""
        self.start()
        try:
            yield self
        finally:
            self.kill()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Nobody works meanwhile."""
        self.send(signal.SIGSTOP)
        try:
            yield
        finally:
            self.send(signal.SIGCONT)


def crowding() -> float:
    """CPU-seconds of the same work beside itself over alone: 1 where there are two cores, more where they are threads of one, or others work."""
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as both:
        list(both.map(_work, range(2)))
        alone = min(both.submit(_work, 0).result() for _ in range(3))
        return max(both.map(_work, range(2))) / alone


def _work(_number: int) -> float:
    began = time.process_time()
    column, words = np.arange(1500.0), {str(i): i for i in range(2000)}
    for _ in range(200_000):
        column * 2
        words.get("77")
    return time.process_time() - began


def percentile(values: Sequence[tuple[float, int]], share: float) -> float:
    """The value below which `share` of the weight lies, of (value, weight)."""
    total, seen = sum(w for _, w in values), 0.0
    for value, weight in sorted(values):
        seen += weight
        if seen >= share * total:
            return value
    raise ValueError("no values")
