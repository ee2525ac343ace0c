"""Who has what: a key's partition, a target's slot, a slot's owner.

* partition(key): jump consistent hash (Lamping and Veach 2014, arXiv:1406.2294) of xxh64 (seed 0, UTF-8).
* slot(target): the same hash into finer slots.
* owners(slots, members): weighted rendezvous hashing (Thaler and Ravishankar 1998; weights as Schindelhauer and Schomaker 2005)
  with bounded load (Mirrokni, Thorup, Zadimoghaddam 2018, arXiv:1608.01350): each agent works it out alone.

Never Python's hash(): it differs from process to process.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

PARTITIONS = 64
SLOTS = 1024


def key_hash(key: str) -> int:
    """xxh64 of the key's UTF-8, seed 0."""
    return xxhash.xxh64_intdigest(key.encode())


def jump(hashed: int, buckets: int) -> int:
    """Jump consistent hash: a 64-bit hash to one of `buckets`; when they grow from n to m, only (m - n)/m of the keys move."""
    if buckets < 1:
        raise ValueError(f"buckets must be at least 1, not {buckets}")
    b, j = -1, 0
    while j < buckets:
        b = j
        hashed = (hashed * 2862933555777941757 + 1) & 0xFFFFFFFFFFFFFFFF
        j = int((b + 1) * (1 << 31) / ((hashed >> 33) + 1))
    return b


def jumps(hashed: npt.NDArray[np.uint64], buckets: int) -> npt.NDArray[np.int64]:
    """As `jump`, of many hashes (n,): a step of all that have not arrived, then the next one."""
    if buckets < 1:
        raise ValueError(f"buckets must be at least 1, not {buckets}")
    found = np.zeros(len(hashed), np.int64)
    going, place = np.arange(len(hashed)), found.copy()
    while len(going):
        found[going] = place
        hashed = hashed * np.uint64(2862933555777941757) + np.uint64(1)
        # Both sides of the division are below 2**53, so it rounds as Python's.
        steps = ((hashed >> np.uint64(33)) + np.uint64(1)).astype(np.float64)
        far = ((place + 1) * (1 << 31)).astype(np.float64) / steps
        within = far < buckets
        going, hashed, place = going[within], hashed[within], far[within].astype(np.int64)
    return found


@lru_cache(maxsize=1 << 18)
def partition(key: str, partitions: int = PARTITIONS) -> int:
    """The partition of a resource. Cached: the same resources come back each period."""
    return jump(key_hash(key), partitions)


def partitions_of(keys: Iterable[str], partitions: int = PARTITIONS) -> list[int]:
    """The partition of each key, in order."""
    return [partition(k, partitions) for k in keys]


def partitions_of_new(keys: Sequence[str], partitions: int = PARTITIONS) -> list[int]:
    """The same of keys that come only once, many at a time: worked out together, and not remembered."""
    numbers: list[int] = jumps(np.fromiter(map(key_hash, keys), np.uint64, len(keys)), partitions).tolist()
    return numbers


@lru_cache(maxsize=1 << 18)
def slot(target: str, slots: int = SLOTS) -> int:
    """The slot of a polled target."""
    return jump(key_hash(target), slots)


def hash_byte(key: str) -> int:
    """The byte that stored keys begin with: independent of the partition count, so that it may grow."""
    return key_hash(key) >> 56


def _draws(members: Sequence[str], slots: int) -> npt.NDArray[np.uint64]:
    """A uniform 64-bit number for each slot (row) and member (column) that only the pair decides: xxh64 of either, mixed.

    The mixing is the finaliser of MurmurHash3 (Appleby 2011, public domain).
    """
    with np.errstate(over="ignore"):
        by_slot = np.array([key_hash(f"slot {s}") for s in range(slots)], np.uint64)
        by_member = np.array([key_hash(m) for m in members], np.uint64)
        x = by_slot[:, None] + by_member[None, :] * np.uint64(0x9E3779B97F4A7C15)
        for multiplier in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
            x ^= x >> np.uint64(33)
            x *= np.uint64(multiplier)
        x ^= x >> np.uint64(33)
    return x


def owners(members: Mapping[str, float] | Iterable[str], slots: int = SLOTS, bound: float = 1.05) -> dict[int, str]:
    """Owner of each slot, given the live members (id to weight, or ids of weight 1).

    A member takes at most ceil(bound * slots * its share of the weight). Each slot goes to the member with the
    highest score that still has room: -w / ln(u) for a uniform u that the pair decides. Slots are served in the order of their
    best score's strength, so the result depends on the set of members only, not on the order in which they are listed.
    No members: nobody owns anything.
    """
    weights = dict(members) if isinstance(members, Mapping) else dict.fromkeys(members, 1.0)
    if any(not w > 0 for w in weights.values()):
        raise ValueError("weights must be above 0")
    if not weights:
        return {}
    if bound < 1:
        raise ValueError(f"bound must be at least 1, not {bound}")
    names = sorted(weights)
    total = math.fsum(weights.values())
    room = [math.ceil(bound * slots * weights[m] / total) for m in names]
    scores: Any = _draws(names, slots)
    if len(set(weights.values())) > 1:
        scores = -np.array([weights[m] for m in names]) / np.log((scores.astype(np.float64) + 0.5) / 2.0**64)
    # Where all weigh the same, the order of the draws is that of the scores, without a logarithm's last digit to differ about.
    ranked = np.argsort(scores, axis=1, kind="stable")[:, ::-1]
    best = np.take_along_axis(scores, ranked[:, :1], axis=1)[:, 0]
    # Strongest claims first: who must give way to a full member is decided by hash, not by slot number.
    order = np.argsort(best, kind="stable")[::-1]
    result: dict[int, str] = {}
    for s, row in zip(order.tolist(), ranked[order].tolist(), strict=True):
        for member in row:
            if room[member]:
                room[member] -= 1
                result[s] = names[member]
                break
    return result
