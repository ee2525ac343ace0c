"""`notifications`: samples and events of what services send. `explain`: what becomes of one notification."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from nephoscope.cli.options import Config, Json, Set, arguments_of, settings_of
from nephoscope.cli.output import complain
from nephoscope.cli.parts import open_log
from nephoscope.cli.supervisor import Child, Supervisor, supervise
from nephoscope.documents import Checker
from nephoscope.errors import NephoscopeError, SampleError
from nephoscope.sample import sample_to_dict
from nephoscope.settings import Settings
from nephoscope.times import format_time


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(notifications)
    app.command()(explain)


def notifications(
    config: Config = None,
    overrides: Set = None,
    workers: Annotated[
        int | None, typer.Option("--workers", "-w", min=1, help="Processes that share the queues.", show_default=False)
    ] = None,
    process_id: Annotated[int | None, typer.Option("--process-id", hidden=True)] = None,
) -> None:
    """Listen to RabbitMQ, Kafka and pushed samples, as the settings say, until SIGINT or SIGTERM.

    Of several processes each listens to every URL; the first also takes pushed samples. One that ends otherwise is started again.

    Example: nephoscope notifications --workers 2 --set notifications.urls=rabbit://guest:guest@127.0.0.1:5672/
    """
    flags = {} if workers is None else {"notifications.workers": workers}
    settings = settings_of(config, overrides, **flags)
    from sources.notifications.service import check_anything, run

    check_anything(settings)
    if process_id is None and settings.notifications.urls and settings.notifications.workers > 1:
        _supervise(settings, arguments_of(config, overrides))
        return
    with open_log(settings) as log:
        run(log, settings, process_id or 0)


def _supervise(settings: Settings, arguments: list[str]) -> None:
    """Listen in several processes of this host. Raises ConfigError, once, for what all of them would."""
    from sources.notifications.service import check

    check(settings, Checker(""))
    # Made here, so that they find it and do not race for it.
    with open_log(settings):
        pass
    base = [sys.executable, "-m", "nephoscope.cli", "notifications", *arguments, "--process-id"]
    children = [Child(f"listener {i}", [*base, str(i)]) for i in range(settings.notifications.workers)]
    status = supervise(Supervisor(children, complain))
    if status:
        raise typer.Exit(status)


def explain(
    file: Annotated[
        Path, typer.Argument(help="A notification as JSON, in its envelope or bare; several, one a line; `-`: stdin.")
    ],
    config: Config = None,
    overrides: Set = None,
    json: Json = False,
) -> None:
    """Show which definitions are for a notification, and what they make of it. Nothing is sent.

    Exits with 1 where one cannot be used.

    Example: nephoscope explain notification.json
    """
    settings = settings_of(config, overrides)
    from sources.notifications.explain import Explainer

    explainer = Explainer(settings)
    bad = False
    for number, body in enumerate(_bodies(file), 1):
        try:
            found = explainer.explain(body)
        except SampleError as error:
            bad = True
            complain(f"{file} ({number}): {error.reason}: {error}")
            continue
        bad = bad or bool(found.refused)
        if json:
            print(msgspec.json.encode(_as_json(found)).decode())
        else:
            _show(found)
    if bad:
        raise typer.Exit(1)


def _bodies(file: Path) -> list[bytes]:
    """The notifications of a file: a whole JSON text, a list of them, or one a line."""
    try:
        raw = sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
    except OSError as error:
        raise NephoscopeError(f"cannot read {file}: {error.strerror}") from None
    try:
        found = msgspec.json.decode(raw, type=list[msgspec.Raw])
    except (msgspec.MsgspecError, UnicodeDecodeError):
        pass
    else:
        return [bytes(one) for one in found]
    try:
        msgspec.json.decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        lines = [line for line in raw.splitlines() if line.strip()]
        return lines if len(lines) > 1 else [raw]
    return [raw]


def _as_json(found: Any) -> dict[str, Any]:
    event = found.event
    return {
        "event_type": found.event_type,
        "message_id": found.message_id,
        "definitions": found.definitions,
        "samples": [sample_to_dict(s) for s in found.samples],
        "refused": [{"what": w, "reason": r, "detail": d} for w, r, d in found.refused],
        "without_volume": found.empty,
        "event_definition": found.event_definition,
        "event": None if event is None else {"traits": [msgspec.to_builtins(t) for t in event.traits]},
        "traits_left_out": [{"trait": n, "detail": d} for n, d in found.wrong_traits],
    }


def _show(found: Any) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console(highlight=False)
    console.print(f"[bold]{escape(found.event_type)}[/] {escape(found.message_id)}", soft_wrap=True)
    if found.samples:
        table = Table(box=None, pad_edge=False)
        for name, where in (("meter", "left"), ("type", "left"), ("volume", "right"), ("unit", "left")):
            table.add_column(name, justify=where, overflow="fold")  # type: ignore[arg-type] # One of its words.
        table.add_column("defined in", overflow="fold")
        before = ""
        for sample, place in zip(found.samples, found.places, strict=True):
            if sample.resource_id != before:
                before = sample.resource_id
                table.add_row(f"[dim]{escape(before)}[/]")
            table.add_row(*map(escape, (sample.name, sample.type, f"{sample.volume:g}", sample.unit, place)))
        console.print(table)
    elif not found.definitions:
        console.print("no meter is defined for it")
    if found.empty:
        console.print(f"{found.empty} without a volume (null): no sample")
    for what, reason, detail in found.refused:
        console.print(f"[red]refused[/] {escape(what)}: {escape(reason)}: {escape(detail)}", soft_wrap=True)
    if found.event is None:
        console.print("no event")
    else:
        traits = Table(box=None, pad_edge=False)
        traits.add_column("trait")
        traits.add_column("type")
        traits.add_column("value", overflow="fold")
        for trait in found.event.traits:
            value = format_time(int(trait.value)) if trait.type == "datetime" else str(trait.value)
            traits.add_row(escape(trait.name), trait.type, escape(value))
        console.print(f"event, defined in {escape(found.event_definition)}", soft_wrap=True)
        console.print(traits)
    for name, detail in found.wrong_traits:
        console.print(f"[red]left out[/] trait {escape(name)}: {escape(detail)}", soft_wrap=True)
