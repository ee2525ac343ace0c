"""`run`: everything in one place. An agent and a flow as child processes, the embedded log and the store between them."""

from __future__ import annotations

import fcntl
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Annotated, Any

import typer

from nephoscope.cli.options import Config, Set, arguments_of, settings_of
from nephoscope.cli.output import complain, is_terminal
from nephoscope.cli.parts import load_polling_and_pipeline, open_log, open_store, prepare_state
from nephoscope.cli.reload import Reload
from nephoscope.cli.supervisor import Child, Supervisor
from nephoscope.errors import NephoscopeError, Unavailable
from nephoscope.settings import Settings
from nephoscope.stopping import on_stop, reload_is_harmless
from nephoscope.times import now

_LOOK_EVERY = 1.0
_TICK = 0.1


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(run)


def run(
    config: Config = None,
    overrides: Set = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Show no samples.")] = False,
    seconds: Annotated[
        float | None, typer.Option("--for", metavar="SECONDS", help="Stop after so long.", show_default=False)
    ] = None,
    kafka: Annotated[
        str | None,
        typer.Option(
            "--kafka", metavar="HOST:PORT[,…]", help="Through Kafka instead of the embedded log.", show_default=False
        ),
    ] = None,
    store: Annotated[
        str | None,
        typer.Option(
            "--store",
            metavar="URL",
            help="Into this store instead of SQLite in state_dir; a password as ${env:NAME}.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Poll this host, run the pipeline over its samples, store the result and show it. Listens, too, where the settings say to what.

    Ctrl-C or SIGTERM stops it; the next start goes on where it was. `--kafka` stands for --set log.url=kafka://…, `--store`
    for --set database.connection=….

    Example: nephoscope run --set state_dir=/tmp/demo
    """
    if kafka:
        overrides = [*(overrides or ()), f"log.url=kafka://{kafka}"]
    if store:
        overrides = [*(overrides or ()), f"database.connection={store}"]
    settings = settings_of(config, overrides)
    with _alone(settings), _stop_requested() as stop:
        # Made here, so that the children find them and cannot race for it.
        with open_log(settings):
            pass
        with open_store(settings) as opened:
            arguments = arguments_of(config, overrides)
            show = _Quiet() if quiet else _Live(settings) if is_terminal() else _Lines()
            # Several processes need a supervisor of their own; one is watched from here.
            reload = Reload(settings, show.say) if settings.flow_workers == 1 else None
            alone = ["--process-id", "0", *reload.arguments] if reload else []
            flow = _child("flow", [*arguments, *alone])
            children = [_child("agent", arguments), flow]
            if settings.notifications.urls or settings.push.udp or settings.push.tcp:
                children.insert(1, _child("notifications", arguments))
            supervisor = Supervisor(children, show.say)
            until = time.monotonic() + seconds if seconds is not None else None
            complain(_greeting(settings))
            supervisor.start()
            try:
                look = (lambda: reload.look(supervisor, [flow])) if reload else (lambda: None)
                status = _watch(supervisor, look, opened, show, stop, until)
            finally:
                supervisor.stop()
    complain("nephoscope: stopped; the next start goes on from here")
    if status:
        raise typer.Exit(status)


def _greeting(settings: Settings) -> str:
    """What is polled how often, by which pipeline, and where the state is. ConfigError where one of the files is wrong."""
    pipeline, polling = load_polling_and_pipeline(settings)
    every = sorted({source.interval for source in polling.sources})
    often = f"every {' and '.join(map(str, every))} s" if every else "nothing"
    return (
        f"nephoscope: polling {often} ({polling.file or 'no file'}), computing {pipeline.file}, state in {settings.state_dir}\n"
        "nephoscope: a rate needs two polls; Ctrl-C stops, the next start goes on from there"
    )


def _watch(
    supervisor: Supervisor, reload: Callable[[], None], store: Any, show: _Quiet, stop: Stop, until: float | None
) -> int:
    from nephoscope.cli.view import View

    view = View(store, now())
    with show:
        next_look = 0.0
        while not stop.asked and (until is None or time.monotonic() < until):
            status = supervisor.watch()
            if status is not None:
                return status
            reload()
            if time.monotonic() >= next_look:
                with suppress(Unavailable):
                    show.look(view)
                next_look = time.monotonic() + _LOOK_EVERY
            time.sleep(_TICK)
    return 0


class _Quiet:
    """Shows nothing but what goes wrong."""

    def __enter__(self) -> None:
        """Begin."""

    def __exit__(self, *_: object) -> None:
        """End."""

    def look(self, view: Any) -> None:
        """Show what is new."""

    def say(self, line: str) -> None:
        """Tell what a child or the supervisor has to say."""
        complain(line)


class _Lines(_Quiet):
    """A line for each sample of interest."""

    def look(self, view: Any) -> None:
        for line in view.plain_lines(view.read()):
            print(line)
        sys.stdout.flush()


class _Live(_Quiet):
    """A table that stays in place."""

    def __init__(self, settings: Settings) -> None:
        from rich.console import Console
        from rich.live import Live

        self._console = Console(highlight=False)
        self._headline = f"nephoscope · {settings.state_dir} · Ctrl-C stops"
        self._live = Live(console=self._console, auto_refresh=False)

    def __enter__(self) -> None:
        self._live.__enter__()

    def __exit__(self, *_: object) -> None:
        self._live.__exit__(None, None, None)

    def look(self, view: Any) -> None:
        view.read()
        size = self._console.size
        self._live.update(view.table(self._headline, size.width, size.height), refresh=True)

    def say(self, line: str) -> None:
        self._live.console.print(line, markup=False, soft_wrap=True)


class Stop:
    """Whether somebody asked us to stop."""

    asked = False


@contextmanager
def _stop_requested() -> Iterator[Stop]:
    """Signals ask, and interrupt nothing: the children are stopped in order."""
    stop = Stop()

    def ask() -> None:
        stop.asked = True

    reload_is_harmless()
    restore = on_stop(ask)
    try:
        yield stop
    finally:
        restore()


@contextmanager
def _alone(settings: Settings) -> Iterator[None]:
    """One `run` a state folder."""
    prepare_state(settings)
    path = settings.state_dir / "run.lock"
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.seek(0)
            who = file.read().strip()
            raise NephoscopeError(
                f"another nephoscope runs in {settings.state_dir}{f' (process {who})' if who else ''}: "
                "stop it, or choose another state_dir (--set state_dir=…)"
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def _child(name: str, arguments: list[str]) -> Child:
    return Child(name, [sys.executable, "-m", "nephoscope.cli", name, *arguments])
