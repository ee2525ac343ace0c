"""Which groups an agent belongs to, under which name, and whether they fit together: what the settings say, made into memberships."""

from __future__ import annotations

import dataclasses
import fcntl
import hashlib
import re
import socket
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import IO, cast

import msgspec

from nephoscope import registry, times
from nephoscope.errors import ConfigError, Problem
from nephoscope.matching import MeterFilter
from nephoscope.metrics import Counts
from nephoscope.pipeline import Polling
from nephoscope.redaction import redacted
from nephoscope.settings import Settings
from sources.coordination import NAME, Backend, Status
from sources.coordination.keeper import Keeper
from sources.pollster import Pollster

_OF_A_HOST = {"compute", "ipmi"}
"""Namespaces whose targets only their own host can reach: never shared with other hosts."""
_ORDINALS = 64
_HINT = "set coordination.backend_url, for example redis://HOST:6379"


def host_name() -> str:
    """This host's name, as far as names of members and groups may be so."""
    name = re.sub(r"[^A-Za-z0-9._-]", "-", socket.gethostname()).strip("-._")[:64]
    return name or "host"


def groups_of(settings: Settings, namespaces: Iterable[str]) -> dict[str, str]:
    """The group that shares each namespace's targets; those that are not named are polled by each agent for itself.

    Groups of one `partitioning_group_prefix` are PREFIX:NAMESPACE, and those of a host PREFIX:NAMESPACE@HOST.
    """
    if not settings.coordination.backend_url.get_secret_value():
        return {}
    prefix = settings.polling.partitioning_group_prefix
    out = {}
    for namespace in sorted(namespaces):
        if namespace not in _OF_A_HOST:
            name = namespace
        elif namespace == "compute" and settings.compute.workload_partitioning:
            name = f"{namespace}@{host_name()}"
        else:
            continue
        out[namespace] = f"{prefix}:{name}" if prefix else name
    return out


class Name:
    """The name of an agent as a member: `coordination.member`, else the host's, with a number where several agents share a state folder.

    The number is the lowest that no living process has, so that a restart gets its old name back, and with it its slots.
    """

    def __init__(self, settings: Settings) -> None:
        self.ordinal = 1
        self.text = settings.coordination.member
        self._lock: IO[str] | None = None
        if self.text:
            return
        for number in range(1, _ORDINALS):
            # Kept open, and so locked, for as long as the process lives.
            lock = (settings.state_dir / f"agent-{number}.lock").open("w")
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                lock.close()
                continue
            self._lock, self.ordinal = lock, number
            break
        self.text = host_name() + (f"-{self.ordinal}" if self.ordinal > 1 else "")

    def file(self, folder: Path, what: str = "agent", kind: str = "json") -> Path:
        """Where this agent keeps its progress, or its spool."""
        return folder / (f"{what}-{self.ordinal}.{kind}" if self.ordinal > 1 else f"{what}.{kind}")

    def close(self) -> None:
        """Let another process have it."""
        if self._lock is not None:
            self._lock.close()


def backend_of(settings: Settings, group: str, member: str) -> Backend:
    """The back end of a group. Connects to nothing. Raises ConfigError, MissingExtra."""
    url = settings.coordination.backend_url.get_secret_value()
    if "://" not in url:
        raise ConfigError([Problem("is no URL", field="coordination.backend_url", hint=_HINT)])
    try:
        kind = registry.load_for(registry.COORDINATION, url)
    except ConfigError as error:
        named = [dataclasses.replace(p, field="coordination.backend_url") for p in error.problems]
        raise ConfigError(named) from None
    return cast("Backend", kind(url, group, member, settings.coordination.lease))


def keepers_of(settings: Settings, namespaces: Iterable[str], member: str) -> dict[str, Keeper]:
    """A keeper for each namespace that is shared; none is started. Raises ConfigError, MissingExtra."""
    c = settings.coordination
    return {
        namespace: Keeper(
            group,
            member,
            backend_of(settings, group, member),
            heartbeat=min(c.heartbeat, c.check_watchers),
            counts=Counts("group_" + re.sub(r"[^a-z0-9_]", "_", namespace.lower())),
        )
        for namespace, group in groups_of(settings, namespaces).items()
    }


class Definition(msgspec.Struct, frozen=True):
    """What an agent polls for a namespace: a digest, the same for all whose polling is, and the meters."""

    digest: str
    meters: tuple[str, ...]

    def status(self, **more: int) -> Status:
        """What the members are told, with the figures of the moment."""
        return Status(host=host_name(), since=_BEGAN, definition=self.digest, meters=self.meters, **more)


_BEGAN = times.now()


def definition_of(polling: Polling, pollsters: Collection[Pollster], namespace: str) -> Definition:
    """What is polled for a namespace. The digest is of what may be shown: it goes to the back end, and no secret into it."""
    of_it = sorted((p for p in pollsters if p.namespace == namespace), key=lambda p: p.name)
    filters = [MeterFilter(s.meters) for s in polling.sources]
    meters = sorted({m.name for p in of_it for m in p.meters if any(f.matches(m.name) for f in filters)})
    sources = [
        (s.name, s.interval, s.meters, [*map(redacted, s.resources)], [*map(redacted, s.discovery)])
        for s in polling.sources
    ]
    said = msgspec.json.encode([sorted(sources), [p.name for p in of_it]])
    return Definition(hashlib.blake2b(said, digest_size=8).hexdigest(), tuple(meters))


def problems_of(settings: Settings, polling: Polling) -> tuple[list[Problem], list[Problem]]:
    """What does not fit together in the settings: (problems, warnings). Asks nobody."""
    c, p = settings.coordination, settings.polling
    if not c.backend_url.get_secret_value():
        alone = settings.compute.workload_partitioning
        problem = Problem("needs a back end to find the others", field="compute.workload_partitioning", hint=_HINT)
        return [problem] if alone else [], []
    try:
        lease = backend_of(settings, "check", "check").lease
    except ConfigError as error:
        return list(error.problems), []
    problems, warnings = [], []
    beat = min(c.heartbeat, c.check_watchers)
    if lease < 2 * beat:
        problems.append(
            Problem(
                f"the lease of {lease:g} s must be at least twice the heartbeat of {beat:g} s: members would come and go",
                field="coordination.heartbeat",
                hint="raise coordination.lease, or membership_timeout (timeout) in the back end's URL",
            )
        )
    for source in polling.sources:
        jitter = min(p.spread * source.interval, p.max_jitter)
        catch_up = beat + jitter + min(p.timeout, source.interval)
        if settings.lateness < lease + catch_up:
            problems.append(
                Problem(
                    f"{settings.lateness:g} s is less than what a period of {source.name} needs where its agent dies: "
                    f"the lease ({lease:g} s) and to catch up ({catch_up:g} s: heartbeat, jitter and time-out of polls)",
                    field="lateness",
                    hint=f"at least {lease + catch_up:g}, or lower the lease or polling.timeout",
                )
            )
        if source.interval < 2 * lease:
            warnings.append(
                Problem(
                    f"the interval of {source.interval} s is shorter than twice the lease of {lease:g} s: "
                    "a period may be missed (and is counted) when an agent dies",
                    polling.file,
                    source.line,
                    f"sources.{source.name}.interval",
                )
            )
    return problems, warnings


def problems_there(
    settings: Settings, polling: Polling, pollsters: Collection[Pollster]
) -> tuple[list[Problem], list[Problem]]:
    """What does not fit to those who are there: (problems, warnings). Asks the back end; raises Unreachable."""
    problems: list[Problem] = []
    warnings: list[Problem] = []
    ours = groups_of(settings, {p.namespace for p in pollsters})
    definitions = {g: definition_of(polling, pollsters, namespace) for namespace, g in ours.items()}
    ask = backend_of(settings, next(iter(ours.values()), "check"), "check")
    try:
        found = ask.groups()
    finally:
        ask.close()
    for group in found:
        if not re.match(NAME, group):
            continue
        ask = backend_of(settings, group, "check")
        try:
            _, statuses = ask.members()
        finally:
            ask.close()
        there = {m: Status.decode(s) for m, s in statuses.items()}
        mine = definitions.get(group)
        if mine is not None:
            others = [m for m, s in there.items() if s.definition not in {"", mine.digest}]
            if others:
                warnings.append(
                    Problem(
                        f"{', '.join(sorted(others))} in the group {group} poll by another definition: what only some know of is "
                        "not polled where others own it",
                        field="polling.partitioning_group_prefix",
                        hint="restart them on this one, or give them a prefix of their own",
                    )
                )
        else:
            _overlaps(group, there, definitions, problems, warnings)
    for group, mine in definitions.items():
        rest = {g: {"": Status(meters=d.meters)} for g, d in definitions.items() if g < group}
        for other, there in rest.items():
            _overlaps(other, there, {group: mine}, problems, warnings)
    return problems, warnings


def _overlaps(
    group: str,
    there: Mapping[str, Status],
    definitions: Mapping[str, Definition],
    problems: list[Problem],
    warnings: list[Problem],
) -> None:
    """Meters that another group polls as well: two groups share nothing, so each would poll them."""
    prefix, _, kind = group.rpartition(":")
    for ours, mine in definitions.items():
        our_prefix, _, our_kind = ours.rpartition(":")
        if "@" in kind or "@" in our_kind:
            continue  # A host's agents poll what it has itself, and only they do.
        both = sorted(set(mine.meters) & {m for s in there.values() for m in s.meters})
        if not both:
            continue
        named = ", ".join(both[:5]) + (f" and {len(both) - 5} more" if len(both) > 5 else "")
        problem = Problem(
            f"the groups {ours} and {group} both poll {named}: what both find is polled twice",
            field="polling.partitioning_group_prefix",
            hint="meters of groups that share a prefix must differ"
            if prefix == our_prefix
            else "right only where their targets differ",
        )
        (problems if prefix == our_prefix else warnings).append(problem)
