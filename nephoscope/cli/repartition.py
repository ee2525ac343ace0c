"""`repartition`: more partitions for a drained system."""

from __future__ import annotations

from typing import Annotated

import typer

from nephoscope.cli.options import Config, Set, settings_of
from nephoscope.cli.output import complain, is_terminal


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(repartition)


def repartition(
    partitions: Annotated[int, typer.Option("--partitions", "-p", min=2, max=65536, help="How many there are to be.")],
    config: Config = None,
    overrides: Set = None,
) -> None:
    """Grow the number of partitions of the log and of all that the flow remembers.

    Stop the agents first, let the flow run until nothing is left to do, and stop it. Afterwards write the new `partitions` into
    every settings file. It may be repeated after a crash; what the flow had before is kept beside as `recovery-N`.

    Example: nephoscope repartition --partitions 128
    """
    from flows.repartition import repartition as grow

    settings = settings_of(config, overrides)
    words = {"read": "reading the state", "write": "writing the state", "topics": "growing the topics"}
    if is_terminal():
        from rich.progress import Progress

        with Progress(transient=True) as bar:
            tasks = {word: bar.add_task(text, total=None) for word, text in words.items()}
            grow(settings, partitions, lambda word, done, of: bar.update(tasks[word], completed=done, total=of))
    else:
        grow(settings, partitions, lambda word, done, of: complain(f"{words[word]}: done") if done == of else None)
    print(
        f"{partitions} partitions. Now write `partitions: {partitions}` into every settings file (or NEPHOSCOPE_PARTITIONS), then start the flow and the"
        " agents."
    )
