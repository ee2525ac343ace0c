"""From readings to messages: the samples of many polls, gathered into one batch for each partition and header.

A sample is never an object here: readings go straight into the columns of the batch that they will travel in.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa

from nephoscope import identity
from nephoscope.batch import SCHEMA, Batch, Header, encode_split
from nephoscope.dead_letters import KEPT, DeadLetter
from nephoscope.errors import SampleError
from nephoscope.partition import partition
from nephoscope.push import MAX_SAMPLE_BYTES, too_large
from nephoscope.sample import DEFAULT_SOURCE, metadata_text, to_json
from nephoscope.times import NEVER
from nephoscope.topics import Record
from sources.pollster import Meter, Reading


class _Words(dict[str, int]):
    """Numbers of strings, in the order of their arrival."""

    def __missing__(self, word: str) -> int:
        number = self[word] = len(self)
        return number

    def column(self, numbers: list[int]) -> pa.DictionaryArray:
        return _dictionary(np.array(numbers, np.int32), list(self))


class _Columns:
    """The columns of a batch that grows."""

    __slots__ = ("late", "measured", "metadata", "meter", "projects", "resource", "times", "users", "volumes", "words")

    def __init__(self) -> None:
        self.meter: list[int] = []
        self.volumes: list[float] = []
        self.resource: list[int] = []
        self.metadata: list[int] = []
        self.users: list[int] = []
        self.projects: list[int] = []
        self.times: list[int] = []
        self.measured: list[int] = []
        self.late: list[bool] = []
        self.words = (_Words(), _Words(), _Words(), _Words())


class Gathered(msgspec.Struct):
    """What `take` gives: messages, dead letters, and how many samples they hold."""

    records: list[Record]
    letters: list[DeadLetter]
    rows: int


class Gatherer:
    """Collects readings until they are taken as messages.

    Args:
        partitions: of the topic.
        source: the `source` of the samples (`sample_source`).
        max_sample_bytes: a reading whose texts are longer goes to the dead letters.

    """

    def __init__(self, partitions: int, source: str = DEFAULT_SOURCE, max_sample_bytes: int = MAX_SAMPLE_BYTES) -> None:
        self._partitions = partitions
        self._source = source
        self._limit = max_sample_bytes
        self._groups: dict[tuple[int, Header], _Columns] = {}
        self._meters: dict[Meter, int] = {}
        self._letters: list[DeadLetter] = []
        self.rows = 0

    def add(
        self,
        readings: Iterable[Reading],
        headers: Mapping[str, Header],
        due: int,
        measured_at: int,
        *,
        late: bool = False,
    ) -> int:
        """Take the readings of one poll whose meters are in `headers`; how many there were. Bad ones go to the dead letters.

        `due` is their timestamp, `measured_at` stands where a reading does not say it better.
        """
        count = 0
        seen: Any = None  # Readings of one resource mostly share one object, whose text is then made once.
        text = ""
        short = False
        for reading in readings:
            try:
                meter = reading.meter
                header = headers.get(meter.name)
                if header is None:
                    continue
                count += 1
                if reading.metadata is not seen or seen is None:
                    seen = None
                    text = reading.metadata if isinstance(reading.metadata, str) else metadata_text(reading.metadata)
                    short = len(text) * 8 <= self._limit and text.isascii()
                    seen = reading.metadata
                resource = reading.resource_id
                owner = reading.user_id + reading.project_id
                # Most texts are short and plain; the others are looked at closely.
                if not (short and len(resource) + len(owner) < 512 and resource.isascii() and owner.isascii()):
                    self._check(reading, text)
                volume = float(reading.volume)
                if not math.isfinite(volume):
                    raise SampleError("volume", f"volume must be a finite number, not {volume}")
                if not resource:
                    raise SampleError("resource_id", "resource_id is missing")
                place = partition(resource, self._partitions)
            except SampleError as error:
                self._refuse(reading, error.reason, str(error))
                continue
            except (TypeError, ValueError, OverflowError, AttributeError) as error:
                self._refuse(reading, "reading", f"{type(error).__name__}: {error}")
                continue
            columns = self._groups.get((place, header))
            if columns is None:
                columns = self._groups[place, header] = _Columns()
            number = self._meters.get(meter)
            if number is None:
                number = self._meters[meter] = len(self._meters)
            resources, metadata, users, projects = columns.words
            columns.meter.append(number)
            columns.volumes.append(volume)
            columns.resource.append(resources[resource])
            columns.metadata.append(metadata[text])
            columns.users.append(users[reading.user_id])
            columns.projects.append(projects[reading.project_id])
            columns.times.append(due)
            columns.measured.append(measured_at if reading.measured_at == NEVER else reading.measured_at)
            columns.late.append(late)
            self.rows += 1
        return count

    def take(self) -> Gathered:
        """The messages of all that was added since the last time."""
        records = [
            Record(place, message)
            for (place, header), columns in self._groups.items()
            for message in encode_split(Batch(self._rows(columns), header))
        ]
        out = Gathered(records, self._letters, self.rows)
        self._groups = {}
        self._letters = []
        self.rows = 0
        return out

    def _check(self, reading: Reading, text: str) -> None:
        try:
            size = too_large(self._limit, reading.resource_id, reading.user_id, reading.project_id, text)
        except UnicodeEncodeError as error:
            raise SampleError("text", f"not UTF-8: {error.reason}") from None
        if size:
            raise SampleError("too_large", f"{size} bytes; the limit is {self._limit}")

    def _refuse(self, reading: Reading, reason: str, detail: str) -> None:
        try:
            data = to_json(reading)
        except (TypeError, ValueError, OverflowError, RecursionError):
            data = repr(reading)[: 2 * KEPT].encode("utf-8", "replace")
        key = getattr(reading, "resource_id", "")
        key = key if isinstance(key, str) else ""
        self._letters.append(DeadLetter(reason=reason, detail=detail, data=data, key=key[:1000]))

    def _rows(self, columns: _Columns) -> pa.RecordBatch:
        count = len(columns.meter)
        times = np.array(columns.times, np.int64)
        resources, metadata, users, projects = columns.words
        used, meter = np.unique(np.array(columns.meter, np.int32), return_inverse=True)
        every = list(self._meters)
        meters = [every[i] for i in used.tolist()]
        arrays = {
            "name": _dictionary(meter, [m.name for m in meters]),
            "type": _shared(meter, [m.type for m in meters]),
            "unit": _shared(meter, [m.unit for m in meters]),
            "volume": pa.array(np.array(columns.volumes, np.float64)),
            "user_id": users.column(columns.users),
            "project_id": projects.column(columns.projects),
            "resource_id": resources.column(columns.resource),
            "timestamp": _times(times),
            "measured_at": _times(np.array(columns.measured, np.int64)),
            "resource_metadata": metadata.column(columns.metadata),
            "source": _dictionary(np.zeros(count, np.int32), [self._source]),
            "id": self._ids(meters, meter, list(resources), np.array(columns.resource, np.int64), times),
            "origin": _dictionary(np.zeros(count, np.int32), [""]),
            "late": pa.array(np.array(columns.late, np.bool_)),
        }
        return pa.RecordBatch.from_arrays([arrays[f.name] for f in SCHEMA], schema=SCHEMA)

    def _ids(self, meters: list[Meter], meter: Any, resources: list[str], resource: Any, times: Any) -> pa.Array:
        """identity.polled_id of every row."""
        bases = np.array([identity.base_key(("polled", self._source, m.name)) for m in meters], np.uint64)
        keys = np.array([identity.resource_key(r) for r in resources], np.uint64)
        hi, lo = identity.keyed(bases[meter, 0], bases[meter, 1], keys[resource, 0], keys[resource, 1], times)
        ids = np.ascontiguousarray(identity.pack(hi, lo))
        return pa.Array.from_buffers(pa.binary(16), len(ids), [None, pa.py_buffer(ids)])


def _times(values: Any) -> pa.Array:
    return pa.array(values).cast(pa.timestamp("us", tz="UTC"))


def _dictionary(numbers: Any, words: list[str]) -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(pa.array(numbers.astype(np.int32)), pa.array(words, pa.utf8()))


def _shared(numbers: Any, words: list[str]) -> pa.DictionaryArray:
    """A column of words of which several numbers may have the same."""
    unique = list(dict.fromkeys(words))
    return _dictionary(np.array([unique.index(w) for w in words], np.int32)[numbers], unique)
