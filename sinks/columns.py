"""What the stores share: samples that are being written or were read, as columns, and what is picked out of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self, TypeVar

import numpy as np
import numpy.typing as npt

from nephoscope import filters
from nephoscope.natural import Kind
from nephoscope.sample import Sample

I64 = npt.NDArray[np.int64]


@dataclass(slots=True)
class Fields:
    """Samples, a row each: numbers of the kind and state, volume, times in microseconds."""

    kind: I64
    volume: npt.NDArray[np.float64]
    measured: I64
    late: npt.NDArray[np.bool_]
    state: I64

    def take(self, at: Any) -> Fields:
        """Some rows, in the order of `at`."""
        return Fields(self.kind[at], self.volume[at], self.measured[at], self.late[at], self.state[at])


def joined(parts: Sequence[Fields]) -> Fields:
    """The rows of all parts, one after the other."""
    if len(parts) == 1:
        return parts[0]
    return Fields(
        np.concatenate([p.kind for p in parts]),
        np.concatenate([p.volume for p in parts]),
        np.concatenate([p.measured for p in parts]),
        np.concatenate([p.late for p in parts]),
        np.concatenate([p.state for p in parts]),
    )


def changes(*columns: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Where a row's values are not those of the row before."""
    out = np.ones(len(columns[0]), bool)
    out[1:] = False
    for column in columns:
        out[1:] |= column[1:] != column[:-1]
    return out


class Kinds:
    """Kinds as filters.Columns."""

    def __init__(self, kinds: Sequence[Kind]) -> None:
        self.length = len(kinds)
        self._kinds = kinds

    def numbers(self, field: str) -> npt.NDArray[Any]:
        """See filters.Columns."""
        raise NotImplementedError(field)

    def ids(self) -> npt.NDArray[np.uint8]:
        """See filters.Columns."""
        raise NotImplementedError

    def words(self, field: str) -> tuple[npt.NDArray[Any], Sequence[str]]:
        """See filters.Columns."""
        return np.arange(self.length), [getattr(k, field) for k in self._kinds]


def spelled(columns: filters.Columns, fields: Sequence[str]) -> dict[str, list[str]]:
    """The words of some fields, one a row."""
    out = {}
    for field in fields:
        codes, values = columns.words(field)
        out[field] = [values[c] for c in codes.tolist()]
    return out


def samples_of(columns: filters.Columns) -> list[Sample]:
    """One Sample a row."""
    words = spelled(columns, (*filters.WORDS, "resource_metadata"))
    numbers = [columns.numbers(f).tolist() for f in ("volume", "timestamp", "measured_at", "late")]
    raw = columns.ids().tobytes()
    return [
        Sample(
            name=name,
            type=type_,
            unit=unit,
            source=source,
            origin=origin,
            resource_id=resource,
            user_id=user,
            project_id=project,
            metadata=metadata,
            volume=volume,
            timestamp=time,
            measured_at=measured,
            late=late,
            id=raw[16 * i : 16 * i + 16],
        )
        for i, (
            name, type_, unit, source, origin, resource, user, project, metadata, volume, time, measured, late
        ) in enumerate(zip(*words.values(), *numbers, strict=True))
    ]  # fmt: skip


# The ends of a resource's life


@dataclass(frozen=True, slots=True)
class Newest:
    """What a resource's newest sample says."""

    user_id: str
    project_id: str
    source: str
    metadata: str
    time: int


class Read(filters.Columns, Protocol):
    """Samples that a store has read, by its numbers of resources and states."""

    @property
    def resource(self) -> I64:
        """A number a row."""
        ...

    @property
    def time(self) -> I64:
        """Microseconds, one a row."""
        ...

    @property
    def fields(self) -> Fields:
        """The rest of each row."""
        ...

    def take(self, at: Any) -> Self:
        """Some rows."""
        ...

    def samples(self) -> list[Sample]:
        """One Sample a row."""
        ...


AnyRead = TypeVar("AnyRead", bound=Read)


def newest_by_resource(found: Read) -> dict[int, Newest]:
    """What rows, one a resource, say of it."""
    words = spelled(found, ("user_id", "project_id", "source", "resource_metadata"))
    rows = zip(*words.values(), found.time.tolist(), strict=True)
    return {number: Newest(*row) for number, row in zip(found.resource.tolist(), rows, strict=True)}


def oldest_rows(found: AnyRead) -> AnyRead:
    """The oldest row of each resource."""
    order = np.lexsort((found.time, found.resource))
    return found.take(order[_starts(found.resource[order])])


def newest_rows(found: AnyRead) -> AnyRead:
    """The newest row of each resource: of several at one time, the last by name and id."""
    order = np.lexsort((-found.time, found.resource))
    found = found.take(order)
    starts = _starts(found.resource)
    lengths = np.diff(starts, append=found.length)
    # All rows of a resource's newest time.
    found = found.take(found.time == np.repeat(found.time[starts], lengths))
    starts = _starts(found.resource)
    codes, values = found.words("source")
    source = np.unique(np.array(values, object), return_inverse=True)[1][codes]
    told = found.fields.state * len(values) + source
    unlike = np.minimum.reduceat(told, starts) != np.maximum.reduceat(told, starts)
    if unlike.any():
        ends = np.append(starts[1:], found.length)
        for which in np.flatnonzero(unlike).tolist():
            at = np.arange(starts[which], ends[which])
            samples = found.take(at).samples()
            starts[which] = at[max(range(len(at)), key=lambda i: (samples[i].name, samples[i].id))]
    return found.take(starts)


def _starts(sorted_numbers: I64) -> npt.NDArray[np.intp]:
    return np.flatnonzero(np.diff(sorted_numbers, prepend=sorted_numbers[0] - 1))
