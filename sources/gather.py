"""From readings to messages: the samples of many polls, gathered into one batch for each partition and header.

A sample is never an object here: readings go straight into the columns of the batch that they will travel in.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa

from nephoscope import identity
from nephoscope.batch import SCHEMA, Batch, Header, encode_split
from nephoscope.dead_letters import KEPT, DeadLetter
from nephoscope.errors import SampleError
from nephoscope.partition import jump, key_hash
from nephoscope.push import MAX_SAMPLE_BYTES, too_large
from nephoscope.sample import DEFAULT_SOURCE, check_time, metadata_text, to_json
from nephoscope.times import NEVER
from nephoscope.topics import Record
from sources.pollster import Meter, Reading

_REMEMBERED = 10_000
_RESOURCES = 1 << 18
_TIME = pa.timestamp("us", tz="UTC")
_BAD = (TypeError, ValueError, OverflowError, AttributeError)
"""What a pollster's readings may raise that are not what they should be."""


class _Words(dict[str, int]):
    """Numbers of strings, in the order of their arrival."""

    def __missing__(self, word: str) -> int:
        number = self[word] = len(self)
        return number

    def column(self, numbers: Any) -> pa.DictionaryArray:
        return _dictionary(numbers, list(self))


class _Columns:
    """A batch that grows: a meter and a volume for each row, and a *block* for each run of rows that have all else in common."""

    __slots__ = ("blocks", "exact", "meter", "starts", "volumes", "words")

    def __init__(self) -> None:
        self.meter = array("i")
        self.volumes = array("d")
        self.exact: list[tuple[int, int]] = []  # (row, measured_at) where the reading said it itself
        self.starts: list[int] = []
        self.blocks: list[tuple[int, int, int, int, int, int, bool]] = []
        self.words = (_Words(), _Words(), _Words(), _Words())


_NONE = _Columns()


class _Shape(msgspec.Struct, frozen=True):
    """The meters of one poll, in their order, that travel under one header. `numbers`: theirs, as int32; empty where that is not so."""

    meters: list[Meter]
    headers: Mapping[str, Header]
    header: Header
    numbers: bytes


_BLOCK: tuple[Any, ...] = (np.int32, np.int32, np.int32, np.int32, np.int64, np.int64, np.bool_)


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
        # By identity first: to hash a Meter takes longer than all else that is done for a reading.
        self._known: dict[int, tuple[Meter, int]] = {}
        self._shapes: dict[tuple[int, int, int], _Shape] = {}
        # (partition, key of the id) of each resource: the same come back each period.
        self._resources: dict[str, tuple[int, tuple[int, int]]] = {}
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

        `due` is their timestamp, `measured_at` stands where a reading does not say it better. Readings of one resource that come
        one after another and share its metadata, and headers that are one object, are the cheapest.
        """
        moment = (due, measured_at, late)
        if isinstance(readings, list) and readings and self._add_alike(readings, headers, moment):
            self.rows += len(readings)
            return len(readings)
        count = 0
        before = len(self._letters)
        of = header_of = resource = user = project = None
        columns: _Columns = _NONE
        known = self._known
        isfinite = math.isfinite
        for reading in readings:
            count += 1
            try:
                meter = reading.meter
                header = headers.get(meter.name)
                if header is None:
                    count -= 1
                    continue
                if (
                    reading.metadata is not of
                    or header is not header_of
                    or reading.resource_id != resource
                    or reading.user_id != user
                    or reading.project_id != project
                ):
                    of = header_of = None
                    columns = self._block(
                        reading.resource_id, reading.metadata, reading.user_id, reading.project_id, header, moment
                    )
                    of, header_of, resource = reading.metadata, header, reading.resource_id
                    user, project = reading.user_id, reading.project_id
                volume = float(reading.volume)
                if not isfinite(volume):
                    raise SampleError("volume", f"volume must be a finite number, not {volume}")
                number = known.get(id(meter))
                if number is None or number[0] is not meter:
                    number = self._number(meter)
                if reading.measured_at != NEVER:
                    columns.exact.append((len(columns.meter), check_time(int(reading.measured_at), "measured_at")))
                columns.meter.append(number[1])
                columns.volumes.append(volume)
            except SampleError as error:
                self._refuse(reading, error.reason, str(error))
            except _BAD as error:
                self._refuse(reading, "reading", f"{type(error).__name__}: {error}")
        self.rows += count - (len(self._letters) - before)
        return count

    def _add_alike(self, readings: list[Reading], headers: Mapping[str, Header], moment: tuple[int, int, bool]) -> bool:
        """Take readings that have all but meter and volume in common, as most polls give them; False: they have not, and none was taken."""
        try:
            first = readings[0]
            resource, text, user, project = first.resource_id, first.metadata, first.user_id, first.project_id
            for r in readings:
                if (
                    r.metadata is not text
                    or r.resource_id is not resource
                    or r.user_id is not user
                    or r.project_id is not project
                    or r.measured_at != NEVER
                ):
                    return False
            meters = [r.meter for r in readings]
            shape = self._shapes.get((id(headers), id(first.meter), len(readings)))
            if shape is None or shape.meters != meters or shape.headers is not headers:
                shape = self._shape(meters, headers)
            volumes = array("d", [r.volume for r in readings])
            if not shape.numbers or not math.isfinite(sum(volumes)):
                return False
            columns = self._block(resource, text, user, project, shape.header, moment)
        except (SampleError, *_BAD):
            return False  # Which one is wrong is found out by taking them one by one.
        columns.meter.frombytes(shape.numbers)
        columns.volumes.extend(volumes)
        return True

    def _shape(self, meters: list[Meter], headers: Mapping[str, Header]) -> _Shape:
        found = [headers.get(meter.name) for meter in meters]
        header = found[0] or Header()
        alike = all(other is header for other in found)
        numbers = array("i", [self._number(meter)[1] for meter in meters] if alike else [])
        if len(self._shapes) >= _REMEMBERED:
            self._shapes.clear()
        shape = _Shape(meters, headers, header, numbers.tobytes())
        self._shapes[id(headers), id(meters[0]), len(meters)] = shape
        return shape

    def _block(
        self,
        resource: str,
        metadata: Mapping[str, Any] | str,
        user: str,
        project: str,
        header: Header,
        moment: tuple[int, int, bool],
    ) -> _Columns:
        """Begin a run of rows that have resource, owner, metadata and header in common. Raises SampleError, TypeError."""
        text = metadata if isinstance(metadata, str) else metadata_text(metadata)
        self._check(resource, user, project, text)
        known = self._resources.get(resource) or self._remember(resource)
        columns = self._groups.get((known[0], header))
        if columns is None:
            columns = self._groups[known[0], header] = _Columns()
        resources, texts, users, projects = columns.words
        columns.starts.append(len(columns.meter))
        columns.blocks.append((resources[resource], texts[text], users[user], projects[project], *moment))
        return columns

    def _remember(self, resource: str) -> tuple[int, tuple[int, int]]:
        if len(self._resources) >= _RESOURCES:
            self._resources.clear()
        found = jump(key_hash(resource), self._partitions), identity.digest("resource", resource)
        self._resources[resource] = found
        return found

    def _number(self, meter: Meter) -> tuple[Meter, int]:
        if len(self._known) >= _REMEMBERED:
            self._known.clear()
        found = self._known[id(meter)] = (meter, self._meters.setdefault(meter, len(self._meters)))
        return found

    def take(self) -> Gathered:
        """The messages of all that was added since the last time."""
        records = [
            Record(place, message)
            for (place, header), columns in self._groups.items()
            if columns.meter
            for message in encode_split(Batch(self._rows(columns), header))
        ]
        out = Gathered(records, self._letters, self.rows)
        self._groups = {}
        self._letters = []
        self.rows = 0
        if len(self._meters) >= _REMEMBERED:
            self._meters.clear()
            self._known.clear()
            self._shapes.clear()
        return out

    def _check(self, resource: str, user: str, project: str, text: str) -> None:
        try:
            size = too_large(self._limit, resource, user, project, text)
        except UnicodeEncodeError as error:
            raise SampleError("text", f"not UTF-8: {error.reason}") from None
        if size:
            raise SampleError("too_large", f"{size} bytes; the limit is {self._limit}")
        if not resource:
            raise SampleError("resource_id", "resource_id is missing")

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
        sizes: Any = np.diff(np.array([*columns.starts, count], np.int64))
        resource, about, user, project, due, measured, late = (
            np.repeat(np.array(values, kind), sizes)
            for values, kind in zip(zip(*columns.blocks, strict=True), _BLOCK, strict=True)
        )
        if columns.exact:
            rows, moments = np.array(columns.exact, np.int64).T
            measured[rows] = moments
        resources, metadata, users, projects = columns.words
        numbers: Any = np.frombuffer(columns.meter, np.int32)
        used = np.flatnonzero(np.bincount(numbers, minlength=len(self._meters)))
        places: Any = np.zeros(len(self._meters), np.int32)
        places[used] = np.arange(len(used))
        meter = places[numbers]
        every = list(self._meters)
        meters = [every[i] for i in used.tolist()]
        arrays = {
            "name": _dictionary(meter, [m.name for m in meters]),
            "type": _shared(meter, [m.type for m in meters]),
            "unit": _shared(meter, [m.unit for m in meters]),
            "volume": pa.array(np.frombuffer(columns.volumes, np.float64)),
            "user_id": users.column(user),
            "project_id": projects.column(project),
            "resource_id": resources.column(resource),
            "timestamp": _times(due),
            "measured_at": _times(measured),
            "resource_metadata": metadata.column(about),
            "source": _dictionary(np.zeros(count, np.int32), [self._source]),
            "id": self._ids(meters, meter, list(resources), resource, due),
            "origin": _dictionary(np.zeros(count, np.int32), [""]),
            "late": pa.array(late),
        }
        return pa.RecordBatch.from_arrays([arrays[f.name] for f in SCHEMA], schema=SCHEMA)

    def _ids(self, meters: list[Meter], meter: Any, resources: list[str], resource: Any, times: Any) -> pa.Array:
        """identity.polled_id of every row."""
        bases = np.array([identity.base_key(("polled", self._source, m.name)) for m in meters], np.uint64)
        keys = np.array([(self._resources.get(r) or self._remember(r))[1] for r in resources], np.uint64)
        hi, lo = identity.keyed(bases[meter, 0], bases[meter, 1], keys[resource, 0], keys[resource, 1], times)
        ids = np.ascontiguousarray(identity.pack(hi, lo))
        return pa.Array.from_buffers(pa.binary(16), len(ids), [None, pa.py_buffer(ids)])


def _times(values: Any) -> pa.Array:
    return pa.Array.from_buffers(_TIME, len(values), [None, pa.py_buffer(np.ascontiguousarray(values))])


def _dictionary(numbers: Any, words: list[str]) -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(pa.array(numbers.astype(np.int32)), pa.array(words, pa.utf8()))


def _shared(numbers: Any, words: list[str]) -> pa.DictionaryArray:
    """A column of words of which several numbers may have the same."""
    unique = list(dict.fromkeys(words))
    return _dictionary(np.array([unique.index(w) for w in words], np.int32)[numbers], unique)
