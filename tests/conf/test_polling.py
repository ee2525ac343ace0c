"""The polling that ships: each pattern in it is given by some pollster of its namespace."""

import re
from pathlib import Path

import pytest

from nephoscope.cli.parts import load_polling_and_pipeline
from nephoscope.matching import MeterFilter
from nephoscope.pipeline import load_polling
from nephoscope.settings import load_settings, shipped
from sources.systems import systems_of

CONF = Path(__file__).parents[2] / "conf"
NAMESPACES = sorted(re.findall(r"polling-(\w+)\.yaml", " ".join(p.name for p in CONF.glob("polling-*.yaml"))))


@pytest.fixture(scope="module")
def pollsters():
    with systems_of(load_settings(shipped("nephoscope.yaml"), environment={})) as systems:
        yield list(systems.pollsters.values())


@pytest.mark.parametrize("namespace", NAMESPACES)
def test_every_pattern_is_given_by_a_pollster_of_the_namespace(namespace, pollsters):
    given = [m.name for p in pollsters if p.namespace == namespace for m in p.meters]
    polling = load_polling(CONF / f"polling-{namespace}.yaml")

    silent = [p for s in polling.sources for p in s.meters if not any(map(MeterFilter([p]).matches, given))]
    assert silent == []
    assert {s.interval for s in polling.sources} == {300}
    assert not polling.warnings


def test_an_agent_of_a_namespace_takes_it_where_nothing_else_is_said(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = load_settings(environment={})

    def sources(*namespaces):
        return [s.name for s in load_polling_and_pipeline(settings, namespaces)[1].sources]

    assert sources() == ["host"]
    assert sources("compute") == ["instances", "node"]
    assert sources("central", "compute")[-2:] == ["instances", "node"]
    assert sources("of my own") == ["host"]
    mine = tmp_path / "mine.yaml"
    mine.write_text("sources: [{name: mine, interval: 60, meters: [cpu]}]\n")
    settings = load_settings(environment={}, flags={"polling_cfg_file": mine})
    assert sources("compute") == ["mine"]


def test_each_namespace_of_a_pollster_has_one(pollsters):
    assert sorted({p.namespace for p in pollsters}) == NAMESPACES
