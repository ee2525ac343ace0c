"""The counters: one naming scheme, shared numbers."""

import pytest

from nephoscope.metrics import Counts, exposition


def test_the_names_follow_the_scheme():
    counts = Counts("testnames")
    counts.received(3)
    counts.sent(2)
    counts.dropped(1, "volume")
    counts.failed("timeout")

    lines = exposition().decode().splitlines()
    assert "nephoscope_testnames_received_total 3.0" in lines
    assert "nephoscope_testnames_sent_total 2.0" in lines
    assert 'nephoscope_testnames_dropped_total{reason="volume"} 1.0' in lines
    assert 'nephoscope_testnames_errors_total{reason="timeout"} 1.0' in lines


def test_a_component_counts_in_one_place():
    Counts("testshared").dropped(1, "late")
    Counts("testshared").dropped(2, "late")

    assert Counts("testshared").values() == {"received": 0, "sent": 0, "dropped.late": 3}


def test_more_may_be_told():
    counts = Counts("testmore")
    counts.counted("overruns", 2)
    counts.gauge("targets", 7)

    lines = exposition().decode().splitlines()
    assert "nephoscope_testmore_overruns_total 2.0" in lines
    assert "nephoscope_testmore_targets 7.0" in lines
    assert counts.values()["overruns"] == 2


def test_counters_do_not_fall():
    with pytest.raises(ValueError):
        Counts("testfall").sent(-1)
