"""Events: what comes back is what went in, once; every answer is that of a plain list of events."""

import operator
import threading

import pytest
from hypothesis import strategies as st

from nephoscope.errors import StoreError
from nephoscope.event import Event, EventQuery, Trait, TraitDescription, TraitTest
from nephoscope.lifetimes import Lifetimes
from nephoscope.store import Written
from nephoscope.times import SECOND, format_time
from tests.sinks.made import START
from tests.sinks.strategies import holds_for

TYPES = ("compute.instance.create.end", "compute.instance.delete.end", "port.\u202eetaerc", "Port.$x.'")
VALUES = {
    "text": st.sampled_from(("", "a", "A", "b", "q\x00'; --", "%_", "\U0001f329", "\uffee", "x" * 3000)),
    "int": st.sampled_from((0, 1, -1, 4, 2**53, 2**53 + 1, 2**63 - 1, -(2**63))),
    "float": st.sampled_from((0.0, -0.0, 1.0, 4.5, 2.0**53, 1e300, 5e-324)),
    "datetime": st.integers(0, 5).map(lambda n: START + n * SECOND),
}
NAMES = ("state", "size", "State", "a.b", "$gt", "\x00")
EACH = {"=": operator.eq, "!=": operator.ne, "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}


@st.composite
def traits(draw):
    kind = draw(st.sampled_from(tuple(VALUES)))
    return Trait(draw(st.sampled_from(NAMES)), kind, draw(VALUES[kind]))


@st.composite
def events(draw):
    some = draw(st.lists(traits(), max_size=4, unique_by=lambda t: t.name))
    return Event(
        message_id=f"m{draw(st.integers(0, 12))}",
        event_type=draw(st.sampled_from(TYPES)),
        generated=START + draw(st.sampled_from((0, 0, 1, SECOND, 2 * SECOND, 90_000 * SECOND))),
        traits=tuple(some),
        raw=draw(st.sampled_from(("{}", '{"a.b":{"$c":"\\u0000"}}'))),
    )


@st.composite
def questions(draw):
    tests = []
    for _ in range(draw(st.integers(0, 2))):
        kind = draw(st.sampled_from(tuple(VALUES)))
        of = draw(st.sampled_from((kind, kind if kind == "datetime" else "")))
        tests.append(
            TraitTest(draw(st.sampled_from(NAMES)), draw(st.sampled_from(tuple(EACH))), draw(VALUES[kind]), of)
        )
    moments = st.none() | st.sampled_from((START, START + 1, START + 2 * SECOND))
    return EventQuery(
        event_type=draw(st.none() | st.sampled_from(TYPES)),
        message_id=draw(st.none() | st.none() | st.sampled_from(("m0", "m1"))),
        start=draw(moments),
        end=draw(moments),
        traits=tests,
        limit=draw(st.integers(1, 4)),
    )


def answers(query, stored):
    """What a question asks for, worked out over a plain list."""
    out = []
    for event in stored:
        fits = query.event_type in {None, event.event_type} and query.message_id in {None, event.message_id}
        fits = fits and (query.start is None or query.start <= event.generated)
        fits = fits and (query.end is None or event.generated < query.end)
        for test in query.traits:
            kinds = {test.type} if test.type else ({"text"} if isinstance(test.value, str) else {"int", "float"})
            found = [t.value for t in event.traits if t.name == test.name and t.type in kinds]
            fits = fits and any(EACH[test.op](v, test.value) for v in found)
        if fits:
            out.append(event)
    return sorted(out, key=lambda e: (-e.generated, e.message_id))


def stored_of(writes):
    """The first of each message_id, its traits in order."""
    first = {}
    for event in (e for some in writes for e in some):
        first.setdefault(event.message_id, event)
    return [e.settled() for e in first.values()]


@holds_for(
    st.lists(st.lists(events(), max_size=8), min_size=1, max_size=3), st.lists(questions(), min_size=3, max_size=3)
)
def test_every_answer_is_that_of_a_plain_list(fresh_store, writes, asked):
    with fresh_store() as store:
        seen = set()
        for some in writes:
            fresh = {e.message_id for e in some} - seen
            seen |= fresh
            assert store.write_events(some) == Written(len(some), len(fresh), len(some) - len(fresh))
        stored = stored_of(writes)

        for query in (EventQuery(limit=3), *asked):
            expected = answers(query, stored)
            got, cursor = [], None
            for _ in range(len(expected) + 1):
                page = store.events(
                    EventQuery(
                        query.event_type, query.message_id, query.start, query.end, query.traits, query.limit, cursor
                    )
                )
                got += page.events
                cursor = page.cursor
                if cursor is None:
                    break
            assert got == expected
        assert store.event_types() == sorted({e.event_type for e in stored})
        for event_type in TYPES:
            some = {t for e in stored if e.event_type == event_type for t in e.traits}
            assert store.trait_descriptions(event_type) == sorted({TraitDescription(t.name, t.type) for t in some})
            in_order = sorted(some, key=lambda t: (t.name, t.type, t.value))
            assert store.traits(event_type, limit=None) == in_order
            assert store.traits(event_type, "state", limit=2) == [t for t in in_order if t.name == "state"][:2]


@holds_for(st.lists(events(), max_size=12), st.sampled_from((-1, 0, 90_000)))
def test_events_go_when_they_have_lived_for_their_time(fresh_store, some, seconds):
    moment = START + 90_000 * SECOND
    with fresh_store() as store:
        store.write_events(some)
        stored = stored_of([some])
        left = [e for e in stored if seconds < 0 or e.generated >= moment - seconds * SECOND]

        done = store.expire(Lifetimes(events=seconds), moment)

        assert done.events == len(stored) - len(left)
        assert store.events(EventQuery(limit=None)).events == tuple(answers(EventQuery(), left))
        assert store.event_types() == sorted({e.event_type for e in left})
        # What is gone may come again.
        store.write_events(some)
        assert len(store.events(EventQuery(limit=None)).events) == len(stored)


def made(number, **rest):
    values = {
        "message_id": f"m{number:05}",
        "event_type": "x",
        "generated": START + number * SECOND,
        "traits": (Trait("n", "int", number % 7),),
    }
    return Event(**(values | rest))


def test_many_events_are_paged_and_expired_in_steps(store):
    store.write_events([made(n) for n in range(700)])

    assert len(store.events(EventQuery(traits=[TraitTest("n", "=", 3)], limit=None)).events) == 100
    page = store.events(EventQuery(traits=[TraitTest("n", ">", 5.5)], limit=60))
    rest = store.events(EventQuery(traits=[TraitTest("n", ">", 5.5)], limit=200, cursor=page.cursor))
    assert len({e.message_id for e in (*page.events, *rest.events)}) == 100
    assert store.expire(Lifetimes(events=0), START + 640 * SECOND).events == 640
    assert len(store.events(EventQuery(limit=None)).events) == 60


def test_two_writers_of_the_same_events_store_them_once(store, make_store):
    some = [made(n) for n in range(300)]
    counts = []
    both = [
        threading.Thread(
            target=lambda s=s, e=e: counts.extend(s.write_events(e[i : i + 25]).stored for i in range(0, 300, 25))
        )
        for s, e in ((store, some), (make_store(), some[::-1]))
    ]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join()

    assert sum(counts) == 300
    assert sorted(store.events(EventQuery(limit=None)).events, key=lambda e: e.message_id) == some


def test_a_datetime_may_be_asked_for_as_text(store):
    store.write_events([made(1, traits=(Trait("launched_at", "datetime", START),))])

    test = TraitTest("launched_at", "ge", format_time(START), "datetime")
    assert len(store.events(EventQuery(traits=[test])).events) == 1
    assert store.events(EventQuery(traits=[TraitTest("launched_at", "=", START)])).events == ()


def test_a_megabyte_comes_back_as_it_went_in(store):
    event = made(1, raw='{"k":"' + "x" * 1_000_000 + '"}', traits=(Trait("t", "text", "y" * 1_000_000),))
    store.write_events([event])

    assert store.events(EventQuery(traits=[TraitTest("t", "=", "y" * 1_000_000)])).events == (event,)


@pytest.mark.parametrize(
    "event",
    [
        made(1, message_id=""),
        made(1, event_type=""),
        made(1, event_type="x" * 1025),
        made(1, generated=-1),
        made(1, generated=2**62),
        made(1, raw="[]"),
        made(1, raw="{"),
        made(1, traits=(Trait("a", "int", 1), Trait("a", "text", "1"))),
        made(1, traits=(Trait("a", "int", 2**63),)),
        made(1, traits=(Trait("a", "int", 1.5),)),
        made(1, traits=(Trait("a", "int", True),)),
        made(1, traits=(Trait("a", "float", float("nan")),)),
        made(1, traits=(Trait("a", "bool", 1),)),
        made(1, traits=(Trait("", "int", 1),)),
        made(1, traits=(Trait("a", "text", "\ud800"),)),
    ],
)
def test_what_is_no_event_is_refused_with_a_reason_and_nothing_of_its_batch_stored(store, event):
    with pytest.raises(StoreError, match=r"\w+ \w+"):
        store.write_events([made(2), event])

    assert store.events(EventQuery()).events == ()


@pytest.mark.parametrize(
    "ask",
    [
        lambda: TraitTest("a", "=~", "x"),
        lambda: TraitTest("a", "=", None),
        lambda: TraitTest("a", "=", True),
        lambda: TraitTest("a", "=", "x", "int"),
        lambda: TraitTest("a", "=", 1, "text"),
        lambda: TraitTest("a", "=", "yesterday", "datetime"),
        lambda: TraitTest("a", "=", 1, "number"),
        lambda: EventQuery(limit=0),
    ],
)
def test_a_question_that_means_nothing_is_refused_when_it_is_put(ask):
    with pytest.raises(StoreError):
        ask()


@pytest.mark.parametrize("cursor", ["", "x", "W10=", "\u00e9"])
def test_a_cursor_of_something_else_is_refused(store, cursor):
    with pytest.raises(StoreError):
        store.events(EventQuery(cursor=cursor))
