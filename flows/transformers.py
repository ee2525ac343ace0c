"""The transformers by name: the built-in ones, and third parties' through the registry."""

from __future__ import annotations

from flows import accumulator, aggregator, arithmetic, delta, rate_of_change, unit_conversion
from flows.transformer import Transformer
from nephoscope import registry

BUILT_IN: dict[str, Transformer] = {
    "accumulator": accumulator.TRANSFORMER,
    "aggregator": aggregator.TRANSFORMER,
    "arithmetic": arithmetic.TRANSFORMER,
    "delta": delta.TRANSFORMER,
    "rate_of_change": rate_of_change.TRANSFORMER,
    "unit_conversion": unit_conversion.TRANSFORMER,
}


def transformer(name: str) -> Transformer:
    """The transformer of this name. ConfigError where there is none."""
    found: Transformer = BUILT_IN.get(name) or registry.load(registry.TRANSFORMER, name)
    return found
