"""`agent`: polls what polling.yaml (or an old pipeline.yaml) names, onto the topic."""

from __future__ import annotations

import typer

from nephoscope.cli.options import Config, Namespaces, Set, settings_of
from nephoscope.cli.parts import load_polling_and_pipeline, open_log


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(agent)


def agent(
    config: Config = None,
    overrides: Set = None,
    namespaces: Namespaces = None,
) -> None:
    """Poll, on aligned periods, until SIGINT or SIGTERM.

    Where neither the settings nor pipeline.yaml say what, --namespace compute, central or ipmi polls what a cloud would start with, every 300 s;
    without it this host is polled.

    Example: nephoscope agent --namespace compute
    """
    settings = settings_of(config, overrides)
    _, polling = load_polling_and_pipeline(settings, namespaces or ())
    from sources.process import run

    with open_log(settings) as log:
        run(log, polling, settings, namespaces=namespaces or ())
