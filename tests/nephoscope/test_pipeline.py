"""pipeline.yaml and polling.yaml: what loads, and what is said of what does not."""

from pathlib import Path

import pytest
import yaml

from nephoscope.errors import ConfigError
from nephoscope.matching import MeterFilter
from nephoscope.pipeline import (
    cross_check,
    load_pipeline,
    load_polling,
    parse_pipeline,
    parse_polling,
    polling_of,
    resolve_publisher,
)
from nephoscope.pipeline_specs import SPECS, Spec, text

ROOT = Path(__file__).parents[2]
OLD = ROOT / "tests" / "data" / "pipelines"
SCHEMES = ("test", "file", "udp", "console")


def pipeline(document, **more):
    return parse_pipeline(
        document if isinstance(document, str) else yaml.safe_dump(document, sort_keys=False),
        publisher_schemes=SCHEMES,
        **more,
    )


def problems(document):
    with pytest.raises(ConfigError) as caught:
        pipeline(document)
    return [str(p).removeprefix("pipeline.yaml:") for p in caught.value.problems]


def one_step(name, parameters):
    """A pipeline of one source and a sink of one step."""
    return {
        "sources": [{"name": "s", "meters": ["*"], "sinks": ["k"]}],
        "sinks": [{"name": "k", "transformers": [{"name": name, "parameters": parameters}], "publishers": ["test"]}],
    }


def with_source(**changed):
    source = {"name": "s", "meters": ["*"], "sinks": ["k"]} | changed
    return {
        "sources": [{k: v for k, v in source.items() if v != "absent"}],
        "sinks": [{"name": "k", "publishers": ["test"]}],
    }


def with_sink(**changed):
    sink = {"name": "k", "publishers": ["test"]} | changed
    return {
        "sources": [{"name": "s", "meters": ["*"], "sinks": ["k"]}],
        "sinks": [{k: v for k, v in sink.items() if v != "absent"}],
    }


@pytest.mark.parametrize("name", ["juno", "kilo", "queens", "juno-coupled", "juno-documentation"])
def test_old_pipelines_load_unchanged(name):
    loaded = load_pipeline(OLD / f"{name}.yaml", publisher_schemes=SCHEMES)
    assert loaded.sources
    assert loaded.polling_from_pipeline is (name != "queens")
    assert bool(polling_of(loaded).sources) is (name != "queens")


def test_juno_defines_polling_too():
    loaded = load_pipeline(OLD / "juno.yaml", publisher_schemes=SCHEMES)
    assert [(s.name, s.interval, s.meters[0]) for s in polling_of(loaded).sources] == [
        ("meter_source", 600, "*"),
        ("cpu_source", 600, "cpu"),
        ("disk_source", 600, "disk.read.bytes"),
        ("network_source", 600, "network.incoming.bytes"),
    ]
    disk = next(sink for sink in loaded.sinks if sink.name == "disk_sink")
    assert disk.steps[0].parameters["target"] == {
        "map_to": {"name": r"disk.\1.\2.rate", "unit": r"\1/s"},
        "type": "gauge",
    }
    assert loaded.sinks[0].steps == ()


def test_a_polling_file_takes_the_place_of_intervals():
    polling = parse_polling("sources: [{name: p, interval: 60, meters: ['*']}]")
    loaded = load_pipeline(OLD / "juno.yaml", publisher_schemes=SCHEMES, polling=polling)
    assert loaded.polling_from_pipeline is False
    assert loaded.sources[0].interval == 600


def test_the_coupled_form_is_a_source_and_a_sink_of_one_name():
    loaded = load_pipeline(OLD / "juno-coupled.yaml", publisher_schemes=SCHEMES)
    source, sink = loaded.sources[1], loaded.sinks[1]
    assert (source.name, source.sinks, source.interval, source.meters) == (
        "cpu_pipeline",
        ("cpu_pipeline",),
        60,
        ("cpu",),
    )
    assert (source.resources, source.discovery) == (("snmp://localhost",), ("local_instances",))
    assert (sink.name, sink.publishers, sink.steps[0].name) == (
        "cpu_pipeline",
        ("rpc://?per_meter_topic=1",),
        "rate_of_change",
    )
    assert any("'counters' is the old name" in str(w) for w in loaded.warnings)


def test_what_ships_loads_without_a_warning_and_takes_what_the_host_gives():
    from sources.host import METERS

    names = [m.name for m in METERS]
    loaded = load_pipeline(ROOT / "conf" / "pipeline.yaml", publisher_schemes=())
    assert cross_check(loaded) == []
    assert all(resolve_publisher(p) == "store" for sink in loaded.sinks for p in sink.publishers)
    hosts = [s for s in loaded.sources if s.name.startswith("host")]
    for source in hosts:
        for pattern in source.meters:
            assert any(MeterFilter([pattern]).matches(n) for n in names), pattern
    polling = load_polling(ROOT / "conf" / "polling.yaml")
    assert [(s.name, s.interval) for s in polling.sources] == [("host", 10)]
    assert all(MeterFilter(polling.sources[0].meters).matches(n) for n in names)


@pytest.mark.parametrize(
    "document, said",
    [
        (with_source(name="absent"), "2: sources[0]: 'name' is missing"),
        (with_source(name=""), "2: sources[0].name: is empty"),
        (with_source(meters="absent"), "2: sources[0]: 'meters' is missing"),
        (with_source(meters=None), "2: sources[0]: 'meters' is missing"),
        (with_source(meters=[]), "3: sources[0].meters: names no meter"),
        (with_source(meters=[{"a": 1}]), "4: sources[0].meters[0]: must be text, not a mapping (put it in quotes)"),
        (with_source(meters=["cpu", "!disk"]), "4: sources[0].meters: meters are both included (cpu) and excluded (!disk)"),
        (with_source(meters=["*", "cpu"]), "4: sources[0].meters: cpu is included beside *, which takes all"),
        (with_source(sinks="absent"), "2: sources[0]: 'sinks' is missing"),
        (with_source(sinks=[]), "5: sources[0].sinks: names no sink"),
        (with_source(sinks="k"), "5: sources[0].sinks: must be a list, not text"),
        (with_source(sinks=["k", "k"]), "7: sources[0].sinks[1]: the sink 'k' is named twice"),
        (with_source(sinks=["kk"]), "6: sources[0].sinks[0]: there is no sink 'kk' (did you mean 'k'?)"),
        (with_source(interval="abc"), "7: sources[0].interval: must be a number, not 'abc'"),
        (with_source(interval=0), "7: sources[0].interval: must be at least 1 second and at most a year, not 0"),
        (with_source(interval=True), "7: sources[0].interval: must be a number, not a boolean"),
        (with_source(resources="r"), "7: sources[0].resources: must be a list, not text"),
        (with_source(discovery={"a": 1}), "8: sources[0].discovery: must be a list, not a mapping"),
        (with_source(sink=["k"]), "7: sources[0]: 'sink' is not known here (did you mean 'sinks'?)"),
        (with_sink(name="absent"), "8: sinks[0]: 'name' is missing"),
        (with_sink(publishers="absent"), "8: sinks[0]: 'publishers' is missing: where do the samples go? (for example store://)"),
        (with_sink(publishers=[]), "8: sinks[0]: 'publishers' is missing: where do the samples go? (for example store://)"),
        (with_sink(publishers=["gnocchi://"]), "10: sinks[0].publishers[0]: there is no publisher 'gnocchi' (write store:// and configure a store)"),
        (with_sink(publishers=["zaqar"]), "10: sinks[0].publishers[0]: there is no publisher 'zaqar' (write store://, or an http:// publisher)"),
        (with_sink(publishers=["flie:///x"]), "10: sinks[0].publishers[0]: there is no publisher 'flie' (did you mean 'file'?)"),
        (with_sink(publishers=["bogus"]), "10: sinks[0].publishers[0]: there is no publisher 'bogus' (known: console, file, store, test, udp)"),
        (with_sink(transformers={"name": "x"}), "12: sinks[0].transformers: must be a list, not a mapping"),
        (with_sink(transformers=["accumulator"]), "12: sinks[0].transformers[0]: must be a mapping, not text"),
        (with_sink(transformers=[{"parameters": {}}]), "12: sinks[0].transformers[0]: 'name' is missing"),
        (with_sink(transformers=[{"name": "accumulator"}]), "12: sinks[0].transformers[0]: 'parameters' is missing (where there are none, write parameters: {})"),
        (
            with_sink(transformers=[{"name": "rate_of_chance", "parameters": {}}]),
            "12: sinks[0].transformers[0].name: there is no transformer 'rate_of_chance' (did you mean 'rate_of_change'?)",
        ),
        ({"sources": []}, "1: the section 'sinks' is missing"),
        ({"sources": None, "sinks": []}, "1: the section 'sources' is missing"),
        ({"sources": {}, "sinks": []}, "1: sources: must be a list, not a mapping"),
        ({"sources": [], "sinks": [], "sink": []}, "3: 'sink' is not known here (did you mean 'sinks'?)"),
        ("just text", "1: must be a mapping, not text"),
        ([{"name": "p", "meters": ["a"]}], "1: [0]: 'publishers' is missing: where do the samples go? (for example store://)"),
        ([{"name": "p", "publishers": ["test"]}], "1: [0]: 'meters' is missing"),
    ],
)  # fmt: skip
def test_one_problem(document, said):
    assert problems(document) == [said]


def test_names_are_unique():
    twice = with_source()
    twice["sources"] *= 2
    assert problems(yaml.dump(twice, sort_keys=False, Dumper=NoAlias)) == [
        "7: sources[1].name: the name 's' is taken (line 2)"
    ]
    twice = with_source()
    twice["sinks"] *= 2
    assert problems(yaml.dump(twice, sort_keys=False, Dumper=NoAlias))[0].endswith(
        "sinks[1].name: the name 'k' is taken (line 8)"
    )
    same_pair = {
        "sources": [{"name": "a", "meters": ["*"], "sinks": ["b:c"]}, {"name": "a:b", "meters": ["*"], "sinks": ["c"]}],
        "sinks": [{"name": "c", "publishers": ["test"]}, {"name": "b:c", "publishers": ["test"]}],
    }
    assert problems(same_pair) == ["11: sources[1].sinks[0]: the pipeline 'a:b:c' (source:sink) is there twice"]


class NoAlias(yaml.SafeDumper):
    def ignore_aliases(self, data):
        return True


RATE, DELTA, CONVERT, JOIN, GROUP, PASS = (
    "rate_of_change",
    "delta",
    "unit_conversion",
    "arithmetic",
    "aggregator",
    "accumulator",
)


@pytest.mark.parametrize(
    "name, parameters, read",
    [
        (RATE, None, {}),
        (RATE, {"target": None, "source": {}}, {"source": {}}),
        (RATE, {"target": {"max": "100", "scale": 2, "name": 5}}, {"target": {"max": 100, "scale": 2, "name": "5"}}),
        (RATE, {"target": {"scale": "", "type": "gauge"}}, {"target": {"scale": "", "type": "gauge"}}),
        (DELTA, {"growth_only": True}, {"growth_only": True}),
        (DELTA, {"growth_only": 1}, {"growth_only": True}),
        (
            CONVERT,
            {"source": {"unit": "B"}, "target": {"scale": "volume / 1024"}},
            {"source": {"unit": "B"}, "target": {"scale": "volume / 1024"}},
        ),
        (
            JOIN,
            {"target": {"expr": "$(a)"}, "interval": "60", "hold": 900},
            {"target": {"expr": "$(a)"}, "interval": 60, "hold": 900},
        ),
        (GROUP, {"size": None, "retention_time": "60"}, {"retention_time": 60}),
        (GROUP, {"size": "2", "user_id": "last", "volume": "sum"}, {"size": 2, "user_id": "last", "volume": "sum"}),
        (GROUP, {"size": 2.9, "timestamp": "last"}, {"size": 2, "timestamp": "last"}),
        (PASS, {"size": -1, "max_hold": 5.5}, {"size": -1, "max_hold": 5.5}),
        (PASS, {}, {}),
    ],
)
def test_parameters(name, parameters, read):
    loaded = pipeline(one_step(name, parameters))
    assert loaded.sinks[0].steps[0].parameters == read
    assert loaded.warnings == ()


@pytest.mark.parametrize(
    "name, parameters, said",
    [
        (GROUP, {"siez": 7}, ".parameters: 'siez' is not known here (did you mean 'size'?)"),
        (GROUP, {"size": -1}, ".parameters.size: must be at least 0, not -1"),
        (GROUP, {"size": True}, ".parameters.size: must be a number, not a boolean"),
        (GROUP, {"retention_time": "soon"}, ".parameters.retention_time: must be a number, not 'soon'"),
        (GROUP, {"volume": "avg"}, ".parameters.volume: must be one of sum, mean, last, first, min, max, not 'avg'"),
        (PASS, {"max_hold": 0}, ".parameters.max_hold: must be more than 0, not 0"),
        (PASS, {"size": [1]}, ".parameters.size: must be a number, not a list"),
        (RATE, "x", ".parameters: must be a mapping, not text"),
        (RATE, {"target": "x"}, ".parameters.target: must be a mapping, not text"),
        (
            RATE,
            {"target": {"type": "guage"}},
            ".target.type: must be one of gauge, delta, cumulative, not 'guage' (did you mean 'gauge'?)",
        ),
        (RATE, {"target": {"unit": ["B"]}}, ".target.unit: must be text, not a list"),
        (RATE, {"target": {"max": "much"}}, ".target.max: must be a number, not 'much'"),
        (
            RATE,
            {"target": {"scale": "volume *"}},
            ".target.scale: does not compile: not an expression: invalid syntax: 'volume *'",
        ),
        (
            RATE,
            {"target": {"scale": "__import__('os')"}},
            ".target.scale: does not compile: '__import__': names that begin with two",
        ),
        (RATE, {"target": {"scale": True}}, ".target.scale: must be a number, not a boolean"),
        (RATE, {"target": {"scale": float("inf")}}, ".target.scale: must be a number of reasonable size"),
        (
            RATE,
            {"source": {"map_from": {"name": "(a"}}},
            ".source.map_from.name: is no regular expression: missing ), unterminated subpattern",
        ),
        (
            RATE,
            {"source": {"map_from": {"nmae": "a"}}},
            ".source.map_from: 'nmae' is not known here (did you mean 'name'?)",
        ),
        (
            RATE,
            {"source": {"map_from": {"unit": "(B)"}}, "target": {"map_to": {"unit": r"\2/s"}}},
            r".target.map_to.unit: does not fit source.map_from.unit: invalid group reference 2",
        ),
        (DELTA, {"growth_only": "yes please"}, ".parameters.growth_only: must be true or false, not text"),
        (
            JOIN,
            {},
            ".parameters.target.expr: arithmetic needs an expression (for example 100 * $(memory.usage) / $(memory))",
        ),
        (JOIN, {"target": {"expr": "2 * 3"}}, ".target.expr: does not compile: it names no meter"),
        (JOIN, {"target": {"expr": "$(a) +"}}, ".target.expr: does not compile: not an expression"),
        (JOIN, {"target": {"expr": "$(a)"}, "interval": 0}, ".parameters.interval: must be at least 1, not 0"),
        (JOIN, {"target": {"expr": "$(a)"}, "hold": -1}, ".parameters.hold: must be at least 0, not -1"),
    ],
)
def test_parameters_that_are_wrong(name, parameters, said):
    found = problems(one_step(name, parameters))
    assert len(found) == 1
    assert said in found[0]
    assert int(found[0].partition(":")[0]) > 8


@pytest.mark.parametrize(
    "name, parameters, said",
    [
        (GROUP, {"timestamp": "middle"}, "timestamp: 'middle' means 'first'"),
        (GROUP, {"user_id": "any"}, "user_id: 'any' means 'last'"),
        (CONVERT, {"target": {"scale": "1.0/1024"}}, "is the new volume itself, whatever the sample's"),
        (CONVERT, {"target": {"scale": "volum / 1024"}}, "no sample has 'volum' (did you mean 'volume'?)"),
        (CONVERT, {"target": {"scale": "volume / 0"}}, "fails always: division by zero"),
        (CONVERT, {"source": {"name": "cpu"}}, "source.name: is ignored"),
        (DELTA, {"target": {"unit": "X"}}, "target.unit: is ignored"),
        (JOIN, {"target": {"expr": "$(a)", "scale": 2}}, "target.scale: is ignored: write it into expr"),
        (
            RATE,
            {"source": {"map_from": {"name": "a"}}},
            "source.map_from.name: does nothing without target.map_to.name",
        ),
        (RATE, {"target": {"map_to": {"unit": "a"}}}, "target.map_to.unit: does nothing without source.map_from.unit"),
    ],
)
def test_what_loads_with_a_warning(name, parameters, said):
    warnings = [str(w) for w in pipeline(one_step(name, parameters)).warnings]
    assert said in warnings[0]
    assert warnings[0].split(":")[1].isdigit()


def test_every_problem_in_one_go_in_the_order_of_the_file():
    found = problems("""\
sources:
  - name: a
    meters: [cpu, "!disk"]
    sinks: [gone]
    intervall: 60
  - name: a
    meters: []
    sinks: [k]
sinks:
  - name: k
    name: k
    transformers:
      - name: aggregator
        parameters:
          size: -1
          siez: 1
          target: {scale: "volume +", type: gauche}
      - name: arithmetik
        parameters: {}
    publishers: [zaqar://, notifier://]
unknown: 1
""")
    assert [(int(line), field.strip()) for line, field in (f.split(":")[:2] for f in found)] == [
        (3, "sources[0].meters"),
        (4, "sources[0].sinks[0]"),
        (5, "sources[0]"),
        (6, "sources[1].name"),
        (7, "sources[1].meters"),
        (11, "the key 'name' is there twice (first in line 10)"),
        (15, "sinks[0].transformers[0].parameters.size"),
        (16, "sinks[0].transformers[0].parameters"),
        (17, "sinks[0].transformers[0].parameters.target.scale"),
        (17, "sinks[0].transformers[0].parameters.target.type"),
        (18, "sinks[0].transformers[1].name"),
        (20, "sinks[0].publishers[0]"),
        (21, "'unknown' is not known here (known"),
    ]


def test_lenient_where_ceilometer_was():
    loaded = pipeline(with_source(name=600, meters="cpu", interval="60", resources=None))
    source = loaded.sources[0]
    assert (source.name, source.meters, source.interval, source.resources) == ("600", ("cpu",), 60, ())
    assert "taken as [cpu]" in str(loaded.warnings[0])
    assert pipeline({"sources": [], "sinks": []}).sources == ()


def test_lines_of_parameters():
    step = pipeline(one_step(RATE, {"target": {"name": "x", "map_to": {"unit": "y"}}})).sinks[0].steps[0]
    assert step.line == 10
    assert step.lines == {"target": 12, "target.name": 13, "target.map_to": 14, "target.map_to.unit": 15}


def test_a_transformer_of_a_third_party_brings_its_spec():
    specs = {**SPECS, "rename": Spec({"to": text})}
    assert pipeline(one_step("rename", {"to": "x"}), transformers=specs).sinks[0].steps[0].parameters == {"to": "x"}


@pytest.mark.parametrize(
    "url, meant",
    [("notifier://", "store"), ("rpc://?x=1", "store"), ("meter", "store"), ("meter_publisher", "store"), ("direct://", "store"),
     ("database://", "store"), ("store://", "store"), ("test", "test"), ("file:///a?max_bytes=1", "file"), ("UDP://h:1", "udp")],
)  # fmt: skip
def test_publishers(url, meant):
    assert resolve_publisher(url) == meant
    assert pipeline(with_sink(publishers=[url])).sinks[0].publishers == (url,)


def test_cross_checks_warn():
    document = with_source(meters=["cpuu"])
    document["sinks"].append({"name": "k2", "publishers": ["test", "test", "notifier://?policy=drop"]})
    assert [
        str(w).removeprefix("pipeline.yaml:") for w in cross_check(pipeline(document), meters=["cpu", "memory"])
    ] == [
        "2: sources[0].meters: the source 's' takes no known meter (did you mean 'cpu'?)",
        "11: sinks[1]: no source uses the sink 'k2'",
        "14: sinks[1].publishers[1]: 'test' is there twice",
        "15: sinks[1].publishers[2]: its options are ignored: notifier means the configured store",
    ]
    assert "nothing is published" in str(cross_check(pipeline({"sources": [], "sinks": []}))[0])
    assert cross_check(pipeline(with_source(meters=["c*"])), meters=["cpu"]) == []


@pytest.mark.parametrize(
    "source, said",
    [
        ({"interval": "abc"}, "3: sources[0].interval: must be a number, not 'abc'"),
        ({"interval": None}, "2: sources[0]: 'interval' is missing (seconds)"),
        ({"meters": ["cpu", "!disk"]}, "5: sources[0].meters: meters are both"),
        ({"resources": {"a": 1}}, "7: sources[0].resources: must be a list"),
        ({"sinks": ["k"]}, "6: sources[0]: 'sinks' is not known here"),
    ],
)
def test_polling_that_is_wrong(source, said):
    document = {"sources": [{"name": "p", "interval": 60, "meters": ["*"]} | source]}
    with pytest.raises(ConfigError) as caught:
        parse_polling(yaml.safe_dump(document, sort_keys=False))
    assert f"polling.yaml:{said}" in str(caught.value)
    assert len(caught.value.problems) == 1


def test_polling():
    loaded = parse_polling(
        "sources:\n- {name: p, interval: 1.9, meters: ['*'], resources: null, discovery: [x]}\n- {name: p, interval: '60', meters: [cpu]}\n"
    )
    assert [(s.name, s.interval, s.resources, s.discovery, s.line) for s in loaded.sources] == [
        ("p", 1, (), ("x",), 2),
        ("p", 60, (), (), 3),
    ]
    assert "another source is named 'p'" in str(loaded.warnings[0])
    with pytest.raises(ConfigError, match="the section 'sources' is missing"):
        parse_polling("foo: 1")
