"""`nephoscope poll`: what comes, what fails and why, and that nothing is left behind."""

import json

import pytest

from nephoscope import registry
from sources.pollster import Meter, PermanentError, Pollster, Reading, System

WARMTH = Meter("room.warmth", "gauge", "C", "room", "How warm it is")
NOISE = Meter("room.noise", "gauge", "dB", "room", "How loud it is")


def read(resource, meters):
    about = {"floor": 1}
    for meter in (WARMTH, NOISE):
        if resource == "cellar" and meter is NOISE:
            raise PermanentError("the cellar has no microphone")
        yield Reading(meter, 21.5, resource, about, project_id="p1")


def house(settings):
    rooms = Pollster("rooms", (WARMTH, NOISE), read, discovery="rooms", takes=str.isalpha, namespace="house")
    return System((rooms,), {"rooms": lambda _parameter: ["kitchen", "hall"]})


@pytest.fixture
def poll(monkeypatch, nephoscope):
    monkeypatch.setattr(registry, "names", lambda group: ("house",) if group == registry.POLLSTER else ())
    monkeypatch.setattr(registry, "load", lambda _group, _name: house)
    return lambda *arguments: nephoscope("poll", *arguments)


def test_a_meter_of_every_target_that_is_found(poll, tmp_path):
    done = poll("room.warmth")

    assert done.status == 0
    heading, *lines = done.out.splitlines()
    assert heading == "name\ttype\tvolume\tunit\tresource_id\tpollster"
    assert sorted(lines) == [f"room.warmth\tgauge\t21.5\tC\t{room}\trooms" for room in ("hall", "kitchen")]
    assert done.err == "2 samples of 2 targets\n"
    assert list(tmp_path.iterdir()) == []


def test_a_namespace_is_all_of_its_meters_and_json_is_whole(poll):
    done = poll("house", "--resource", "kitchen", "--json")

    lines = [json.loads(line) for line in done.out.splitlines()]
    assert {line["name"] for line in lines} == {"room.warmth", "room.noise"}
    assert lines[0]["resource_metadata"] == {"floor": 1}
    assert lines[0]["project_id"] == "p1"
    assert lines[0]["user_id"] is None


def test_what_fails_is_told_with_its_cause_beside_what_came(poll):
    done = poll("room.*", "-r", "cellar", "-r", "attic")

    assert done.status == 1
    assert done.out.count("attic") == 2
    assert done.out.count("cellar") == 1
    assert "rooms of cellar: the cellar has no microphone\n" in done.err
    assert done.err.endswith("3 samples of 2 targets, 1 of which failed\n")


def test_targets_of_polling_yaml_are_polled_too(poll, tmp_path):
    (tmp_path / "polling.yaml").write_text(
        "sources: [{name: far, interval: 60, meters: [room.n*], resources: [cellar]}]\n"
    )
    done = poll("room.*", "--set", "polling_cfg_file=polling.yaml")

    assert {line.split("\t")[4] for line in done.out.splitlines()[1:]} == {"kitchen", "hall"}
    assert "rooms of cellar: " in done.err


@pytest.mark.parametrize(
    "wanted, said",
    [
        (("room.warmht",), r"did you mean 'room.warmth'?"),
        (("house", "-r", "42"), "none of these pollsters takes 42: rooms"),
    ],
)
def test_nothing_to_poll_is_a_failure_that_says_why(poll, wanted, said):
    done = poll(*wanted)

    assert done.status == 1
    assert done.out == ""
    assert said in done.err
