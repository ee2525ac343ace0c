"""A third party's transformer, found through an entry point: loaded, checked, run, snapshotted and forgotten like our own."""

from __future__ import annotations

import pickle
import sys
import textwrap
from importlib.metadata import EntryPoint

import pytest
import yaml

from flows.plan import compile_plan
from flows.snapshot import restore, take
from flows.state import State
from flows.transformers import BUILT_IN
from nephoscope import registry
from nephoscope.errors import ConfigError, MissingExtra
from nephoscope.pipeline import load_pipeline, parse_pipeline
from tests.flows.made import facts, feed, message, plan, published, sample

PARTY = '''
"""Passes every n-th sample on; and one that multiplies, without a state."""

from dataclasses import dataclass, replace

import numpy as np

from flows.transformer import Transformer
from nephoscope.pipeline_specs import Spec, at_least, number


@dataclass(frozen=True)
class Every:
    n: int


@dataclass
class Counter:
    seen: int = 0


def run(step, state, rows, marks, context):
    numbers = state.seen + np.arange(len(rows))
    state.seen += len(rows)
    wanted = numbers % step.program.n == 0
    context.count("thinned", int((~wanted).sum()))
    return rows.take(wanted)


def forget(step, state, watermark, ttl):
    forgotten.append((step.sink, watermark, ttl))


forgotten = []
THIN = Transformer(
    compile=lambda parameters, options, sink: Every(int(parameters.get("n", 2))),
    run=run,
    state=Counter,
    dump=lambda state: state.seen,
    load=lambda step, packed: Counter(packed),
    forget=forget,
    spec=Spec({"n": at_least(1, whole=True)}),
)


def multiply(step, state, rows, marks, context):
    out = rows.take(slice(None))
    out.volume = out.volume * step.program
    return out


TIMES = Transformer(
    compile=lambda parameters, options, sink: float(parameters.get("by", 1)), run=multiply, spec=Spec({"by": number})
)
BARE = Transformer(compile=lambda parameters, options, sink: None, run=lambda step, state, rows, marks, context: rows)
'''


@pytest.fixture
def party(monkeypatch, tmp_path):
    """A distribution that is installed beside ours, with three transformers and one whose client is missing."""
    (tmp_path / "third_party.py").write_text(textwrap.dedent(PARTY))
    (tmp_path / "third_party_needy.py").write_text("import no_such_client\n")
    monkeypatch.syspath_prepend(tmp_path)
    group = registry._group(registry.TRANSFORMER)
    points = {
        "thin": "third_party:THIN",
        "times": "third_party:TIMES",
        "bare": "third_party:BARE",
        "needy": "third_party_needy:NEEDY [birds]",
        "delta": "third_party:THIN",
    }
    extra = {n: EntryPoint(n, value, registry.TRANSFORMER) for n, value in points.items()}
    inner = registry._group
    monkeypatch.setattr(registry, "_group", lambda g: {**extra, **group} if g == registry.TRANSFORMER else inner(g))
    registry.load.cache_clear()
    yield
    registry.load.cache_clear()
    for name in ("third_party", "third_party_needy"):
        sys.modules.pop(name, None)


def text(name, parameters):
    return yaml.safe_dump(
        {
            "sources": [{"name": "s", "meters": ["*"], "sinks": ["k"]}],
            "sinks": [
                {"name": "k", "publishers": ["test://"], "transformers": [{"name": name, "parameters": parameters}]}
            ],
        }
    )


def problems(name, parameters):
    with pytest.raises(ConfigError) as caught:
        parse_pipeline(text(name, parameters), publisher_schemes=("test",))
    return str(caught.value)


def test_it_runs_in_a_chain_with_ours(party):
    the_plan = plan({"k": [("thin", {"n": 2}), ("times", {"by": 10}), ("delta", {"target": {"name": "d"}})]})
    state = State(the_plan)
    first = feed(the_plan, state, message(*(sample(at=i, volume=i) for i in range(5))))
    second = feed(the_plan, state, message(*(sample(at=i, volume=i) for i in range(5, 9))))

    assert facts(published(first)) == [("d", "r", 20), ("d", "r", 20)]
    assert facts(published(second)) == [("d", "r", 20), ("d", "r", 20)]
    assert first.counts["k[0]:thin", "thinned"] == 2


def test_its_parameters_are_checked_where_ours_are(party, tmp_path):
    assert "parameters.n: " in problems("thin", {"n": 0})
    assert "'m' is not known here (known: n)" in problems("thin", {"m": 1})
    (tmp_path / "pipeline.yaml").write_text(text("thin", {"n": "3"}))
    loaded = load_pipeline(tmp_path / "pipeline.yaml", publisher_schemes=("test",))
    assert loaded.sinks[0].steps[0].parameters == {"n": 3}


def test_one_without_a_spec_takes_no_parameters(party):
    assert parse_pipeline(text("bare", {}), publisher_schemes=("test",)).sinks[0].steps[0].name == "bare"
    assert "'n' is not known here" in problems("bare", {"n": 1})


def test_its_name_is_among_those_that_are_near(party):
    assert "there is no transformer 'thinn' (did you mean 'thin'?)" in problems("thinn", {})


def test_it_cannot_take_the_place_of_ours(party):
    (step,) = compile_plan(parse_pipeline(text("delta", {}), publisher_schemes=("test",))).steps

    assert step.transformer is BUILT_IN["delta"]


def test_a_missing_client_concerns_only_the_pipelines_that_name_it(party):
    plan({"k": [("thin", {})]})
    with pytest.raises(MissingExtra, match=r"nephoscope\[birds\]"):
        parse_pipeline(text("needy", {}), publisher_schemes=("test",))


def test_nothing_of_it_is_loaded_for_a_pipeline_of_ours(party):
    plan({"k": [("delta", {})]})

    assert "third_party" not in sys.modules


def test_without_it_its_name_is_unknown():
    assert "there is no transformer 'thin'" in problems("thin", {})
    assert set(BUILT_IN) == {"accumulator", "aggregator", "arithmetic", "delta", "rate_of_change", "unit_conversion"}


def test_its_state_is_in_the_snapshot(party):
    the_plan = plan({"k": [("thin", {"n": 3})], "x": [("times", {})]})
    state = State(the_plan)
    feed(the_plan, state, message(*(sample(at=i) for i in range(4))))
    again = restore(the_plan, pickle.loads(pickle.dumps(take(the_plan, state))))
    one = message(*(sample(at=i, volume=i) for i in range(4, 8)))

    assert published(feed(the_plan, again, one)) == published(feed(the_plan, state, one))
    assert again.steps[1].seen == 8


def test_it_is_asked_to_forget(party):
    the_plan = plan({"k": [("accumulator", {"size": 2, "max_hold": 100}), ("thin", {})]}, series_ttl=800, lateness=0)
    state = State(the_plan)
    feed(the_plan, state, message(mark=0))
    feed(the_plan, state, message(mark=1000))
    from third_party import forgotten

    (sink, watermark, ttl) = forgotten[-1]
    assert (sink, ttl) == ("k", 800_000_000)
    assert state.watermark - watermark == 100_000_000, "its own watermark, as the step before hands it on"
