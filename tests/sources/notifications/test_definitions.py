"""meters.yaml and event_definitions.yaml: what they mean, and every problem with its line."""

import pytest

from nephoscope.documents import Checker
from nephoscope.errors import ConfigError
from sources.notifications.definitions import load_meters
from sources.notifications.envelope import unwrap
from sources.notifications.event_definitions import load_events
from sources.notifications.events import Events
from sources.notifications.meters import Meters
from tests.sources.notifications.made import enveloped, meters_of, notification, samples_of

BITS = (
    "{fields: [payload.a, payload.b], type: int, plugin: {name: bitfield, parameters: {initial_bitfield: 1, "
    "flags: [{path: payload.a, bit: 2, value: yes}, {path: payload.b, bit: 3}]}}}"
)
LIBERTY = "tests/data/meters/liberty.yaml"
ONE = "  - {name: %s, event_type: %s, type: gauge, unit: B, volume: %s, resource_id: $.payload.id%s}\n"


def one(name="m", event_type="e", volume="$.payload.v", more=""):
    return "metric:\n" + ONE % (name, event_type, volume, more)


def traits_of(tmp_path, text, message, **options):
    file = tmp_path / "events.yaml"
    file.write_text(text)
    event, wrong = Events(load_events([file]), **options).event(unwrap(enveloped(message)))
    return ({t.name: t.value for t in event.traits} if event else None), wrong


def test_a_file_of_liberty_loads_unchanged(pytestconfig):
    meters = Meters(load_meters([pytestconfig.rootpath / LIBERTY]), "openstack")
    swift = {
        "measurements": [
            {"metric": {"name": "storage.objects.incoming.bytes", "unit": "B"}, "result": 28},
            {"metric": {"name": "storage.objects.outgoing.bytes", "unit": "B"}, "result": 1},
        ],
        "target_id": "AUTH_1",
    }
    assert samples_of(meters, notification("objectstore.http.request", swift)) == (
        [("storage.objects.incoming.bytes", 28.0, "AUTH_1"), ("storage.objects.outgoing.bytes", 1.0, "AUTH_1")],
        [],
    )
    assert samples_of(meters, notification("image.update", {"size": 5, "id": "i"}))[0] == [("image.size", 5.0, "i")]
    made = meters.samples(
        unwrap(
            enveloped(
                notification(
                    "orchestration.stack.create.end",
                    {"tenant_id": "t", "stack_identity": "s"},
                    _context_trustor_user_id="u",
                )
            )
        )
    )
    assert [(s.user_id, s.project_id) for s in made.samples] == [("u", "t")]


def test_problems_come_with_their_lines_in_one_go(tmp_path):
    file = tmp_path / "meters.yaml"
    file.write_text(
        "metric:\n"
        "  - {name: a, event_type: e, type: gage, unit: B, volume: 1, resource_id: $.x}\n"
        "  - {name: b, event_type: e, type: gauge, unit: B, volum: 1, resource_id: $.x}\n"
        "  - name: c\n"
        "    event_type: '(('\n"
        "    type: gauge\n"
        "    unit: B\n"
        "    volume: $.payload.[\n"
        "    resource_id: {fields: [$.x], plugin: splitt}\n"
        "    lookup: [nam]\n"
    )
    with pytest.raises(ConfigError) as caught:
        load_meters([file])
    said = [(p.line, p.field, p.hint) for p in caught.value.problems]
    assert [(line, field) for line, field, _ in said] == [
        (2, "metric[0] a.type"),
        (3, "metric[1]"),
        (3, "metric[1] b"),
        (5, "metric[2] c.event_type"),
        (8, "metric[2] c.volume"),
        (9, "metric[2] c.resource_id.plugin"),
        (10, "metric[2] c.lookup"),
    ]
    assert [h for _, _, h in said if h] == [
        "did you mean 'gauge'?",
        "did you mean 'volume'?",
        "did you mean 'split'?",
        "did you mean 'name'?",
    ]


@pytest.mark.parametrize("text", ["", "metric: {}", "[]", "other: []", "metric:\n- 5"])
def test_what_is_no_file_of_meters_is_refused(tmp_path, text):
    with pytest.raises(ConfigError):
        meters_of(tmp_path, text)


def test_a_users_definition_takes_the_place_of_the_one_that_ships(tmp_path):
    (tmp_path / "a.yaml").write_text(one(volume="1") + ONE % ("n", "e", "2", ""))
    (tmp_path / "b.yaml").write_text(one(volume="3"))
    meters = Meters(load_meters([tmp_path / "a.yaml", tmp_path / "b.yaml"]), "")
    assert sorted(samples_of(meters, notification(payload={"id": "r"}))[0]) == [("m", 3.0, "r"), ("n", 2.0, "r")]


def test_a_name_twice_in_one_file_is_told(tmp_path):
    (tmp_path / "a.yaml").write_text(one(volume="1") + ONE % ("m", "f", "2", ""))
    checker = Checker("")
    assert len(load_meters([tmp_path / "a.yaml"], checker)) == 1
    assert ["line 2" in str(w) for w in checker.warnings] == [True]


@pytest.mark.parametrize(
    "pattern, yes, no",
    [
        ("volume.create.*", "volume.create.end", "volume.created"),
        (r"compute\.instance\.(?!create\.start|update).*", "compute.instance.exists", "compute.instance.update"),
        ("image.send", "image.send", "image.sender"),
        ("*http.*", "objectstore.http.request", "https"),
        ("['*', '!a.*']", "b", "a.b"),
        ("['!a.*']", "b", "a.b"),
    ],
)
def test_event_types(tmp_path, pattern, yes, no):
    quoted = pattern if pattern.startswith("[") else f"'{pattern}'"
    meters = meters_of(tmp_path, one(event_type=quoted, volume="1"))
    assert len(meters.matching(yes)) == 1
    assert len(meters.matching(no)) == 0


def test_what_is_missing_or_wrong_is_refused_by_name_and_holds_up_no_other(tmp_path):
    text = "metric:\n" + "".join(
        ONE % (name, "e", volume, "")
        for name, volume in (("gone", "$.payload.x"), ("nothing", "$.payload.n"), ("text", "$.payload.t"), ("m", "1"))
    )
    meters = meters_of(tmp_path, text)
    payload = {"id": "r", "n": None, "t": "many"}
    found, refused = samples_of(meters, notification(payload=payload))
    assert found == [("m", 1.0, "r")]
    assert refused == [("gone", "volume"), ("text", "volume")]
    assert meters.samples(unwrap(enveloped(notification(payload=payload)))).empty == 1
    assert samples_of(meters, notification(payload={"n": 1, "x": 1, "t": 1}))[1] == [
        (name, "resource_id") for name in ("gone", "nothing", "text", "m")
    ]


def test_the_same_notification_makes_the_same_ids_and_positions_do_not_depend_on_what_fails(tmp_path):
    text = (
        "metric:\n  - {name: '$.payload.l.[*].n', event_type: e, type: gauge, unit: u, volume: '$.payload.l.[*].v',"
        " resource_id: $.payload.id, lookup: [name, volume]}\n"
    )
    meters = meters_of(tmp_path, text)
    good = [{"n": "a", "v": 1}, {"n": "a", "v": 2}, {"n": "b", "v": 3}]
    bad = [{"n": "a", "v": "x"}, *good[1:]]
    ids = [
        [s.id for s in meters.samples(unwrap(enveloped(notification(payload={"id": "r", "l": rows})))).samples]
        for rows in (good, good, bad)
    ]
    assert ids[0] == ids[1]
    assert len(set(ids[0])) == 3
    assert ids[2] == ids[0][1:]


def test_a_lookup_whose_lists_differ_makes_nothing(tmp_path):
    text = (
        "metric:\n  - {name: '$.payload.l.[*].n', event_type: e, type: gauge, unit: u, volume: '$.payload.l.[*].v',"
        " resource_id: $.payload.id, lookup: [name, volume]}\n"
    )
    meters = meters_of(tmp_path, text)
    rows = [{"n": "a", "v": 1}, {"n": "b"}]
    assert samples_of(meters, notification(payload={"id": "r", "l": rows})) == ([], [("$.payload.l.[*].n", "volume")])


def test_user_metadata_keeps_what_users_marked(tmp_path):
    more = ", user_metadata: $.payload.metadata, metadata: {host: $.publisher_id, none: $.payload.nothing}"
    meters = meters_of(tmp_path, one(volume="1", more=more))
    payload = {"id": "r", "metadata": {"metering.a.b": "x" * 300, "other": 1, "metering.": 2}}
    (sample,) = meters.samples(unwrap(enveloped(notification(payload=payload)))).samples
    assert sample.resource_metadata == {"host": "compute.host-1", "user_metadata": {"a_b": "x" * 256}}


@pytest.mark.parametrize(
    "trait, payload, value",
    [
        ("{fields: payload.a}", {"a": 5}, "5"),
        ("{fields: payload.a}", {"a": ""}, ""),
        ("{fields: payload.a}", {"a": None}, None),
        ("{fields: payload.a, type: int}", {"a": "7"}, 7),
        ("{fields: payload.a, type: int}", {"a": ""}, None),
        ("{fields: payload.a, type: float}", {"a": 1}, 1.0),
        ("{fields: payload.a, type: datetime}", {"a": "1970-01-01T00:00:01Z"}, 1_000_000),
        ("{fields: [payload.b, payload.a]}", {"a": "x", "b": None}, "x"),
        ("{fields: payload.a, plugin: {name: split, parameters: {segment: 1, separator: '-'}}}", {"a": "x-y-z"}, "y"),
        ("{fields: payload.a, plugin: {name: split, parameters: {segment: 9}}}", {"a": "x"}, None),
        (
            "{fields: [payload.a, payload.b], type: float, plugin: timedelta}",
            {"a": "2026-01-01", "b": "2026-01-02"},
            86400.0,
        ),
        (
            "{fields: payload.a, plugin: {name: map, parameters: {values: {x: 1}, default: 0}}, type: int}",
            {"a": "y"},
            0,
        ),
        (
            "{fields: payload.a, plugin: {name: map, parameters: {values: {x: up}, case_sensitive: false}}}",
            {"a": "X"},
            "up",
        ),
        (
            BITS,
            {"a": False, "b": "x"},
            9,
        ),
    ],
)
def test_traits(tmp_path, trait, payload, value):
    found, wrong = traits_of(tmp_path, f"- event_type: e\n  traits:\n    t: {trait}\n", notification(payload=payload))
    assert wrong == []
    assert found.get("t") == value


def test_a_trait_that_is_none_of_its_type_is_left_out_and_told(tmp_path):
    text = "- event_type: e\n  traits:\n    a: {fields: payload.a, type: int}\n    b: {fields: payload.b}\n"
    found, wrong = traits_of(tmp_path, text, notification(payload={"a": "many", "b": "x"}))
    assert found["b"] == "x"
    assert "a" not in found
    assert [name for name, _ in wrong] == ["a"]


def test_the_last_definition_that_is_for_an_event_type_counts(tmp_path):
    text = "".join(
        f"- event_type: {pattern}\n  traits: {{t: {{fields: payload.{field}}}}}\n"
        for pattern, field in (("e.*", "a"), ("['e.*', '!e.2']", "b"))
    )
    payload = {"a": "first", "b": "second"}
    assert traits_of(tmp_path, text, notification("e.1", payload))[0]["t"] == "second"
    assert traits_of(tmp_path, text, notification("e.2", payload))[0]["t"] == "first"


def test_what_no_definition_is_for_has_the_default_traits_or_is_dropped(tmp_path):
    message = notification("other", {"tenant_id": "p"}, _context_request_id="req-1")
    assert traits_of(tmp_path, "[]", message)[0] == {
        "service": "compute.host-1",
        "request_id": "req-1",
        "tenant_id": "p",
    }
    assert traits_of(tmp_path, "[]", message, drop_unmatched=True)[0] is None


@pytest.mark.parametrize(
    "text, line, hint",
    [
        ("- event_type: e\n  traits:\n    t: {fields: a, type: itn}\n", 3, "did you mean 'int'?"),
        ("- event_type: e\n  trait:\n    t: {fields: a}\n", 2, "did you mean 'traits'?"),
        ("- traits: {}\n", 1, ""),
        ("- event_type: e\n  traits:\n    t: {type: int}\n", 3, ""),
        ("- event_type: []\n  traits: {}\n", 1, ""),
        ("a: b\n", 1, ""),
        (
            "- event_type: e\n  traits:\n    t: {fields: a, plugin: {name: split, parameters: {segmet: 1}}}\n",
            3,
            "did you mean 'segment'?",
        ),
    ],
)
def test_a_wrong_event_definition_is_refused_with_its_line(tmp_path, text, line, hint):
    file = tmp_path / "events.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_events([file])
    assert (line, hint) in [(p.line, p.hint) for p in caught.value.problems]


@pytest.mark.parametrize("text", ["__import__('os')", "$.payload.__class__", "().__class__", "a" * 2000, "(" * 300])
def test_nothing_in_a_definition_is_run(tmp_path, text):
    (tmp_path / "m.yaml").write_text(one(volume=f'"{text}"'))
    try:
        meters = Meters(load_meters([tmp_path / "m.yaml"]), "")
    except ConfigError:
        return
    assert samples_of(meters, notification(payload={"id": "r"}))[0] == []


def test_a_trait_that_is_there_twice_is_the_last_one_and_told(tmp_path):
    """Ceilometer itself shipped a file with one, up to Ocata."""
    file = tmp_path / "events.yaml"
    file.write_text(
        "- event_type: trove.*\n"
        "  traits:\n"
        "    state: {fields: payload.state_description}\n"
        "    user_id: {fields: payload.user_id}\n"
        "    state: {fields: payload.state}\n"
    )
    told = Checker("")
    events = Events(load_events([file], told))
    event, _ = events.event(unwrap(enveloped(notification("trove.x", {"state": "a", "state_description": "b"}))))

    assert {t.name: t.value for t in event.traits}["state"] == "a"
    assert [(w.line, "there twice" in w.message) for w in told.warnings] == [(5, True)]
