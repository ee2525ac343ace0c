"""`graph`: what is drawn is what runs."""

import re
from pathlib import Path

import pytest

PIPELINE = """
sources:
  - {name: fast "polls", interval: 60, meters: [cpu], sinks: [rates, kept]}
  - {name: rest, meters: ["*.bytes", "<b>"], sinks: [kept]}
sinks:
  - name: rates
    transformers:
      - {name: rate_of_change, parameters: {target: {name: cpu_util, scale: "100 / (volume or 1)"}}}
      - {name: aggregator, parameters: {retention_time: 300}}
    publishers: ["notifier://", "database://", "file:///tmp/\\"out\\"?max_bytes=1&backup_count=2"]
  - {name: kept, transformers: [], publishers: ["notifier://"]}
  - {name: unused, transformers: [], publishers: ["notifier://"]}
"""


@pytest.fixture
def drawn(nephoscope, tmp_path):
    (tmp_path / "p.yaml").write_text(PIPELINE)

    def draw(form):
        done = nephoscope("graph", "p.yaml", "--format", form)
        assert done.status == 0, done.err
        return done.out

    return draw


def shape(text, arrow):
    """{(a, b)} of the edges, each node by the first words that are written into it."""
    labels = dict(re.findall(r'^ *(\w+)(?: \[.*label=|\W+)"([^"<\\&#]*)', text, re.MULTILINE))
    return {(labels[a], labels[b]) for a, b in re.findall(rf"^ *(\w+) {arrow} (\w+);?$", text, re.MULTILINE)}


def test_both_forms_show_the_same_flow(drawn):
    expected = {
        ("fast ", "0: rate_of_change"),
        ("0: rate_of_change", "1: aggregator"),
        ("1: aggregator", "the store"),
        ("1: aggregator", "file:///tmp/"),
        ("fast ", "as they come"),
        ("rest", "as they come"),
        ("as they come", "the store"),
    }

    assert shape(drawn("mermaid"), "-->") == expected
    # DOT needs no escape for what Mermaid does.
    assert {(a, b.partition("&")[0]) for a, b in shape(drawn("dot"), "->")} == expected


def test_words_of_the_user_are_text(drawn):
    mermaid, dot = drawn("mermaid"), drawn("dot")

    assert "fast #quot;polls#quot;<br>cpu<br>every 60 s" in mermaid
    assert "#lt;b#gt;" in mermaid
    assert 'label="fast \\"polls\\"\\ncpu\\nevery 60 s"' in dot


def test_a_sink_that_no_source_feeds_does_not_run_and_is_not_drawn(drawn):
    assert "unused" not in drawn("mermaid")


def test_without_a_file_it_is_what_would_run_here(nephoscope):
    done = nephoscope("graph")

    assert done.status == 0
    assert done.out.startswith("flowchart LR\n")
    assert "cpu_sink" in done.out


def test_every_case_can_be_drawn(nephoscope):
    for case in sorted((Path(__file__).parents[2] / "cases").glob("*/pipeline.yaml"))[::5]:
        assert nephoscope("graph", case).status == 0, case


def test_a_wrong_pipeline_is_told(nephoscope, tmp_path):
    (tmp_path / "p.yaml").write_text("sources: []\nsink: []\n")

    assert nephoscope("graph", "p.yaml").status == 78
