"""Whatever an API answers: readings that can be kept, or an error in words, and never anything else."""

import contextlib
import json
import math

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nephoscope.batch import Header
from nephoscope.errors import NephoscopeError
from sources.dynamic.answers import Pages, Unreadable
from sources.dynamic.attributes import Attribute
from sources.dynamic.model import Request
from sources.gather import Gatherer

NAMES = st.sampled_from(["id", "size", "state", "things", "links", "next", "kind", "list", "user_id", "a"])
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**65), 2**65)
    | st.floats()
    | st.text(max_size=6)
    | st.sampled_from(["", "1e999", "UP", "$", "http://[x", "/things"])
)
JSON = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=5), max_leaves=20
)
ENTRIES = st.lists(st.dictionaries(NAMES, JSON, max_size=6) | JSON, max_size=4)
DOCUMENTS = ENTRIES | st.fixed_dictionaries({"things": ENTRIES | JSON}, optional={"next": JSON, "links": JSON}) | JSON
DEFINITIONS = """
- {{name: thing.size, sample_type: gauge, unit: B, url_path: '{url}/things', value_attribute: "size | value * 2 if value else value", metadata_fields: [state, a.kind, "list | ','.join(value)"], response_entries_key: things, next_sample_url_attribute: "next | value.replace('x', 'y')", response_handlers: [json, xml, text]}}
- {{name: thing.state, sample_type: gauge, unit: B, url_path: '{url}/things', value_attribute: state, value_mapping: {{UP: 1}}, skip_sample_values: [DOWN, 0], resource_id_attribute: "id | value.split('$')[0]", response_entries_key: things, next_sample_url_attribute: "next | value.replace('x', 'y')", response_handlers: [json, xml, text]}}
- {{name: 'thing.of.{{kind}}', sample_type: delta, unit: B, url_path: '{url}/things', value_attribute: '[list].size', response_entries_key: things, next_sample_url_attribute: "next | value.replace('x', 'y')", response_handlers: [json, xml, text]}}
"""  # fmt: skip
METERS = ("thing.size", "thing.state", "thing.of.{kind}")


@pytest.fixture
def ask(api, defined):
    """Poll, with this body for an answer: the readings, and what was raised."""
    (pollster,) = defined(DEFINITIONS.format(url=api.url)).pollsters

    def ask(body):
        api.routes["/things"] = body
        readings = []
        with contextlib.suppress(NephoscopeError):
            readings += pollster.poll(f"{api.url}/things", set(METERS))
        return readings

    return ask


def keep(readings):
    """What the agent would make of them: none may be refused but for its size or what no text can hold."""
    names = {r.meter.name for r in readings}
    gatherer = Gatherer(4)
    gatherer.add(readings, dict.fromkeys(names, Header(60, ("s",))), 0, 0)
    return [letter for letter in gatherer.take().letters if letter.reason not in {"text", "too_large"}]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(DOCUMENTS)
def test_json_of_any_shape(ask, document):
    readings = ask(json.dumps(document).encode())

    assert all(type(r.volume) is float and math.isfinite(r.volume) and r.resource_id for r in readings)
    assert keep(readings) == []


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=60) | st.text(alphabet="<>/&;![]ab'\"= ?-{}:,0", max_size=60).map(str.encode))
def test_bytes_of_any_kind(ask, body):
    assert keep(ask(body)) == []


READ = frozenset({"id", "size", "list", "next"})


@settings(max_examples=60, deadline=None)
@given(DOCUMENTS, st.sampled_from(["things", None]), st.sampled_from([None, "next"]))
def test_the_short_way_through_json_gives_what_the_long_way_gives(document, key, link):
    """Members that nobody reads are not taken out; all else is as if they were."""
    request = Request(url_path="http://x/", entries=key and Attribute(key), next_url=link and Attribute(link))
    body = json.dumps(document).encode()

    def read(keys):
        try:
            entries, rest = Pages(request, keys).read(body)
        except Unreadable as error:
            return str(error)
        few = [{k: v for k, v in e.items() if k in READ} if isinstance(e, dict) else e for e in entries]
        return repr((few, request.next_url and request.next_url.read(rest)))

    assert read(READ) == read(None)


def test_no_more_meters_than_a_limit(ask, monkeypatch):
    from sources.dynamic import entries

    monkeypatch.setattr(entries, "MAX_METERS", 10)
    items = [{"kind": f"k{i}", "size": i} for i in range(50)]
    readings = ask(json.dumps({"things": [{"id": "x", "list": items}]}).encode())

    assert len({r.meter.name for r in readings}) <= 10
