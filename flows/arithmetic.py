"""arithmetic: an expression over several meters of a resource, once a period (docs/semantics.md; flows/sets.py is its state, flows/set_filling.py its work)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from flows.interning import I64
from flows.plan import DEFAULT_JOIN_INTERVAL, Options, PlanSink, PlanStep
from flows.rows import Rows, Watermarks
from flows.set_filling import Work
from flows.sets import ArithmeticState, dump, held_back, load, move
from flows.target import Target, compile_target
from flows.transformer import Context, Transformer
from nephoscope.expressions import JoinExpression, compile_join
from nephoscope.times import MAX_TIME, MIN_TIME, SECOND


@dataclass(frozen=True, slots=True)
class Arithmetic:
    """A compiled arithmetic. `attributed`: the meters of which more than the volume is used; the first always is."""

    expression: JoinExpression
    meters: tuple[str, ...]
    attributed: tuple[int, ...]
    target: Target
    interval: int
    hold: int
    lateness: int
    sink: PlanSink
    step_interval: int

    @property
    def shape(self) -> tuple[Any, ...]:
        """What the columns of open sets stand for: sets of another shape cannot be gone on with."""
        return self.meters, self.attributed

    def expiry(self, end: I64, watermark: Any) -> I64:
        """When sets of periods with these ends expire that open at these watermarks: at the end, or so many whole quarters of lateness later
        as it takes to wait for lateness. Nothing else decides, so that a set is the same whoever its neighbours are; and in quarters, so that
        the panes of a period are few.
        """
        # At least a microsecond: no set expires where it opens.
        wait = np.where(watermark <= MIN_TIME, end, watermark + max(self.lateness, 1)) - end
        quarter = max(self.lateness // 4, 1)
        expiry: I64 = end + np.maximum(-(-wait // quarter), 0) * quarter
        return expiry

    def span_of(self, meter: str) -> int:
        """The period of a meter's samples that are not polled, in microseconds."""
        return (self.step_interval or self.sink.interval(meter) or DEFAULT_JOIN_INTERVAL) * SECOND


def compile_step(parameters: Mapping[str, Any], options: Options, sink: PlanSink) -> Arithmetic:
    """Compile checked parameters."""
    target = dict(parameters["target"])
    expression = compile_join(target.pop("expr"))
    target.pop("scale", None)
    own = int(parameters.get("interval") or 0)
    read = {meter for meter, attribute in expression.reads if attribute != "volume"}
    return Arithmetic(
        expression=expression,
        meters=expression.meters,
        attributed=tuple(m for m, name in enumerate(expression.meters) if m == 0 or name in read),
        target=compile_target({"target": target}),
        interval=(own or DEFAULT_JOIN_INTERVAL) * SECOND,
        hold=round(float(parameters.get("hold") or 0) * SECOND),
        lateness=options.micros("lateness"),
        sink=sink,
        step_interval=own,
    )


def arithmetic(
    step: PlanStep,
    state: ArithmeticState,
    rows: Rows,
    marks: Watermarks,
    context: Context,
) -> Rows:
    """The sets that became complete, in order. Rows of meters that the expression does not name are swallowed."""
    program: Arithmetic = step.program
    strings = context.strings
    memo: dict[str, Any] = {} if rows.memo is None else rows.memo
    if not memo:
        meter = np.full(len(rows), -1, np.int64)
        for m, name in enumerate(program.meters):
            meter[rows.name == strings.names.number(name)] = m
        wanted = None if (meter >= 0).all() else np.flatnonzero(meter >= 0)
        memo["wanted"] = wanted
        memo["meter"] = meter if wanted is None else meter[wanted]
        memo["resource"] = rows.resource(strings) if wanted is None else rows.take(wanted).resource(strings)
    if memo["wanted"] is not None:
        rows = rows.take(memo["wanted"])
    meter = memo["meter"]
    work = Work(step, program, state, rows, meter, context)
    work.resource, work.memo = memo["resource"], memo
    constant = marks.scalar(rows.position)
    polled = rows.polled > 0
    time = rows.time
    if len(rows) and isinstance(constant, int) and polled.all() and (time == time[0]).all():
        # The usual case: one period, all of it before the next moment that anything expires at.
        work.watermark = np.broadcast_to(np.int64(constant), len(rows))
        work.end = time[:1] + 1
        work.expiry = program.expiry(work.end, constant)
        due = min((p.expiry for p in state.panes.values()), default=MAX_TIME)
        if constant < due and constant < work.expiry[0]:
            work.in_order = work.add_to_period(int(time[0]), np.arange(len(rows)))
            due = min((p.expiry for p in state.panes.values()), default=MAX_TIME)
            if marks.last >= due:
                work.expire(marks.last, marks)
            return work.result()
    spans = np.array([program.span_of(m) for m in program.meters], np.int64)
    if polled.all():
        period, end = time, time + 1
    else:
        span = spans[meter]
        start = time // span * span
        period = np.where(polled, time, start)
        end = np.where(polled, time + 1, start + span)
    watermark = np.ascontiguousarray(marks.at(rows.position))
    expiry = program.expiry(end, watermark)
    work.period, work.end, work.expiry, work.watermark = period, end, expiry, watermark
    done, n = 0, len(rows)
    while True:
        due = min((p.expiry for p in state.panes.values()), default=MAX_TIME)
        stop = n
        if done < n:
            # A set that a row opens may expire before a later row of this call.
            bound = np.minimum(due, np.minimum.accumulate(expiry[done:]))
            over = np.flatnonzero(watermark[done + 1 :] >= bound[:-1])
            stop = done + 1 + int(over[0]) if len(over) else n
            if watermark[done] >= due:
                stop = done
        if stop > done:
            work.add(done, stop)
            done = stop
            due = min((p.expiry for p in state.panes.values()), default=MAX_TIME)
        if done < n:
            work.expire(int(watermark[done]), marks)
        else:
            if marks.last >= due:
                work.expire(marks.last, marks)
            break
    return work.result()


def _forget(step: PlanStep, state: ArithmeticState, watermark: int, _ttl: int) -> None:
    program: Arithmetic = step.program
    state.forget(watermark - program.hold - program.lateness - program.interval)


TRANSFORMER = Transformer(
    compile=compile_step,
    run=arithmetic,
    handed_on=lambda step, marks: marks.floored(step.program.interval, step.program.lateness),
    state=ArithmeticState,
    dump=dump,
    load=load,
    used=ArithmeticState.used,
    held=held_back,
    move=move,
    forget=_forget,
)
