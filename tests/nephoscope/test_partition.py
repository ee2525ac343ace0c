"""Who has what: fixed for ever by vectors, even, and hardly moved by who comes and goes."""

import math
import random
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest

from nephoscope.partition import (
    PARTITIONS,
    SLOTS,
    hash_byte,
    jump,
    jumps,
    key_hash,
    owners,
    partition,
    partitions_of,
    partitions_of_new,
    slot,
)

KEYS = [f"instance-{i:08x}" for i in range(4000)]


@pytest.mark.parametrize(
    "text,hashed",
    # As xxHash's own documentation and the libraries of other languages give them.
    [
        ("", 0xEF46DB3751D8E999),
        ("a", 0xD24EC4F1A98C6E5B),
        ("abc", 0x44BC2CF5AD770999),
        ("Nobody inspects the spammish repetition", 0xFBCEA83C8A378BF1),
    ],
)
def test_the_hash_is_xxh64_with_seed_0(text, hashed):
    assert key_hash(text) == hashed


@pytest.mark.parametrize(
    "key,buckets,bucket",
    # From the tests of other implementations of the paper.
    [(1, 1, 0), (42, 57, 43), (0xDEAD10CC, 1, 0), (0xDEAD10CC, 666, 361), (256, 1024, 520)],
)
def test_jump_agrees_with_other_implementations(key, buckets, bucket):
    assert jump(key, buckets) == bucket


def papers_jump(key, buckets):
    """The code of arXiv:1406.2294, figure 1, line by line, in floating point as there."""
    b, j = -1, 0
    while j < buckets:
        b = j
        key = (key * 2862933555777941757 + 1) % 2**64
        j = int(float(b + 1) * (float(1 << 31) / float((key >> 33) + 1)))
    return b


@pytest.mark.parametrize("buckets", [1, 2, 3, 64, 100, 1024, 65536])
def test_jump_agrees_with_the_papers_code(buckets):
    some = random.Random(buckets)
    keys = [0, 1, 2**63, 2**64 - 1, *(some.getrandbits(64) for _ in range(1500))]

    assert [jump(k, buckets) for k in keys] == [papers_jump(k, buckets) for k in keys]
    assert jumps(np.array(keys, np.uint64), buckets).tolist() == [papers_jump(k, buckets) for k in keys]


@pytest.mark.parametrize("partitions", [1, 7, 64, 65536])
def test_keys_that_come_once_have_the_partitions_of_all_others(partitions):
    assert partitions_of_new(KEYS, partitions) == partitions_of(KEYS, partitions)
    assert partitions_of_new([], partitions) == []


@pytest.mark.parametrize("buckets", [0, -1])
def test_there_is_no_bucket_of_none(buckets):
    with pytest.raises(ValueError, match="at least 1"):
        jump(7, buckets)
    with pytest.raises(ValueError, match="at least 1"):
        jumps(np.array([7], np.uint64), buckets)


VECTORS = [
    # key, partition of 64, partition of 256, slot, hash byte. A change here moves everybody's data: never change them.
    ("", 40, 40, 332, 239),
    ("r", 45, 249, 772, 65),
    ("r1", 47, 47, 866, 97),
    ("instance-00000001", 39, 234, 810, 223),
    ("66ab5b0d-4a2f-4c3b-8b1e-1f7f0a2b9c3d", 39, 39, 39, 235),
    ("bd9431c1-8d69-4ad3-803a-8d4a6b89fd36-vda", 18, 74, 74, 114),
    ("host.example.com", 10, 122, 825, 150),
    ("192.0.2.17", 44, 136, 136, 6),
    ("/dev/sda", 55, 55, 55, 0),
    ("caf\u00e9", 60, 151, 877, 154),
    ("\u65e5\u672c", 30, 209, 510, 128),
    ("x" * 1000, 35, 178, 178, 76),
]


@pytest.mark.parametrize("key,of_64,of_256,of_slots,byte", VECTORS, ids=lambda v: str(v)[:20])
def test_fixed_vectors(key, of_64, of_256, of_slots, byte):
    assert (partition(key), partition(key, 256), slot(key), hash_byte(key)) == (of_64, of_256, of_slots, byte)


def test_the_defaults_are_those_that_the_vectors_were_made_with():
    assert (PARTITIONS, SLOTS) == (64, 1024)
    assert partitions_of(["r", "", "r"]) == [45, 40, 45]


@pytest.mark.parametrize("before,after", [(64, 65), (64, 128), (10, 11), (1, 2), (100, 1024)])
def test_growing_moves_only_what_must_move_and_only_to_new_buckets(before, after):
    moved = [(a, b) for k in KEYS if (a := partition(k, before)) != (b := partition(k, after))]
    share = (after - before) / after

    assert all(b >= before for _, b in moved)
    assert abs(len(moved) / len(KEYS) - share) < 5 * math.sqrt(share * (1 - share) / len(KEYS))


def test_partitions_are_even():
    counts = Counter(partition(k) for k in KEYS)
    expected = len(KEYS) / PARTITIONS
    chi_square = sum((counts[p] - expected) ** 2 / expected for p in range(PARTITIONS))

    assert chi_square < 110  # 63 degrees of freedom: passed by 99.98 % of all hashes


def test_the_hash_byte_does_not_follow_from_the_partition():
    bytes_of_one = {hash_byte(k) for k in KEYS if partition(k) == 7}

    assert len(bytes_of_one) > 40


def test_what_is_no_text_has_no_partition():
    with pytest.raises(UnicodeEncodeError):
        partition("\ud800")


def agents(count):
    return [f"agent-{i}" for i in range(count)]


@pytest.mark.parametrize("count", [1, 2, 3, 7, 20])
@pytest.mark.parametrize("bound", [1.0, 1.05, 1.25])
def test_every_slot_has_one_owner_and_none_too_many(count, bound):
    owned = owners(agents(count), bound=bound)

    assert sorted(owned) == list(range(SLOTS))
    assert max(Counter(owned.values()).values()) <= math.ceil(bound * SLOTS / count)


def test_the_order_of_the_members_does_not_matter():
    members = {name: 1.0 + i % 3 for i, name in enumerate(agents(9))}
    want = owners(members)

    for seed in range(5):
        shuffled = list(members.items())
        random.Random(seed).shuffle(shuffled)

        assert owners(dict(shuffled)) == want
    assert owners(set(agents(5))) == owners(agents(5)) == owners(dict.fromkeys(reversed(agents(5)), 1.0))


@pytest.mark.parametrize("weights", [(1, 2, 3), (1, 1, 1, 5), (0.5, 0.25, 0.25), (1, 1000)])
def test_weights_are_respected(weights):
    members = dict(zip(agents(len(weights)), map(float, weights), strict=True))
    counts = Counter(owners(members).values())

    for name, weight in members.items():
        ideal = SLOTS * weight / sum(weights)
        assert counts[name] <= math.ceil(1.05 * ideal)
        assert counts[name] >= ideal - max(5 * math.sqrt(ideal), 6)


@pytest.mark.parametrize("count", [2, 3, 5, 10, 20])
def test_a_member_that_joins_takes_little_more_than_its_share(count):
    before, after = owners(agents(count)), owners([*agents(count), "new"])
    moved = {s for s in before if before[s] != after[s]}

    assert {s for s in after if after[s] == "new"} <= moved
    assert SLOTS / (count + 1) * 0.8 < len(moved) < SLOTS / (count + 1) * 1.35


@pytest.mark.parametrize("count", [2, 3, 5, 10, 20])
def test_a_member_that_leaves_moves_little_more_than_its_share(count):
    before, after = owners(agents(count)), owners(agents(count - 1))
    moved = [s for s in before if before[s] != after[s]]

    assert len(moved) < SLOTS / count * 1.5
    assert all(before[s] != after[s] for s in before if before[s] == agents(count)[-1])


def test_few_slots_may_be_fewer_than_members():
    owned = owners(agents(10), slots=3)

    assert sorted(owned) == [0, 1, 2]
    assert len(set(owned.values())) == 3


def test_what_is_no_group_of_members_is_refused():
    assert owners([]) == owners({}) == {}
    with pytest.raises(ValueError, match="weights"):
        owners({"a": 1.0, "b": 0.0})
    with pytest.raises(ValueError, match="weights"):
        owners({"a": math.nan})
    with pytest.raises(ValueError, match="bound"):
        owners(["a"], bound=0.9)


def test_nothing_depends_on_the_process():
    """Python's hash() of strings differs from process to process; nothing here may."""
    code = (
        "from nephoscope.partition import *; from nephoscope import identity\n"
        "keys = [f'k{i}' for i in range(200)]\n"
        "print(partitions_of(keys), [slot(k) for k in keys], owners({'a', 'b', 'c', 'd'}), identity.polled_id('s', 'm', 'r', 1))"
    )
    said = [
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
            check=True,
            capture_output=True,
        ).stdout
        for seed in ("1", "2")
    ]

    assert said[0] == said[1]
    assert len(said[0]) > 1000


@pytest.mark.parametrize("count", [2, 3, 10, 50])
def test_one_change_moves_no_more_than_a_share_and_a_twentieth(count):
    for group in range(4):
        names = [f"{group}-{i}" for i in range(count)]
        before, after = owners(names), owners(names[1:])
        moved = sum(before[s] != after[s] for s in before)

        assert moved <= SLOTS * (1 / count + 0.05)


def test_owners_are_fixed_by_vectors_too():
    """Agents of two versions that run side by side must agree: never change these."""
    assert [owners(["a", "b", "c"])[s] for s in range(12)] == list("bcacaacbabcc")
    assert [owners({"a": 1.0, "b": 2.0})[s] for s in range(12)] == list("baabaabbbbbb")
