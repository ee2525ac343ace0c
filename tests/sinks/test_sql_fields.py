"""A record's fields as bytes: whatever they are, they come back bit for bit, in the bytes that the form says."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from nephoscope.times import NEVER
from sinks.columns import Fields
from sinks.sql import fields

EDGES = [float(sign * 2**bits + more) for bits in (15, 31, 47, 53, 55, 63) for sign in (1, -1) for more in (-1, 0, 1)]
VOLUMES = st.one_of(
    st.integers(-(2**16), 2**16).map(float),
    st.sampled_from([*EDGES, 0.0, -0.0, 0.5, float("inf"), float("-inf"), float("nan"), 5e-324, 1e300]),
    st.floats(),
)
AWAY = st.one_of(
    st.integers(0, 2_000_000),
    st.sampled_from([s * 2**b + m for b in (23, 31, 40) for s in (1, -1) for m in (-1, 0, 1)]),
    st.none(),
)
KINDS = st.one_of(st.integers(0, 255), st.sampled_from([255, 256, 65_535, 65_536, 2**31 - 1]))
FIELD = st.tuples(KINDS, VOLUMES, AWAY, st.booleans(), st.integers(1, 2))
"""Kind, volume, measured_at less the timestamp, late, state."""
RECORDS = st.lists(st.tuples(st.integers(0, 2**50), st.lists(FIELD, min_size=1, max_size=4)), min_size=1, max_size=5)


def columns(records):
    """(fields, where each record starts, the time of each field)."""
    rows = [(*field, time) for time, some in records for field in some]
    kind, volume, away, late, state, time = zip(*rows, strict=True)
    measured = [NEVER if a is None else t + a for a, t in zip(away, time, strict=True)]
    starts = np.cumsum([0, *(len(some) for _, some in records[:-1])])
    out = Fields(np.array(kind), np.array(volume), np.array(measured, np.int64), np.array(late, bool), np.array(state))
    return out, starts, np.array(time, np.int64)


@given(RECORDS)
def test_fields_come_back_bit_for_bit_and_are_as_long_as_the_form_says(records):
    rows, starts, time = columns(records)

    forms, state, raw = fields.pack(rows, starts, time)
    found, of = fields.unpack(forms.tolist(), raw, state.tolist(), time[starts])

    found = found.take(np.argsort(of, kind="stable"))
    for name in ("kind", "measured", "late", "state"):
        assert getattr(found, name).tolist() == getattr(rows, name).tolist(), name
    assert found.volume.view(np.int64).tolist() == rows.volume.view(np.int64).tolist()
    for form, one, (_, some) in zip(forms.tolist(), raw, records, strict=True):
        # What the statement that counts samples in the database goes by.
        size = fields.BASE + sum(more for bit, more in fields.SIZES if form & bit)
        assert len(one) == size * len(some)
        assert 0 <= form < 1 << fields.FORM_BITS


def test_few_kinds_whole_volumes_and_short_delays_take_few_bytes():
    rows, starts, time = columns([(10**15, [(7, 4e12, 1_500_000, False, 1), (8, 12.0, 10, False, 1)])])

    _, _, (raw,) = fields.pack(rows, starts, time)

    # A byte of the kind, six of the volume, three of the delay.
    assert len(raw) == 2 * (1 + 6 + 3)


@given(RECORDS, st.sets(KINDS, min_size=1, max_size=3))
def test_some_kinds_alone_are_what_there_is_of_them(records, wanted):
    rows, starts, time = columns(records)
    kinds = np.array(sorted(wanted))
    forms, states, raws = fields.pack(rows, starts, time)
    for form, state, raw, begin in zip(forms.tolist(), states.tolist(), raws, starts.tolist(), strict=True):
        all_of_them, _ = fields.unpack(*([x] for x in (form, raw, state)), time[begin : begin + 1])
        some, of = fields.unpack_form(form, raw, len(raw), np.array([state]), time[begin : begin + 1], kinds)

        assert some.kind.tolist() == [k for k in all_of_them.kind.tolist() if k in wanted]
        assert not of.any()
