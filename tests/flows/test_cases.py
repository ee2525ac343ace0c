"""The cases in tests/cases: a pipeline, samples, what is published. A new case needs no code.

They are what `nephoscope test tests/cases` runs; here the slow reference has to agree as well.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from nephoscope.cli.cases import differences, run_pipeline
from nephoscope.cli.lines import SampleLines
from nephoscope.sample import sample_to_dict
from nephoscope.settings import load_settings
from tests.flows.bridge import pipeline_of, run_partitioned
from tests.reference import Options

CASES = sorted(p.parent for p in (Path(__file__).parents[1] / "cases").glob("*/pipeline.yaml"))


def wanted(case: Path) -> list[dict[str, Any]]:
    """The lines of out.jsonl."""
    return [json.loads(line) for line in (case / "out.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_dry_run_publishes_what_the_case_says(case: Path) -> None:
    """As `nephoscope test` judges it: the lines in any order, the attributes that they name."""
    settings = load_settings(environment={})
    samples = SampleLines(case / "in.jsonl", settings.max_sample_bytes)

    assert not differences(wanted(case), list(run_pipeline(case / "pipeline.yaml", None, samples, settings)))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_reference_agrees(case: Path) -> None:
    """What out.jsonl says follows from docs/semantics.md, not from how the stage happens to work."""
    pipeline = pipeline_of((case / "pipeline.yaml").read_text())
    publishers = {sink.name: sink.publishers for sink in pipeline.sinks}
    result = run_partitioned(pipeline, Options(), SampleLines(case / "in.jsonl"))
    found = [
        {"sink": sink, "publisher": publisher, "sample": sample_to_dict(sample)}
        for sink, sample in result.published
        for publisher in publishers[sink]
    ]

    assert not differences(wanted(case), found)


def test_there_are_cases() -> None:
    """An empty folder would pass all of the above."""
    assert len(CASES) > 25
