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
from sinks.mongodb.catalogue import KIND_FIELDS, Catalogue, States

I64 = npt.NDArray[np.int64]


@dataclass(slots=True)
class Found:
    """Samples as columns: `filters.Columns`. `ties`: (n, 16) bytes, the ids of the rows that are `tied`."""

    catalogue: Catalogue
    resource: I64
    time: I64
    fields: Fields
    tied: npt.NDArray[np.bool_]
    ties: npt.NDArray[np.uint8]

    @property
    def length(self) -> int:
        """How many rows there are."""
        return len(self.time)

    def take(self, at: Any) -> Found:
        """Some rows."""
        return Found(
            self.catalogue, self.resource[at], self.time[at], self.fields.take(at), self.tied[at], self.ties[at]
        )

    def known(self) -> Found:
        """The rows whose resource and state there are. Others are being taken back, or deleted."""
        used, at = np.unique(self.resource, return_inverse=True)
        names = self.catalogue.resource_names(used)
        if len(names) < len(used):
            there = np.array([n in names for n in used.tolist()], bool)
            return self.take(there[at.ravel()]).known()
        used, at = np.unique(self.fields.state, return_inverse=True)
        states = self.catalogue.states(used)
        if len(states) < len(used):
            there = np.array([n in states for n in used.tolist()], bool)
            return self.take(there[at.ravel()])
        return self

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
            return codes, [getattr(self.catalogue.kind(k), field) for k in used.tolist()]
        if field == "resource_id":
            used, codes = np.unique(self.resource, return_inverse=True)
            names = self.catalogue.resource_names(used)
            return codes, [names[n] for n in used.tolist()]
        used, codes = np.unique(self.fields.state, return_inverse=True)
        states = self.catalogue.states(used)
        inner, values = States(self.catalogue, [states[n] for n in used.tolist()]).words(field)
        return inner[codes], values

    def ids(self) -> npt.NDArray[np.uint8]:
        """See filters.Columns."""
        used, which = np.unique(self.fields.kind, return_inverse=True)
        resources, position = np.unique(self.resource, return_inverse=True)
        names = self.catalogue.resource_names(resources)
        keys = [identity.resource_key(names[n]) for n in resources.tolist()]
        lanes = np.array(keys, np.uint64).reshape(-1, 2)[position]
        kinds = [self.catalogue.kind(k) for k in used.tolist()]
        out = natural.ids(kinds, which, lanes[:, 0].copy(), lanes[:, 1].copy(), self.time)
        out[self.tied] = self.ties[self.tied]
        return out

    def samples(self) -> list[Sample]:
        """One Sample a row."""
        return columns.samples_of(self)


def joined(parts: Sequence[Found]) -> Found:
    """The rows of all parts, one after the other."""
    if len(parts) == 1:
        return parts[0]
    return Found(
        parts[0].catalogue,
        np.concatenate([p.resource for p in parts]),
        np.concatenate([p.time for p in parts]),
        columns.joined([p.fields for p in parts]),
        np.concatenate([p.tied for p in parts]),
        np.concatenate([p.ties for p in parts]),
    )
