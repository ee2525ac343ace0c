"""Expiry: what the server's TTL monitor does not delete by itself, in steps; then the numbers that nothing needs any more.

One expiry works at a time: the others wait for its lease.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Final

import numpy as np
from pymongo import UpdateOne
from pymongo.database import Database
from pymongo.errors import DuplicateKeyError

from nephoscope.lifetimes import Lifetimes
from nephoscope.store import Expiry
from sinks.mongodb import fields, layout
from sinks.mongodb.address import Document
from sinks.mongodb.catalogue import Catalogue
from sinks.mongodb.layout import DAY, SLOTS
from sinks.mongodb.numbers import chunks
from sinks.mongodb.scan import Scan

DOCUMENTS_A_STEP: Final = 500
_NUMBERS_A_STEP: Final = 500
_RESOURCES_AT_ONCE: Final = 64
_PAUSE: Final = 2.0
"""How long the writers have the store to themselves after a step, in times of what the step took."""
_LEAST_PAUSE: Final = 0.002
_LEASE: Final = 60.0
"""Seconds after which an expiry that says nothing counts as dead."""
_POLL: Final = 0.1


def expire(
    db: Database[Document], lifetimes: Lifetimes, now: int, progress: Callable[[Expiry], None] | None = None
) -> Expiry:
    """Remove what is older than it may live, whether or not the server would in a while."""
    head = db["about"].find_one({"_id": "head"}) or {}
    plan = layout.plan_of(head)
    due = [lifetimes.before(plan.name(n), now) for n in range(len(plan.names) + 1)]
    done = Expiry()

    def tell(**more: Any) -> None:
        nonlocal done
        done = replace(done, **more)
        if progress:
            progress(done)

    with _lease(db) as renew:
        jobs = [(n, layout.clock(i), b) for i, b in enumerate(due) for n in ("record", "tied")]
        for number, (name, clock, before) in enumerate(jobs):
            # Due is due: the server may take a minute to remove it.
            if before < 0:
                continue
            for samples, share in _remove(db, name, clock, before, renew):
                tell(samples=done.samples + samples, share=max(done.share, (number + share) / (len(jobs) + 2)))
        if lifetimes.events >= 0:
            for events, _ in _remove(db, "event", "t", lifetimes.events_before(now), renew):
                tell(events=done.events + events)
        if max(due) >= 0:
            for resources in _forget(db, max(due), renew):
                tell(resources=done.resources + resources)
    tell(share=1.0)
    return done


def _remove(
    db: Database[Document], name: str, clock: str, before: int, renew: Callable[[], None]
) -> Iterator[tuple[int, float]]:
    """Remove the documents of a class before a time, oldest first; yields (how many samples or events, the share of the work)."""
    # The clock is rounded up: what it says to be due is. What is due within its millisecond, the next line asks for.
    wanted = {clock: {"$lte": layout.moment(before)}}
    begin: int | None = None
    after: Document = {}
    while True:
        turn = time.monotonic()
        some = list(db[name].find({**wanted, **after}).sort(clock, 1).limit(DOCUMENTS_A_STEP))
        if not some:
            return
        last = int(some[-1][clock])
        begin = int(some[0][clock]) if begin is None else begin
        gone = [d for d in some if _time(name, d) < before]
        if gone:
            db[name].delete_many({"_id": {"$in": [d["_id"] for d in gone]}})
        count = (
            sum(fields.count([v for n, v in d.items() if n in SLOTS]) for d in gone) if name == "record" else len(gone)
        )
        share = (last * 1000 - begin * 1000) / max(1, before - begin * 1000)
        yield count, min(1.0, share)
        renew()
        if len(gone) < len(some):
            # What is left of this millisecond is younger.
            rest = [d["_id"] for d in some if _time(name, d) >= before]
            after = {"_id": {"$nin": [*after.get("_id", {}).get("$nin", []), *rest]}}
        time.sleep(max(_LEAST_PAUSE, _PAUSE * (time.monotonic() - turn)))


def _time(name: str, document: Document) -> int:
    if name == "event":
        return int(document["g"])
    key = document["_id" if name == "record" else "k"]
    return int(layout.read([key], parts=name == "record")[1][0])


# -- numbers that nothing needs


def _forget(db: Database[Document], before: int, renew: Callable[[], None]) -> Iterator[int]:
    """Remove states, meters of resources and resources without samples; yields how many resources at a time.

    See sinks.mongodb.write: first what may go is marked, then `swept` counts up, then comes the look; what a writer uses meanwhile loses its mark.
    """
    day = before // DAY
    idle = {"$or": [{"z": {"$lte": day}}, {"z": {"$exists": False}}]}
    for some in chunks(db["state"].find(idle, {"r": 1}), _NUMBERS_A_STEP):
        ids = [d["_id"] for d in some]
        _mark(db, "state", ids)
        alive, _ = _samples_of(db, sorted({d["r"] for d in some}))
        _take(db, "state", [i for i in ids if i not in alive], ids)
        renew()
    after = -1
    while some := list(db["resource"].find({"_id": {"$gt": after}}, {"k": 1}).sort("_id", 1).limit(_NUMBERS_A_STEP)):
        after = some[-1]["_id"]
        told = [d["_id"] for d in some if d.get("k")]
        having = {d["r"] for d in db["state"].find({"r": {"$in": [d["_id"] for d in some]}}, {"r": 1})}
        _forget_series(db, [d for d in some if d["_id"] in having], day)
        ids = [d["_id"] for d in some if d["_id"] not in having]
        if ids:
            _mark(db, "resource", ids)
            # A state may have come since.
            having = {d["r"] for d in db["state"].find({"r": {"$in": ids}}, {"r": 1})}
            dead = [i for i in ids if i not in having]
            yield len(set(_take(db, "resource", dead, ids)) & set(told))
        renew()


def _forget_series(db: Database[Document], resources: Sequence[Document], day: int) -> None:
    """Forget the meters that a resource has no sample of any more."""
    doubtful = {d["_id"]: {int(k): last for k, last in d.get("k", {}).items() if last <= day} for d in resources}
    doubtful = {number: kinds for number, kinds in doubtful.items() if kinds}
    if not doubtful:
        return
    _sweep(db)
    _, alive = _samples_of(db, sorted(doubtful))
    changes = [
        UpdateOne({"_id": number, f"k.{kind}": last}, {"$unset": {f"k.{kind}": 1}})
        for number, kinds in doubtful.items()
        for kind, last in kinds.items()
        if (number, kind) not in alive
    ]
    if changes:
        db["resource"].bulk_write(changes, ordered=False)


def _samples_of(db: Database[Document], resources: Sequence[int]) -> tuple[set[int], set[tuple[int, int]]]:
    """(the states, the (resource, kind)s) that there are samples of."""
    states: set[int] = set()
    series: set[tuple[int, int]] = set()
    for some in chunks(resources, _RESOURCES_AT_ONCE):
        for found in Scan.of_resources(db, Catalogue(db), some).all():
            states.update(np.unique(found.fields.state).tolist())
            pairs = np.unique(found.resource << 24 | found.fields.kind).tolist()
            series.update((p >> 24, p & 0xFFFFFF) for p in pairs)
    return states, series


def _mark(db: Database[Document], name: str, ids: list[int]) -> None:
    db[name].update_many({"_id": {"$in": ids}}, {"$set": {"x": 1}})
    _sweep(db)


def _sweep(db: Database[Document]) -> None:
    db["about"].update_one({"_id": "head"}, {"$inc": {"swept": 1}})


def _take(db: Database[Document], name: str, dead: list[int], marked: list[int]) -> list[int]:
    """Remove what is still marked; returns what is gone. All other marks are taken away."""
    db[name].delete_many({"_id": {"$in": dead}, "x": 1})
    left = {d["_id"] for d in db[name].find({"_id": {"$in": dead}}, {"_id": 1})}
    db[name].update_many({"_id": {"$in": marked}}, {"$unset": {"x": 1}})
    return [i for i in dead if i not in left]


# -- one at a time


@contextmanager
def _lease(db: Database[Document]) -> Iterator[Callable[[], None]]:
    """Wait until no other expiry works. Gives what is to be called now and then, so that nobody takes this one for dead."""
    me = secrets.token_hex(8)

    def take() -> bool:
        free = {"_id": "expiry", "$or": [{"until": {"$lt": time.time()}}, {"owner": me}]}
        try:
            db["about"].update_one(free, {"$set": {"owner": me, "until": time.time() + _LEASE}}, upsert=True)
        except DuplicateKeyError:
            return False
        return True

    def renew() -> None:
        take()

    while not take():
        time.sleep(_POLL)
    try:
        yield renew
    finally:
        db["about"].delete_one({"_id": "expiry", "owner": me})
