"""Samples that were read, as columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from nephoscope import filters, identity, natural
from nephoscope.natural import Kind
from nephoscope.sample import Sample
from sinks.columns import samples_of
from sinks.hbase.facts import Catalogue
from sinks.hbase.pack import Values

I64 = npt.NDArray[np.int64]

KIND_FIELDS: Final = frozenset(Kind._fields)
ROSTER_FIELDS: Final = frozenset({"resource_id", "user_id", "project_id", filters.METADATA})
_PLACES: Final = {"user_id": 0, "project_id": 1, "resource_metadata": 2}


@dataclass(slots=True)
class Who:
    """Kinds, resources and what was said of them, by a catalogue's numbers: as much of `filters.Columns` as these have."""

    catalogue: Catalogue
    kind: I64
    resource: I64
    said: I64

    @property
    def length(self) -> int:
        """How many rows there are."""
        return len(self.resource)

    def numbers(self, field: str) -> npt.NDArray[Any]:
        """See filters.Columns."""
        raise NotImplementedError(field)

    def ids(self) -> npt.NDArray[np.uint8]:
        """See filters.Columns."""
        raise NotImplementedError

    def words(self, field: str) -> tuple[npt.NDArray[Any], Sequence[str]]:
        """See filters.Columns."""
        catalogue = self.catalogue
        if field == "resource_id":
            return self.resource, catalogue.names
        if field in KIND_FIELDS:
            used, codes = np.unique(self.kind, return_inverse=True)
            return codes, [getattr(catalogue.kinds[k], field) for k in used.tolist()]
        used, codes = np.unique(self.said, return_inverse=True)
        place = _PLACES[field]
        return codes, [catalogue.said[s][place] for s in used.tolist()]


@dataclass(slots=True)
class Found(Who):
    """Samples as columns: `filters.Columns`. `tied`: where `values.ids` is the row's own; elsewhere the id follows from the rest."""

    values: Values
    tied: npt.NDArray[np.bool_]

    def take(self, at: Any) -> Found:
        """Some rows."""
        return Found(
            self.catalogue, self.kind[at], self.resource[at], self.said[at], self.values.take(at), self.tied[at]
        )

    def numbers(self, field: str) -> npt.NDArray[Any]:
        """See filters.Columns."""
        values: dict[str, npt.NDArray[Any]] = {
            "timestamp": self.values.time,
            "volume": self.values.volume,
            "measured_at": self.values.measured,
            "late": self.values.late,
        }
        return values[field]

    def ids(self) -> npt.NDArray[np.uint8]:
        """See filters.Columns."""
        out = np.array(self.values.ids)
        rest = np.flatnonzero(~self.tied)
        if len(rest):
            used, which = np.unique(self.kind[rest], return_inverse=True)
            resources, position = np.unique(self.resource[rest], return_inverse=True)
            keys = [identity.resource_key(self.catalogue.names[r]) for r in resources.tolist()]
            lanes = np.array(keys, np.uint64).reshape(-1, 2)[position]
            kinds = [self.catalogue.kinds[k] for k in used.tolist()]
            time = self.values.time[rest]
            out[rest] = natural.ids(kinds, which, lanes[:, 0].copy(), lanes[:, 1].copy(), time)
        return out

    def samples(self) -> list[Sample]:
        """One Sample a row."""
        return samples_of(self)


def joined(parts: Sequence[Found]) -> Found:
    """The rows of all parts, one after the other."""
    if len(parts) == 1:
        return parts[0]
    values = Values(
        np.concatenate([p.values.time for p in parts]),
        np.concatenate([p.values.volume for p in parts]),
        np.concatenate([p.values.measured for p in parts]),
        np.concatenate([p.values.late for p in parts]),
        np.concatenate([p.values.ids for p in parts]),
    )
    return Found(
        parts[0].catalogue,
        np.concatenate([p.kind for p in parts]),
        np.concatenate([p.resource for p in parts]),
        np.concatenate([p.said for p in parts]),
        values,
        np.concatenate([p.tied for p in parts]),
    )
