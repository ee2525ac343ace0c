"""What real services sent makes the samples and events that it should, in every envelope.

recorded/notifications-expected.json holds them, worked out from Ceilometer's definitions and looked through by hand; after a wanted change write
it anew with ``python -m tests.sources.notifications.write_expected``.
"""

import json
import warnings
from functools import cache
from pathlib import Path

import jsonpath_ng.ext
import pytest

from nephoscope.sample import sample_to_dict
from nephoscope.settings import shipped
from sources.notifications.definitions import MANY, load_meters
from sources.notifications.envelope import unwrap
from sources.notifications.paths import MISSING, compile_path
from tests.sources.notifications.made import RECORDED, enveloped, notification, outcome, shipped_events, shipped_meters
from tests.sources.notifications.write_docs import DOCS, written

EXPECTED = json.loads(Path(__file__).parents[2].joinpath("recorded/notifications-expected.json").read_text())


@pytest.mark.parametrize("message", RECORDED, ids=lambda m: m["event_type"])
def test_a_recorded_notification_makes_what_it_should(message):
    found = outcome(message, shipped_meters(), shipped_events())
    assert json.loads(json.dumps(found)) == EXPECTED[message["event_type"]]


@pytest.mark.parametrize("form", ["v1", "kafka"])
def test_every_envelope_makes_the_same(form):
    meters, events = shipped_meters(), shipped_events()
    for message in RECORDED:
        one, other = unwrap(enveloped(message)), unwrap(enveloped(message, form))
        assert [sample_to_dict(s) for s in meters.samples(one).samples] == [
            sample_to_dict(s) for s in meters.samples(other).samples
        ]
        assert events.event(one) == events.event(other)


def test_neither_token_nor_catalogue_is_kept():
    events = shipped_events(store_raw=["info", "error"])
    held = [m for m in RECORDED if "_context_auth_token" in m]
    assert held
    for message in held:
        for form in ("v1", "v2", "kafka"):
            event, _ = events.event(unwrap(enveloped(message, form)))
            assert "auth_token" not in event.raw
            assert "service_catalog" not in event.raw
            if message["event_type"] != "scheduler.select_destinations.start":  # Its payload holds a token too.
                assert json.loads(event.raw)["payload"] == message["payload"]


@cache
def parsed(text):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return jsonpath_ng.ext.parse(text)


def test_the_short_way_of_a_path_finds_what_the_library_finds():
    definitions = load_meters([shipped("meters.yaml")])
    compared = 0
    for message in RECORDED:
        view = unwrap(enveloped(message)).view
        view["ctxt"] = {k[9:]: v for k, v in view.items() if k.startswith("_context_")}
        for definition in definitions:
            fields = [getattr(definition, name) for name in MANY] + [f for _, f in definition.metadata or ()]
            for path in {p for f in fields if f is not None for p in f.paths if "[*]" not in p.text}:
                values = [m.value for m in parsed(path.text).find(view)]
                assert path.all(view) == values
                one = path.one(view)
                assert one == next((v for v in values if v is not None), None if values else MISSING)
                compared += bool(values)
    assert compared > 1000


def test_the_table_in_the_docs_is_of_these_definitions():
    assert DOCS.read_text() == written()


def test_the_context_is_found_under_both_of_its_names():
    for form in ("v1", "v2", "kafka"):
        view = unwrap(enveloped(notification(_context_user="u", _context_deep={"a": 1}), form)).view
        for text, value in (("ctxt.user", "u"), ("_context_user", "u"), ("$.ctxt.deep.a", 1), ("ctxt.none", MISSING)):
            assert compile_path(text).one(view) == value
            assert compile_path(text).all(view) == ([] if value is MISSING else [value])
        assert compile_path("$.ctxt.user + '-' + $.event_type").one(view) == "u-e"
        assert compile_path("ctxt.`this`").one(view) == {"user": "u", "deep": {"a": 1}}
