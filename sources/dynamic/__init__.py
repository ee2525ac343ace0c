"""Meters of one's own from any API that answers in JSON, XML or text, by definitions in YAML with Ceilometer's keys (docs/pollsters.md).

A pollster stands for one request, and for all definitions that read its answer; its target is the URL, or for an `endpoint_type` each region of the
cloud.

Guarantee: sends GET requests only, and its credentials to the host of its URL alone. What an answer lacks gives no sample and is counted; an entry that is
there on two pages is one sample in effect, one that comes or goes while they are read may be in it or not.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from operator import eq
from pathlib import Path

from nephoscope.errors import NephoscopeError, Problem
from nephoscope.settings import Settings
from sources.dynamic.cloud import REGIONS, opener
from sources.dynamic.definitions import load_definitions
from sources.dynamic.entries import meter_of
from sources.dynamic.model import DEFAULT_NAMESPACE, Definition, Request
from sources.dynamic.poll import Poll, open_web
from sources.openstack import is_region, target_of
from sources.openstack.cloud import Cloud
from sources.pollster import Pollster, System

_GRACE = 5.0
"""Seconds after which the agent gives up on a poll that did not end by itself."""
DISCOVERY = "dynamic"


def dynamic(settings: Settings) -> System:
    """The pollsters of the folders that the settings name. ConfigError with every problem of their files."""
    definitions = load_definitions(files_of(settings.pollsters_definitions_dirs))
    cloud = Cloud(settings.openstack)
    pollsters = [_pollster(*group, cloud) for group in _groups(definitions)]
    polls = {p.name: p.poll for p in pollsters if isinstance(p.poll, Poll)}

    def find(name: str) -> list[str]:
        """The URL of a pollster."""
        return [polls[name].place] if name in polls else []

    return System(tuple(pollsters), {DISCOVERY: find}, partial(_check, polls, cloud), cloud.close)


def files_of(folders: Iterable[Path]) -> list[Path]:
    """The files of definitions in some folders, in the order of folders and names."""
    return [file for folder in folders for file in sorted([*folder.glob("*.yaml"), *folder.glob("*.yml")])]


def _groups(definitions: Sequence[Definition]) -> Iterator[tuple[str, str, list[Definition]]]:
    """(name, namespace, definitions) of each pollster: the definitions that share a request."""
    groups: dict[tuple[str, Request], list[Definition]] = {}
    for definition in definitions:
        for namespace in definition.namespaces:
            groups.setdefault((namespace, definition.request), []).append(definition)
    for (namespace, _), group in groups.items():
        # By its first meter, so that its targets keep their agents when other files come or go.
        name = "dynamic." + min(d.name for d in group).removeprefix("dynamic.")
        yield name if namespace == DEFAULT_NAMESPACE else f"{name}@{namespace}", namespace, group


def _pollster(name: str, namespace: str, definitions: Sequence[Definition], cloud: Cloud) -> Pollster:
    in_cloud = bool(definitions[0].request.endpoint_type)
    poll = Poll(definitions, opener(cloud) if in_cloud else open_web)
    return Pollster(
        name,
        tuple(meter_of(d) for d in definitions),
        poll,
        discovery=REGIONS if in_cloud else f"{DISCOVERY}://{name}",
        takes=is_region if in_cloud else partial(eq, poll.place),
        timeout=poll.seconds + _GRACE,
        namespace=namespace,
    )


def _check(polls: Mapping[str, Poll], cloud: Cloud, meters: Collection[str]) -> Iterator[Problem]:
    """Ask for the first page of each answer that is wanted."""
    for poll in polls.values():
        wanted = [d for d in poll.definitions if d.name in meters]
        if not wanted:
            continue
        try:
            places = [target_of(r) for r in cloud.regions()] if poll.request.endpoint_type else [poll.place]
            for place in places:
                poll.try_out(place)
        except NephoscopeError as error:
            yield Problem(str(error), wanted[0].file, wanted[0].line, wanted[0].name)
