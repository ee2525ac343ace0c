"""`who`: where a resource's samples go, and who polled it last."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import typer

from nephoscope.batch import decode
from nephoscope.cli.options import Config, Json, Set, settings_of
from nephoscope.cli.output import complain, rows
from nephoscope.cli.parts import open_log
from nephoscope.errors import BatchError, NephoscopeError
from nephoscope.partition import key_hash, partition
from nephoscope.settings import Settings
from nephoscope.times import SECOND, format_time
from nephoscope.topics import SAMPLES, Log, Message

_BACK = 512
"""Messages of a partition that are looked through, from the newest."""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(who)


def who(
    resources: Annotated[list[str], typer.Argument(metavar="RESOURCE...", help="Resource ids.", show_default=False)],
    config: Config = None,
    overrides: Set = None,
    json: Json = False,
) -> None:
    """Say which partition has a resource, which agent polled it last, for which period, and how long after its beginning that was in the log.

    The partition is that of the topic, of the flow's state and of the message key: the same number on every machine. The rest is read from
    the newest messages of that partition; `owner` is empty for samples that no agent polled.

    Example: nephoscope who 6a0b7c2e-5f0d-4b57-9a5e-0f5a4f3f2f10
    """
    settings = settings_of(config, overrides)
    places = {r: partition(r, settings.partitions) for r in resources}
    found = _polled(settings, places)
    rows(
        ("resource", "partition", "owner", "generation", "period", "lag", "hash"),
        (
            {"resource": r, "partition": place, **found.get(r, {}), "hash": f"{key_hash(r):016x}"}
            for r, place in places.items()
        ),
        as_json=json,
    )


def _polled(settings: Settings, places: Mapping[str, int]) -> dict[str, dict[str, Any]]:
    """What the log says of the newest sample of each resource."""
    if settings.log.url.startswith("embedded") and not settings.log_path.exists():
        return {}
    found: dict[str, dict[str, Any]] = {}
    try:
        with open_log(settings) as log:
            for place in set(places.values()):
                wanted = {r for r, p in places.items() if p == place}
                for message in _newest(log, place):
                    found |= _in(message, wanted)
    except NephoscopeError as error:
        complain(f"who polled it is not known: {error}")
    return found


def _newest(log: Log, place: int) -> Iterator[Message]:
    """The newest messages of a partition, the oldest of them first."""
    end = log.end(SAMPLES)[place]
    consumer = log.consumer(SAMPLES, {place: max(log.begin(SAMPLES)[place], end - _BACK)})
    try:
        at = 0
        while at < end and (messages := consumer.poll(timeout=5.0)):
            yield from messages
            at = messages[-1].offset + 1
    finally:
        consumer.close()


def _in(message: Message, wanted: set[str]) -> dict[str, dict[str, Any]]:
    """What a message says of these resources."""
    try:
        batch = decode(message.value)
    except BatchError:
        return {}
    if not wanted.intersection(batch.rows.column("resource_id").dictionary.to_pylist()):
        return {}
    return {
        s.resource_id: {
            "owner": batch.header.member,
            "generation": batch.header.generation or None,
            "period": format_time(s.timestamp),
            "lag": round((message.append_time - s.timestamp) / SECOND, 1),
        }
        for s in batch.samples()
        if s.resource_id in wanted
    }
