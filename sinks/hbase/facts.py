"""What is kept once: kinds, rosters of resources, rosters of samples, and what samples said of a resource.

A fact is found by a digest of its content, so whoever writes it writes the same, and a copy in memory is never out of date::

    'r'  a list of resource ids                    msgpack
    's'  a list of samples of these resources      digest of an 'r', then the digest of a 't' each
    't'  what a sample says of its resource        msgpack of user, project, metadata

Writers write a fact again when they have not for an hour (REFRESH), so one that is in use is never older, and old ones may go.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt

from nephoscope.errors import StoreError, Unavailable
from nephoscope.natural import Kind
from sinks.hbase import layout
from sinks.hbase.layout import FACT, LASTING, VALUE, digest
from sinks.hbase.link import Link

I64 = npt.NDArray[np.int64]

REFRESH: Final = 3600.0
_MANY_BYTES: Final = 64_000_000

_encode = msgspec.msgpack.Encoder().encode
_words = msgspec.msgpack.Decoder(list[str]).decode


def kind_value(kind: Kind) -> bytes:
    """A kind as a fact's value."""
    return _encode(list(kind))


def resources_fact(names: Sequence[str]) -> tuple[bytes, bytes]:
    """(digest, value) of a list of resources."""
    raw = _encode(list(names))
    return digest(b"r", raw), raw


def roster_fact(resources: bytes, said: Sequence[bytes]) -> tuple[bytes, bytes]:
    """(digest, value) of a list of samples of a list of resources."""
    raw = resources + b"".join(said)
    return digest(b"s", raw), raw


def said_fact(user: str, project: str, metadata: str) -> tuple[bytes, bytes]:
    """(digest, value) of what a sample says."""
    raw = _encode([user, project, metadata])
    return digest(b"t", raw), raw


class Cache:
    """Values of facts, as far as they fit; shared by all questions of a store. Safe for several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._values: dict[bytes, bytes] = {}
        self._bytes = 0
        self._kinds: dict[bytes, Kind] = {}

    def values(self, link: Link, digests: Iterable[bytes]) -> dict[bytes, bytes]:
        """The values of facts. Unavailable where one is missing: its writer has not come so far, or the table is damaged."""
        wanted = set(digests)
        with self._lock:
            out = {d: self._values[d] for d in wanted if d in self._values}
        missing = sorted(wanted - out.keys())
        if missing:
            fresh = {row[1:]: cells[VALUE][0] for row, cells in link.rows(FACT, [b"f" + d for d in missing], [VALUE])}
            absent = wanted - out.keys() - fresh.keys()
            if absent:
                raise Unavailable(f"{len(absent)} facts are missing in {link.table(FACT).decode()}")
            out |= fresh
            with self._lock:
                if self._bytes > _MANY_BYTES:
                    self._values.clear()
                    self._bytes = 0
                self._values |= fresh
                self._bytes += sum(map(len, fresh.values())) + 100 * len(fresh)
        return out

    def kinds(self, link: Link, wanted: Iterable[bytes]) -> dict[bytes, Kind]:
        """Kinds by their keys, at least these. Kinds never go, and never change."""
        missing = set(wanted) - self._kinds.keys()
        if len(missing) > 64:
            found = [(row, cells) for row, cells in link.scan(FACT, b"k", b"l", columns=[LASTING], at_once=2048)]
        else:
            found = list(link.rows(FACT, [b"k" + key for key in sorted(missing)], [LASTING])) if missing else []
        fresh = {row[1:]: Kind(*_words(cells[LASTING][0])) for row, cells in found}
        if missing - fresh.keys():
            raise StoreError(f"a kind is missing in {link.table(FACT).decode()}")
        if fresh:
            with self._lock:
                self._kinds = self._kinds | fresh
        return self._kinds


@dataclass(frozen=True, slots=True)
class Roster:
    """The numbers of the resources, and of what was said of each, in a Catalogue."""

    resources: I64
    said: I64


class Catalogue:
    """Numbers for kinds, resources and what was said of them, for the time of one question."""

    def __init__(self, link: Link, cache: Cache, buckets: int, families: Sequence[bytes]) -> None:
        self.link, self.cache, self.buckets, self.families = link, cache, buckets, families
        self.kinds: list[Kind] = []
        self.identities: list[bytes] = []
        self._kind_numbers: dict[bytes, int] = {}
        self.names: list[str] = []
        self._name_numbers: dict[str, int] = {}
        self.said: list[tuple[str, str, str]] = []
        self._said_numbers: dict[bytes, int] = {}
        self._rosters: dict[bytes, Roster] = {}
        self._lists: dict[bytes, I64] = {}

    def kind_numbers(self, keys: Sequence[bytes]) -> list[int]:
        """The numbers of kinds, by their keys."""
        missing = [k for k in dict.fromkeys(keys) if k not in self._kind_numbers]
        if missing:
            known = self.cache.kinds(self.link, missing)
            for key in missing:
                self._kind_numbers[key] = len(self.kinds)
                self.kinds.append(known[key])
                self.identities.append(layout.identity_key(known[key].identity))
        return [self._kind_numbers[k] for k in keys]

    def lists(self, digests: Iterable[bytes]) -> dict[bytes, I64]:
        """The resources' numbers of lists of resources."""
        missing = [d for d in dict.fromkeys(digests) if d not in self._lists]
        for one, raw in self.cache.values(self.link, missing).items():
            self._lists[one] = np.array([self.name_number(n) for n in _words(raw)], np.int64)
        return self._lists

    def rosters(self, digests: Iterable[bytes]) -> dict[bytes, Roster]:
        """Rosters by their digests; at least these are in it."""
        missing = [d for d in dict.fromkeys(digests) if d not in self._rosters]
        if missing:
            raws = self.cache.values(self.link, missing)
            lists = self.lists(raw[:16] for raw in raws.values())
            told = {raw[i : i + 16] for raw in raws.values() for i in range(16, len(raw), 16)}
            for one, raw in self.cache.values(self.link, told - self._said_numbers.keys()).items():
                self._said_numbers[one] = len(self.said)
                user, project, metadata = _words(raw)
                self.said.append((user, project, metadata))
            for one in missing:
                raw = raws[one]
                said = [self._said_numbers[raw[i : i + 16]] for i in range(16, len(raw), 16)]
                self._rosters[one] = Roster(lists[raw[:16]], np.array(said, np.int64))
        return self._rosters

    def name_number(self, name: str) -> int:
        """The number of a resource."""
        number = self._name_numbers.get(name)
        if number is None:
            number = self._name_numbers[name] = len(self.names)
            self.names.append(name)
        return number

    def bucket_of(self, number: int) -> int:
        """The bucket of a resource."""
        return layout.bucket_of(self.names[number], self.buckets)


__all__ = ["REFRESH", "Cache", "Catalogue", "Roster", "kind_value", "resources_fact", "roster_fact", "said_fact"]
