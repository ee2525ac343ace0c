"""The transformers by name: how each is compiled, and what it keeps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flows import accumulator, aggregator, arithmetic, delta, rate_of_change, unit_conversion
from flows.plan import PlanStep
from flows.rows import Watermarks

COMPILERS: dict[str, Callable[..., Any]] = {
    "accumulator": accumulator.compile_step,
    "aggregator": aggregator.compile_step,
    "arithmetic": arithmetic.compile_step,
    "delta": delta.compile_step,
    "rate_of_change": rate_of_change.compile_step,
    "unit_conversion": unit_conversion.compile_step,
}
ONE_TO_ONE: dict[str, tuple[Any, dict[str, tuple[Any, Any]]]] = {
    "rate_of_change": (rate_of_change.rate_of_change, rate_of_change.COLUMNS),
    "delta": (delta.delta, delta.COLUMNS),
}
"""Function and columns of the kinds whose steps share one state a partition."""


def handed_on(step: PlanStep, marks: Watermarks) -> Watermarks:
    """The watermark that a step hands on: no later than the oldest window it may still close."""
    program = step.program
    match step.kind:
        case "arithmetic":
            return marks.floored(program.interval, program.lateness)
        case "aggregator":
            return marks.floored(program.span, program.span) if program.span else marks.floored(1, program.ttl)
        case "accumulator":
            return marks.floored(1, program.max_hold)
    return marks.handed_on()
