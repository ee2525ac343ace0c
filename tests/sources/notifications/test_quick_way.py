"""The quick way of a notification makes what the general, obvious way makes, whatever is wrong with the notification."""

import copy
import json
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nephoscope.errors import SampleError
from nephoscope.event import DATETIME, INT, MAX_NAME, TEXT
from nephoscope.metrics import Counts
from nephoscope.times import parse_time
from sources.notifications.envelope import Opener, unwrap
from sources.notifications.listener import Delivery, Maker
from sources.notifications.paths import MISSING, PathError
from sources.notifications.quick import Quick
from tests.sources.notifications.made import RECORDED, enveloped, notification, shipped_events, shipped_meters

COUNTS = Counts("test_quick_way")
METERS, EVENTS = shipped_meters(), shipped_events(store_raw=["error"])
SLOW_METERS = shipped_meters()
MAKER = Maker(METERS, EVENTS, COUNTS, max_sample_bytes=1 << 20)
OPENER = Opener(METERS.wanted | EVENTS.wanted)

VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from([0, 1, -5, 2**63, 10**30, 1.5, "", "x", "7", "1e400", "nan", "ü", "2026-01-02T03:04:05", [], {}]),
    st.sampled_from([[{"id": "r1"}, {"id": None}], [{"key": "image_id", "value": "i"}], {"auth_token": "secret"}]),
    st.sampled_from(
        [{"metering.a": 1}, [{"key": "metering.b", "value": "v"}], {"a": {"service_catalog": []}}, "<long>"]
    ),
).map(copy.deepcopy)


def places(value, path=()):
    """Every place in a message."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, member in inner:
        yield (*path, name)
        yield from places(member, (*path, name))


@st.composite
def messages(draw):
    """A recorded notification of which something has been changed, taken away or added."""
    message = copy.deepcopy(draw(st.sampled_from(RECORDED)))
    for _ in range(draw(st.integers(0, 4))):
        path = draw(st.sampled_from(list(places(message))))
        within = message
        for name in path[:-1]:
            within = within[name]
        match draw(st.sampled_from(["change", "change", "remove", "add"])):
            case "change":
                within[path[-1]] = draw(VALUES)
            case "remove":
                del within[path[-1]]
            case "add" if isinstance(within, dict):
                name = draw(st.sampled_from(["metadata", "event_type", "id", "ctxt", "networks", "nova_object.data"]))
                within[name] = draw(VALUES)
    if draw(st.integers(0, 5)) == 0:
        message["event_type"] = draw(st.sampled_from([m["event_type"] for m in RECORDED]))
    return message


def plain_event(notification):
    """Type, traits and what is wrong of a notification's event, a trait at a time."""
    traits, wrong = {}, []
    for trait in EVENTS.matching(notification.event_type).traits:
        try:
            value = trait.field.first(notification.view)
            if value is MISSING or value is None or (value == "" and trait.type != TEXT):
                continue
            if trait.type == TEXT:
                value = value if isinstance(value, str) else str(value) if isinstance(value, int) else written(value)
                traits[trait.name] = value[:65_536]
            elif trait.type == DATETIME:
                if not isinstance(value, str):
                    raise ValueError
                if not 0 <= parse_time(value) < parse_time("2200-01-01"):
                    raise ValueError
                traits[trait.name] = parse_time(value)
            else:
                assert trait.type == INT
                if isinstance(value, bool) or not isinstance(value, int | float | str) or abs(int(value)) >= 2**63:
                    raise ValueError
                traits[trait.name] = int(value)
        except (PathError, ValueError, OverflowError):
            wrong.append(trait.name)
    return traits, wrong


def written(value):
    """Compact JSON."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


@pytest.fixture(autouse=True, scope="module")
def general_way():
    """SLOW_METERS knows no quick way, once it has seen every event type."""
    with patch.object(Quick, "takes", lambda _: False):
        for message in RECORDED:
            SLOW_METERS.samples(unwrap(enveloped(message)))


def opening(way, body):
    """The notification of a message, and why there is none."""
    try:
        return way(body), None
    except SampleError as error:
        return None, (error.reason, str(error))


@given(messages(), st.sampled_from(["v1", "v2", "kafka"]))
def test_as_the_general_way(message, form):
    body = enveloped(message, form).replace(b"<long>", b"e" * 70_000)
    (whole, refused), (opened, refused_too) = opening(unwrap, body), opening(OPENER.open, body)
    assert refused == refused_too
    if refused:
        return
    assert opened.whole == whole.view
    assert opened.kept() == whole.kept()
    for name in ("message_id", "event_type", "publisher_id", "priority", "timestamp", "payload"):
        assert getattr(opened, name) == getattr(whole, name)
    assert "secret" not in json.dumps(opened.view)

    expected = SLOW_METERS.samples(whole)
    assert METERS.samples(opened) == expected

    event, wrong = EVENTS.event(opened)
    traits, names = plain_event(whole)
    assert {t.name: t.value for t in event.traits} == traits
    assert [name for name, _ in wrong] == names
    assert event == EVENTS.event(whole)[0]

    made = MAKER.make([Delivery(body, "here", None)])
    assert made.samples == expected.samples
    storable = max(len(event.message_id), len(event.event_type)) <= MAX_NAME
    assert made.events == ([event] if storable else [])
    reasons = [reason for _, reason, _ in expected.refused]
    assert [letter.reason for letter in made.letters] == reasons + ([] if storable else ["event"])


def test_what_services_send_goes_the_quick_way():
    quick = 0
    for message in RECORDED:
        opened = OPENER.open(enveloped(message))
        assert set(opened.view) < set(unwrap(enveloped(message)).view) | {"_context"}
        if METERS.matching(opened.event_type):
            with patch.object(METERS, "_one_by_one", side_effect=AssertionError(opened.event_type)):
                quick += len(METERS.samples(opened).samples)
    assert quick > 80


def test_a_member_that_nobody_asks_for_is_read_only_where_the_notification_is_kept():
    body = enveloped(notification(_context_x=0)).replace(b'_context_x\\": 0', b'_context_x\\": 1e999')
    assert b"1e999" in body
    made = MAKER.make([Delivery(body, "here", None)])
    assert (len(made.events), made.letters) == (1, [])
    bodies = [enveloped(RECORDED[0]), body, enveloped(RECORDED[1])]
    kept = Maker(METERS, shipped_events(store_raw=["info"]), COUNTS).make([Delivery(b, "here", None) for b in bodies])
    assert [event.event_type for event in kept.events] == [RECORDED[0]["event_type"], RECORDED[1]["event_type"]]
    assert [(letter.reason, letter.data) for letter in kept.letters] == [("json", body)]
