"""Statistics do not depend on the parts and the order in which samples are told."""

import math
import statistics

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from nephoscope.statistics import Tally
from nephoscope.store import StatisticsQuery
from nephoscope.times import SECOND
from tests.sinks.strategies import EXAMPLES, not_tiny

WANTED = ("count", "sum", "avg", "min", "max", "stddev", "cardinality/resource_id")


class Told:
    """(seconds, volume, resource, unit) rows as columns."""

    def __init__(self, rows):
        self.rows = rows
        self.length = len(rows)

    def numbers(self, field):
        if field == "timestamp":
            return np.array([r[0] * SECOND for r in self.rows], np.int64)
        return np.array([r[1] for r in self.rows], np.float64)

    def words(self, field):
        column = {"resource_id": 2, "unit": 3}[field]
        values = sorted({r[column] for r in self.rows})
        return np.array([values.index(r[column]) for r in self.rows], np.int64), values


told = st.tuples(
    st.integers(0, 500),
    st.floats(-1e12, 1e12).map(not_tiny) | st.sampled_from((0.1, 1e12, -1e12, 1e12 + 1)),
    st.sampled_from("abc"),
    st.sampled_from(("B", "kB")),
)


@EXAMPLES
@given(st.lists(told, min_size=1, max_size=30), st.lists(st.integers(1, 7), min_size=1), st.sampled_from((0, 60)))
def test_parts_and_order_do_not_show(rows, sizes, period):
    query = StatisticsQuery(period=period, groupby=["resource_id"], aggregates=WANTED)
    whole = Tally(query)
    whole.add(Told(rows))
    parts = Tally(query)
    rest, turn = rows[::-1], 0
    while rest:
        size = sizes[turn % len(sizes)]
        parts.add(Told(rest[:size]))
        rest, turn = rest[size:], turn + 1

    assert len(whole.result()) == len(parts.result())
    for one, other in zip(whole.result(), parts.result(), strict=True):
        some = [
            r[1]
            for r in rows
            if r[2] == one.groupby["resource_id"]
            and (not period or r[0] * SECOND // (60 * SECOND) * 60 * SECOND == one.period_start)
        ]
        for got in (one, other):
            assert (got.count, got.min, got.max) == (len(some), min(some), max(some))
            assert math.isclose(got.sum, math.fsum(some), rel_tol=1e-12)
            assert math.isclose(got.stddev, statistics.pstdev(some), rel_tol=1e-12)
        assert (one.unit, one.duration, one.cardinality) == (other.unit, other.duration, other.cardinality)


def test_a_small_spread_around_a_large_mean_is_seen():
    """Where the naive formula, the mean of the squares less the square of the mean, gives 0 or nonsense."""
    rows = [(0, 1e12 + x, "a", "B") for x in (0.0, 0.25, 0.5)]
    tally = Tally(StatisticsQuery(aggregates=["stddev"]))
    for row in rows:
        tally.add(Told([row]))

    (one,) = tally.result()

    assert math.isclose(one.stddev, statistics.pstdev([0.0, 0.25, 0.5]), rel_tol=1e-9)


def test_a_sum_that_is_too_large_on_the_way_only():
    tally = Tally(StatisticsQuery())
    tally.add(Told([(0, v, "a", "B") for v in (1.7e308, 1.7e308, -1.7e308, -1.7e308, 3.0)]))

    assert tally.result()[0].sum == 3.0


def test_nothing_told_gives_nothing():
    tally = Tally(StatisticsQuery())
    tally.add(Told([]))

    assert tally.result() == []
