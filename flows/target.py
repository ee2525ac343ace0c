"""What a step's `source` and `target` parameters make of a sample's name, unit, type and volume."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from flows.interning import Interner, distinct
from flows.rows import F64, I32, Bools, Rows
from nephoscope.expressions import Expression, compile_scale
from nephoscope.sample import TYPES


@dataclass(frozen=True, slots=True)
class Target:
    """Compiled once per step. `scale` is None where `factor` says all."""

    name: str
    unit: str
    kind: int
    """-1: the step's default."""
    name_map: tuple[re.Pattern[str], str] | None
    unit_map: tuple[re.Pattern[str], str] | None
    factor: float
    scale: Expression | None
    maximum: float

    def name_of(self, name: str) -> str:
        """The name of what is made of a sample of this name."""
        return _mapped(self.name_map, name, self.name)

    def unit_of(self, unit: str) -> str:
        """The unit of what is made of a sample of this unit."""
        return _mapped(self.unit_map, unit, self.unit)

    def names(self, numbers: I32, pool: Interner) -> I32:
        """name_of for a column of numbers."""
        return _translate(numbers, pool, self.name_of) if self.name_map or self.name else numbers

    def units(self, numbers: I32, pool: Interner) -> I32:
        """unit_of for a column of numbers."""
        return _translate(numbers, pool, self.unit_of) if self.unit_map or self.unit else numbers


def compile_target(parameters: Mapping[str, Any]) -> Target:
    """The Target of a step's parameters, which the loader has checked."""
    source = parameters.get("source") or {}
    target = parameters.get("target") or {}
    map_from = source.get("map_from") or {}
    map_to = target.get("map_to") or {}

    def mapping(what: str) -> tuple[re.Pattern[str], str] | None:
        if map_from.get(what) and map_to.get(what):
            return re.compile(map_from[what]), map_to[what]
        return None

    scale = target.get("scale") or None
    text = isinstance(scale, str)
    return Target(
        name=target.get("name") or "",
        unit=target.get("unit") or "",
        kind=TYPES.index(target["type"]) if target.get("type") else -1,
        name_map=mapping("name"),
        unit_map=mapping("unit"),
        factor=float(scale) if scale and not text else 1.0,
        scale=compile_scale(scale) if isinstance(scale, str) else None,
        maximum=float(target["max"]) if target.get("max") else np.inf,
    )


def _mapped(rule: tuple[re.Pattern[str], str] | None, word: str, fallback: str) -> str:
    if rule is None:
        return fallback or word
    try:
        mapped = rule[0].sub(rule[1], word)
    except (re.error, IndexError):
        mapped = ""
    return mapped or fallback or word


def _translate(numbers: I32, pool: Interner, change: Any) -> I32:
    used, inverse = distinct(numbers, len(pool.values))
    values = pool.values
    return np.array([pool.number(change(values[u])) for u in used.tolist()], np.int32)[inverse]


class ScaleColumns:
    """What an expression may read of rows (nephoscope.expressions.Columns)."""

    __slots__ = ("_rows", "_strings", "length")

    def __init__(self, rows: Rows, strings: Any) -> None:
        self._rows = rows
        self._strings = strings
        self.length = len(rows)

    def numbers(self, name: str) -> F64:
        """volume, or timestamp in seconds."""
        if name == "volume":
            return self._rows.volume
        return self._rows.time / 1e6

    def words(self, name: str) -> tuple[I32, Any]:
        """Codes and values of a string attribute."""
        rows = self._rows
        match name:
            case "name":
                return rows.name, self._strings.names.values
            case "unit":
                return rows.unit, self._strings.units.values
            case "source":
                return rows.source, self._strings.sources.values
            case "type":
                return rows.kind.astype(np.int32), TYPES
            case "id":
                from nephoscope import identity

                ids = identity.pack(rows.hi, rows.lo)
                return np.arange(len(rows), dtype=np.int32), [identity.format_id(i.tobytes()) for i in ids]
        column = name if name != "metadata" else "resource_metadata"
        return rows.codes(column), rows.block.dictionary(column).to_pylist()


def scaled(target: Target, rows: Rows, strings: Any, failures: dict[str, int]) -> tuple[F64, Bools | None]:
    """The volumes after `scale` and `max` as unit_conversion means them, and a mask of the rows that fail (None: none)."""
    failed: Bools | None = None
    if target.scale is None:
        volume = rows.volume * target.factor if target.factor != 1.0 else rows.volume
    else:
        volume, failed = target.scale.evaluate(ScaleColumns(rows, strings))
        if not failed.any():
            failed = None
    if target.maximum != np.inf:
        volume = np.minimum(volume, target.maximum)
    return volume, unusable(volume, failed, failures)


def unusable(volume: F64, failed: Bools | None, failures: dict[str, int]) -> Bools | None:
    """Which rows have no usable volume, each counted under its reason; None: none."""
    finite = np.isfinite(volume)
    if failed is None:
        if finite.all():
            return None
        failures["not_finite"] = failures.get("not_finite", 0) + int((~finite).sum())
        return ~finite
    failures["expression"] = failures.get("expression", 0) + int(failed.sum())
    bad = ~finite & ~failed
    if bad.any():
        failures["not_finite"] = failures.get("not_finite", 0) + int(bad.sum())
    return failed | ~finite
