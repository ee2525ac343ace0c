"""`tap`: samples as they pass a step."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Annotated, Any

import typer

from nephoscope.cli.options import Config, Json, Set, settings_of
from nephoscope.cli.output import complain, number
from nephoscope.cli.parts import load_polling_and_pipeline, open_log
from nephoscope.errors import NephoscopeError, Unavailable
from nephoscope.partition import partition
from nephoscope.sample import Sample, sample_to_dict, to_json
from nephoscope.stopping import on_stop
from nephoscope.times import format_time
from nephoscope.topics import SAMPLES, Consumer

_WAIT = 0.2
_NICE = 10
_TELL_EVERY = 5.0


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(tap)


def tap(
    where: Annotated[
        str | None,
        typer.Argument(
            metavar="[STEP|SINK]",
            help="SINK, SINK[POSITION] or a transformer's name; none: samples as they come in.",
            show_default=False,
        ),
    ] = None,
    meter: Annotated[str, typer.Option("--filter", "-f", metavar="METER", help="Only these meters; wildcards.")] = "*",
    resource: Annotated[str, typer.Option("--resource", "-r", help="Only these resources; wildcards.")] = "*",
    rate: Annotated[float, typer.Option("--rate", min=0.1, help="Show at most so many a second.")] = 20.0,
    limit: Annotated[
        int | None, typer.Option("--limit", "-l", min=1, help="Stop after so many.", show_default=False)
    ] = None,
    seconds: Annotated[
        float | None, typer.Option("--for", metavar="SECONDS", help="Stop after so long.", show_default=False)
    ] = None,
    begin: Annotated[bool, typer.Option("--begin", help="From the oldest message kept, not from now on.")] = False,
    config: Config = None,
    overrides: Set = None,
    json: Json = False,
) -> None:
    """Show samples as they pass a step, from now on, until Ctrl-C.

    A second reader of the topic that runs the pipeline up to there by itself, at low priority: the flow does not notice.
    What happened before it began it cannot know: a rate comes with the second sample of a series, and the first windows
    are not whole. A resource without wildcards is looked for on its own partition only.

    Example: nephoscope tap rate_of_change --filter 'cpu*'
    """
    from flows.plan import Options
    from flows.tap import Tap, plan_until

    settings = settings_of(config, overrides)
    plan = None
    if where is not None:
        pipeline, _ = load_polling_and_pipeline(settings)
        options = Options(**{name: getattr(settings, name) for name in Options.__dataclass_fields__})
        plan = plan_until(pipeline, where, options)
    shown = _Shown(rate, limit, as_json=json)
    with open_log(settings) as log:
        exact = not set("*?[") & set(resource)
        places = [partition(resource, settings.partitions)] if exact else list(range(settings.partitions))
        start = (log.begin if begin else log.end)(SAMPLES)
        consumer = log.consumer(SAMPLES, {p: start[p] for p in places})
        with suppress(OSError):
            os.nice(_NICE)
        complain(
            f"tap: {where or 'what comes in'}{'' if begin else ', from now on'}, at most {rate:g} samples a second; Ctrl-C stops"
            + (
                ""
                if plan is None or begin
                else "\ntap: what came before is not known: a rate needs two samples, a window its beginning"
            )
        )
        try:
            _follow(consumer, Tap(plan, meter, resource), shown, seconds)
        finally:
            consumer.close()
            shown.tell(last=True)


def _follow(consumer: Consumer, source: Any, shown: _Shown, seconds: float | None) -> None:
    stop = threading.Event()
    on_stop(stop.set)
    until = time.monotonic() + seconds if seconds is not None else float("inf")
    while not stop.is_set() and time.monotonic() < until and not shown.enough():
        try:
            messages = consumer.poll(timeout=min(_WAIT, max(0.0, until - time.monotonic())))
        except Unavailable as error:
            raise NephoscopeError(f"{error}: start the tap again when it is there") from None
        for batch in source.batches(messages):
            shown.show(batch)
            if shown.enough() or stop.is_set():
                break
        shown.tell()


class _Shown:
    """Prints at most so many samples a second, and says how many it left out."""

    def __init__(self, rate: float, limit: int | None, *, as_json: bool) -> None:
        self._rate, self._left, self._json = rate, limit, as_json
        self._room, self._filled = max(1.0, rate), time.monotonic()
        self._hidden = 0
        self._told = time.monotonic()

    def enough(self) -> bool:
        """Whether as many as were asked for are shown."""
        return self._left == 0

    def show(self, batch: Any) -> None:
        """Show what there is room for."""
        now = time.monotonic()
        self._room = min(max(1.0, self._rate), self._room + (now - self._filled) * self._rate)
        self._filled = now
        count = min(int(self._room), batch.num_rows, batch.num_rows if self._left is None else self._left)
        self._room -= count
        if self._left is not None:
            self._left -= count
        # Those that the limit cuts off are no loss: the end was asked for.
        self._hidden += 0 if self.enough() else batch.num_rows - count
        for sample in _samples(batch.slice(0, count)):
            if self._json:
                sys.stdout.buffer.write(to_json(sample_to_dict(sample)) + b"\n")
            else:
                print(_line(sample))
        if count:
            sys.stdout.flush()

    def tell(self, *, last: bool = False) -> None:
        """Say, now and then, how many were left out."""
        if self._hidden and (last or time.monotonic() - self._told > _TELL_EVERY):
            complain(f"tap: {self._hidden} more passed and are not shown (--rate, --filter)")
            self._hidden, self._told = 0, time.monotonic()


def _samples(batch: Any) -> Iterator[Sample]:
    from nephoscope.batch import Batch

    return Batch(batch).samples()


def _line(sample: Sample) -> str:
    text = f"{format_time(sample.timestamp)}  {sample.name:<36} {number(sample.volume):>12} {sample.unit:<10} {sample.resource_id}"
    late = "  (late)" if sample.late else ""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text) + late
