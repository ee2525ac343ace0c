"""The meters that are known: a pushed sample that names one of them with another type or unit is told, and kept."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping

from nephoscope.errors import nearest
from nephoscope.metrics import Counts
from nephoscope.sample import Sample

_log = logging.getLogger(__name__)
_TOLD = 1000
"""Meters of which something is told, at most: names come from outside."""


class KnownMeters:
    """What is known of meters.

    Args:
        meters: type and unit by name.
        counts: `unlike` are counted here.

    """

    def __init__(self, meters: Mapping[str, tuple[str, str]], counts: Counts) -> None:
        self._meters = dict(meters)
        self._counts = counts
        self._told: set[str] = set()
        self._fine: set[tuple[str, str, str]] = set()

    def look_at(self, samples: Iterable[Sample]) -> None:
        """Tell, once for each meter, what is unlike what is known of it; a name that is not known may be a slip."""
        for sample in samples:
            key = (sample.name, sample.type, sample.unit)
            if key in self._fine:
                continue
            known = self._meters.get(sample.name)
            if known == (sample.type, sample.unit):
                if len(self._fine) < _TOLD:
                    self._fine.add(key)
                continue
            self._counts.counted("unlike")
            if sample.name in self._told or len(self._told) >= _TOLD:
                continue
            self._told.add(sample.name)
            _log.warning("%s", self._words(sample, known))

    def _words(self, sample: Sample, known: tuple[str, str] | None) -> str:
        if known is None:
            hint = nearest(sample.name, self._meters)
            near = f" ({hint})" if hint.startswith("did you mean") else ""
            return f"pushed meter {sample.name[:80]!r} is not a known one{near}"
        kind, unit = known
        return (
            f"pushed meter {sample.name[:80]!r} comes as {sample.type} in {sample.unit[:20]!r}; "
            f"it is known as {kind} in {unit!r}"
        )
