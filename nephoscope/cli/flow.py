"""`flow`: the pipeline as a bytewax dataflow, from the topic to the publishers."""

from __future__ import annotations

from typing import Annotated

import typer

from nephoscope.cli.options import Config, Set, settings_of


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(flow)


def flow(
    config: Config = None,
    overrides: Set = None,
    workers: Annotated[
        int | None, typer.Option("--workers", "-w", min=1, help="Processes to run in.", show_default=False)
    ] = None,
) -> None:
    """Run the pipeline over the topic, from where it was, until SIGINT or SIGTERM.

    The same as `python -m bytewax.run flows.pipeline:flow`, with recovery and workers as the settings say.

    Example: nephoscope flow --config nephoscope.yaml --workers 4
    """
    settings = settings_of(config, overrides, flow_workers=workers)
    from flows.engine import run

    run(settings)
