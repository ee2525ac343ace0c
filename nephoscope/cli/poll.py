"""`poll`: polls once and prints what came: the first test of credentials and reach. It needs no log and no store."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nephoscope.cli.options import Config, Json, Set, settings_of
from nephoscope.cli.output import complain, progress, rows
from nephoscope.cli.parts import load_polling_and_pipeline
from nephoscope.errors import NephoscopeError, nearest
from nephoscope.matching import MeterFilter
from nephoscope.redaction import redacted
from nephoscope.settings import Settings

if TYPE_CHECKING:  # A room: it is imported by the command, so that help answers at once.
    from sources.once import Once, Polled
    from sources.pollster import Pollster
    from sources.systems import Systems

_COLUMNS = ("name", "type", "volume", "unit", "resource_id", "pollster")


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(poll)


def poll(
    wanted: Annotated[
        list[str],
        typer.Argument(
            metavar="METER|NAMESPACE...",
            help="Meters, patterns of them (hardware.*), or namespaces (compute, central, ipmi).",
            show_default=False,
        ),
    ],
    resources: Annotated[
        list[str] | None,
        typer.Option(
            "--resource",
            "-r",
            metavar="RESOURCE",
            help="Poll this target (snmp://public@switch1); may be repeated. Else those that are found, and those that polling.yaml names.",
            show_default=False,
        ),
    ] = None,
    timeout: Annotated[
        float | None,
        typer.Option("--timeout", min=0.1, help="Seconds for a target; else polling.timeout.", show_default=False),
    ] = None,
    config: Config = None,
    overrides: Set = None,
    json: Json = False,
) -> None:
    """Poll once, now, and print what came. Nothing is stored, and no log is needed.

    What fails is told with its cause, target by target; the exit status is then 1, as it is where there is nothing to poll.

    Example: nephoscope poll hardware.cpu.load.1min
    """
    settings = settings_of(config, overrides)
    from sources.systems import systems_of

    answers: list[Polled] = []
    with systems_of(settings) as systems:
        chosen, meters = _chosen(wanted, systems)
        once = _once(settings, systems, chosen, meters, resources or (), timeout)
        with progress("polling") as report:
            for answer in once:
                answers.append(answer)
                report(len(answers))
    if not answers:
        raise NephoscopeError(_nothing(chosen, resources or ()))
    whole = ("name", "volume", "unit")
    count = rows(_COLUMNS, _lines(answers), as_json=json, whole=whole) if any(a.readings for a in answers) else 0
    failed = [a for a in answers if a.error]
    for answer in failed:
        complain(redacted(f"{answer.pollster} of {answer.resource}: {answer.error}"))
    counted = f"{count} sample{'' if count == 1 else 's'} of {len(answers)} target{'' if len(answers) == 1 else 's'}"
    complain(f"{counted}, {len(failed)} of which failed" if failed else counted)
    if failed:
        raise typer.Exit(1)


def _chosen(wanted: Collection[str], systems: Systems) -> tuple[dict[str, Pollster], list[str]]:
    """The pollsters, and the meters as patterns. NephoscopeError for a word that is neither meter nor namespace."""
    namespaces = {p.namespace for p in systems.pollsters.values()}
    known = {m.name for p in systems.pollsters.values() for m in p.meters}
    chosen: dict[str, Pollster] = {}
    meters: list[str] = []
    for word in wanted:
        if word in namespaces and word not in known:
            own = systems.of([word])
            meters += [m.name for p in own.values() for m in p.meters]
        else:
            matches = MeterFilter([word]).matches
            own = {n: p for n, p in systems.pollsters.items() if any(matches(m.name) for m in p.meters)}
            meters.append(word)
        if not own:
            raise NephoscopeError(
                f"no pollster gives {word!r}, and no namespace is called so ({nearest(word, known | namespaces)})"
            )
        chosen |= own
    return chosen, meters


def _once(
    settings: Settings,
    systems: Systems,
    chosen: dict[str, Pollster],
    meters: list[str],
    resources: Collection[str],
    timeout: float | None,
) -> Once:
    from sources.once import Once

    polling = None if resources else load_polling_and_pipeline(settings)[1]
    return Once(
        meters,
        chosen,
        systems.discoveries,
        polling,
        resources=tuple(resources),
        timeout=timeout or settings.polling.timeout,
        concurrency=settings.polling.concurrency,
    )


def _lines(answers: Collection[Polled]) -> Iterator[dict[str, Any]]:
    for answer in answers:
        for reading in answer.readings:
            yield {
                "name": reading.meter.name,
                "type": reading.meter.type,
                "unit": reading.meter.unit,
                "volume": reading.volume,
                "resource_id": reading.resource_id,
                "user_id": reading.user_id or None,
                "project_id": reading.project_id or None,
                "resource_metadata": _metadata(reading.metadata),
                "pollster": answer.pollster,
                "target": redacted(answer.resource),
            }


def _metadata(metadata: Any) -> Any:
    import msgspec

    return msgspec.Raw(metadata.encode()) if isinstance(metadata, str) else metadata


def _nothing(chosen: dict[str, Pollster], resources: Collection[str]) -> str:
    names = ", ".join(sorted(chosen))
    if resources:
        return f"none of these pollsters takes {redacted(', '.join(resources))}: {names}"
    return f"there is nothing to poll: no target was found for {names} (--resource names one)"
