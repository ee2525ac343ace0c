"""What a changed pipeline.yaml means for the flow that runs here: which steps are others than before, so that they begin anew and give new ids."""

from __future__ import annotations

from collections.abc import Iterator

from nephoscope.cli.parts import known_schemes
from nephoscope.cli.reload import copy_of
from nephoscope.errors import NephoscopeError, Problem
from nephoscope.pipeline import Pipeline, Sink, load_pipeline
from nephoscope.settings import Settings

_ANEW = "its state begins empty, and its samples get other ids than those that are stored"


def changes(settings: Settings, pipeline: Pipeline) -> Iterator[Problem]:
    """A warning for each step of the pipeline that the flow in these settings' state_dir does not have, and for each that it has no more.

    A step is the same where its sink's name, its place in it and its transformer are (docs/semantics.md, "A changed pipeline").
    Nothing where no flow ran there.
    """
    path = copy_of(settings, "pipeline_cfg_file")
    if not path.is_file():
        return
    try:
        running = load_pipeline(path, publisher_schemes=known_schemes())
    except NephoscopeError:
        return  # It was right once: with what was installed then.
    before, after = ({sink.name: sink for sink in p.sinks} for p in (running, pipeline))
    gone = {name: sink for name, sink in before.items() if name not in after and sink.steps}
    for name, sink in after.items():
        where = pipeline.file, sink.line, f"sinks.{name}"
        if name in before:
            yield from _compared(pipeline.file, before[name], sink)
        elif sink.steps:
            former = next((n for n, s in gone.items() if _kinds(s) == _kinds(sink)), "")
            if former:
                del gone[former]
                yield Problem(
                    f"renamed from {former!r}, it is another sink: for each of its steps, {_ANEW}",
                    *where,
                    f"keep the name {former!r}",
                )
            else:
                yield Problem(f"the flow that runs here has no such sink: for each of its steps, {_ANEW}", *where)
    for name, sink in gone.items():
        yield Problem(
            f"the sink {name!r} of the flow that runs here is gone, and with it the state of {', '.join(_kinds(sink))}",
            pipeline.file,
        )


def _kinds(sink: Sink) -> list[str]:
    return [step.name for step in sink.steps]


def _compared(file: str, before: Sink, after: Sink) -> Iterator[Problem]:
    kinds = _kinds(before)
    for position, step in enumerate(after.steps):
        was = kinds[position] if position < len(kinds) else ""
        if was != step.name:
            there = f"{was} was here" if was else "there was no step here"
            field = f"sinks.{after.name}.transformers[{position}]"
            yield Problem(f"{there} in the flow that runs: {step.name} is a new step: {_ANEW}", file, step.line, field)
    lost = kinds[len(after.steps) :]
    if lost:
        yield Problem(
            f"the flow that runs has {', '.join(lost)} at the end of it: the state of that goes",
            file,
            after.line,
            f"sinks.{after.name}",
        )
