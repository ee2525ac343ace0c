"""`flow`: the pipeline as a bytewax dataflow, from the topic to the publishers."""

from __future__ import annotations

import socket
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from nephoscope.cli.options import Config, Set, arguments_of, settings_of
from nephoscope.cli.output import complain
from nephoscope.cli.reload import Reload
from nephoscope.cli.supervisor import EX_FINAL, EX_UNSAVED, Child, Supervisor, supervise
from nephoscope.errors import ConfigError, NephoscopeError, Unavailable
from nephoscope.settings import Settings
from nephoscope.stopping import reload_is_harmless


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(flow)


def flow(
    config: Config = None,
    overrides: Set = None,
    workers: Annotated[
        int | None, typer.Option("--workers", "-w", min=1, help="Processes to run in.", show_default=False)
    ] = None,
    process_id: Annotated[int | None, typer.Option("--process-id", hidden=True)] = None,
    addresses: Annotated[str | None, typer.Option("--addresses", hidden=True)] = None,
) -> None:
    """Run the pipeline over the topic, from where it was, until SIGINT or SIGTERM.

    A pipeline.yaml that changes meanwhile is checked and taken up; one that is wrong is told of, and the old one goes on.

    A process that ends otherwise is started again, and all of them with it, from the last snapshot. Each is what
    `python -m bytewax.run flows.pipeline:flow` is, with recovery and workers as the settings say.

    Example: nephoscope flow --config nephoscope.yaml --workers 4
    """
    settings = settings_of(config, overrides, flow_workers=workers)
    if process_id is None:
        _supervise(settings, config, overrides)
        return
    from flows.pipeline import run

    try:
        saved = run(settings, process_id, addresses.split(";") if addresses else None)
    except (ConfigError, Unavailable):
        raise
    except NephoscopeError as error:
        complain(str(error))
        raise typer.Exit(EX_FINAL) from None
    if not saved:
        raise typer.Exit(EX_UNSAVED)


def _supervise(settings: Settings, config: Path | None, overrides: list[str] | None) -> None:
    """Run the flow in processes of this host, as one unit: where one ends, all are started again from the last snapshot."""
    size = settings.flow_workers
    reload = Reload(settings, complain)
    base = [sys.executable, "-m", "nephoscope.cli", "flow", *arguments_of(config, overrides), *reload.arguments]
    children = [Child(f"worker {i}", ()) for i in range(size)]

    def name_addresses() -> None:
        # Anew for each start: another program may have taken a port meanwhile.
        addresses = ["--addresses", ";".join(_free_addresses(size))] if size > 1 else []
        for number, child in enumerate(children):
            child.command = [*base, "--process-id", str(number), *addresses]

    name_addresses()
    reload_is_harmless()
    supervisor = Supervisor(children, complain, one_for_all=True, renew=name_addresses)
    status = supervise(supervisor, lambda: reload.look(supervisor, children))
    if status:
        raise typer.Exit(1 if status == EX_FINAL else status)


def _free_addresses(count: int) -> list[str]:
    """Ports of the loopback interface that nobody uses now: the engine's own traffic is not authenticated."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [f"127.0.0.1:{one.getsockname()[1]}" for one in sockets]
