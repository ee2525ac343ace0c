"""Ids are derived: fixed by vectors, one for each thing, and computable from a sample's origin."""

import struct

import numpy as np
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from nephoscope import identity

MASK = 2**64 - 1


def lanes(*numbers):
    return np.array(numbers, np.uint64)


def mixed(hi, lo, key_hi, key_lo):
    """identity.mix in plain integers."""

    def f(x):
        x ^= x >> 33
        x = x * 0xFF51AFD7ED558CCD & MASK
        x ^= x >> 29
        x = x * 0xC4CEB9FE1A85EC53 & MASK
        return x ^ x >> 33

    hi, lo = hi ^ key_hi, lo ^ key_lo
    hi ^= f(lo + 0x9E3779B97F4A7C15 & MASK)
    lo ^= f(hi + 0xD1B54A32D192ED03 & MASK)
    hi ^= f(lo + 0x8CB92BA72F3D8DD7 & MASK)
    return hi, lo


def unmixed(hi, lo, key_hi, key_lo):
    """Its inverse: what shows that it is a bijection."""

    def f(x):
        x ^= x >> 33
        x = x * 0xFF51AFD7ED558CCD & MASK
        x ^= x >> 29
        x = x * 0xC4CEB9FE1A85EC53 & MASK
        return x ^ x >> 33

    hi ^= f(lo + 0x8CB92BA72F3D8DD7 & MASK)
    lo ^= f(hi + 0xD1B54A32D192ED03 & MASK)
    hi ^= f(lo + 0x9E3779B97F4A7C15 & MASK)
    return hi ^ key_hi, lo ^ key_lo


u64 = st.integers(0, MASK)


@given(u64, u64, u64, u64)
def test_mix_is_the_network_that_it_says_and_can_be_undone(hi, lo, key_hi, key_lo):
    got = tuple(int(x[0]) for x in identity.mix(lanes(hi), lanes(lo), np.uint64(key_hi), np.uint64(key_lo)))

    assert got == mixed(hi, lo, key_hi, key_lo)
    assert unmixed(*got, key_hi, key_lo) == (hi, lo)


def test_mix_changes_no_input():
    hi, lo, key = lanes(1, 2), lanes(3, 4), lanes(5, 6)
    identity.mix(hi, lo, key, key)

    assert (hi.tolist(), lo.tolist(), key.tolist()) == ([1, 2], [3, 4], [5, 6])


def test_every_bit_of_the_input_matters_to_about_half_of_the_output():
    hi, lo = np.zeros(128, np.uint64), np.zeros(128, np.uint64)
    hi[:64] = lo[64:] = np.uint64(1) << np.arange(64, dtype=np.uint64)
    zero_hi, zero_lo = identity.mix(lanes(0), lanes(0), np.uint64(1), np.uint64(2))
    out_hi, out_lo = identity.mix(hi, lo, np.uint64(1), np.uint64(2))
    flipped = np.array(
        [
            (int(a) ^ int(c)).bit_count() + (int(b) ^ int(d)).bit_count()
            for a, b, c, d in zip(out_hi, out_lo, zero_hi.repeat(128), zero_lo.repeat(128), strict=True)
        ]
    )

    assert 60 < flipped.mean() < 68
    assert flipped.min() > 30


def test_digest_is_xxh3_of_parts_with_their_lengths():
    raw = b"".join(struct.pack("<Q", len(p)) + p for p in (b"a", "\u00e9".encode(), b"-7", b""))

    assert identity.digest("a", "\u00e9", -7, b"") == divmod(xxhash.xxh3_128_intdigest(raw), 2**64)


@given(st.lists(st.text(max_size=4), max_size=4), st.lists(st.text(max_size=4), max_size=4))
def test_parts_cannot_be_shifted_into_one_another(left, right):
    assert (identity.digest(*left) == identity.digest(*right)) == (left == right)


POLLED = "2ce702f2c06e6e4715c805a77c2e4a85"
NOTIFICATION = "51a2ef4cf4b415a7f55f919e0250a31a"
KEY = "b3e83a7500f246ec3b011305de9c96f2"
STEP = ["5a1558378d5e0b13", "0fb9518f13b8f98a"]


def test_fixed_vectors():
    """Never change them: stores hold these ids."""
    assert identity.polled_id("openstack", "cpu", "r1", 1_433_160_000_000_000).hex() == POLLED
    assert identity.notification_id("m-1", "instance", 0).hex() == NOTIFICATION
    assert identity.parse_id("key").hex() == KEY
    assert [f"{int(k):016x}" for k in identity.step_key("cpu_sink", 0)] == STEP


def test_a_polled_id_follows_from_what_the_sample_is():
    given_ = ("openstack", "cpu", "r1", 60_000_000)
    others = [
        ("other", *given_[1:]),
        ("openstack", "mem", *given_[2:]),
        ("openstack", "cpu", "r2", 60_000_000),
        (*given_[:3], 60_000_001),
    ]
    ids = {identity.polled_id(*given_), identity.polled_id(*given_), *(identity.polled_id(*o) for o in others)}

    assert len(ids) == 5
    assert {len(i) for i in ids} == {16}


def test_a_polled_id_in_plain_integers():
    moment = 1_433_160_000_000_000
    hi, lo = identity.digest("resource", "r1")
    hi, lo = mixed(hi ^ moment, lo, *identity.digest("polled", "openstack", "cpu"))

    assert struct.pack("<QQ", hi, lo) == identity.polled_id("openstack", "cpu", "r1", moment)


def test_columns_of_ids_are_the_ids_one_by_one():
    resources, moments = [f"r{i % 7}" for i in range(50)], [i * 60_000_000 for i in range(50)]
    keys = np.array([identity.resource_key(r) for r in resources], np.uint64)
    hi, lo = identity.keyed(*identity.base_key(("polled", "s", "m")), keys[:, 0], keys[:, 1], np.array(moments))

    assert [i.tobytes() for i in identity.pack(hi, lo)] == [
        identity.polled_id("s", "m", r, t) for r, t in zip(resources, moments, strict=True)
    ]


def test_a_hundred_thousand_ids_are_that_many():
    numbers = np.arange(100_000)
    key = identity.resource_key("r")
    hi, lo = (np.full(len(numbers), k, np.uint64) for k in key)
    hi, lo = identity.keyed(*identity.base_key(("polled", "s", "m")), hi, lo, numbers * 60_000_000)
    step = identity.mix(hi, lo, *identity.step_key("k", 0))
    other = identity.mix(hi, lo, *identity.step_key("k", 1))

    assert len({i.tobytes() for part in ((hi, lo), step, other) for i in identity.pack(*part)}) == 300_000
    assert len(np.unique(hi)) == len(np.unique(lo)) == len(numbers)


@given(st.lists(st.tuples(u64, u64), max_size=5))
def test_lanes_are_packed_and_unpacked(pairs):
    hi, lo = lanes(*(p[0] for p in pairs)), lanes(*(p[1] for p in pairs))
    back = identity.unpack(identity.pack(hi, lo))

    assert [b.tolist() for b in back] == [hi.tolist(), lo.tolist()]


@given(st.binary(min_size=16, max_size=16))
def test_an_id_as_text_and_back(raw):
    assert identity.parse_id(identity.format_id(raw)) == raw


@pytest.mark.parametrize("text", ["", "my key", "1234", "z" * 10_000, "66ab5b0d-4a2f-4c3b-8b1e-1f7f0a2b9c3", "\u65e5"])
def test_any_other_text_is_a_clients_key_and_hashed(text):
    assert identity.parse_id(text) == identity.parse_id(text)
    assert identity.parse_id(text) != identity.parse_id(text + " ")
    assert len(identity.parse_id(text)) == 16


def test_a_drawn_id_is_fresh():
    assert len({identity.drawn_id() for _ in range(1000)}) == 1000


def test_origins_say_how_to_compute_ids():
    raw = identity.raw_origin("openstack", 'say "cpu"')
    first = identity.step_origin(raw, "cpu_sink", 0)
    second = identity.step_origin(first, "cpu_sink", 1)

    assert raw == '["openstack","say \\"cpu\\""]'
    assert second == '["openstack","say \\"cpu\\"",["cpu_sink",0],["cpu_sink",1]]'
    assert identity.origin_keys(second) == (
        identity.base_key(("polled", "openstack", 'say "cpu"')),
        (identity.step_key("cpu_sink", 0), identity.step_key("cpu_sink", 1)),
    )
    joined = identity.step_origin(identity.join_origin("k", 2), "k", 3)
    assert joined == '[["k",2],["k",3]]'
    assert identity.origin_keys(joined) == (identity.base_key(("join", "k", 2)), (identity.step_key("k", 3),))
