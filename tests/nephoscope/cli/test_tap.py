"""`tap`: samples as they pass a step, without a part in the flow."""

import json
import os
import subprocess
import sys
import time

import pytest

from nephoscope.push import push
from nephoscope.sample import sample_from_dict
from nephoscope.topics import SAMPLES, Record
from nephoscope.topics.embedded import EmbeddedLog

PIPELINE = """
sources: [{name: all, meters: ["*"], sinks: [rates, kept]}]
sinks:
  - name: rates
    transformers:
      - {name: rate_of_change, parameters: {target: {map_to: {name: "\\\\1.rate"}}, source: {map_from: {name: "(.+)"}}}}
      - {name: unit_conversion, parameters: {target: {scale: 2, name: double}}}
    publishers: ["database://"]
  - {name: kept, transformers: [], publishers: ["database://"]}
"""


def made(volume, second, name="cpu", resource="vm-1"):
    about = {"type": "cumulative", "unit": "ns", "volume": volume, "timestamp": f"2015-06-01T12:00:{second:02d}"}
    return sample_from_dict({**about, "name": name, "resource_id": resource, "id": f"{name} {resource} {second}"})


@pytest.fixture
def log(tmp_path):
    (tmp_path / "var" / "nephoscope").mkdir(parents=True)
    (tmp_path / "nephoscope.yaml").write_text("pipeline_cfg_file: pipeline.yaml\n")
    (tmp_path / "pipeline.yaml").write_text(PIPELINE)
    log = EmbeddedLog(tmp_path / "var" / "nephoscope" / "log.db")
    yield log
    log.close()


@pytest.fixture
def tapped(nephoscope, log, monkeypatch):
    """Tap what the log holds; the rows as (name, resource, volume)."""
    monkeypatch.setattr(os, "nice", lambda _: 0)  # This process has more tests to run.

    def tap(*arguments):
        done = nephoscope("tap", "--begin", "--json", "--for", "0.3", "--rate", "1000", *arguments)
        assert done.status == 0, done.err
        return [(s["name"], s["resource_id"], s["volume"]) for s in map(json.loads, done.out.splitlines())]

    return tap


def test_what_comes_in(tapped, log):
    push(log, [made(1, 0), made(2, 0, "mem", "vm-2")])
    log.append(SAMPLES, [Record(0, b"rubbish")])

    assert sorted(tapped()) == [("cpu", "vm-1", 1), ("mem", "vm-2", 2)]


def test_what_a_step_gives(tapped, log):
    push(log, [made(10, 0), made(30, 10)])

    assert tapped("rate_of_change") == [("cpu.rate", "vm-1", 2)]
    assert tapped("rates[0]") == [("cpu.rate", "vm-1", 2)]
    # As the counters name it.
    assert tapped("rates[1]:unit_conversion") == [("double", "vm-1", 4)]
    assert tapped("rates") == [("double", "vm-1", 4)]
    assert tapped("kept") == [("cpu", "vm-1", 10), ("cpu", "vm-1", 30)]


@pytest.mark.parametrize(
    "filters,names",
    [
        (("--filter", "c*"), {"cpu", "cpus"}),
        (("--filter", "cpu"), {"cpu"}),
        (("--resource", "vm-2"), {"mem"}),
        (("--resource", "vm-*", "--filter", "mem"), {"mem"}),
        (("--resource", "vm-3"), set()),
    ],
)
def test_filters(tapped, log, filters, names):
    push(log, [made(1, 0), made(2, 0, "mem", "vm-2"), made(3, 0, "cpus")])

    assert {name for name, *_ in tapped(*filters)} == names


def test_the_rate_is_bounded_and_what_is_not_shown_is_counted(nephoscope, tapped, log):
    push(log, [made(n, n) for n in range(50)])

    done = nephoscope("tap", "--begin", "--for", "0.3", "--rate", "5")

    assert len(done.out.splitlines()) == 5
    assert "45 more passed" in done.err


def test_it_stops_after_so_many(nephoscope, tapped, log):
    push(log, [made(n, n) for n in range(50)])

    started = time.monotonic()
    done = nephoscope("tap", "--begin", "--limit", "3", "--for", "30")

    assert len(done.out.splitlines()) == 3
    assert time.monotonic() - started < 10
    assert "more passed" not in done.err


@pytest.mark.parametrize(
    "where,word", [("rtes", "did you mean 'rates'?"), ("rates[2]", "rates["), ("delta", "there is no step")]
)
def test_an_unknown_step_is_told_with_the_nearest(nephoscope, log, where, word):
    done = nephoscope("tap", where)

    assert done.status == 78
    assert word in done.err


def test_a_kind_of_several_steps_is_no_place(nephoscope, log, tmp_path):
    (tmp_path / "pipeline.yaml").write_text(PIPELINE.replace("unit_conversion", "rate_of_change"))

    done = nephoscope("tap", "rate_of_change")

    assert done.status == 78
    assert "rates[0], rates[1]" in done.err


def test_from_now_on_a_rate_comes_with_the_second_sample(log, tmp_path):
    push(log, [made(10, 0)])
    tap = subprocess.Popen(
        [sys.executable, "-m", "nephoscope.cli", "tap", "rate_of_change", "--limit", "1", "--for", "30"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert "from now on" in tap.stderr.readline()
        before = log.end(SAMPLES)
        # The first that it sees has no predecessor for it, whatever came before.
        push(log, [made(30, 10)])
        push(log, [made(90, 20)])
        out, _ = tap.communicate(timeout=30)
    finally:
        tap.kill()
        tap.wait()

    assert "cpu.rate" in out
    assert " 6 " in out
    # It wrote nothing.
    assert sum(log.end(SAMPLES)) == sum(before) + 2
