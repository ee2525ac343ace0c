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
IN_A_ROW = st.one_of(st.none(), st.sampled_from([1, 2, 30, 31, 32, 254]))
"""Where the kinds of a record follow one another from one on, as they mostly do."""
RECORD = st.tuples(st.integers(0, 2**50), st.lists(FIELD, min_size=1, max_size=4), IN_A_ROW)
RECORDS = st.lists(RECORD, min_size=1, max_size=5).map(
    lambda records: [
        (time, some if first is None else [(first + n, *rest) for n, (_, *rest) in enumerate(some)])
        for time, some, first in records
    ]
)


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
        # A smallint on PostgreSQL.
        assert 0 <= form < 1 << fields.FORM_BITS == 2**15


def test_whole_volumes_short_delays_and_kinds_that_follow_one_another_take_few_bytes():
    def size(*kinds):
        rows, starts, time = columns(
            [(10**15, [(k, v, 1_500_000, False, 1) for k, v in zip(kinds, (4e12, 12.0), strict=True)])]
        )
        return len(fields.pack(rows, starts, time)[2][0])

    # Six bytes of the volume, three of the delay; where kinds are named, one or two of the kind.
    assert size(7, 8) == 2 * (6 + 3)
    assert size(7, 9) == size(32, 33) == 2 * (1 + 6 + 3)
    assert size(255, 256) == 2 * (2 + 6 + 3)


@given(RECORDS, st.sets(st.one_of(KINDS, st.integers(1, 35)), min_size=1, max_size=3))
def test_some_kinds_alone_are_what_there_is_of_them(records, wanted):
    rows, starts, time = columns(records)
    kinds = np.array(sorted(wanted))
    forms, states, raws = fields.pack(rows, starts, time)
    for form, state, raw, begin in zip(forms.tolist(), states.tolist(), raws, starts.tolist(), strict=True):
        all_of_them, _ = fields.unpack(*([x] for x in (form, raw, state)), time[begin : begin + 1])
        some, of = fields.unpack_form(form, raw, len(raw), np.array([state]), time[begin : begin + 1], kinds)

        assert some.kind.tolist() == [k for k in all_of_them.kind.tolist() if k in wanted]
        assert not of.any()
