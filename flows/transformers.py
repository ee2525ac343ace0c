"""The transformers by name: how each is compiled, and what it keeps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flows import accumulator, aggregator, arithmetic, delta, rate_of_change, unit_conversion

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
