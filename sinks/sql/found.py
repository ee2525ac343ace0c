"""Samples that were read, as columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from nephoscope import identity, natural
from nephoscope.sample import Sample
from sinks import columns
from sinks.columns import Fields
from sinks.sql.catalogue import KIND_FIELDS, Catalogue

I64 = npt.NDArray[np.int64]


@dataclass(slots=True)
class Found:
    """Samples as columns: `filters.Columns`. `ties`: of the records, `of`: each row's record."""

    catalogue: Catalogue
    resource: I64
    time: I64
    fields: Fields
    ties: Sequence[bytes]
    of: npt.NDArray[np.intp]

    @property
    def length(self) -> int:
        """How many rows there are."""
        return len(self.time)

    def take(self, at: Any) -> Found:
        """Some rows."""
        return Found(self.catalogue, self.resource[at], self.time[at], self.fields.take(at), self.ties, self.of[at])

    def numbers(self, field: str) -> npt.NDArray[Any]:
        """See filters.Columns."""
        if field == "timestamp":
            return self.time
        values: dict[str, npt.NDArray[Any]] = {
            "volume": self.fields.volume,
            "measured_at": self.fields.measured,
            "late": self.fields.late,
        }
        return values[field]

    def words(self, field: str) -> tuple[npt.NDArray[Any], Sequence[str]]:
        """See filters.Columns."""
        if field in KIND_FIELDS:
            used, codes = np.unique(self.fields.kind, return_inverse=True)
            return codes, [getattr(self.catalogue.kinds[k], field) for k in used.tolist()]
        if field == "resource_id":
            used, codes = np.unique(self.resource, return_inverse=True)
            return codes, self.catalogue.resource_names(used)
        used, codes = np.unique(self.fields.state, return_inverse=True)
        states = self.catalogue.states(used)
        inner, values = states.words(field)
        return inner[codes], values

    def ids(self) -> npt.NDArray[np.uint8]:
        """See filters.Columns."""
        used, which = np.unique(self.fields.kind, return_inverse=True)
        resources, position = np.unique(self.resource, return_inverse=True)
        keys = [identity.resource_key(name) for name in self.catalogue.resource_names(resources)]
        lanes = np.array(keys, np.uint64).reshape(-1, 2)[position]
        kinds = [self.catalogue.kinds[k] for k in used.tolist()]
        out = natural.ids(kinds, which, lanes[:, 0].copy(), lanes[:, 1].copy(), self.time)
        tied = np.array([len(t) > 0 for t in self.ties], bool)[self.of]
        for row in np.flatnonzero(tied).tolist():
            out[row] = np.frombuffer(self.ties[self.of[row]], np.uint8)
        return out

    def samples(self) -> list[Sample]:
        """One Sample a row."""
        return columns.samples_of(self)


def joined(parts: Sequence[Found]) -> Found:
    """The rows of all parts, one after the other."""
    if len(parts) == 1:
        return parts[0]
    offsets = np.cumsum([0, *(len(p.ties) for p in parts)])
    return Found(
        parts[0].catalogue,
        np.concatenate([p.resource for p in parts]),
        np.concatenate([p.time for p in parts]),
        columns.joined([p.fields for p in parts]),
        [tie for p in parts for tie in p.ties],
        np.concatenate([p.of + offset for p, offset in zip(parts, offsets.tolist(), strict=False)]),
    )
