"""The systems that the registry knows, made for the settings of the process."""

import pytest

from nephoscope import registry
from nephoscope.errors import ConfigError, Problem
from nephoscope.sample import GAUGE
from nephoscope.settings import load_settings
from sources.pollster import Meter, Pollster, System
from sources.systems import systems_of

WARMTH = Meter("warmth", GAUGE, "C", "room", "How warm it is")


def room(settings):
    closed = []

    def check(meters):
        yield Problem(f"{settings.sample_source}: no thermometer for {sorted(meters)}")

    found = System(
        (Pollster("room", (WARMTH,), lambda _r, _m: (), discovery="rooms", namespace="house"),),
        {"rooms": lambda _parameter: ["kitchen"]},
        check,
        lambda: closed.append(True),
    )
    room.closed = closed
    return found


def wrong(_settings):
    raise ConfigError([Problem("no such file", field="rooms.file")])


@pytest.fixture
def known(monkeypatch):
    """The registry, with these parts instead of its own."""

    def know(**parts):
        monkeypatch.setattr(registry, "names", lambda group: tuple(parts) if group == registry.POLLSTER else ())
        monkeypatch.setattr(registry, "load", lambda _group, name: parts[name])

    return know


def test_a_function_of_the_settings_makes_pollsters_and_discoveries(known):
    known(room=room, plain=Pollster("plain", (WARMTH,), lambda _r, _m: ()))

    with systems_of(load_settings(flags={"sample_source": "test"})) as systems:
        assert set(systems.of(())) == {"room", "plain"}
        assert set(systems.of(["house"])) == {"room"}
        assert systems.discoveries["rooms"]("") == ["kitchen"]
        assert [p.message for p in systems.check(["warmth"])] == ["test: no thermometer for ['warmth']"]
        assert list(systems.check(["something.else"])) == []
        assert list(systems.check(["warmth"], ["central"])) == []
        assert len(list(systems.check(["warmth"], ["house"]))) == 1
        assert room.closed == []

    assert room.closed == [True]


def test_a_namespace_that_is_not_there_is_named_with_the_nearest(known):
    known(room=room)

    with systems_of(load_settings()) as systems, pytest.raises(ConfigError, match=r"hous'.*house"):
        systems.of(["hous"])


def test_what_is_wrong_is_told_and_the_others_are_closed(known):
    known(room=room, wrong=wrong)

    with pytest.raises(ConfigError, match="no such file"), systems_of(load_settings()):
        pass

    assert room.closed == [True]
