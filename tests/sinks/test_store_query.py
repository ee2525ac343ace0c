"""Questions: every answer is that of a plain list of samples."""

import math

import pytest
from hypothesis import strategies as st

from nephoscope.batch import batch_of
from nephoscope.errors import StoreError
from nephoscope.filters import And, Compare, Not, Or
from nephoscope.store import CAPABILITIES, ListQuery, SampleQuery, StatisticsQuery
from nephoscope.times import SECOND
from tests.sinks.made import START, by_id, polled, rows
from tests.sinks.oracle import Oracle
from tests.sinks.strategies import ORDERS, STATISTICS, filters, holds_for, written


def both(store, writes):
    oracle = Oracle()
    for batches in writes:
        oracle.write([s for batch in batches for s in batch])
        store.write([batch_of(batch).rows for batch in batches])
    return oracle


@holds_for(written(), filters())
def test_a_filter_lets_through_what_it_says(fresh_store, writes, tree):
    with fresh_store() as store:
        oracle = both(store, writes)

        assert by_id(store.each_sample(tree)) == by_id(oracle.samples(tree))


@holds_for(written(), filters(), ORDERS, st.integers(1, 7))
def test_pages_in_any_order_are_the_whole_in_that_order(fresh_store, writes, tree, order, limit):
    with fresh_store() as store:
        expected = both(store, writes).ordered(tree, order)
        got, cursor = [], None
        for _ in range(len(expected) + 1):
            page = store.samples(SampleQuery(filter=tree, order=order, limit=limit, cursor=cursor))
            got += page.samples
            cursor = page.cursor
            if cursor is None:
                break

        assert got == expected
        assert store.samples(SampleQuery(filter=tree, order=order, limit=None)).samples == tuple(expected)


@holds_for(
    written(), filters() | filters("resource_id", "project_id", "metadata.n", "name", "source"), st.integers(1, 3)
)
def test_resources_are_those_with_a_sample_that_passes(fresh_store, writes, tree, limit):
    with fresh_store() as store:
        expected = both(store, writes).resources(tree)
        got, cursor = [], None
        for _ in range(len(expected) + 1):
            page = store.resources(ListQuery(filter=tree, limit=limit, cursor=cursor))
            got += page.resources
            cursor = page.cursor
            if cursor is None:
                break

        assert got == expected


@holds_for(
    written(),
    st.lists(filters("resource_id", "user_id") | filters("name", "type", "source"), max_size=2).map(tuple).map(And),
    st.integers(1, 4),
)
def test_meters_are_listed_by_resource(fresh_store, writes, tree, limit):
    with fresh_store() as store:
        expected = both(store, writes).meters(tree)
        got, cursor = [], None
        for _ in range(len(expected) + 1):
            page = store.meters(ListQuery(filter=tree, limit=limit, cursor=cursor))
            got += page.meters
            cursor = page.cursor
            if cursor is None:
                break

        assert got == expected


@holds_for(written(), STATISTICS, st.sampled_from((None, -30, 0, 45)))
def test_statistics_are_those_of_a_plain_list(fresh_store, writes, query, begin):
    start = None
    if begin is not None:
        start = START + begin * SECOND
        query = StatisticsQuery(
            And((query.filter, Compare("timestamp", ">=", start))), query.period, query.groupby, query.aggregates
        )
    with fresh_store() as store:
        oracle = both(store, writes)
        bound = [p.value for p in _bounds(query.filter)]
        exclusive = [p.value + 1 for p in _bounds(query.filter, ">")]
        start = max([*bound, *exclusive], default=None)
        expected = oracle.statistics(query, start)
        got = store.statistics(query)

        assert [s.period_start for s in got] == sorted(s.period_start for s in got)
        assert_same(got, expected)


def assert_same(got, expected):
    """Statistics, in any order of the groups."""

    def key(s):
        return s.period_start, sorted((k, repr(v)) for k, v in s.groupby.items())

    for one, other in zip(sorted(got, key=key), sorted(expected, key=key), strict=True):
        for field in ("period", "period_start", "period_end", "duration_start", "duration_end", "unit", "groupby"):
            assert getattr(one, field) == getattr(other, field), field
        assert (one.count, one.min, one.max, one.cardinality) == (
            other.count,
            other.min,
            other.max,
            other.cardinality,
        )
        assert close(one.sum, other.sum)
        assert close(one.avg, other.avg)
        assert close(one.stddev, other.stddev)


def _bounds(tree, op=">="):
    """The lower bounds that a filter plainly has."""
    if isinstance(tree, And):
        return [b for p in tree.parts for b in _bounds(p, op)]
    if isinstance(tree, Compare) and tree.field == "timestamp" and (tree.op == op or (op == ">=" and tree.op == "=")):
        return [tree]
    return []


def close(a, b):
    return a == b if a is None or b is None else math.isclose(a, b, rel_tol=1e-12, abs_tol=0.0)


@pytest.mark.parametrize("op", ["=", "!=", "<", "<=", ">", ">="])
@pytest.mark.parametrize("inside", [False, True])
def test_times_are_compared_to_the_microsecond(store, op, inside):
    """Also within the span that the bound lies in."""
    samples = [polled(at=at) for at in (0, 60, 120, 300, 360, 900)]
    store.write(rows(*samples))
    bound = Compare("timestamp", op, START + 120 * SECOND)
    for tree in (bound, And((bound, Compare("name", "=", "cpu"))), Not(Not(bound))):
        tree = And((tree, Compare("resource_id", "=", "r1"))) if inside else tree
        oracle = Oracle()
        oracle.write(samples)

        assert by_id(store.each_sample(tree)) == by_id(oracle.samples(tree))


def test_periods_begin_at_the_start_of_the_question_and_empty_ones_are_left_out(store):
    store.write(rows(*(polled(at=s, volume=float(s)) for s in (0, 60, 120, 600))))

    from_start = store.statistics(StatisticsQuery(Compare("timestamp", ">=", START - 30 * SECOND), period=120))
    from_first = store.statistics(StatisticsQuery(Compare("name", "=", "cpu"), period=120))

    assert [((s.period_start - START) // SECOND, s.count) for s in from_start] == [(-30, 2), (90, 1), (570, 1)]
    assert [((s.period_start - START) // SECOND, s.count) for s in from_first] == [(0, 2), (120, 1), (600, 1)]
    assert from_first[0].period_end == START + 120 * SECOND
    assert from_first[0].duration == 60.0


def test_statistics_of_one_resource_whatever_its_volumes_look_like(store):
    """A store may keep whole volumes, fractions, pushed samples and late ones in different ways."""
    volumes = [0.0, 7.0, 0.5, 2.0**33, -1.0, 2.0**54, 1e100, 40_000.0]
    samples = [polled(at=60 * n, volume=v) for n, v in enumerate(volumes)]
    samples += [polled("memory", at=60 * n, unit="MB", volume=n / 4) for n in range(6)]
    samples += [
        polled(at=420, volume=3.0, id=b"pushed by others"),
        polled(at=480, volume=5.0, late=True, user_id="other"),
    ]
    samples += [polled(resource="r2", at=60, volume=9.0)]
    oracle = Oracle()
    oracle.write(samples)
    store.write(rows(*samples))
    one = Compare("resource_id", "=", "r1")
    later = START + 60 * SECOND
    for tree in (
        one,
        And((one, Compare("name", "=", "cpu"))),
        And((one, Compare("volume", ">=", 5))),
        And((one, Compare("user_id", "=", "other"))),
        And((one, Compare("timestamp", ">=", later))),
        Compare("resource_id", "in", ("r1", "r2", "r3")),
        Compare("resource_id", "=", "r3"),
    ):
        for more in ({}, {"period": 120}, {"groupby": ("resource_id",)}, {"groupby": ("source", "user_id")}):
            query = StatisticsQuery(tree, aggregates=("count", "sum", "avg", "min", "max", "stddev"), **more)

            start = later if "timestamp" in str(tree) else None
            assert_same(store.statistics(query), oracle.statistics(query, start))


def test_a_store_takes_up_what_others_add_between_two_questions(store, make_store):
    """It may remember meters and resources."""
    other = make_store()

    def counts():
        asked = [
            And((Compare("resource_id", "=", r), Compare("name", "=", n))) for r in ("r1", "r2") for n in ("a", "b")
        ]
        return [sum(s.count for s in store.statistics(StatisticsQuery(one))) for one in asked]

    assert counts() == [0, 0, 0, 0]
    other.write(rows(polled("a")))
    assert counts() == [1, 0, 0, 0]
    other.write(rows(polled("a", at=60), polled("b"), polled("b", resource="r2")))
    assert counts() == [2, 1, 0, 1]


def test_sums_do_not_depend_on_the_parts_that_they_are_read_in(store):
    """Ten thousand volumes that nearly cancel out, in several parts of the scan."""
    volumes = [1e15, 0.1, -1e15, 0.2] * 2500
    store.write(rows(*(polled(resource=f"r{n}", at=n % 900, volume=v) for n, v in enumerate(volumes))))

    (one,) = store.statistics(StatisticsQuery(aggregates=("sum", "stddev", "count")))

    assert math.isclose(one.sum, math.fsum(volumes), rel_tol=1e-12)
    assert one.count == 10_000


def test_sums_beyond_float64_are_infinite_not_an_error(store):
    store.write(rows(*(polled(at=n, volume=1.7e308) for n in range(3))))

    assert store.statistics(StatisticsQuery())[0].sum == math.inf


def test_users_projects_and_metadata_are_those_of_the_sample_also_out_of_order(store):
    said = [(at, f"u{at % 3}", f'{{"v":{at // 120}}}') for at in (300, 0, 240, 60, 180, 120)]
    for at, user, text in said:
        store.write(rows(polled(at=at, user_id=user, metadata=text)))

    got = store.samples(SampleQuery(order=[("timestamp", "asc")])).samples

    assert [((s.timestamp - START) // SECOND, s.user_id, s.metadata) for s in got] == sorted(said)
    (resource,) = store.resources(ListQuery()).resources
    assert resource.metadata == '{"v":2}'
    assert (resource.first_sample, resource.last_sample) == (START, START + 300 * SECOND)


@pytest.mark.parametrize(
    "ask",
    [
        lambda: Compare("metre", "=", "cpu"),
        lambda: Compare("meter", "~", "cpu"),
        lambda: Compare("meter", "=~", "("),
        lambda: Compare("meter", "=~", "x" * 2000),
        lambda: Compare("volume", "=", "much"),
        lambda: Compare("timestamp", ">", "yesterday"),
        lambda: Compare("meter", "in", "cpu"),
        lambda: SampleQuery(order=[("timestamp", "up")]),
        lambda: SampleQuery(limit=0),
        lambda: StatisticsQuery(period=-1),
        lambda: StatisticsQuery(groupby=["volume"]),
        lambda: StatisticsQuery(aggregates=["median"]),
        lambda: StatisticsQuery(aggregates=["cardinality"]),
    ],
)
def test_a_question_that_means_nothing_is_refused_when_it_is_put(ask):
    with pytest.raises(StoreError):
        ask()


@pytest.mark.parametrize("cursor", ["", "x", "bnVsbA==", "W10=", "\u00e9"])
def test_a_cursor_of_something_else_is_refused(store, cursor):
    store.write(rows(polled()))
    with pytest.raises(StoreError):
        store.samples(SampleQuery(cursor=cursor))
    with pytest.raises(StoreError):
        store.resources(ListQuery(cursor=cursor))


def test_a_cursor_belongs_to_its_order(store):
    store.write(rows(polled(), polled(at=60)))
    cursor = store.samples(SampleQuery(limit=1)).cursor
    with pytest.raises(StoreError, match="another order"):
        store.samples(SampleQuery(order=[("volume", "asc")], cursor=cursor))


def test_it_says_what_it_can_do(store):
    described = store.describe()

    assert set(described.capabilities) == set(CAPABILITIES)
    assert described.capabilities["samples:query:complex"]
    assert "first" in described.guarantee
    assert store.check() == []


def test_not_of_or_is_and_of_nots(store):
    store.write(rows(*(polled(n, volume=float(i)) for i, n in enumerate(("a", "b", "c")))))
    tree = Not(Or((Compare("name", "=", "a"), Compare("volume", ">", 1.5))))

    assert [s.name for s in store.each_sample(tree)] == ["b"]
