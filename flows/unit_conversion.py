"""unit_conversion: another unit, name or scale, as late Ceilometer; no state (docs/semantics.md)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from flows.one_to_one import origins
from flows.plan import PlanStep
from flows.rows import ARRAYS, Bools, Rows, Watermarks
from flows.target import Target, compile_target, scaled
from flows.transformer import Context, Transformer
from nephoscope import identity
from nephoscope.times import NEVER


@dataclass(frozen=True, slots=True)
class UnitConversion:
    """A compiled unit_conversion. `unit`: convert only samples of this unit ('' all)."""

    target: Target
    unit: str


def compile_step(parameters: Mapping[str, Any], _options: Any, _sink: Any) -> UnitConversion:
    """Compile checked parameters."""
    return UnitConversion(compile_target(parameters), (parameters.get("source") or {}).get("unit") or "")


def unit_conversion(step: PlanStep, _state: None, rows: Rows, _marks: Watermarks, context: Context) -> Rows:
    """The converted rows, in order; those of another unit than `source.unit` as they came."""
    program: UnitConversion = step.program
    if not len(rows):
        return rows
    if program.unit:
        fits = rows.unit == context.strings.units.number(program.unit)
        if not fits.any():
            return rows
        if not fits.all():
            converted, some = _convert(step, rows.take(fits), context)
            mixed = rows.take(slice(None))
            for name in ARRAYS:
                column = getattr(rows, name).copy()
                column[fits] = getattr(converted, name)
                setattr(mixed, name, column)
            if some is None:
                return mixed
            bad = np.zeros(len(rows), bool)
            bad[fits] = some
            return mixed.take(~bad)
    out, bad_rows = _convert(step, rows, context)
    return out if bad_rows is None else out.take(~bad_rows)


def _convert(step: PlanStep, rows: Rows, context: Context) -> tuple[Rows, Bools | None]:
    """Every row converted, and which of them failed."""
    strings = context.strings
    target: Target = step.program.target
    volume, bad = scaled(target, rows, strings, context.counts)
    hi, lo = identity.mix(rows.hi, rows.lo, *identity.step_key(step.sink, step.position))
    out = Rows(
        rows.block,
        rows.at,
        rows.position,
        target.names(rows.name, strings.names),
        rows.kind if target.kind < 0 else np.full(len(rows), target.kind, np.int8),
        target.units(rows.unit, strings.units),
        np.full(len(rows), context.source, np.int32),
        origins(rows, np.arange(len(rows)), step, strings),
        volume,
        rows.time,
        np.full(len(rows), NEVER),
        hi,
        lo,
        rows.late,
        rows.polled,
    )
    return out, bad


TRANSFORMER = Transformer(compile=compile_step, run=unit_conversion)
