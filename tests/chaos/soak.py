"""A soak at 80 % of capacity over Kafka: memory of every process and lag over time, and whether both are flat.

Flat: the straight line through the second half of the soak rises by no more than a tenth of its level from its beginning to its end, or by no more
than a small constant (`LEAST`): 24 MB of a process, two seconds' worth of messages.

The cloud is one in which resources come and go: each lives for `LIFE` rounds, and as many are new as are gone. What a flow remembers of those that are gone
it forgets after `series_ttl`, and ids after `dedupe_horizon`: both are short here, so that the second half of the soak is what every hour after it would be.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from nephoscope import times
from nephoscope.cli.output import spark
from nephoscope.errors import Unavailable
from nephoscope.times import SECOND
from nephoscope.topics import SAMPLES, Record
from tests.chaos.cloud import INTERVAL, Cloud
from tests.chaos.flow import Trouble
from tests.chaos.story import PARTITIONS, Form, Stage

SHARE = 0.8
_ROUNDS = 8
LIFE = 64 * _ROUNDS
FORM = Form(epoch=10, settings="series_ttl: 3600\ndedupe_horizon: 900\n")
_EVERY = 1.0
LEAST_BYTES, LEAST_SECONDS = 24 << 20, 2.0


@dataclass
class Line:
    """One thing over time."""

    name: str
    unit: str
    least: float
    scale: float = 1.0
    values: list[float] = field(default_factory=list)

    @property
    def level(self) -> float:
        """The mean of the second half."""
        return float(np.mean(self._half()))

    @property
    def rise(self) -> float:
        """By how much the straight line through the second half rises."""
        half = self._half()
        if len(half) < 3:
            return 0.0
        slope, _ = np.polyfit(np.arange(len(half)), half, 1)
        return float(slope * (len(half) - 1))

    @property
    def flat(self) -> bool:
        """Whether it rises by no more than a tenth of the level, or by a trifle."""
        return self.rise <= max(0.1 * self.level, self.least)

    def _half(self) -> Sequence[float]:
        return self.values[len(self.values) // 2 :] or [0.0]

    def row(self) -> tuple[str, ...]:
        """Name, level, rise, verdict and the line."""
        shape = [float(np.mean(part)) for part in np.array_split(self.values, 32) if len(part)]
        figures = (f"{self.level / self.scale:,.0f} {self.unit}", f"{self.rise / self.scale:+,.1f}")
        return self.name, *figures, "flat" if self.flat else "RISES", spark(shape, 32)


class Rain(threading.Thread):
    """Samples at so many a second, in a log without end. `rate` 0: as fast as they are taken, as long as `keep` says so."""

    def __init__(self, stage: Stage, keep: Callable[[], bool]) -> None:
        super().__init__(daemon=True)
        self._stage, self._keep = stage, keep
        self.rate = 0.0
        self.samples = self.messages = 0
        self.stop = threading.Event()
        self.error: BaseException | None = None

    def run(self) -> None:
        """Rain."""
        try:
            log = self._stage.log()
            began, at_first, rate = time.monotonic(), 0, 0.0
            for records, count in self._rounds():
                if self.rate != rate:
                    began, at_first, rate = time.monotonic(), self.samples, self.rate
                while not self.stop.is_set() and not self._due(began, at_first):
                    self.stop.wait(0.005)
                if self.stop.is_set():
                    break
                try:
                    log.append(SAMPLES, records)
                except Unavailable:
                    log.append(SAMPLES, records)
                self.samples += count
                self.messages += len(records)
            log.close()
        except BaseException as error:  # noqa: BLE001 - told by the main thread
            self.error = error

    def _due(self, began: float, at_first: int) -> bool:
        if not self.rate:
            return self._keep()
        return self.samples - at_first <= self.rate * (time.monotonic() - began)

    def _rounds(self) -> Iterator[tuple[list[Record], int]]:
        series = self._stage.form.series
        # Event time runs faster than the clock here: days of it must lie before now.
        end = times.now() - 30 * 86_400 * SECOND
        number = 0
        while True:
            number += 1
            end += _ROUNDS * INTERVAL * SECOND
            turn = number * _ROUNDS
            cloud = Cloud(
                series, _ROUNDS * series, end, PARTITIONS, seed=number, born=lambda n, t=turn: 1 + (n + t) // LIFE
            )
            for records, _ in cloud.records():
                # In eighths, so that the rate is even.
                for part in range(0, len(records), 16):
                    some = records[part : part + 16]
                    yield some, sum(int.from_bytes(r.value[8:12], "little") for r in some)


def soak(stage: Stage, seconds: float, workers: int = 2) -> tuple[float, float, list[Line]]:
    """Capacity and rate in samples a second, and the lines: lag, and the memory of each worker. Trouble where the flow ends."""
    flow = stage.flow
    lag = [0.0]
    rain = Rain(stage, lambda: lag[0] < 400)
    stage.event("measuring the capacity")
    flow.start(workers)
    flow.until("it is there", lambda: flow.lag() == 0)
    rain.start()

    def look() -> None:
        lag[0] = flow.lag()
        if rain.error is not None:
            raise rain.error
        if not flow.running or flow.heard("again in"):
            raise Trouble(f"the flow ended\n{flow.tail()}")

    # At first there is little to remember and a small store: what it can do then is not what it can do for long.
    capacity = _capacity(rain, look, max(5.0, seconds / 8), max(10.0, seconds / 20), lag)
    rain.rate = SHARE * capacity
    stage.event(f"{rain.rate:,.0f} samples/s for {seconds:g} s")
    a_message = rain.samples / rain.messages
    lines = [Line("lag", "messages", LEAST_SECONDS * rain.rate / a_message)]
    lines += [Line(f"worker {i} memory", "MB", LEAST_BYTES, 1 << 20) for i in range(workers)]
    began = time.monotonic()
    while (passed := time.monotonic() - began) < seconds:
        time.sleep(_EVERY)
        look()
        for line, value in zip(lines, [lag[0], *(p.memory_info().rss for p in flow.processes())], strict=True):
            line.values.append(value)
        stage.told(stage.events[-1][0], passed / seconds)
    rain.stop.set()
    rain.join()
    flow.drained("all is read")
    stage.event("SIGTERM")
    flow.stop()
    return capacity, rain.rate, lines


def _capacity(rain: Rain, look: Callable[[], None], start: float, seconds: float, lag: list[float]) -> float:
    """Samples a second while there is always something to read, after a start of so many seconds that does not count."""
    began, first, first_lag = time.monotonic(), 0, 0.0
    warm = False
    while True:
        time.sleep(0.2)
        look()
        passed = time.monotonic() - began
        if not warm and passed > start:
            warm, began, first, first_lag = True, time.monotonic(), rain.samples, lag[0]
        elif warm and passed > seconds:
            per_message = rain.samples / max(1, rain.messages)
            return (rain.samples - first - (lag[0] - first_lag) * per_message) / passed
