"""`asyncapi`: what lies on the topics, for whoever reads them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from nephoscope.cli.options import Config, Json, Set, settings_of
from nephoscope.cli.parts import known_schemes, load_polling_and_pipeline
from nephoscope.pipeline import STORE, Pipeline, load_pipeline, resolve_publisher
from nephoscope.pipeline.events import EventPipeline
from nephoscope.publishers import Channel, class_of, delivery_of


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(asyncapi)


def asyncapi(
    pipeline: Annotated[
        Path | None,
        typer.Argument(
            metavar="[PIPELINE]", help="A pipeline.yaml; none: what would run here, events too.", show_default=False
        ),
    ] = None,
    config: Config = None,
    overrides: Set = None,
    json: Json = False,
) -> None:
    """Print the AsyncAPI 3.0 document of the topics and of the pipelines' kafka:// publishers, as YAML or (--json) JSON.

    Example: nephoscope asyncapi pipeline.yaml > asyncapi.yaml
    """
    from flows.events import event_pipeline
    from nephoscope.asyncapi import document

    settings = settings_of(config, overrides)
    of_events: list[tuple[str, Channel]] = []
    if pipeline is None:
        loaded, _ = load_polling_and_pipeline(settings)
        of_events = channels_of(event_pipeline(settings), "event_channel")
    else:
        loaded = load_pipeline(pipeline, publisher_schemes=known_schemes())
    made = document(settings, channels_of(loaded), of_events)
    if json:
        import msgspec

        print(msgspec.json.format(msgspec.json.encode(made)).decode())
    else:
        import yaml

        # A schema that stands in two places is written twice: no anchors.
        writer = type("Writer", (yaml.SafeDumper,), {"ignore_aliases": lambda *_: True})
        yaml.dump(made, sys.stdout, writer, sort_keys=False, allow_unicode=True, width=120)


def channels_of(pipeline: Pipeline | EventPipeline, which: str = "channel") -> list[tuple[str, Channel]]:
    """(sink, channel) of every publisher whose messages can be read somewhere. `which`: channel, or event_channel."""
    found = []
    for sink in pipeline.sinks:
        for url in sink.publishers:
            scheme = resolve_publisher(url)
            kind = None if scheme == STORE else class_of(url)
            channel = getattr(kind, which, None)
            if channel is not None:
                found.append((sink.name, channel(delivery_of(url)[0])))
    return found
