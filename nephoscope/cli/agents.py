"""`agents`: who polls, how much each has, and how far each has come."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Annotated, Any

import typer

from nephoscope import times
from nephoscope.cli.options import Config, Json, Set, settings_of
from nephoscope.cli.output import complain, is_terminal, rows
from nephoscope.errors import NephoscopeError
from nephoscope.partition import SLOTS
from nephoscope.settings import Settings
from nephoscope.times import SECOND

COLUMNS = ("group", "generation", "member", "slots", "load", "targets", "last", "age", "missed", "late", "up")
_EVERY = 1.0


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(agents)


def agents(
    config: Config = None,
    overrides: Set = None,
    json: Json = False,
    once: Annotated[bool, typer.Option("--once", help="Show it once, on a terminal too.")] = False,
) -> None:
    """Show the agents that share the work: a live table on a terminal until Ctrl-C, else lines, once.

    load: of the group's slots, its targets' places; 100 % is an equal share. last: the newest period of which samples are in the
    log, age: the seconds since it began. missed: periods that nobody polled, late: those that were caught up, since its start.

    Example: nephoscope agents --set coordination.backend_url=redis://localhost
    """
    settings = settings_of(config, overrides)
    if not settings.coordination.backend_url.get_secret_value():
        raise NephoscopeError(
            "no coordination.backend_url: each agent polls everything that it finds, and knows of no others"
        )
    from sources.coordination import Unreachable

    with ExitStack() as stack:
        look = _Look(settings)
        stack.callback(look.close)
        if once or json or not is_terminal():
            try:
                count = rows(COLUMNS, look.lines(), as_json=json)
            except Unreachable as error:
                raise NephoscopeError(str(error)) from None
            if not count:
                complain("no agent is there")
            return
        _watch(look)


class _Look:
    """Asks the back end, a connection a group."""

    def __init__(self, settings: Settings) -> None:
        from sources.groups import backend_of

        self._settings = settings
        self._make = backend_of
        self._first = backend_of(settings, "look", "look")
        self._groups: dict[str, Any] = {}

    def lines(self) -> Iterator[dict[str, Any]]:
        """A line a member. Raises Unreachable."""
        from sources.coordination import Status

        now = times.now()
        for group in sorted(self._first.groups()):
            if group not in self._groups:
                self._groups[group] = self._make(self._settings, group, "look")
            view, statuses = self._groups[group].members()
            for member in view.members:
                status = Status.decode(statuses.get(member, b""))
                yield {
                    "group": group,
                    "generation": view.generation,
                    "member": member,
                    "slots": status.slots,
                    "load": f"{100 * status.slots * len(view.members) / SLOTS:.0f} %",
                    "targets": status.targets,
                    "last": times.format_time(status.last) if status.last else None,
                    "age": round((now - status.last) / SECOND, 1) if status.last else None,
                    "missed": status.missed,
                    "late": status.late,
                    "up": _span((now - status.since) // SECOND) if status.since else None,
                }

    def close(self) -> None:
        """Give back the connections."""
        for backend in (self._first, *self._groups.values()):
            backend.close()


def _span(seconds: int) -> str:
    """How long: the two largest of days, hours, minutes and seconds."""
    days, hours, minutes = seconds // 86400, seconds // 3600 % 24, seconds // 60 % 60
    if days:
        return f"{days} d {hours} h"
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds % 60} s"


def _watch(look: _Look) -> None:
    from rich.console import Console
    from rich.live import Live

    from sources.coordination import Unreachable

    console = Console(highlight=False)
    shown: list[dict[str, Any]] = []
    with Live(console=console, auto_refresh=False, screen=False) as live:
        try:
            while True:
                why = ""
                try:
                    shown = list(look.lines())
                except Unreachable as error:
                    why = str(error)
                live.update(_table(shown, why), refresh=True)
                time.sleep(_EVERY)
        except KeyboardInterrupt:
            pass


def _table(lines: list[dict[str, Any]], why: str) -> Any:
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in COLUMNS:
        table.add_column(
            column, justify="left" if column in {"group", "member", "last", "up"} else "right", no_wrap=True
        )
    group = None
    for line in lines:
        again, group = line["group"] == group, line["group"]
        bad = {"missed": "red" if line["missed"] else "", "late": "yellow" if line["late"] else ""}
        table.add_row(
            *(
                Text("" if again and c in {"group", "generation"} else _word(line[c]), style=bad.get(c, ""))
                for c in COLUMNS
            )
        )
    foot = f"{len(lines)} agents · Ctrl-C ends" if lines else "no agent is there · Ctrl-C ends"
    return Group(table, Text(why, style="red") if why else Text(foot, style="dim"))


def _word(value: Any) -> str:
    text = "" if value is None else str(value)
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
