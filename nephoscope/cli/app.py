"""The application: puts the commands together, turns errors into messages and exit statuses."""

from __future__ import annotations

import logging
import os
import sys
from typing import Annotated, NoReturn

import typer

from nephoscope.cli import (
    agent,
    agents,
    asyncapi,
    cases,
    check,
    dead_letters,
    events,
    flow,
    graph,
    notifications,
    poll,
    repartition,
    run,
    samples,
    tap,
    who,
)
from nephoscope.cli.output import complain
from nephoscope.errors import EX_CONFIG, ConfigError, NephoscopeError

app = typer.Typer(
    name="nephoscope",
    help="Polls a cloud, turns its counters into rates and aggregates while they stream, and keeps them, once each.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
PARTS = (
    run,
    flow,
    agent,
    agents,
    notifications,
    poll,
    check,
    cases,
    graph,
    asyncapi,
    repartition,
    tap,
    samples,
    events,
    dead_letters,
    who,
)
for part in PARTS:
    part.register(app)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(version("nephoscope"))
        raise typer.Exit


@app.callback()
def _nephoscope(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Polls a cloud, turns its counters into rates and aggregates while they stream, and keeps them, once each.

    Start with `nephoscope run`: it polls this machine.
    """


def main() -> NoReturn:
    """Run the command that sys.argv names and exit with its status."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    try:
        app(prog_name="nephoscope")
    except ConfigError as error:
        for problem in error.problems:
            complain(str(problem))
        sys.exit(EX_CONFIG)
    except NephoscopeError as error:
        complain(str(error))
        sys.exit(1)
    except BrokenPipeError:
        # Whoever read our output has had enough (`| head`); nothing must be flushed into the closed pipe at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    sys.exit(0)
