"""Hostile samples and pipelines, the whole way: pushed, through the log, through the stage. The rest goes on, each loss has a name.

What cannot be read lies in the dead letters, whoever refused it.
"""

from __future__ import annotations

import json
import math
import time
import warnings

import pytest
import yaml

from flows.outlet import letter_of
from flows.plan import Options, compile_plan
from flows.snapshot import restore, take
from flows.stage import finish, process
from flows.state import State
from nephoscope.batch import MAX_MESSAGE, Batch, Header, batch_of, encode, frame
from nephoscope.dead_letters import bury, data_of
from nephoscope.errors import ConfigError
from nephoscope.pipeline import parse_pipeline
from nephoscope.push import push
from nephoscope.times import SECOND, TOO_LATE, now
from nephoscope.topics import DEAD_LETTERS, SAMPLES, Message, Record
from nephoscope.topics.embedded import EmbeddedLog
from sinks.sql import SQLStore
from tests.flows.made import feed, message, plan, published, sample

PIPELINE = {
    "sources": [{"name": "s", "meters": ["*"], "sinks": ["kept", "rate", "sum", "join"]}],
    "sinks": [
        {"name": "kept", "publishers": ["test://kept"]},
        {
            "name": "rate",
            "publishers": ["test://rate"],
            "transformers": [{"name": "rate_of_change", "parameters": {"target": {"name": "rate"}}}],
        },
        {
            "name": "sum",
            "publishers": ["test://sum"],
            "transformers": [{"name": "aggregator", "parameters": {"retention_time": 60, "volume": "sum"}}],
        },
        {
            "name": "join",
            "publishers": ["test://join"],
            "transformers": [
                {"name": "arithmetic", "parameters": {"target": {"name": "j", "expr": "$(cpu) / $(mem)"}}}
            ],
        },
    ],
}
PARTITIONS = 4
NOW = now() // (60 * SECOND) * 60 * SECOND


@pytest.fixture
def log(tmp_path):
    log = EmbeddedLog(tmp_path / "log.db", PARTITIONS)
    yield log
    log.close()


def at(seconds, name="cpu", volume=1.0, resource="r", **more):
    """A sample of about now, which the log's clock says when it is appended."""
    return sample(name, volume=volume, resource=resource, timestamp=round(NOW + seconds * SECOND), **more)


def drained(log, the_plan):
    """All of the log through the stage, a partition at a time; what is refused goes to the dead letters, as the flow does it."""
    consumer = log.consumer(SAMPLES, dict.fromkeys(range(PARTITIONS), 0))
    messages = consumer.poll(100_000)
    consumer.close()
    outputs = []
    for number in range(PARTITIONS):
        state = State(the_plan)
        own = [m for m in messages if m.partition == number]
        for one in own:
            outputs.append(process(the_plan, state, [one]))
            bury(log, [letter_of(d) for d in outputs[-1].dead])
        outputs.append(finish(the_plan, state))
        restore(the_plan, take(the_plan, state))
    return outputs


def letters(log):
    consumer = log.consumer(DEAD_LETTERS, dict.fromkeys(range(PARTITIONS), 0))
    got = consumer.poll(100_000)
    consumer.close()
    return got


def counted(outputs):
    """Losses by reason."""
    out = {}
    for output in outputs:
        for (_, reason), count in output.counts.items():
            out[reason] = out.get(reason, 0) + count
    return out


def reached(outputs, url):
    return [s for o in outputs for s in published(o, url)]


def text(volume=1, timestamp="2015-06-01T12:00:00", **more):
    """A sample as a client writes it."""
    return json.dumps(
        {"name": "cpu", "type": "gauge", "volume": volume, "resource_id": "r", "timestamp": timestamp} | more
    )


def test_everything_at_once_and_the_rest_goes_on(log):
    the_plan = compile_plan(parse_pipeline(yaml.safe_dump(PIPELINE), publisher_schemes=("test",)), Options(lateness=0))
    cumulative = {"type": "cumulative"}
    repeated = at(30, volume=70, **cumulative)
    given = [
        at(0, volume=100, **cumulative),
        at(10, volume=150, **cumulative),  # 5/s
        at(20, volume=40, **cumulative),  # it fell: a reset, 4/s
        at(5, volume=120, **cumulative),  # late
        repeated,  # 3/s
        repeated,  # the same once more
        at(30, volume=71, **cumulative),  # the same time under another id
        text(math.nan),
        text(math.inf),
        text("NaN"),
        text("-inf"),
        text("much"),
        text([1]),
        text(timestamp="9999-12-31T23:59:59"),
        text(timestamp="1969-12-31T23:59:59"),
        text(timestamp="yesterday"),
        text(resource_metadata={"pad": "x" * 10_000_000}),
        at(10**6, volume=1, **cumulative),  # eleven days ahead
        at(-10 * 365 * 86400, volume=9),  # ten years old: late, but a sample
        at(0, "mem", 0.0),
        at(40, volume=100, **cumulative),  # 3/s
        at(0, "cpu", 8.0, "other"),
        at(1, "mem", 4.0, "other"),
    ]
    pushed = push(log, given)
    outputs = drained(log, the_plan)
    lost = counted(outputs)

    assert pushed.refused == {"json": 2, "volume": 4, "timestamp": 3, "too_large": 1}
    assert (lost["timestamp"], lost["double"], lost["late"], lost["zero_interval"]) == (
        1,
        1,
        3,
        1,
    )  # late: two for the rate, one for the windows
    rates = [s.volume for s in reached(outputs, "test://rate") if s.resource_id == "r"]
    assert rates == [5.0, 4.0, 3.0, 3.0]
    kept = reached(outputs, "test://kept")
    assert len(kept) == pushed.sent - 2
    assert sum(s.volume for s in reached(outputs, "test://sum") if s.name == "cpu" and s.resource_id == "r") == sum(
        s.volume for s in kept if s.name == "cpu" and s.resource_id == "r"
    )
    assert [s.volume for s in reached(outputs, "test://join")] == [2.0]
    assert lost["expression"] == 1, "division by zero"

    reasons = sorted(json.loads(m.value)["reason"] for m in letters(log))
    assert reasons == sorted(["json"] * 2 + ["volume"] * 4 + ["timestamp"] * 4 + ["too_large"])
    assert max(len(m.value) for m in letters(log)) < 100_000


def test_a_row_that_another_writer_lets_through_is_refused_by_the_stage(log):
    """Whoever appends to the topic by itself may write what push would not: the stage looks again."""
    the_plan = compile_plan(parse_pipeline(yaml.safe_dump(PIPELINE), publisher_schemes=("test",)), Options())
    bad = {
        "volume": [at(0, volume=math.nan), at(0, volume=-math.inf)],
        "timestamp": [sample(timestamp=-1), sample(timestamp=TOO_LATE), sample(timestamp=2**62)],
        "type": [at(0, type="histogram")],
        "name": [at(0, name="")],
        "resource_id": [at(0, resource="")],
        "metadata": [at(0, metadata="nonsense"), at(0, metadata='{"a":"' + "x" * 10_000_000 + '"}')],
    }
    rows = [at(i, "good", i) for i in range(3)] + [s for group in bad.values() for s in group] + [at(3, "good", 3)]
    log.append(
        SAMPLES, [Record(1, message(*rows[:5]).value), Record(1, message(*rows[5:]).value), Record(1, b"\0" * 1000)]
    )
    outputs = drained(log, the_plan)

    assert [s.volume for s in reached(outputs, "test://kept")] == [0, 1, 2, 3]
    lost = counted(outputs)
    assert {reason: lost[reason] for reason in bad} == {reason: len(group) for reason, group in bad.items()}
    assert lost["undecodable"] == 1
    told = [json.loads(m.value) for m in letters(log)]
    assert len(told) == 1 + sum(map(len, bad.values()))
    assert {(t["origin"]["topic"], t["origin"]["partition"]) for t in told} == {(SAMPLES, 1)}
    assert max(t["size"] for t in told) > 10_000_000
    assert all(len(data_of(m.value)) <= 65_536 for m in letters(log))


def test_a_sample_of_10_mb_costs_little_and_keeps_its_beginning(log):
    large = text(resource_metadata={"pad": "x" * 10_000_000})
    began = time.perf_counter()
    pushed = push(log, [large] * 5)

    assert time.perf_counter() - began < 5
    assert (pushed.sent, pushed.refused) == (0, {"too_large": 5})
    first = letters(log)[0].value
    assert data_of(first).decode() == large[:65_536]
    assert json.loads(first)["size"] == len(large)


def test_many_large_samples_make_messages_that_a_broker_takes(log):
    push(log, [at(i, metadata=json.dumps({"pad": f"{i}" * 100_000})) for i in range(10, 40)])
    consumer = log.consumer(SAMPLES, dict.fromkeys(range(PARTITIONS), 0))

    assert max(len(m.value) for m in consumer.poll(1000)) <= MAX_MESSAGE
    consumer.close()


@pytest.mark.parametrize(
    "kind,parameters",
    [
        ("rate_of_change", {}),
        ("delta", {}),
        ("unit_conversion", {"target": {"scale": 1e10}}),
        ("unit_conversion", {"target": {"scale": "volume * volume"}}),
        ("arithmetic", {"target": {"name": "x", "expr": "$(m) * $(m)"}}),
        ("aggregator", {"retention_time": 60, "volume": "sum"}),
        ("aggregator", {"size": 2}),
    ],
)
def test_volumes_at_the_ends_of_float64_publish_nothing_that_is_not_finite(kind, parameters):
    the_plan = plan({"k": [(kind, parameters)]}, lateness=0)
    state = State(the_plan)
    extremes = [1.7e308, -1.7e308, 1.7e308, 1.7e308, 5e-324, -0.0, 2.0**1023, -(2.0**1023)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        outputs = [feed(the_plan, state, message(sample(at=i, volume=v, type="delta"))) for i, v in enumerate(extremes)]
        outputs.append(feed(the_plan, state, message(*(sample(at=60 + i, volume=v) for i, v in enumerate(extremes)))))
        outputs.append(finish(the_plan, state))

    assert all(math.isfinite(s.volume) for o in outputs for s in published(o))
    assert counted(outputs).get("not_finite", 0) + counted(outputs).get("expression", 0) > 0
    after = feed(the_plan, State(the_plan), message(sample(at=0, volume=1), sample(at=1, volume=2)))
    assert all(math.isfinite(s.volume) for s in published(after))


def test_times_that_are_far_apart_do_not_overflow():
    the_plan = plan(
        {
            "r": [("rate_of_change", {})],
            "g": [("aggregator", {"retention_time": 86400 * 365})],
            "j": [("arithmetic", {"target": {"name": "x", "expr": "$(m) + $(n)"}, "hold": 10**9})],
            "a": [("accumulator", {"size": 3})],
        }
    )
    state = State(the_plan)
    outputs = []
    for timestamp in (0, TOO_LATE - 1, 1, TOO_LATE // 2, TOO_LATE - 1):
        outputs.append(
            feed(the_plan, state, message(sample("m", timestamp=timestamp, measured_at=TOO_LATE - timestamp)))
        )
        outputs.append(
            feed(
                the_plan, state, message(sample("n", timestamp=timestamp, measured_at=-(2**63) + 1), interval=2**31 - 1)
            )
        )
        state = restore(the_plan, take(the_plan, state))
    outputs.append(finish(the_plan, state))

    assert all(0 <= s.timestamp < TOO_LATE and math.isfinite(s.volume) for o in outputs for s in published(o))


def test_a_flood_of_meters_and_resources_of_one_sample_each_takes_bounded_memory():
    the_plan = plan(
        {"k": [("rate_of_change", {})], "g": [("aggregator", {"retention_time": 60})]},
        series_ttl=600,
        lateness=0,
        dedupe_horizon=480,
    )
    state = State(the_plan)
    for minute in range(60):
        feed(
            the_plan,
            state,
            message(
                *(
                    sample("m", 60 * minute, resource=f"{minute}-{i}", metadata=f'{{"x":"{minute}-{i}"}}')
                    for i in range(100)
                )
            ),
        )

    assert len(state.strings.resources.values) < 4000
    assert len(state.strings.texts.values) < 4000
    assert len(state.ids.of) < 100 * 12


def test_names_of_any_kind_are_only_names():
    the_plan = plan(
        {
            "k": [],
            "r": [
                (
                    "rate_of_change",
                    {"source": {"map_from": {"name": "(.*)"}}, "target": {"map_to": {"name": "\\1.rate"}}},
                )
            ],
        }
    )
    state = State(the_plan)
    names = [
        "\x00",
        "\n",
        "a\x1fb",
        "*",
        "!m",
        "$(m)",
        "\u202e",
        "x" * 10_000,
        "\U0001f327",
        '"',
        "'; drop table sample; --",
    ]
    feed(the_plan, state, message(*(sample(n, 0, resource=n) for n in names)))
    got = published(feed(the_plan, state, message(*(sample(n, 1, 2, resource=n) for n in names))))

    assert [s.name for s in got if s.resource_id == s.name] == names
    assert len(got) == 2 * len(names)


# Expressions


ATTACKS = [
    "__import__('os').system('true')",
    "().__class__.__bases__[0].__subclasses__()",
    "volume.__class__",
    "name.__class__.__mro__",
    "name.format",
    "name.join(['a'])",
    "resource_metadata.__class__",
    "resource_metadata['__class__']['__init__']['__globals__']",
    "resource_metadata.__init__.__globals__.os.system('true')",
    "(lambda: 1)()",
    "[x for x in (1, 2)]",
    "(x := 1)",
    "f'{volume}'",
    "open('/etc/passwd')",
    "eval('1')",
    "exec('1')",
    "globals()",
    "getattr(volume, 'real')",
    "min.__self__",
    "max(*volume)",
    "min(key=1)",
    "round.__call__(1)",
    "9**9**9**9",
    "2 ** 1000000",
    "(10 ** 308) ** 10",
    "10 ** volume ** volume ** volume",
    "'a' * 10 ** 9",
    "name * 1000000000",
    "'%1000000000d' % 1",
    "1 << 1000000000",
    "(" * 500 + "1" + ")" * 500,
    "-" * 5000 + "1",
    "not " * 3000 + "1",
    "1" + "+1" * 20_000,
    "resource_metadata" + ".a" * 5000,
    "resource_metadata" + "['a']" * 5000,
    "1" * 100_000,
    "volume; import os",
    "volume\nimport os",
    "import os",
    "yield 1",
    "await volume",
    "...",
    "volume if volume else __builtins__",
    "self.__dict__",
    "print",
    "\x00",
    "1e999",
    "b'x'",
    "1j",
    "{}",
    "[]",
    "{'a': 1}['a']",
    "volume[0]",
    "name[0]",
    "name['x']",
]


def attacked(kind, expression):
    parameters = {"target": {"name": "x", "scale": expression}}
    if kind == "arithmetic":
        parameters = {
            "target": {"name": "x", "expr": f"$(m) + ({expression})" if "$(" not in expression else expression}
        }
    return plan({"k": [(kind, parameters)]}, lateness=0)


@pytest.mark.parametrize("kind", ["unit_conversion", "rate_of_change", "aggregator", "arithmetic"])
@pytest.mark.parametrize("expression", ATTACKS, ids=lambda e: ascii(e[:24]))
def test_an_attack_is_refused_at_load_or_counted_and_reaches_nothing(kind, expression):
    began = time.perf_counter()
    try:
        the_plan = attacked(kind, expression)
    except ConfigError as error:
        said = str(error)
    else:
        said = ""
        state = State(the_plan)
        metadata = json.dumps({"a": {"a": 1}, "__class__": "x", "format": 3})
        outputs = [feed(the_plan, state, message(sample(at=i, volume=9.0 + i, metadata=metadata))) for i in range(3)]
        outputs.append(finish(the_plan, state))
        lost = counted(outputs)
        harmless = [s.volume for o in outputs for s in published(o)]
        assert all(math.isfinite(v) for v in harmless)
        assert harmless or lost.get("expression") or lost.get("not_finite") or lost.get("incomplete")
    assert len(said) < 3000
    assert time.perf_counter() - began < 2


@pytest.mark.parametrize(
    "expression",
    [
        "$(m).__class__",
        "$(m).resource_metadata.__class__.__init__",
        "$(m).volume.real",
        "$(m)($(n))",
        "$($(m))",
        "$(m)" + " + $(m)" * 20_000,
        " + ".join(f"$(m{i})" for i in range(5000)),
        "$(" + "m" * 100_000 + ")",
        "$(m",
        "$()",
        "$(m);$(n)",
        "m",
    ],
    ids=lambda e: e[:24],
)
def test_so_it_is_with_the_meters_of_an_arithmetic(expression):
    test_an_attack_is_refused_at_load_or_counted_and_reaches_nothing("arithmetic", expression)


@pytest.mark.parametrize("expression", ATTACKS[:30], ids=lambda e: ascii(e[:24]))
def test_metadata_is_never_taken_for_an_expression(expression):
    """What a sample says is data, whatever it looks like."""
    the_plan = plan({"k": [("unit_conversion", {"target": {"scale": "volume * (resource_metadata.a or 2)"}})]})
    given = [
        sample(volume=3, metadata=json.dumps({"a": expression})),
        sample(volume=3, metadata='{"a": null}'),
        sample(volume=3, metadata="{}"),
    ]
    got = feed(the_plan, State(the_plan), message(*given))

    assert [s.volume for s in published(got)] == [6, 6]
    assert counted([got])["expression"] == 1


@pytest.mark.parametrize(
    "metadata",
    ['{"a":' * 50_000 + "1" + "}" * 50_000, '{"a":[' + "[" * 100_000 + "]" * 100_000 + "]}", '{"a":' + "9" * 100_000 + "}", '{"a":1e999}', '{"a":NaN}', "{a}", '{"a":1,}', '{"a":"\ud83d"}'.encode("utf-8", "replace").decode()],
    ids=lambda m: m[:12],
)  # fmt: skip
def test_metadata_that_cannot_be_parsed_fails_its_own_sample_only(metadata):
    the_plan = plan(
        {"k": [("unit_conversion", {"target": {"scale": "volume * resource_metadata.a.b"}})]}, max_sample_bytes=10**6
    )
    got = feed(
        the_plan,
        State(the_plan),
        message(sample(volume=3, metadata=metadata), sample(volume=3, metadata='{"a":{"b":2}}')),
    )

    assert [s.volume for s in published(got)] == [6]
    assert len(list(Batch(got.published["test://"][0]).samples())) == 1
    assert counted([got]).get("expression", 0) + counted([got]).get("metadata", 0) == 1


@pytest.mark.parametrize(
    "attack",
    [
        "a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]\n" + "".join(f"d{i}: &d{i} [*{'c' if not i else f'd{i - 1}'}, *{'c' if not i else f'd{i - 1}'}]\n" for i in range(40)),
        "&a [*a]",
        "sources: &s\n- *s\nsinks: []\n",
        "!!python/object/apply:os.system ['true']",
        "sources: !!python/name:os.system\nsinks: []",
        "[" * 20_000,
        "a: " * 5000,
        "x" * 20_000_000,
        "sources: []\nsinks: []\nsources: []\n",
        "\x00",
        "%YAML 9.9\n---\n- !<tag:yaml.org,2002:python/module:os> x",
    ],
    ids=["bomb", "loop", "loop below", "object", "name", "deep list", "deep mapping", "huge", "twice", "zero", "tag"],
)  # fmt: skip
def test_a_yaml_attack_is_refused_at_once(attack):
    began = time.perf_counter()
    with pytest.raises(ConfigError) as caught:
        parse_pipeline(attack, publisher_schemes=("test",))

    assert time.perf_counter() - began < 2
    assert len(str(caught.value)) < 20_000


def test_a_header_of_another_time_does_no_harm(log):
    the_plan = plan({"k": []}, lateness=0)
    state = State(the_plan)
    odd = [
        Header(interval=2**31 - 1),
        Header(mark=2**63 - 1),
        Header(mark=-5),
        Header(generation=-1, member="x" * 10_000),
    ]
    for i, header in enumerate(odd):
        fields = {f: getattr(header, f) for f in ("interval", "member", "generation")}
        one = message(sample(at=i, volume=i), **fields)
        feed(the_plan, state, one)
    before = state.watermark
    for mark in (2**40, -(2**40)):
        feed(the_plan, state, message(mark=mark))
    assert state.watermark == before


def test_whatever_a_message_says_of_its_own_insides_it_is_stored_or_buried(tmp_path):
    """Each number in it that may be a length or a place, one more and one less, under a checksum that fits. Arrow takes buffers longer than they need be."""
    the_plan = compile_plan(parse_pipeline(yaml.safe_dump(PIPELINE), publisher_schemes=("test",)), Options())
    good = encode(Batch(batch_of([at(0, "cpu"), at(0, "mem", resource="other")]).rows, Header(interval=60)))
    length = int.from_bytes(good[12:16], "little")
    head, body = good[24 : 24 + length], good[24 + length :]
    store = SQLStore(f"sqlite:///{tmp_path}/samples.db?synchronous=normal")
    stored = buried = 0
    for place in range(0, len(body) - 7, 8):
        for more in (1, -1):
            changed = bytearray(body)
            word = int.from_bytes(body[place : place + 8], "little") + more
            changed[place : place + 8] = (word % 2**64).to_bytes(8, "little")
            lying = Message(0, place, 0, frame(head, bytes(changed), 2))
            out = process(the_plan, State(the_plan), [lying])
            stored += store.write(out.published.get("test://kept", [])).received
            buried += len(out.dead)
            for batches in out.published.values():
                assert [list(Batch(rows).samples()) for rows in batches]
    store.close()

    assert stored > 100
    assert buried > 100
