"""What is stored: `meters`, `sample list`, `sample create`, `statistics`, `expire`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from nephoscope import filters, identity, sample, store
from nephoscope.cli.lines import SampleLines
from nephoscope.cli.options import Config, Json, Set, settings_of
from nephoscope.cli.output import complain, progress, rows
from nephoscope.cli.parts import load_polling_and_pipeline, open_log, open_store
from nephoscope.errors import NephoscopeError
from nephoscope.lifetimes import Lifetimes
from nephoscope.settings import Settings
from nephoscope.times import format_time, now

Query = Annotated[
    list[str] | None,
    typer.Option(
        "--query", "-q", metavar="FIELD OP VALUE", show_default=False,
        help="Only what fits: = != < <= > >= =~; several by ';' or by repeating. Fields: resource_id, project_id, user_id, source, "
        "timestamp, volume, metadata.NAME …",
    ),
]  # fmt: skip
Limit = Annotated[int, typer.Option("--limit", "-l", min=1, help="At most so many.")]

_TERM = re.compile(
    r"\s*([A-Za-z_][\w.\-]*)\s*(>=|<=|!=|=~|=|<|>)\s*(?:(string|integer|float|boolean|datetime)::)?(.*?)\s*", re.DOTALL
)
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_PUSHED_AT_ONCE = 5000


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(meters)
    app.command()(statistics)
    app.command()(expire)
    group = typer.Typer(help="List stored samples, or push new ones.", no_args_is_help=True)
    group.command("list")(list_samples)
    group.command("create")(create)
    app.add_typer(group, name="sample")


def parse_query(terms: Iterable[str] | None) -> filters.Filter:
    """The filter that all the terms (``field op value``, several separated by ';') make together.

    As in Ceilometer's client, a value may name its type: ``metadata.vcpus>=integer::2``.
    """
    found = []
    for term in (t for text in terms or () for t in text.split(";") if t.strip()):
        match = _TERM.fullmatch(term)
        if not match:
            raise NephoscopeError(f"a query is FIELD OP VALUE with OP one of = != < <= > >= =~, not {term.strip()!r}")
        field, op, kind, text = match.groups()
        found.append(filters.Compare(field, op, _value(filters.field_named(field), kind, text)))
    return filters.both(*found)


def _value(field: str, kind: str | None, text: str) -> Any:
    if kind == "boolean" or (kind is None and field.startswith(filters.METADATA) and text.lower() in {"true", "false"}):
        return text.lower() in {"true", "1", "yes"}
    if kind in {"integer", "float"} or (
        kind is None and (field.startswith(filters.METADATA) or field == "volume") and _NUMBER.fullmatch(text)
    ):
        try:
            return float(text)
        except ValueError:
            raise NephoscopeError(f"{text!r} is no number") from None
    return text


def meters(
    query: Query = None,
    limit: Limit = 1000,
    known: Annotated[
        bool,
        typer.Option(
            "--known", help="Instead those that can be polled, notified or computed here; no store is needed."
        ),
    ] = False,
    config: Config = None,
    overrides: Set = None,
    json: Json = False,
) -> None:
    """List the meters that are stored, and of which resource; or, with --known, all that there can be.

    Example: nephoscope meters -q 'resource_id=myhost'
    """
    if known:
        _known(settings_of(config, overrides), query, json=json)
        return
    columns = ("name", "type", "unit", "resource_id", "user_id", "project_id", "source")
    with open_store(settings_of(config, overrides)) as opened:
        page = opened.meters(store.ListQuery(parse_query(query), limit))
    rows(columns, ({c: getattr(m, c) for c in columns} for m in page.meters), as_json=json)
    _more(page.cursor, limit)


def _known(settings: Settings, query: list[str] | None, *, json: bool) -> None:
    from nephoscope.cli.known import KnownMeter, known_meters

    if query:
        raise typer.BadParameter("--query asks the store; --known does not")
    found = known_meters(settings, load_polling_and_pipeline(settings)[0])
    rows(KnownMeter._fields, (m._asdict() for m in found), as_json=json, whole=KnownMeter._fields[:3])


def list_samples(
    meter: Annotated[str | None, typer.Option("--meter", "-m", help="Only this meter.", show_default=False)] = None,
    query: Query = None,
    limit: Limit = 100,
    config: Config = None,
    overrides: Set = None,
    json: Json = False,
    ceilometer: Annotated[
        bool,
        typer.Option("--ceilometer", help="Print Ceilometer's metering messages, signed with telemetry_secret if set."),
    ] = False,
) -> None:
    """List stored samples, newest first. --json prints them whole.

    Example: nephoscope sample list -m hardware.cpu.util -q 'timestamp>2026-01-01T00:00:00' -l 5
    """
    terms = [*(query or ()), *([f"name={meter}"] if meter else ())]
    settings = settings_of(config, overrides)
    with open_store(settings) as opened:
        page = opened.samples(store.SampleQuery(parse_query(terms), limit=limit))
    if ceilometer:
        secret = settings.telemetry_secret.get_secret_value()
        rows((), (sample.sample_to_ceilometer(s, secret) for s in page.samples), as_json=True)
    elif json:
        rows((), map(sample.sample_to_dict, page.samples), as_json=True)
    else:
        columns = ("timestamp", "name", "type", "volume", "unit", "resource_id")
        lines = ({c: getattr(s, c) for c in columns} | {"timestamp": format_time(s.timestamp)} for s in page.samples)
        rows(columns, lines, as_json=False)
    _more(page.cursor, limit)


def create(
    resource: Annotated[str, typer.Option("--resource-id", "-r", help="The resource.", show_default=False)] = "",
    meter: Annotated[str, typer.Option("--meter-name", "-m", help="The meter.", show_default=False)] = "",
    volume: Annotated[float | None, typer.Option("--sample-volume", help="The volume.", show_default=False)] = None,
    kind: Annotated[str, typer.Option("--meter-type", help="gauge, delta or cumulative.")] = "gauge",
    unit: Annotated[str, typer.Option("--meter-unit", help="The unit.", show_default=False)] = "",
    user: Annotated[str, typer.Option("--user-id", show_default=False)] = "",
    project: Annotated[str, typer.Option("--project-id", show_default=False)] = "",
    timestamp: Annotated[
        str, typer.Option("--timestamp", help="ISO 8601, UTC; by default now.", show_default=False)
    ] = "",
    metadata: Annotated[
        str, typer.Option("--resource-metadata", metavar="JSON", help="A JSON object.", show_default=False)
    ] = "{}",
    key: Annotated[
        str, typer.Option("--id", help="Makes the sample once, however often you send it.", show_default=False)
    ] = "",
    samples: Annotated[
        Path | None, typer.Option("--samples", help="JSON lines to push instead; - is stdin.", show_default=False)
    ] = None,
    config: Config = None,
    overrides: Set = None,
    json: Json = False,
) -> None:
    """Push samples onto the topic: one that the options describe, or a file of JSON lines.

    Example: nephoscope sample create -r room-1 -m temperature --sample-volume 21.5 --meter-unit C
    """
    settings = settings_of(config, overrides)
    if samples is None:
        if not (resource and meter and volume is not None):
            raise typer.BadParameter("--resource-id, --meter-name and --sample-volume are needed (or --samples FILE)")
        made = _described(
            resource, meter, volume, kind, unit, user, project, timestamp, metadata, settings.sample_source
        )
        made = replace_id(made, key)
        _push(settings, iter([made]))
        rows(("id", "name", "resource_id"), [sample.sample_to_dict(made)], as_json=json)
        return
    lines = SampleLines(samples, settings.max_sample_bytes)
    pushed = _push(settings, iter(lines))
    refused = sum(lines.bad.values())
    rows(("pushed", "refused"), [{"pushed": pushed, "refused": refused}], as_json=json)
    if refused:
        raise typer.Exit(1)


def _described(
    resource: str,
    meter: str,
    volume: float,
    kind: str,
    unit: str,
    user: str,
    project: str,
    timestamp: str,
    metadata: str,
    source: str,
) -> sample.Sample:
    try:
        parsed = msgspec.json.decode(metadata)
    except msgspec.DecodeError as error:
        raise NephoscopeError(f"--resource-metadata is not JSON: {error}") from None
    return sample.sample_from_dict(
        {
            "name": meter,
            "type": kind,
            "unit": unit,
            "volume": volume,
            "resource_id": resource,
            "user_id": user,
            "project_id": project,
            "timestamp": timestamp or format_time(now()),
            "resource_metadata": parsed,
            "source": source,
        }
    )


def replace_id(made: sample.Sample, key: str) -> sample.Sample:
    """The sample with the id that a client's idempotency key gives; without a key, its own."""
    return msgspec.structs.replace(made, id=identity.parse_id(key)) if key else made


def _push(settings: Any, made: Iterator[sample.Sample]) -> int:
    from itertools import islice

    from nephoscope.push import push

    count = 0
    with open_log(settings) as log, progress("pushing") as report:
        while block := list(islice(made, _PUSHED_AT_ONCE)):
            push(log, block)
            count += len(block)
            report(count)
    return count


def statistics(
    meter: Annotated[str, typer.Option("--meter", "-m", help="The meter.", show_default=False)],
    query: Query = None,
    period: Annotated[int, typer.Option("--period", "-p", min=0, help="Seconds; 0: one period for all.")] = 0,
    groupby: Annotated[
        list[str] | None,
        typer.Option(
            "--groupby", "-g", help="resource_id, project_id, user_id, source, metadata.NAME.", show_default=False
        ),
    ] = None,
    aggregates: Annotated[
        list[str] | None,
        typer.Option(
            "--aggregate", "-a", help="count, sum, avg, min, max, stddev, cardinality/FIELD.", show_default=False
        ),
    ] = None,
    config: Config = None,
    overrides: Set = None,
    json: Json = False,
) -> None:
    """Count, sum, mean, least and greatest volume of a meter, by period and group.

    Example: nephoscope statistics -m hardware.cpu.util -p 60 -g resource_id
    """
    wanted = store.StatisticsQuery(
        parse_query([*(query or ()), f"name={meter}"]), period, tuple(groupby or ()), tuple(aggregates or ())
    )
    with open_store(settings_of(config, overrides)) as opened:
        found = opened.statistics(wanted)
    shown = [a.partition("/")[0] for a in aggregates or ("count", "sum", "avg", "min", "max")]
    columns = ("period_start", "period_end", *wanted.groupby, *dict.fromkeys(shown), "unit")
    rows(columns if not json else (), (_statistics_line(s) for s in found), as_json=json)


def _statistics_line(found: store.Statistics) -> dict[str, Any]:
    line: dict[str, Any] = {
        "period": found.period,
        "period_start": format_time(found.period_start),
        "period_end": format_time(found.period_end),
        "duration_start": format_time(found.duration_start),
        "duration_end": format_time(found.duration_end),
        "duration": found.duration,
        "unit": found.unit,
    }
    line |= found.groupby
    line |= {
        n: getattr(found, n) for n in ("count", "sum", "avg", "min", "max", "stddev") if getattr(found, n) is not None
    }
    return line | ({"cardinality": dict(found.cardinality)} if found.cardinality else {})


def expire(
    older_than: Annotated[
        int | None,
        typer.Option(
            "--older-than",
            min=0,
            metavar="SECONDS",
            help="For samples of all classes, instead of the settings; events stay.",
            show_default=False,
        ),
    ] = None,
    config: Config = None,
    overrides: Set = None,
    json: Json = False,
) -> None:
    """Remove the samples and events that have lived for their time, in small steps, while writing goes on.

    Then the resources, users and projects that have no sample left. Safe to run twice at once.

    Example: nephoscope expire --older-than 2592000
    """
    settings = settings_of(config, overrides)
    lifetimes = settings.database.lifetimes
    if older_than is not None:
        lifetimes = Lifetimes(samples=older_than)
    elif lifetimes == replace(lifetimes, samples=-1, events=-1) and all(c.seconds < 0 for c in lifetimes.classes):
        complain("metering_time_to_live and event_time_to_live are -1: samples and events are kept for ever")
    # What is deleted once is no setting: only the settings' own lifetimes are for the store to keep.
    kept = settings.database.lifetimes if older_than is None else None
    with open_store(settings, kept) as opened, progress("removing") as report:
        done = opened.expire(lifetimes, now(), lambda step: report(int(step.share * 1000), 1000))
    line = {"samples": done.samples, "events": done.events, "resources": done.resources}
    rows(tuple(line), [line], as_json=json)


def _more(cursor: str | None, limit: int) -> None:
    if cursor is not None:
        complain(f"there are more than {limit}: --limit shows them")
