"""`dry-run` and `test`: a pipeline over lines from a file."""

import io
import json
import sys
from pathlib import Path

import pytest

from nephoscope.cli.cases import differences

PIPELINES = Path(__file__).parents[2] / "data" / "pipelines"
PIPELINE = """
sources: [{name: s, meters: [cpu], sinks: [rate]}]
sinks:
  - name: rate
    transformers: [{name: rate_of_change, parameters: {target: {name: cpu_util, unit: '%'}}}]
    publishers: ['test://', 'udp://192.0.2.1:4952']
"""


def line(volume, second, name="cpu"):
    return json.dumps(
        {
            "name": name,
            "type": "cumulative",
            "unit": "ns",
            "volume": volume,
            "resource_id": "vm",
            "timestamp": f"2015-06-01T12:00:{second:02d}",
        }
    )


@pytest.fixture
def case(tmp_path):
    """A folder with a case that passes."""
    folder = tmp_path / "cases" / "rate"
    folder.mkdir(parents=True)
    (folder / "pipeline.yaml").write_text(PIPELINE)
    (folder / "in.jsonl").write_text(line(0, 0) + "\n" + line(30, 10) + "\n")
    wanted = {"name": "cpu_util", "volume": 3.0, "user_id": ""}
    out = [{"sink": "rate", "publisher": p, "sample": wanted} for p in ("test://", "udp://192.0.2.1:4952")]
    (folder / "out.jsonl").write_text("\n".join(map(json.dumps, out)))
    return folder


def test_what_is_published_is_printed_as_json_lines(nephoscope, case):
    done = nephoscope("dry-run", "--pipeline", case / "pipeline.yaml", "--samples", case / "in.jsonl")

    assert done.status == 0
    first, second = map(json.loads, done.out.splitlines())
    assert (first["sink"], first["publisher"], second["publisher"]) == ("rate", "test://", "udp://192.0.2.1:4952")
    assert (first["sample"]["name"], first["sample"]["volume"]) == ("cpu_util", 3.0)
    assert "2 lines read, 0 refused, 2 samples published" in done.err


def test_samples_from_stdin(nephoscope, case, monkeypatch):
    stdin = io.TextIOWrapper(io.BytesIO((case / "in.jsonl").read_bytes()))
    monkeypatch.setattr(sys, "stdin", stdin)

    done = nephoscope("dry-run", "--pipeline", case / "pipeline.yaml", "--samples", "-")

    assert len(done.out.splitlines()) == 2


def test_bad_lines_are_told_and_the_rest_goes_on(nephoscope, case):
    bad = ["{", "[]", line("many", 1), line(1, 1).replace("2015", "9999"), "", '"\xff"']
    (case / "in.jsonl").write_text("\n".join([line(0, 0), *bad, line(30, 10)]), encoding="latin-1")

    done = nephoscope("dry-run", "--pipeline", case / "pipeline.yaml", "--samples", case / "in.jsonl")

    assert done.status == 0
    assert len(done.out.splitlines()) == 2
    for number, reason in ((2, "json"), (3, "json"), (4, "volume"), (5, "timestamp"), (7, "json")):
        assert f"in.jsonl:{number}: {reason}: " in done.err
    assert "7 lines read, 5 refused" in done.err


def test_a_line_that_is_too_long_is_told(nephoscope, case):
    (case / "in.jsonl").write_text(line(1, 1, "x" * 3000) + "\n" + line(0, 0) + "\n" + line(30, 10))

    done = nephoscope(
        "dry-run",
        "--pipeline",
        case / "pipeline.yaml",
        "--samples",
        case / "in.jsonl",
        "--set",
        "max_sample_bytes=2000",
    )

    assert "in.jsonl:1: size: " in done.err
    assert len(done.out.splitlines()) == 2


def test_a_bad_pipeline_is_status_78_with_every_problem(nephoscope, case):
    (case / "pipeline.yaml").write_text(
        PIPELINE.replace("rate_of_change", "rate_of_chang").replace("test://", "gnocchi://")
    )

    done = nephoscope("dry-run", "--pipeline", case / "pipeline.yaml", "--samples", case / "in.jsonl")

    assert (done.status, done.out) == (78, "")
    assert "pipeline.yaml:5: " in done.err
    assert "'rate_of_change'" in done.err
    assert "pipeline.yaml:6: " in done.err


def test_a_file_that_is_not_there(nephoscope, case):
    done = nephoscope("dry-run", "--pipeline", case / "pipeline.yaml", "--samples", "none.jsonl")

    assert done.status == 1
    assert "none.jsonl" in done.err


@pytest.mark.parametrize("name", sorted(p.name for p in PIPELINES.glob("*.yaml")))
def test_pipelines_of_all_ages_run_unchanged(nephoscope, case, name):
    done = nephoscope("dry-run", "--pipeline", PIPELINES / name, "--samples", case / "in.jsonl")

    assert done.status == 0
    assert '"cpu"' in done.out or '"cpu_util"' in done.out


def test_cases_that_pass(nephoscope, case):
    done = nephoscope("test", case.parent)

    assert (done.status, done.out) == (0, "passed  rate\n1 passed, 0 failed\n")


def test_a_case_that_fails_says_how(nephoscope, case):
    out = (case / "out.jsonl").read_text()
    (case / "out.jsonl").write_text(out.replace("3.0", "4.0", 1))

    done = nephoscope("test", case.parent)

    assert done.status == 1
    assert "FAILED  rate" in done.out
    assert "sample.volume: 3.0 instead of 4.0" in done.out


def test_a_case_with_a_bad_pipeline_is_status_78(nephoscope, case):
    (case / "pipeline.yaml").write_text("sources: []")

    assert nephoscope("test", case).status == 78


def test_no_cases_is_a_failure(nephoscope, tmp_path):
    assert nephoscope("test", tmp_path).status == 1


def published(**sample):
    return {"sink": "k", "publisher": "p", "sample": {"name": "n", **sample}}


def test_differences_ignore_order_and_what_is_not_named():
    assert (
        differences([published(volume=2), published(volume=1)], [published(volume=1, id="x"), published(volume=2)])
        == []
    )


def test_differences_count_repetitions():
    assert len(differences([published(volume=1)], [published(volume=1)] * 2)) == 1
    assert len(differences([published(volume=1)] * 2, [published(volume=1)])) == 1


def test_metadata_is_compared_as_a_whole():
    assert differences([published(resource_metadata={})], [published(resource_metadata={"a": 1})]) != []
