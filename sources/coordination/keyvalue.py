"""A group in a store of keys and values that can compare and swap: what Redis and memcached have in common.

One document holds the generation and the members, each with the *incarnation* (process) that has the name. A member's *beat* is a key of its own, that
each heartbeat changes. Whoever sees a beat unchanged over a whole lease, by his own clock, takes that member out of the document: so no
clock is compared with another, and the server's need not even go. Marks are a key a member.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Protocol

import msgspec

from sources.coordination import Gone, Mark, Replaced, Unreachable, View, latest
from sources.coordination.documents import decode_marks, encode_marks
from sources.coordination.keeper import boot_clock

_ROOT = "nephoscope"
_TRIES = 10
_PAST = 500
"""Members that were, whose marks are still looked for."""
_MARKS_KEPT = 7 * 86400.0


class Store(Protocol):
    """Keys and values. Every method raises Unreachable, whatever its client raises."""

    def get(self, keys: Collection[str]) -> dict[str, bytes]:
        """The values of those keys that there are."""
        ...

    def put(self, key: str, value: bytes, seconds: float) -> None:
        """Write, to be forgotten after so long at the earliest."""
        ...

    def swap(self, key: str, old: bytes | None, new: bytes) -> bool:
        """Write for good if the value is `old` (None: if there is none), in one step; whether it was."""
        ...

    def drop(self, key: str) -> None:
        """Remove."""
        ...

    def close(self) -> None:
        """Give back what it holds."""
        ...


class _Group(msgspec.Struct, frozen=True):
    """`members`: name to incarnation; `past`: members that were, the latest last."""

    version: int = 1
    generation: int = 0
    members: dict[str, str] = {}
    past: list[str] = []

    def changed(self, least: int = 0, **more: object) -> bytes:
        """The next generation of it."""
        group = msgspec.structs.replace(self, generation=max(self.generation + 1, least), **more)
        return _encoder.encode(group)

    @property
    def view(self) -> View:
        return View(self.generation, tuple(sorted(self.members)))


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(_Group)
_names = msgspec.json.Decoder(list[str])


class KeyValueBackend:
    """A Backend over a Store.

    Args:
        store: the store.
        group: the group's name.
        member: ours.
        lease: seconds.
        clock: seconds, monotonic.
        incarnation: what tells this process from another of its name.

    """

    def __init__(
        self,
        store: Store,
        group: str,
        member: str,
        lease: float,
        *,
        clock: Callable[[], float] = boot_clock,
        incarnation: str = "",
    ) -> None:
        self.lease = lease
        self.changed: Callable[[], None] = lambda: None
        self._store = store
        self._name = group
        self._member = member
        self._clock = clock
        self._incarnation = incarnation or secrets.token_hex(8)
        self._beats = 0
        self._told: tuple[bytes, float] | None = None
        self._seen: dict[str, tuple[bytes, float]] = {}

    def join(self, status: bytes, *, least: int = 0, take: bool = True) -> View:
        """As Backend says."""
        with self._outage():
            key = self._key("group")
            self._told = None
            began = self._clock()
            for _ in range(_TRIES):
                raw, group = self._read(began)
                holder = group.members.get(self._member, self._incarnation)
                if holder != self._incarnation and not take and not self._ended(self._member, holder):
                    raise Replaced(f"another process is a member under the name {self._member!r}")
                self._beat(status)
                past = [*(p for p in group.past if p != self._member), self._member][-_PAST:]
                members = {**group.members, self._member: self._incarnation}
                new = group.changed(least, members=members, past=past)
                if self._store.swap(key, raw, new):
                    self._list()
                    return _decoder.decode(new).view
        raise Unreachable(f"the group changed {_TRIES} times while we joined it")

    def heartbeat(self, status: bytes) -> View:
        """As Backend says."""
        with self._outage():
            began = self._clock()
            self._beat(status)
            # Read before the beats: whoever joins in between is not taken for one without a beat.
            raw, group = self._read(began)
            if raw is None:
                raise Gone("the group is not there any more: the back end has lost its data")
            holder = group.members.get(self._member)
            if holder is None:
                raise Gone("the group does not have us: not heard of for a whole lease, or its data were lost")
            if holder != self._incarnation:
                raise Replaced(f"another process has joined under our name {self._member!r}")
            dead = self._dead(group)
            if dead:
                members = {m: i for m, i in group.members.items() if m not in dead}
                new = group.changed(members=members)
                if self._store.swap(self._key("group"), raw, new):
                    group = _decoder.decode(new)
            now = self._clock()
            others = [since for beat, since in self._seen.values()]
            look_in = min(others, default=float("inf")) + self.lease - now
            return group.view._replace(look_in=max(0.05, look_in))

    def leave(self) -> None:
        """As Backend says."""
        with contextlib.suppress(Unreachable):
            for _ in range(_TRIES):
                raw, group = self._read(self._clock())
                if raw is None or group.members.get(self._member) != self._incarnation:
                    return
                members = {m: i for m, i in group.members.items() if m != self._member}
                if self._store.swap(self._key("group"), raw, group.changed(members=members)):
                    for key in (self._beat_key(self._member, self._incarnation), self._key("status", self._member)):
                        self._store.drop(key)
                    return

    def members(self) -> tuple[View, dict[str, bytes]]:
        """As Backend says."""
        _, group = self._read(self._clock())
        found = self._store.get([self._key("status", m) for m in group.members])
        return group.view, {m: found.get(self._key("status", m), b"") for m in group.members}

    def marks(self) -> dict[int, Mark]:
        """As Backend says."""
        _, group = self._read(self._clock())
        names = dict.fromkeys([*group.past, *group.members])
        found = self._store.get([self._key("marks", m) for m in names])
        return latest(decode_marks(d) for d in found.values())

    def mark(self, marks: Mapping[int, Mark]) -> None:
        """As Backend says."""
        with self._outage():
            self._store.put(self._key("marks", self._member), encode_marks(marks), _MARKS_KEPT)

    def groups(self) -> list[str]:
        """As Backend says."""
        return self._names()[1]

    def close(self) -> None:
        """As Backend says."""
        self._store.close()

    def _key(self, *parts: str) -> str:
        return "/".join((_ROOT, self._name, *parts))

    def _beat_key(self, member: str, incarnation: str) -> str:
        return self._key("beat", member, incarnation)

    @contextlib.contextmanager
    def _outage(self) -> Iterator[None]:
        try:
            yield
        except Unreachable:
            # Nor may others have reached it. Whose beat stood still meanwhile gets a whole lease from now on.
            self._seen.clear()
            self._told = None
            raise

    def _read(self, began: float) -> tuple[bytes | None, _Group]:
        """The group's document, as it is and decoded."""
        if self._clock() - began > self.lease / 3:
            raise Unreachable("the back end is too slow for the lease")
        raw = self._store.get([self._key("group")]).get(self._key("group"))
        if raw is None:
            return None, _Group()
        try:
            group = _decoder.decode(raw)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            raise Unreachable(f"the key {self._key('group')} holds something that is not ours") from None
        return raw, group

    def _beat(self, status: bytes) -> None:
        self._beats += 1
        # Of no use once all have seen it stand still; kept longer, so that an outage of the server is not taken for a death.
        seconds = 60 + 10 * self.lease
        self._store.put(self._beat_key(self._member, self._incarnation), b"%d" % self._beats, seconds)
        # All members read all beats, so what is long, and seldom asked for, is a key by itself.
        now = self._clock()
        if self._told is None or self._told[0] != status or now - self._told[1] > seconds / 4:
            self._store.put(self._key("status", self._member), status, seconds)
            self._told = status, now

    def _dead(self, group: _Group) -> set[str]:
        """The members whose beat has not changed for a whole lease, or is not there."""
        others = {m: self._beat_key(m, i) for m, i in group.members.items() if m != self._member}
        asked = self._clock()
        beats = self._store.get(others.values()) if others else {}
        now = self._clock()
        self._seen = {k: self._seen[k] for k in others.values() if k in self._seen}
        return {m for m, k in others.items() if self._stands_still(k, beats.get(k), asked, now)}

    def _ended(self, member: str, incarnation: str) -> bool:
        """Whether the lease of a process of our own name has ended, as far as we have seen."""
        key = self._beat_key(member, incarnation)
        asked = self._clock()
        return self._stands_still(key, self._store.get([key]).get(key), asked, self._clock())

    def _stands_still(self, key: str, beat: bytes | None, asked: float, now: float) -> bool:
        if beat is None:
            return True
        seen = self._seen.get(key)
        if seen is None or seen[0] != beat:
            self._seen[key] = beat, now
            return False
        return asked - seen[1] >= self.lease

    def _names(self) -> tuple[bytes | None, list[str]]:
        key = f"{_ROOT}/groups"
        raw = self._store.get([key]).get(key)
        try:
            return raw, [] if raw is None else _names.decode(raw)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            raise Unreachable(f"the key {key} holds something that is not ours") from None

    def _list(self) -> None:
        """See that the group is among `groups`."""
        for _ in range(_TRIES):
            raw, names = self._names()
            if self._name in names:
                return
            if self._store.swap(f"{_ROOT}/groups", raw, _encoder.encode(sorted([*names, self._name]))):
                return
