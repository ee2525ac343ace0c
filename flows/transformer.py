"""What a transformer is to the rest: the functions that a kind of step brings. One file a transformer gives one of these.

A third party's distribution adds its own as an entry point of the group ``nephoscope.transformer`` that names a Transformer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from flows.plan import Options, PlanSink, PlanStep
from flows.rows import Rows, Strings, Watermarks

if TYPE_CHECKING:
    from flows.resharding import Moved


@dataclass(slots=True)
class Context:
    """What a step may use of its partition during a call: its strings, the number of derived samples' source, counters to add to."""

    strings: Strings
    source: int
    ttl: int
    caches: dict[Any, Any]
    counts: dict[str, int] = field(default_factory=dict)

    def count(self, reason: str, number: int) -> None:
        """Add to a counter of the step."""
        if number:
            self.counts[reason] = self.counts.get(reason, 0) + number


def _unmoved(_step: PlanStep, marks: Watermarks) -> Watermarks:
    return marks.handed_on()


def _no_strings(_state: Any) -> Iterator[tuple[str, npt.NDArray[Any]]]:
    return iter(())


def _keep_all(_step: PlanStep, _state: Any, _watermark: int, _ttl: int) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Transformer:
    """A kind of step.

    compile: parameters, checked by `spec`, to a program: frozen, and read by the other functions as `step.program`.
    run: rows in log order and the watermarks at their positions to what the step publishes, in order; it changes the state.
    handed_on: the watermark that the step hands on, no later than the oldest window that it may still close.
    state: makes an empty state; None: the step has none.
    dump, load: a state as plain data and numpy arrays (copies of what changes in place), and back.
    used: (pool, numbers) of the partition's strings that a state refers to: they must not be dealt anew.
    change: takes over a state from a step with other parameters: (that step, this one, the state that load gave); without, it is as it was.
    held: samples that a state holds and has not handed on: what is lost where the step is taken out of the pipeline.
    move: what a state holds of some resources, into the state of another partition (flows.resharding): (step, from, to, which resources).
    forget: drops from a state what can have no effect any more at this watermark.
    shared: columns of the predecessors that all steps of the kind keep together (flows.one_to_one), with `function` over them.
    spec: the parameters, for the loader; the built-in ones stand in nephoscope.pipeline_specs.
    """

    compile: Callable[[Mapping[str, Any], Options, PlanSink], Any]
    run: Callable[[PlanStep, Any, Rows, Watermarks, Context], Rows]
    handed_on: Callable[[PlanStep, Watermarks], Watermarks] = _unmoved
    state: Callable[[], Any] | None = None
    dump: Callable[[Any], Any] | None = None
    load: Callable[[PlanStep, Any], Any] | None = None
    used: Callable[[Any], Iterator[tuple[str, npt.NDArray[Any]]]] = _no_strings
    change: Callable[[PlanStep, PlanStep, Any], Any] | None = None
    held: Callable[[Any], int] | None = None
    move: Callable[[PlanStep, Any, Any, Moved], None] | None = None
    forget: Callable[[PlanStep, Any, int, int], None] = _keep_all
    shared: Mapping[str, tuple[Any, Any]] | None = None
    function: Any = None
    spec: Any = None


def pack_columns(arrays: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
    """Columns for `dump`."""
    return dict(arrays)


def unpack(packed: Any) -> npt.NDArray[Any]:
    """An array of a dump, after it was written and read back."""
    if isinstance(packed, np.ndarray):
        return packed.copy()
    return np.frombuffer(packed[1], np.dtype(packed[0])).copy()
