"""One poll of each target, now: what is found, what hangs, what fails."""

import threading

from nephoscope.pipeline import Polling, PollingSource
from sources.once import Once
from sources.pollster import Meter, Pollster, Reading

CPU = Meter("cpu", "cumulative", "ns", "instance", "CPU time")


def test_a_target_that_hangs_is_given_up_and_the_others_answer():
    release = threading.Event()

    def poll(resource, _meters):
        if resource == "stuck":
            release.wait(30)
        return [Reading(CPU, 1.0, resource)]

    pollster = Pollster("domains", (CPU,), poll)
    answers = {a.resource: a for a in Once(["cpu"], {"domains": pollster}, {}, resources=["stuck", "vm"], timeout=0.3)}
    release.set()

    assert [r.volume for r in answers["vm"].readings] == [1.0]
    assert answers["stuck"].readings == []
    assert answers["stuck"].error == "no answer within 0.3 s"


def test_a_discovery_that_fails_or_is_not_there_is_an_answer():
    def broken(_parameter):
        raise OSError("no route to host")

    pollster = Pollster("domains", (CPU,), lambda _r, _m: [], discovery="hosts")
    polling = Polling((PollingSource("a", 60, ("*",), (), ("nowhere://x",)),))
    answers = {a.resource: a.error for a in Once(["cpu"], {"domains": pollster}, {"hosts": broken}, polling)}

    assert answers == {"hosts": "OSError: no route to host", "nowhere://x": "there is no discovery 'nowhere'"}


def test_what_was_not_asked_for_and_what_is_no_reading_is_left_out():
    other = Meter("memory", "gauge", "MB", "instance", "Memory")
    given = [Reading(CPU, 1.0, "vm"), Reading(other, 2.0, "vm"), "nonsense"]
    pollster = Pollster("domains", (CPU, other), lambda _r, _m: given)

    (answer,) = Once(["c*"], {"domains": pollster}, {}, resources=["vm"])

    assert [r.meter.name for r in answer.readings] == ["cpu"]
