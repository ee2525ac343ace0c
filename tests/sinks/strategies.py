"""Samples and questions from a small world, so that they meet: the same ids, records, resources and states again and again."""

import functools
import inspect
import os

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nephoscope import identity
from nephoscope.filters import And, Compare, Not, Or
from nephoscope.sample import Sample
from nephoscope.store import StatisticsQuery
from nephoscope.times import NEVER, SECOND
from tests.sinks.made import START

EXAMPLES = settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example],
)


def holds_for(*strategies):
    """A property test over stores: as many examples as the kind of store can bear, each with an empty one if it asks.

    The test takes `fresh_store`, then one value of each strategy, then any fixtures by keyword. Repeatable, and done in seconds;
    NEPHOSCOPE_EXAMPLES=25 tries 25 times as many, others each time.
    """

    def decorate(function):
        names = list(inspect.signature(function).parameters)[1 : len(strategies) + 1]

        @functools.wraps(function)
        def test(kind, fresh_store):
            times = int(os.environ.get("NEPHOSCOPE_EXAMPLES", "0"))
            count = settings(EXAMPLES, max_examples=kind.examples * max(1, times), derandomize=not times)

            @count
            @given(**dict(zip(names, strategies, strict=True)))
            def each(**values):
                function(fresh_store, **values)

            each()

        del test.__wrapped__
        return test

    return decorate


RESOURCES = ("r1", "R1", "r\x00'; --", "\u202ertl", 'q"$.%_')
METADATA = (
    "{}",
    '{"n":4,"a":{"b":"x"}}',
    '{"n":"4","a.b":"y"}',
    '{"n":4.5,"a":{"b":true},"N":"other"}',
    '{"n": null, "$set": {"\\u0000": [1, {"x": 2}]}, "a": {"b": [1]}}',
)
USERS = ("", "u1", "U1")
PROJECTS = ("", "p1", "p2")
NAMES = ("cpu", "cpu.delta", "CPU")
UNITS = ("ns", "%", "")
TYPES = ("gauge", "cumulative")
SOURCES = ("openstack", "else:where")
TIMES = (0, 0, 0, 1, 60, 60, 120, 299, 300, 600, 7200, 40_000, 86_400)
PUSHED = tuple(bytes([n]) * 16 for n in range(1, 6))


def derived_id(origin, resource, timestamp):
    """The id that a chain of steps gives, one sample at a time."""
    base, steps = identity.origin_keys(origin)
    hi, lo = identity.resource_key(resource)
    hi, lo = identity.keyed(
        *base, np.array([hi], np.uint64), np.array([lo], np.uint64), np.array([timestamp], np.int64)
    )
    for step in steps:
        hi, lo = identity.mix(hi, lo, *step)
    return identity.pack(hi, lo)[0].tobytes()


def not_tiny(volume: float) -> float:
    """0 for what is so small that its square is no number any more: no deviation can be computed of it."""
    return volume if abs(volume) > 1e-100 else 0.0


volumes = st.integers(-50, 200).map(float) | st.floats(-1e15, 1e15, allow_nan=False).map(not_tiny)


@st.composite
def samples(draw):
    name, source = draw(st.sampled_from(NAMES)), draw(st.sampled_from(SOURCES))
    resource = draw(st.sampled_from(RESOURCES))
    timestamp = START + draw(st.sampled_from(TIMES)) * SECOND + draw(st.sampled_from((0, 0, 0, 1, 999_999)))
    way = draw(st.sampled_from(("polled", "polled", "polled", "rate", "chain", "join", "pushed", "notified")))
    raw = identity.raw_origin(source, name)
    origin = {
        "rate": identity.step_origin(raw, "sink", 0),
        "chain": identity.step_origin(identity.step_origin(raw, "sink", 0), "sink", 1),
        "join": identity.join_origin("other", 2),
        "notified": identity.join_origin("sum", 0),
    }.get(way, "")
    if way == "pushed":
        own = draw(st.sampled_from(PUSHED))
    elif way == "notified":
        own = identity.notification_id(f"m{timestamp}", name, 0)
    else:
        own = derived_id(origin or raw, resource, timestamp)
    return Sample(
        name=name,
        type=draw(st.sampled_from(TYPES)),
        unit=draw(st.sampled_from(UNITS)),
        volume=draw(volumes),
        resource_id=resource,
        timestamp=timestamp,
        user_id=draw(st.sampled_from(USERS)),
        project_id=draw(st.sampled_from(PROJECTS)),
        metadata=draw(st.sampled_from(METADATA)),
        source=source,
        measured_at=draw(st.sampled_from((NEVER, NEVER, 0, timestamp, timestamp + 3_000_000, timestamp - 10**13))),
        id=own,
        origin=origin,
        late=draw(st.sampled_from((False, False, True))),
    )


@st.composite
def written(draw, most=30):
    """Writes: lists of batches of samples, with repetitions of what came before."""
    writes = []
    seen = []
    for _ in range(draw(st.integers(1, 4))):
        batches = []
        for _ in range(draw(st.integers(1, 2))):
            fresh = draw(st.lists(samples(), min_size=1, max_size=most // 3))
            again = draw(st.lists(st.sampled_from(seen), max_size=5)) if seen else []
            batch = draw(st.permutations(fresh + again))
            seen += fresh
            batches.append(batch)
        writes.append(batches)
    return writes


def _leaves(fields):
    choices = {
        "name": st.sampled_from(NAMES),
        "type": st.sampled_from(TYPES),
        "unit": st.sampled_from(UNITS),
        "source": st.sampled_from(SOURCES),
        "resource_id": st.sampled_from((*RESOURCES, "nobody")),
        "user_id": st.sampled_from(USERS),
        "project_id": st.sampled_from(PROJECTS),
        "metadata.n": st.sampled_from((4, 4.5, "4", "x", True)),
        "metadata.a.b": st.sampled_from(("x", "y", True, 1)),
        "metadata.N": st.just("other"),
    }
    numbers = {
        "volume": volumes,
        "timestamp": st.sampled_from(TIMES).map(lambda s: START + s * SECOND),
    }
    leaves = []
    for field in fields or (*choices, *numbers, "late", "id"):
        if field in choices:
            ops = st.sampled_from(("=", "!=", "<", ">="))
            leaves.append(st.builds(Compare, st.just(field), ops, choices[field]))
            leaves.append(st.builds(Compare, st.just(field), st.just("in"), st.lists(choices[field], max_size=3)))
            leaves.append(st.builds(Compare, st.just(field), st.just("=~"), st.sampled_from(("^r", "1$", "[cp]", "x"))))
        elif field in numbers:
            leaves.append(
                st.builds(Compare, st.just(field), st.sampled_from(("=", "!=", "<", "<=", ">", ">=")), numbers[field])
            )
        elif field == "late":
            leaves.append(st.builds(Compare, st.just(field), st.just("="), st.booleans()))
        else:
            ids = st.sampled_from((*PUSHED, derived_id('["openstack","cpu"]', "r1", START)))
            leaves.append(st.builds(Compare, st.just(field), st.sampled_from(("=", "!=")), ids))
    return st.one_of(leaves)


def filters(*fields):
    """Filter trees over some fields, or all."""
    return st.recursive(
        _leaves(fields),
        lambda inner: st.one_of(
            st.builds(And, st.lists(inner, max_size=3).map(tuple)),
            st.builds(Or, st.lists(inner, max_size=3).map(tuple)),
            st.builds(Not, inner),
        ),
        max_leaves=6,
    )


ORDERS = st.lists(
    st.tuples(
        st.sampled_from(
            (
                "timestamp",
                "volume",
                "name",
                "resource_id",
                "project_id",
                "metadata.n",
                "metadata.a.b",
                "id",
                "late",
                "unit",
            )
        ),
        st.sampled_from(("asc", "desc")),
    ),
    max_size=3,
    unique_by=lambda o: o[0],
)

STATISTICS = st.builds(
    StatisticsQuery,
    filter=filters(),
    period=st.sampled_from((0, 0, 60, 300, 7000)),
    groupby=st.lists(
        st.sampled_from(("user_id", "project_id", "resource_id", "source", "metadata.n", "metadata.a.b")), max_size=2
    ),
    aggregates=st.sampled_from(
        (
            (),
            ("count", "sum", "avg", "min", "max", "stddev", "cardinality/resource_id", "cardinality/user_id"),
            ("stddev",),
            ("cardinality/source",),
        )
    ),
)
