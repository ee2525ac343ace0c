"""What Ceilometer itself did with pipelines and samples: tests/recorded/ceilometer.json.

Its runs had flushes; here the samples of all steps go in, in order, to the end of the input, and the union of what it published is
compared. Where the outcome differs on purpose the case says why (``differs``) and what comes out here (``expect_here``);
docs/decisions/0030-differences-to-ceilometer.md lists them all.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from flows.dryrun import dry_run
from flows.plan import compile_plan
from nephoscope.errors import ConfigError, SampleError
from nephoscope.matching import MeterFilter
from nephoscope.pipeline import Pipeline, parse_pipeline, parse_polling
from nephoscope.sample import Sample, sample_from_dict
from nephoscope.times import parse_time
from tests.flows.bridge import SCHEMES, run_partitioned
from tests.reference import Options

ROOT = Path(__file__).parents[2]
CASES: list[dict[str, Any]] = json.loads((ROOT / "tests/recorded/ceilometer.json").read_text())
DECISION = ROOT / "docs/decisions/0030-differences-to-ceilometer.md"

Outcome = dict[str, Any]
"""{"refused": True}, {"takes", "leaves"(, "sources")}, or {"published": {publisher: samples in a fixed order}}."""


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["id"])
def test_recorded(case: dict[str, Any]) -> None:
    """The same as recorded, or what the case says instead; never both."""
    recorded, found = comparable(case["expect"]), comparable(outcome(case))

    assert comparable(case.get("expect_here", case["expect"])) == found
    assert ("differs" in case) == (recorded != found)


FED = [c for c in CASES if "published" in c.get("expect_here", c["expect"])]


@pytest.mark.parametrize("case", FED, ids=lambda case: case["id"])
def test_the_reference_agrees(case: dict[str, Any]) -> None:
    """The slow reference publishes the same."""
    pipeline = loaded(case)
    assert isinstance(pipeline, Pipeline)
    publishers = {sink.name: sink.publishers for sink in pipeline.sinks}
    result = run_partitioned(pipeline, Options(), samples_of(case))
    rows = [(sink, url, sample) for sink, sample in result.published for url in publishers[sink]]

    assert comparable(case.get("expect_here", case["expect"])) == comparable(published(case, rows))


def test_every_difference_has_a_line_in_the_decision() -> None:
    """The record lists what differs, one by one, and nothing else."""
    listed = {line.split("`")[1] for line in DECISION.read_text().splitlines() if line.startswith("| `")}

    assert {c["id"] for c in CASES if "differs" in c} == listed


def outcome(case: dict[str, Any]) -> Outcome:
    """What happens here."""
    if "polling" in case:
        return polled(case)
    pipeline = loaded(case)
    if isinstance(pipeline, dict):
        return pipeline
    if "takes" in case["expect"]:
        (source,) = pipeline.sources
        return taken(MeterFilter(source.meters), case)
    return published(case, dry_run(compile_plan(pipeline), samples_of(case)))


def loaded(case: dict[str, Any]) -> Pipeline | Outcome:
    """The pipeline, or that it is refused."""
    try:
        return parse_pipeline(json.dumps(case["pipeline"]), publisher_schemes=SCHEMES)
    except ConfigError:
        return {"refused": True}


def polled(case: dict[str, Any]) -> Outcome:
    """What a polling.yaml makes of meters, and its sources."""
    try:
        polling = parse_polling(json.dumps(case["polling"]))
    except ConfigError:
        return {"refused": True}
    (source,) = polling.sources
    found = taken(MeterFilter(source.meters), case)
    found["sources"] = [
        {
            "name": source.name,
            "interval": source.interval,
            "resources": list(source.resources),
            "discovery": list(source.discovery),
        }
    ]
    return found


def taken(matching: MeterFilter, case: dict[str, Any]) -> Outcome:
    """Which of the case's meters match."""
    meters = sorted([*case["expect"]["takes"], *case["expect"]["leaves"]])
    return {
        "takes": [m for m in meters if matching.matches(m)],
        "leaves": [m for m in meters if not matching.matches(m)],
    }


def samples_of(case: dict[str, Any]) -> Iterable[Sample]:
    """The case's samples, without those that cannot be read."""
    for raw in case["samples"]:
        try:
            yield sample_from_dict(raw)
        except SampleError:
            continue


def published(case: dict[str, Any], rows: Iterable[tuple[str, str, Sample]]) -> Outcome:
    """What each publisher got; of one sink where the case feeds only one."""
    out: dict[str, list[dict[str, Any]]] = {}
    for sink, url, sample in rows:
        if sink == case.get("sink", sink):
            message = {f: getattr(sample, f) for f in ("name", "type", "unit", "volume", "resource_id", "source")}
            message |= {"user_id": sample.user_id or None, "project_id": sample.project_id or None}
            message |= {"resource_metadata": sample.resource_metadata, "timestamp": sample.timestamp}
            out.setdefault(url if "://" in url else url + "://", []).append(message)
    return {"published": out}


def comparable(found: Outcome) -> Outcome:
    """Samples in a fixed order, numbers rounded as far as they were recorded, times as numbers."""
    if "published" not in found:
        return found
    return {"published": {url: sorted(map(_key, samples)) for url, samples in found["published"].items() if samples}}


def _key(sample: dict[str, Any]) -> str:
    volume, time = sample["volume"], sample["timestamp"]
    whole = {"source": "openstack"} | sample
    whole["volume"] = volume if isinstance(volume, str) else f"{float(volume):.12g}"
    whole["timestamp"] = parse_time(time) if isinstance(time, str) else time
    return json.dumps(whole, sort_keys=True)
