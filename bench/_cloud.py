"""The samples of a made-up cloud: instances of ten meters each, as an agent's batches, partition by partition."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from nephoscope import identity
from nephoscope.batch import SCHEMA, Batch, Header, batch_of, encode
from nephoscope.partition import partition as partition_of
from nephoscope.sample import Sample, metadata_text
from nephoscope.topics import Message

START = 1_700_000_040_000_000
_TIME = SCHEMA.field("timestamp").type
METERS = (
    ("", "cpu", "cumulative", "ns"),
    ("", "memory.usage", "gauge", "MB"),
    *(
        ("-vda", f"disk.device.{way}.{what}", "cumulative", unit)
        for way in ("read", "write")
        for what, unit in (("bytes", "B"), ("requests", "request"))
    ),
    *(
        ("-tap", f"network.{way}.{what}", "cumulative", unit)
        for way in ("incoming", "outgoing")
        for what, unit in (("bytes", "B"), ("packets", "packet"))
    ),
)
"""(suffix of the resource, name, type, unit): three resources an instance, as Ceilometer's compute agent has them."""


def instances(partition: int, count: int, meters: tuple[tuple[str, str, str, str], ...] = METERS) -> pa.RecordBatch:
    """One period of `count` instances, in the stable order in which an agent sends them."""
    return batch_of(list(_samples(partition, count, meters))).rows


def by_partition(count: int, partitions: int) -> list[pa.RecordBatch]:
    """One period of `count` instances, a batch a partition of the log: an instance's three resources go where their own hashes send them."""
    parts: list[list[Sample]] = [[] for _ in range(partitions)]
    for sample in _samples(0, count, METERS):
        parts[partition_of(sample.resource_id, partitions)].append(sample)
    return [batch_of(part).rows for part in parts]


def _samples(partition: int, count: int, meters: tuple[tuple[str, str, str, str], ...]) -> Iterator[Sample]:
    for number in range(count):
        uuid = f"{partition:08x}-5e4a-4000-8000-{number:012x}"
        about = {
            "display_name": f"web-{partition}-{number}",
            "host": f"compute-{number % 100:03d}",
            "cpu_number": 1 + number % 8,
            "flavor": {"name": "m1.small", "vcpus": 1 + number % 8, "ram": 2048, "disk": 20, "ephemeral": 0},
            "image": {"id": f"{number % 20:08x}-1a2b-4c3d-8e4f-000000000000", "name": "debian-12"},
            "image_ref": f"{number % 20:08x}-1a2b-4c3d-8e4f-000000000000",
            "instance_host": f"compute-{number % 100:03d}.example.org",
            "status": "active",
            "state": "running",
            "task_state": "",
            "OS-EXT-AZ:availability_zone": "nova",
        }
        for suffix, name, kind, unit in meters:
            yield Sample(
                name=name,
                type=kind,
                unit=unit,
                volume=0.0,
                resource_id=uuid + suffix,
                timestamp=START,
                user_id=f"user-{number % 40:032x}",
                project_id=f"project-{number % 20:032x}",
                metadata=metadata_text(about | {"device": suffix}),
                measured_at=START,
                id=b"\0" * 16,
            )


class Periods:
    """Messages of a period: the same series, other volumes, times and ids."""

    def __init__(self, templates: list[pa.RecordBatch], interval: int = 60, seed: int = 1) -> None:
        self.templates, self.interval = templates, interval
        self._random = np.random.default_rng(seed)
        self._totals = [self._random.integers(0, 10**9, t.num_rows).astype(float) for t in templates]
        self._lanes = [_lanes(t) for t in templates]

    @property
    def rows(self) -> int:
        """Samples in a period."""
        return sum(t.num_rows for t in self.templates)

    def messages(self, period: int) -> Iterator[Message]:
        """One message a template (which stands for a partition)."""
        for partition in range(len(self.templates)):
            yield Message(partition, period, self.time(period), encode(self.batch(partition, period)))

    def time(self, period: int) -> int:
        """The period's start."""
        return START + period * self.interval * 1_000_000

    def batch(self, partition: int, period: int) -> Batch:
        """The samples of one template in one period."""
        template, n = self.templates[partition], self.templates[partition].num_rows
        self._totals[partition] += np.floor(self._random.random(n) * 6e10)
        time = np.full(n, self.time(period))
        base_hi, base_lo, res_hi, res_lo = self._lanes[partition]
        ids = identity.pack(*identity.keyed(base_hi, base_lo, res_hi, res_lo, time))
        columns = {f.name: template.column(f.name) for f in SCHEMA}
        columns["timestamp"] = pa.array(time).cast(_TIME)
        columns["measured_at"] = pa.array(time + self._random.integers(0, 2_000_000, n)).cast(_TIME)
        columns["volume"] = pa.array(self._totals[partition].copy())
        columns["id"] = pa.Array.from_buffers(pa.binary(16), n, [None, pa.py_buffer(ids)])
        rows = pa.RecordBatch.from_arrays([columns[f.name] for f in SCHEMA], schema=SCHEMA)
        return Batch(rows, Header(interval=self.interval, polling=("compute",)))


def _lanes(rows: pa.RecordBatch) -> tuple[np.ndarray, ...]:
    names, resources = rows.column("name").to_pylist(), rows.column("resource_id").to_pylist()
    base = np.array([identity.base_key(("polled", "openstack", n)) for n in names], np.uint64)
    resource = np.array([identity.resource_key(r) for r in resources], np.uint64)
    return base[:, 0], base[:, 1], resource[:, 0], resource[:, 1]
