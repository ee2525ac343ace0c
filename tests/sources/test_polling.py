"""Targets of a polling definition: pollsters times resources and discoveries, merged; and what is asked of them when."""

import pytest

from nephoscope.pipeline import Polling, PollingSource
from nephoscope.times import SECOND
from sources.polling import Targets
from sources.pollster import Meter, Pollster


def pollster(name, *meters, **more):
    return Pollster(name, tuple(Meter(m, "gauge", "B", "thing", "A thing") for m in meters), lambda _r, _m: [], **more)


def targets_of(sources, *pollsters, found=None):
    targets = Targets(Polling(tuple(sources)), {p.name: p for p in pollsters}, "me")
    return targets, {(t.pollster.name, t.resource): t for t in targets.targets(found or {})}


DISK = pollster("disk", "disk.read", "disk.write", discovery="instances")
CPU = pollster("cpu", "cpu", discovery="instances")


def test_a_source_meets_the_pollsters_of_its_meters():
    targets, found = targets_of(
        [PollingSource("a", 60, ("cpu",)), PollingSource("b", 60, ("disk.*",), ("vm2",))],
        DISK,
        CPU,
        found={"instances": ["vm1"]},
    )

    assert set(found) == {("cpu", "vm1"), ("disk", "vm2")}
    assert targets.discoveries() == {"instances": 60}


def test_named_resources_and_discoveries_add_up_and_the_default_is_for_sources_with_neither():
    source = PollingSource("a", 60, ("cpu",), ("vm0",), ("mine://x", "gone"))
    targets, found = targets_of([source], CPU, found={"mine://x": ["vm1", "vm0"], "instances": ["vm9"]})

    assert set(found) == {("cpu", "vm0"), ("cpu", "vm1")}
    assert targets.discoveries() == {"mine://x": 60, "gone": 60}


def test_a_pollster_gets_only_what_it_takes():
    picky = pollster("host", "cpu", discovery="local", takes=lambda r: not r.startswith("snmp://"))
    _, found = targets_of([PollingSource("a", 60, ("*",), ("snmp://x", "here"))], picky, CPU)

    assert set(found) == {("host", "here"), ("cpu", "snmp://x"), ("cpu", "here")}


def test_sources_that_share_a_target_share_its_polls():
    a = PollingSource("a", 60, ("cpu",), ("vm",))
    b = PollingSource("b", 600, ("*",), ("vm",))
    both = pollster("both", "cpu", "memory")
    targets, found = targets_of([a, b], both)
    (target,) = found.values()

    short, long = (
        targets.ask(target, (60 * SECOND,)),
        targets.ask(
            target,
            (
                60 * SECOND,
                600 * SECOND,
            ),
        ),
    )
    assert short.meters == {"cpu"}
    assert (short.headers["cpu"].interval, short.headers["cpu"].polling) == (60, ("a",))
    assert long.meters == {"cpu", "memory"}
    assert (long.headers["cpu"].interval, long.headers["cpu"].polling) == (60, ("a", "b"))
    assert (long.headers["memory"].interval, long.headers["memory"].polling) == (600, ("b",))
    assert long.headers["memory"].member == "me"
    assert targets.ask(target, (60 * SECOND,)) is short
    assert targets.ask(target, (600 * SECOND,)).headers["cpu"].polling == ("b",)
    assert target.intervals == (60 * SECOND, 600 * SECOND)


def test_sources_of_one_interval_poll_once_and_both_are_named():
    targets, found = targets_of([PollingSource(n, 60, ("cpu",), ("vm",)) for n in "ab"], CPU)
    (target,) = found.values()

    assert targets.ask(target, target.intervals).headers["cpu"].polling == ("a", "b")


def test_jitter_spreads_targets_over_a_part_of_the_period_and_stays():
    _, found = targets_of([PollingSource("a", 600, ("cpu",), tuple(f"vm{i}" for i in range(1000)))], CPU)
    jitters = [t.jitter(0.5, 1000 * SECOND) for t in found.values()]

    assert jitters == [t.jitter(0.5, 1000 * SECOND) for t in found.values()]
    assert 0 <= min(jitters) < 10 * SECOND
    assert 290 * SECOND < max(jitters) < 300 * SECOND
    assert all(t.jitter(0.5, 3) < 3 and t.jitter(0.0, 3) == 0 for t in found.values())


def test_a_source_that_nobody_gives_anything_is_told_with_the_nearest_meter():
    targets, found = targets_of([PollingSource("a", 60, ("cpuu",))], CPU, DISK)

    assert found == {}
    ((source, hint),) = targets.silent()
    assert source.name == "a"
    assert "cpu" in hint


@pytest.mark.parametrize("sources", [(), (PollingSource("a", 60, ("nothing",)),)])
def test_nothing_to_poll_is_no_target(sources):
    assert targets_of(sources, CPU)[1] == {}


def test_a_family_of_meters_is_taken_by_its_name_and_travels_under_one_header():
    family = pollster("usage", "ops.total", "ops.of.{kind}", "size.of.{kind}")
    targets, found = targets_of([PollingSource("a", 60, ("ops.*",), ("rgw",))], family)
    ask = targets.ask(found["usage", "rgw"], (60 * SECOND,))

    assert ask.meters == {"ops.total", "ops.of.{kind}"}
    assert ask.headers.get("ops.of.get") is ask.headers.get("ops.total")
    assert ask.headers.get("size.of.get") is None
