"""`graph`: the compiled flow as a picture."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from nephoscope.cli.options import Config, Set, settings_of
from nephoscope.cli.parts import known_schemes, load_polling_and_pipeline
from nephoscope.pipeline import load_pipeline


class Format(StrEnum):
    """How it is written."""

    MERMAID = "mermaid"
    DOT = "dot"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(graph)


def graph(
    pipeline: Annotated[
        Path | None,
        typer.Argument(metavar="[PIPELINE]", help="A pipeline.yaml; none: what would run here.", show_default=False),
    ] = None,
    format: Annotated[Format, typer.Option("--format", "-f", help="What to write.")] = Format.MERMAID,  # noqa: A002
    config: Config = None,
    overrides: Set = None,
) -> None:
    """Draw the compiled flow: sources, sinks, their steps, publishers. Mermaid for Markdown, DOT for Graphviz.

    Example: nephoscope graph --format dot pipeline.yaml | dot -Tsvg -o flow.svg
    """
    from flows.graph import draw_dot, draw_mermaid, graph_of
    from flows.plan import Options, compile_plan

    settings = settings_of(config, overrides)
    if pipeline is None:
        loaded, _ = load_polling_and_pipeline(settings)
    else:
        loaded = load_pipeline(pipeline, publisher_schemes=known_schemes())
    options = Options(**{name: getattr(settings, name) for name in Options.__dataclass_fields__})
    drawing = graph_of(compile_plan(loaded, options), loaded)
    print(draw_dot(drawing) if format is Format.DOT else draw_mermaid(drawing))
