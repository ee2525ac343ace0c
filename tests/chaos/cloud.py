"""The samples of a made-up cloud as the messages that lie on the topic, with doubles, late ones and ones out of order.

Made of columns, and the same for a seed: what the writer appends again after a fault has the same ids.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from nephoscope import identity
from nephoscope.batch import SCHEMA, Batch, Header, encode
from nephoscope.partition import partition
from nephoscope.times import NEVER, SECOND
from nephoscope.topics import Record

INTERVAL = 60
POLLED = (("cpu", "cumulative", "ns"), ("mem.used", "gauge", "MB"), ("mem.total", "gauge", "MB"))
PUSHED = (("net.bytes", "delta", "B"),)
PIPELINE = """
sources:
  - {name: all, meters: ["*"], sinks: [raw]}
  - {name: cpu, meters: [cpu], sinks: [util, busy]}
  - {name: memory, meters: ["mem.*"], sinks: [share]}
  - {name: net, meters: [net.bytes], sinks: [traffic]}
sinks:
  - {name: raw, publishers: ["store://"]}
  - name: util
    publishers: ["store://"]
    transformers:
      - {name: rate_of_change, parameters: {target: {name: cpu_util, unit: "%", type: gauge,
         scale: "100.0 / (10**9 * (resource_metadata.vcpus or 1))"}}}
  - name: busy
    publishers: ["store://", "FILE"]
    transformers:
      - {name: rate_of_change, parameters: {target: {name: cpu.rate, unit: "ns/s", type: gauge}}}
      - {name: aggregator, parameters: {retention_time: 180, target: {name: cpu.rate.mean}}}
  - name: share
    publishers: ["store://"]
    transformers:
      - {name: arithmetic, parameters: {target: {name: mem.share, unit: "%", type: gauge, expr: "100 * $(mem.used) / $(mem.total)"}}}
      - {name: aggregator, parameters: {retention_time: 300, volume: max, target: {name: mem.share.max}}}
  - name: traffic
    publishers: ["store://"]
    transformers:
      - {name: aggregator, parameters: {retention_time: 120, target: {name: net.bytes.sum}}}
      - {name: rate_of_change, parameters: {target: {name: net.bytes.rate, unit: "B/s", type: gauge}}}
"""
"""Plain metering, and each stateful kind of step, alone and in chains."""

_TIME = SCHEMA.field("timestamp").type
_DELAYED, _VERY_LATE, _DOUBLE, _LATE_DOUBLE = 0.06, 0.02, 0.04, 0.01
_DISORDER = 0.02
_AGES = 4
"""Rounds that a very late sample may be late; the watermark is two behind."""


@dataclass(frozen=True)
class Cloud:
    """`samples` in `rounds` of all series, ending about `end` (microseconds); `partitions` as the topic has them.

    `together`: so many rounds arrive in one message, as from an agent that catches up: small messages cost more than their rows.
    `born`: what tells the resources with a number apart that there are one after another.
    """

    series: int
    samples: int
    end: int
    partitions: int = 64
    together: int = 2
    seed: int = 1
    born: Callable[[int], int] | None = None

    @property
    def rounds(self) -> int:
        """Periods in which every series has a sample."""
        return max(4, round(self.samples / self.series / (1 + _DOUBLE + _LATE_DOUBLE)))

    @property
    def start(self) -> int:
        """The first period."""
        return (self.end // (INTERVAL * SECOND) - self.rounds - _AGES) * INTERVAL * SECOND

    def records(self) -> Iterator[tuple[list[Record], int]]:
        """(What is appended at once, how many samples it has), in order: a round of all partitions after the other."""
        count = self.series // len(POLLED + PUSHED)
        homes: dict[int, list[str]] = {}
        for number in range(count):
            resource = f"{number:08x}-5e4a-4000-8000-{self.seed if self.born is None else self.born(number):012x}"
            homes.setdefault(partition(resource, self.partitions), []).append(resource)
        parts = [_Part(self, home, resources) for home, resources in sorted(homes.items())]
        for number in range((self.rounds + 2 * _AGES) // self.together + 1):
            records, rows = [], 0
            for part in parts:
                for message, size in part.messages(number):
                    records.append(Record(part.number, message))
                    rows += size
            if records:
                yield records, rows


class _Part:
    """All rows of a partition, as columns, and when each arrives."""

    def __init__(self, cloud: Cloud, number: int, resources: list[str]) -> None:
        self.number = number
        self._chance = chance = np.random.default_rng([cloud.seed, number])
        self._resources, kinds = resources, POLLED + PUSHED
        rounds, size = cloud.rounds, len(resources) * len(kinds)
        series = np.tile(np.arange(size), rounds)
        when = np.repeat(np.arange(rounds), size)
        kind = series % len(kinds)
        growth = chance.integers(1, 10**10, (rounds, size)).astype(float)
        totals = np.cumsum(growth, axis=0)
        resets = chance.random((rounds, size)) < 0.01
        totals = np.where(resets, growth / 3, totals).ravel()
        volume = np.where(kind == 0, totals, chance.integers(1, 4000, series.size).astype(float))
        time = cloud.start + when * INTERVAL * SECOND
        # What is pushed knows no grid.
        time = time + np.where(kind >= len(POLLED), chance.integers(0, INTERVAL * SECOND, series.size), 0)
        luck = chance.random(series.size)
        arrival = when + np.where(luck < _VERY_LATE, chance.integers(1, _AGES + 1, series.size), 0)
        arrival = arrival + ((luck >= _VERY_LATE) & (luck < _VERY_LATE + _DELAYED))
        ids = self._ids(series, kind, time)
        measured = np.where(kind < len(POLLED), time + chance.integers(0, 2 * SECOND, series.size), NEVER)
        # Doubles: at once, or a while later.
        again = chance.random(series.size)
        twice = np.flatnonzero(again < _DOUBLE + _LATE_DOUBLE)
        after = np.where(again[twice] < _DOUBLE, chance.integers(0, 2, twice.size), _AGES)
        order = np.concatenate([np.arange(series.size), twice])
        arrival = np.concatenate([arrival, arrival[twice] + after])
        # In the order of time, but for some.
        place = order + np.where(chance.random(order.size) < _DISORDER, chance.integers(0, 2 * size, order.size), 0)
        slot = arrival // cloud.together
        by = np.lexsort((place, arrival, kind[order] >= len(POLLED), slot))
        order, self._arrival = order[by], slot[by]
        self._columns = {
            "series": series[order], "kind": kind[order], "volume": volume[order], "time": time[order], "measured": measured[order], "id": ids[order],
        }  # fmt: skip
        self._words = {
            "name": [n for n, _, _ in kinds], "type": [t for _, t, _ in kinds], "unit": [u for _, _, u in kinds],
            "resource_id": resources, "user_id": [f"user-{i}" for i in range(7)], "project_id": [f"project-{i}" for i in range(5)],
            "resource_metadata": [f'{{"vcpus":{1 + i % 4},"host":"compute-{i:02d}"}}' for i in range(16)],
            "source": ["openstack"], "origin": [""],
        }  # fmt: skip

    def _ids(self, series: np.ndarray, kind: np.ndarray, time: np.ndarray) -> np.ndarray:
        kinds = POLLED + PUSHED
        base = np.array([identity.base_key(("polled", "openstack", n)) for n, _, _ in kinds], np.uint64)
        own = np.array([identity.resource_key(r) for r in self._resources], np.uint64)
        resource = series // len(kinds)
        lanes = identity.keyed(base[kind, 0], base[kind, 1], own[resource, 0], own[resource, 1], time)
        drawn = self._chance.bytes(16 * len(series))
        ids = np.where(
            (kind < len(POLLED))[:, None], identity.pack(*lanes), np.frombuffer(drawn, np.uint8).reshape(-1, 16)
        )
        return np.ascontiguousarray(ids)

    def messages(self, number: int) -> Iterator[tuple[bytes, int]]:
        """What arrives in a round: the polled samples with their header, and the pushed ones."""
        first, last = np.searchsorted(self._arrival, (number, number + 1))
        some = slice(first, last)
        kind = self._columns["kind"][some]
        border = first + int(np.count_nonzero(kind < len(POLLED)))
        for begin, end, header in (
            (first, border, Header(interval=INTERVAL, polling=("cpu", "memory"))),
            (border, last, Header()),
        ):
            if end > begin:
                yield encode(Batch(self._rows(slice(begin, end)), header)), int(end - begin)

    def _rows(self, some: slice) -> pa.RecordBatch:
        c = {name: column[some] for name, column in self._columns.items()}
        n, kinds = len(c["series"]), len(POLLED + PUSHED)
        resource = c["series"] // kinds
        index = {
            "name": c["kind"], "type": c["kind"], "unit": c["kind"], "resource_id": resource, "user_id": resource % 7, "project_id": resource % 5,
            "resource_metadata": resource % 16, "source": resource * 0, "origin": resource * 0,
        }  # fmt: skip
        columns = {
            name: pa.DictionaryArray.from_arrays(pa.array(at.astype(np.int32)), pa.array(self._words[name], pa.utf8()))
            for name, at in index.items()
        }
        columns |= {
            "volume": pa.array(c["volume"]),
            "timestamp": pa.array(c["time"]).cast(_TIME),
            "measured_at": pa.array(c["measured"]).cast(_TIME),
            "id": pa.Array.from_buffers(pa.binary(16), n, [None, pa.py_buffer(np.ascontiguousarray(c["id"]))]),
            "late": pa.array(np.zeros(n, bool)),
        }
        return pa.RecordBatch.from_arrays([columns[f.name] for f in SCHEMA], schema=SCHEMA)
