"""More partitions for a drained system: the topics grow, and what the flow remembers moves with its resources.

The steps, each of which may be repeated: a mark beside the recovery store, which keeps every flow from starting; the new store, at one side; the
topics; the new store takes the place of the old one, which is kept as `recovery-N`; the mark goes.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flows import engine_store
from flows.pipeline import plan_of
from flows.plan import Plan
from flows.recovery import grown_to, hold, mark_of
from flows.resharding import reshard
from flows.snapshot import restore, take
from nephoscope import publishers, registry
from nephoscope.errors import NephoscopeError
from nephoscope.pipeline import STORE, resolve_publisher
from nephoscope.settings import Settings
from nephoscope.topics import SAMPLES, Log

Tell = Callable[[str, int, int], None]
"""Told of what is done: a word, how much of it, of how much."""


def repartition(settings: Settings, to: int, tell: Tell = lambda *_: None) -> None:
    """Grow the partition count of a log and its flow, while neither a flow nor an agent runs.

    NephoscopeError, with the reason, where it cannot be done now: then nothing has changed. After a crash, call it again.
    """
    folder = settings.recovery_dir
    mark = mark_of(folder)
    new, kept = folder.with_name(f"{folder.name}-new"), folder.with_name(f"{folder.name}-{settings.partitions}")
    before = settings.partitions
    if mark.exists():
        known = json.loads(mark.read_text())
        if (known["from"], known["to"]) != (before, to):
            raise NephoscopeError(
                f"a growth from {known['from']} to {known['to']} partitions was begun and not finished: repeat that one first"
            )
    if to <= before:
        raise NephoscopeError(f"there are {before} partitions; the count can only grow, not become {to}")
    swapped = mark.exists() and kept.exists()
    if not swapped:
        if kept.exists():
            raise NephoscopeError(f"{kept} is in the way: it is what an earlier growth has kept; move it elsewhere")
        hold(folder, f"repartition {os.getpid()}", 0)
        with _opened(settings, to) as log:
            if not _complete(new, log, before):
                _build(settings, plan_of(settings), log, new, to, tell)
            tell("topics", 0, 1)
            log.grow(to)
            tell("topics", 1, 1)
        folder.rename(kept)
    if new.exists():
        new.rename(folder)
    mark.unlink()


def _build(settings: Settings, plan: Plan, log: Log, new: Path, to: int, tell: Tell) -> None:
    """The new store, at one side. What it was made from is noted last: without the note it is made again."""
    folder, before = settings.recovery_dir, settings.partitions
    urls = sorted(
        {u for s in plan.sinks for u in s.publishers if resolve_publisher(u) != STORE and publishers.is_positioned(u)}
    )
    stored = engine_store.Stored()
    if any(folder.glob("part-*.sqlite3")):
        stored = engine_store.read(folder, before, urls, folder.with_name(f"{folder.name}-copy"))
    ends = log.end(SAMPLES)[:before]
    _see_drained(ends, log.begin(SAMPLES)[:before], stored)
    mark = mark_of(folder)
    mark.write_text(json.dumps({"from": before, "to": to}))
    shutil.rmtree(new, ignore_errors=True)
    states = {}
    for number, (partition, snapshot) in enumerate(sorted(stored.states.items())):
        states[partition] = restore(plan, snapshot)
        tell("read", number + 1, len(stored.states))
    try:
        dealt = reshard(plan, states, to)
    except NephoscopeError:
        mark.unlink()
        raise
    stored.states = {partition: take(plan, state) for partition, state in dealt.items()}
    written = iter(range(1, to + 1))
    engine_store.write(new, to, stored, lambda: tell("write", next(written, to), to))
    for file in folder.glob("began-*"):
        # Where the output of publishers that keep their place began.
        shutil.copy2(file, new)
    grown_to(new, to)
    if log.end(SAMPLES)[:before] != ends:
        shutil.rmtree(new)
        mark.unlink()
        raise NephoscopeError(
            "somebody has appended to the log meanwhile: stop the agents and all who push samples first"
        )
    (new / "ends.json").write_text(json.dumps(ends))


def _complete(new: Path, log: Log, before: int) -> bool:
    """Whether a new store was finished, and the old partitions are as they were then."""
    try:
        ends: list[int] = json.loads((new / "ends.json").read_text())
    except (OSError, ValueError):
        return False
    return log.end(SAMPLES)[:before] == ends


def _see_drained(ends: list[int], begins: list[int], stored: engine_store.Stored) -> None:
    behind = {p: end - stored.offsets.get(p, begins[p]) for p, end in enumerate(ends)}
    behind = {p: n for p, n in behind.items() if n > 0}
    if behind:
        most = max(behind, key=lambda p: behind[p])
        raise NephoscopeError(
            f"{sum(behind.values())} messages are not computed yet, {behind[most]} of them in partition {most}: stop the agents and all who push"
            " samples, let the flow run until nephoscope_flow_lag_messages is 0, and stop it"
        )


@contextmanager
def _opened(settings: Settings, to: int) -> Iterator[Any]:
    log = registry.load_for(registry.LOG, settings.log.url)(settings, also=to)
    try:
        yield log
    finally:
        log.close()
