"""What happened: `event list`, `event types`."""

from __future__ import annotations

import re
from typing import Annotated

import typer

from nephoscope.cli.options import Config, Json, Set, settings_of
from nephoscope.cli.output import complain, rows
from nephoscope.cli.parts import open_store
from nephoscope.errors import NephoscopeError
from nephoscope.event import DATETIME, Event, EventQuery, TraitTest
from nephoscope.event_messages import event_to_dict
from nephoscope.times import format_time, parse_time

_TERM = re.compile(
    r"\s*([^=<>!\s]+)\s*(>=|<=|!=|=|<|>)\s*(?:(text|string|int|integer|float|datetime)::)?(.*)", re.DOTALL
)
_INT = re.compile(r"[+-]?\d{1,18}")
_FLOAT = re.compile(r"[+-]?(\d+\.\d*|\.\d+)([eE][+-]?\d{1,3})?")


def register(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(help="List stored events, or their types.", no_args_is_help=True)
    group.command("list")(list_events)
    group.command("types")(types)
    app.add_typer(group, name="event")


def trait_test(term: str) -> TraitTest:
    """The test that ``NAME=VALUE`` stands for, with = != < <= > >=. A value may name its type: ``vcpus>=int::2``.

    What reads as a number is one where no type is named. NephoscopeError for anything else.
    """
    match = _TERM.fullmatch(term)
    if not match:
        raise NephoscopeError(f"a trait is asked for as NAME OP VALUE with OP one of = != < <= > >=, not {term!r}")
    name, op, kind, text = match.groups()
    if kind is None and _INT.fullmatch(text):
        return TraitTest(name, op, int(text))
    if kind is None and _FLOAT.fullmatch(text):
        return TraitTest(name, op, float(text))
    return TraitTest(name, op, text, kind or "")


def _time(option: str, text: str) -> int | None:
    try:
        return parse_time(text) if text else None
    except (ValueError, OverflowError):
        raise NephoscopeError(f"{option} is an ISO 8601 time, not {text!r}") from None


def list_events(
    kind: Annotated[str | None, typer.Option("--type", "-t", help="Only this type.", show_default=False)] = None,
    trait: Annotated[
        list[str] | None,
        typer.Option(
            "--trait",
            metavar="NAME=VALUE",
            help="Only with this trait; also != < <= > >=, and a type: NAME=text::7. Several: all of them.",
            show_default=False,
        ),
    ] = None,
    start: Annotated[str, typer.Option("--start", help="From this time on, ISO 8601.", show_default=False)] = "",
    end: Annotated[str, typer.Option("--end", help="Before this time.", show_default=False)] = "",
    limit: Annotated[int, typer.Option("--limit", "-l", min=1, help="At most so many.")] = 100,
    config: Config = None,
    overrides: Set = None,
    json: Json = False,
) -> None:
    """List stored events, newest first. --json prints them whole.

    Example: nephoscope event list --type compute.instance.create.end --trait state=active
    """
    tests = tuple(map(trait_test, trait or ()))
    query = EventQuery(kind, start=_time("--start", start), end=_time("--end", end), traits=tests, limit=limit)
    with open_store(settings_of(config, overrides)) as opened:
        page = opened.events(query)
    if json:
        rows((), map(event_to_dict, page.events), as_json=True)
    else:
        lines = ({"time": format_time(e.generated), "type": e.event_type, "traits": _traits(e)} for e in page.events)
        rows(("time", "type", "traits"), lines, as_json=False)
    if page.cursor is not None:
        complain(f"there are more than {limit}: --limit shows them")


def _traits(event: Event) -> str:
    shown = ((t.name, format_time(int(t.value)) if t.type == DATETIME else t.value) for t in event.traits)
    return " ".join(f"{name}={value}" for name, value in shown)


def types(config: Config = None, overrides: Set = None, json: Json = False) -> None:
    """List the types of the events that are stored.

    Example: nephoscope event types
    """
    with open_store(settings_of(config, overrides)) as opened:
        found = opened.event_types()
    rows(("type",), ({"type": kind} for kind in found), as_json=json)
