"""The stage's own facts: what is gathered, who gets what, what moves the watermark, what is refused, what is forgotten."""

from __future__ import annotations

import json
import math

import pyarrow as pa
import pytest

from flows import stage
from flows.layout import CACHED_ROWS
from flows.stage import ENOUGH, GATHERED, process
from flows.state import State
from nephoscope.batch import Batch, Header, batch_of, decode, encode
from nephoscope.times import MIN_TIME, NEVER, SECOND, TOO_LATE
from nephoscope.topics import Message
from tests.flows.made import START, facts, feed, message, plan, polled, published, sample, volumes
from tests.nephoscope.test_batch import with_nulls

KEPT = plan({"k": []})
RATE = ("rate_of_change", {"target": {"name": "rate", "type": "gauge"}})


# Gathering


def calls_of(monkeypatch, messages, the_plan=KEPT):
    """How many rows each call of the stage's work got."""
    sizes = []
    inner = stage._call

    def counting(plan, state, group, out, *, exact):
        sizes.append(sum(len(a.batch) for a in group))
        inner(plan, state, group, out, exact=exact)

    monkeypatch.setattr(stage, "_call", counting)
    got = process(the_plan, State(the_plan), messages)
    monkeypatch.undo()
    return sizes, volumes(got)


def rows(n, start=0):
    return [sample(volume=start + i) for i in range(n)]


def test_small_messages_become_one_call(monkeypatch):
    messages = [message(*rows(10, 10 * i)) for i in range(20)]

    assert calls_of(monkeypatch, messages) == ([200], list(range(200)))


def test_large_messages_are_calls_of_their_own_in_their_order(monkeypatch):
    messages = [message(*rows(5)), message(*rows(ENOUGH, 5)), message(*rows(5, ENOUGH + 5))]

    assert calls_of(monkeypatch, messages) == ([5, ENOUGH, 5], list(range(ENOUGH + 10)))


def test_no_call_gathers_more_than_its_share(monkeypatch):
    messages = [message(*rows(900, 900 * i)) for i in range(10)]
    sizes, got = calls_of(monkeypatch, messages)

    assert max(sizes) <= GATHERED
    assert len(sizes) == 3
    assert got == list(range(9000))


def test_messages_whose_headers_differ_are_not_gathered(monkeypatch):
    headers = [{}, {}, {"interval": 60}, {"interval": 60}, {"interval": 600}, {"interval": 600, "polling": ("a",)}, {}]
    messages = [message(sample(volume=i, resource=f"r{i}"), **h) for i, h in enumerate(headers)]

    assert calls_of(monkeypatch, messages) == ([2, 2, 1, 1, 1], list(range(7)))


def test_who_wrote_a_message_does_not_part_them_and_marks_do_not(monkeypatch):
    messages = [
        message(sample(volume=0), member="a", generation=1),
        message(mark=0),
        message(sample(volume=1), member="b"),
    ]

    assert calls_of(monkeypatch, messages) == ([2], [0, 1])


def test_nothing_in_nothing_out():
    state = State(KEPT)
    got = process(KEPT, state, [])

    assert (got.published, got.dead, dict(got.counts), state.watermark) == ({}, [], {}, MIN_TIME)


# Sources, sinks, publishers


POLLINGS = [
    {"name": "fast", "meters": ["*"], "sinks": ["f"], "interval": 60},
    {"name": "slow", "meters": ["m*"], "sinks": ["s"], "interval": 600},
    {"name": "all", "meters": ["!other"], "sinks": ["a"]},
]


def who_gets(**header):
    the_plan = plan({n: {"publishers": [f"test://{n}"]} for n in "fsa"}, POLLINGS)
    got = feed(the_plan, State(the_plan), message(polled("m"), polled("other"), **header))
    return {url.removeprefix("test://"): [s.name for s in published(got, url)] for url in got.published}


@pytest.mark.parametrize(
    "header,want",
    [
        ({}, {"f": ["m", "other"], "s": ["m"], "a": ["m"]}),
        ({"polling": ("fast",)}, {"f": ["m", "other"], "s": ["m"], "a": ["m"]}),
        ({"interval": 60, "polling": ("fast",)}, {"f": ["m", "other"], "a": ["m"]}),
        ({"interval": 600, "polling": ("slow",)}, {"s": ["m"], "a": ["m"]}),
        ({"interval": 600, "polling": ("slow", "fast")}, {"f": ["m", "other"], "s": ["m"], "a": ["m"]}),
        ({"interval": 60, "polling": ("gone",)}, {"a": ["m"]}),
        ({"interval": 60}, {"a": ["m"]}),
    ],
)
def test_a_source_with_an_interval_takes_its_own_polls_and_whatever_is_pushed(header, want):
    assert who_gets(**header) == want


def test_where_a_polling_yaml_defines_the_polling_all_sources_go_by_meter():
    the_plan = plan({n: {"publishers": [f"test://{n}"]} for n in "fsa"}, POLLINGS)
    the_plan = type(the_plan)(the_plan.sinks, the_plan.steps, the_plan.options, own_polling=False, fingerprint="")
    got = feed(the_plan, State(the_plan), message(polled("m"), interval=60, polling=("gone",)))

    assert sorted(got.published) == ["test://a", "test://f", "test://s"]


def test_the_same_series_under_another_header_is_looked_at_anew():
    """What is remembered of a batch's series is remembered under its header."""
    the_plan = plan({n: {"publishers": [f"test://{n}"]} for n in "fsa"}, POLLINGS)
    state = State(the_plan)
    for at, header in ((0, ("fast",)), (600, ("slow",)), (1200, ("fast",))):
        got = feed(the_plan, state, message(polled("m", at), interval=600, polling=header))
        assert sorted(got.published) == ["test://a", "test://f" if header == ("fast",) else "test://s"]


def test_a_kept_row_comes_to_a_publisher_once_however_many_sinks_lead_there():
    sources = [{"name": f"s{i}", "meters": [m], "sinks": [f"k{i}", "x"]} for i, m in enumerate(("m", "*", "m*"))]
    sinks = {"k0": ["test://p", "test://q"], "k1": ["test://p"], "k2": ["test://q"], "x": ["test://p"]}
    the_plan = plan({n: {"publishers": p} for n, p in sinks.items()}, sources)
    given_ = message(sample("m", volume=1), sample("other", volume=2), sample("mm", volume=3))

    got = feed(the_plan, State(the_plan), given_)
    assert (volumes(got, "test://p"), volumes(got, "test://q")) == ([1, 2, 3], [1, 3])

    exact = feed(the_plan, State(the_plan), given_, exact=True)
    by_sink = {sink: [s.volume for s in Batch(rows).samples()] for sink, rows in exact.sinks}
    assert by_sink == {"k0": [1], "k1": [1, 2, 3], "k2": [1, 3], "x": [1, 2, 3]}


def test_a_derived_row_comes_to_the_publishers_of_its_own_sink():
    urls = {"k0": ["test://p", "test://q"], "k1": ["test://q"], "k2": ["test://r"], "k3": ["test://p"]}
    kinds = {
        "k0": RATE,
        "k1": RATE,
        "k2": ("delta", {"target": {"name": "d"}}),
        "k3": ("delta", {"target": {"name": "d"}}),
    }
    the_plan = plan(
        {n: {"publishers": urls[n], "transformers": [{"name": kinds[n][0], "parameters": kinds[n][1]}]} for n in urls}
    )
    state = State(the_plan)
    feed(the_plan, state, message(sample("m", 0, 10), sample("n", 0, 5)))
    got = feed(the_plan, state, message(sample("m", 10, 30), sample("n", 10, 5, type="cumulative")))

    rates, deltas = [("rate", "r", 2), ("rate", "r", 0)], [("d", "r", 20), ("d", "r", 0)]
    assert facts(published(got, "test://p")) == rates + deltas
    assert facts(published(got, "test://q")) == rates + rates
    assert facts(published(got, "test://r")) == deltas
    assert len({s.id for url in got.published for s in published(got, url)}) == 8, "an id of its own for each sink's"


def test_a_mask_of_what_is_published_goes_with_the_right_publisher():
    """One sink's step publishes only some rows: no other sink's publisher may lose or gain by it."""
    growth = ("delta", {"growth_only": True, "target": {"name": "g"}})
    plain = ("delta", {"target": {"name": "d"}})
    the_plan = plan(
        {
            "a": {"publishers": ["test://a"], "transformers": [{"name": growth[0], "parameters": growth[1]}]},
            "b": {"publishers": ["test://b"], "transformers": [{"name": plain[0], "parameters": plain[1]}]},
            "c": {"publishers": ["test://a", "test://c"], "transformers": [{"name": RATE[0], "parameters": RATE[1]}]},
        }
    )
    state = State(the_plan)
    series = [f"r{i}" for i in range(6)]
    feed(the_plan, state, message(*(sample(resource=r, volume=10) for r in series)))
    got = feed(the_plan, state, message(*(sample(resource=r, at=10, volume=7 + i) for i, r in enumerate(series))))

    assert [s.volume for s in published(got, "test://a") if s.name == "g"] == [0, 1, 2]
    assert volumes(got, "test://b") == [-3, -2, -1, 0, 1, 2]
    assert volumes(got, "test://c") == pytest.approx([-0.3, -0.2, -0.1, 0, 0.1, 0.2])
    assert got.counts["delta", "negative"] == 3


# Watermark


def watermark_after(*messages, **options):
    the_plan = plan({"k": []}, **{"lateness": 60, "max_ahead": 300} | options)
    state = State(the_plan)
    feed(the_plan, state, *messages)
    return None if state.watermark == MIN_TIME else state.watermark / SECOND - START


@pytest.mark.parametrize(
    "messages,want",
    [
        ([message(sample(at=100))], 40),
        ([message(sample(at=100), sample(at=20))], 40),
        ([message(sample(at=100)), message(sample(at=20))], 40),
        ([message(mark=100)], 40),
        ([message(mark=100), message(sample(at=50)), message(mark=70)], 40),
        ([message(sample(at=300), appended=0)], 240),
        ([message(sample(at=300.000001), appended=0)], None),
        ([message(sample(at=10), sample(at=301), sample(at=20), appended=0)], -40),
        ([message(mark=300, appended=0)], 240),
        ([message(mark=301, appended=0)], None),
        ([message(mark=10**10)], None),
        ([message(sample(at=10**6))], 10**6 - 60),
        ([message(sample(at=100, volume=math.nan)), message(sample(at=50))], -10),
        ([message(sample(at=100, timestamp=TOO_LATE)), message(sample(at=50))], -10),
    ],
)
@pytest.mark.parametrize("one_by_one", [False, True])
def test_what_moves_the_watermark(messages, want, one_by_one):
    the_plan = plan({"k": []}, lateness=60, max_ahead=300)
    state = State(the_plan)
    for call in [[m] for m in messages] if one_by_one else [messages]:
        process(the_plan, state, call)

    assert state.watermark == (MIN_TIME if want is None else (START + want) * SECOND)


def test_a_double_moves_it_too():
    one = sample(at=100)
    again = sample(at=500, id=one.id)

    assert watermark_after(message(one), message(again)) == 440


def test_a_mark_alone_closes_a_window():
    the_plan = plan({"k": [("aggregator", {"retention_time": 60})]}, lateness=0)
    state = State(the_plan)

    assert volumes(feed(the_plan, state, message(sample(at=0, volume=2), sample(at=59, volume=4)))) == []
    assert volumes(feed(the_plan, state, message(mark=59.999999))) == []
    assert volumes(feed(the_plan, state, message(mark=60))) == [3]


# Refusals


@pytest.mark.parametrize(
    "bad,reason,detail",
    [
        (sample(timestamp=-1), "timestamp", "1969-12-31T23:59:59.999999 is before 1970"),
        (sample(timestamp=NEVER), "timestamp", "before 1970"),
        (sample(timestamp=2**63 - 1), "timestamp", "9223372036854775807 µs since 1970 is not before 2200-01-01"),
        (sample(timestamp=TOO_LATE), "timestamp", "not before 2200-01-01"),
        (sample(timestamp=253_402_300_799 * SECOND), "timestamp", "9999-12-31"),
        (sample(at=86401), "timestamp", "s after its message came, and max_future is 86400 s"),
        (sample(volume=math.nan), "volume", "nan is no finite number"),
        (sample(volume=-math.inf), "volume", "-inf is no finite number"),
        (sample(type="histogram"), "type", "'histogram' is none of gauge, delta, cumulative"),
        (sample(type=""), "type", "'' is none of"),
        (sample(name=""), "name", "is empty"),
        (sample(resource=""), "resource_id", "is empty"),
        (sample(metadata="[]"), "metadata", "not the text of a JSON object"),
        (sample(metadata=""), "metadata", "not the text of a JSON object"),
        (sample(metadata="{"), "metadata", "not the text of a JSON object"),
        (sample(metadata='{"a":"' + "x" * 300_000 + '"}'), "metadata", "300008 bytes, and max_sample_bytes is 262144"),
    ],
)
def test_a_refused_row_lies_in_the_dead_letters_with_its_reason_and_the_rest_goes_on(bad, reason, detail):
    the_plan = plan(
        {"k": [], "rate": {"publishers": ["test://rate"], "transformers": [{"name": RATE[0], "parameters": RATE[1]}]}}
    )
    state = State(the_plan)
    first = message(sample(volume=1), appended=0)
    mixed = message(sample("n", volume=2), bad, sample(at=1, volume=3), offset=7, appended=0)
    outputs = [feed(the_plan, state, first), feed(the_plan, state, mixed)]

    assert [v for o in outputs for v in volumes(o)] == [1, 2, 3]
    assert volumes(outputs[1], "test://rate") == [2]
    (dead,) = outputs[1].dead
    assert (dead.reason, dead.message) == (reason, mixed)
    assert detail in dead.detail
    assert {k: v for k, v in outputs[1].counts.items() if k[0] == "stage"} == {
        ("stage", "received"): 3,
        ("stage", reason): 1,
    }
    told = json.loads(dead.value)
    assert (told["name"], told["type"], told["resource_id"]) == (bad.name, bad.type, bad.resource_id)
    assert (told["timestamp"], told["id"]) == (bad.timestamp, bad.id.hex())
    assert told["volume"] == (bad.volume if math.isfinite(bad.volume) else str(bad.volume))
    assert told["resource_metadata"] == bad.metadata


def test_a_refused_row_of_a_gathered_call_names_its_own_message():
    messages = [
        message(sample(), offset=0),
        message(mark=0, offset=1),
        message(sample(name=""), offset=2),
        message(sample(type="x"), offset=3),
    ]
    got = feed(KEPT, State(KEPT), *messages)

    assert sorted((d.reason, d.message.offset) for d in got.dead) == [("name", 2), ("type", 3)]


def test_one_row_is_refused_for_one_reason():
    got = feed(KEPT, State(KEPT), message(sample(name="", type="x", volume=math.nan, timestamp=-1)))

    assert [d.reason for d in got.dead] == ["timestamp"]
    assert sum(n for (_, reason), n in got.counts.items() if reason != "received") == 1


def test_bytes_that_are_no_batch_lie_in_the_dead_letters_as_they_are():
    noise = Message(3, 8, 0, b"nonsense")
    got = feed(KEPT, State(KEPT), message(sample(volume=1)), noise, message(sample(volume=2)))

    assert volumes(got) == [1, 2]
    (dead,) = got.dead
    assert (dead.reason, dead.message, dead.value) == ("undecodable", noise, b"nonsense")
    assert got.counts["stage", "undecodable"] == 1


@pytest.mark.parametrize("column", ["volume", "name", "timestamp", "id", "resource_metadata.word"])
@pytest.mark.parametrize("beside", [0, 3])
def test_nulls_in_a_gathered_block_cost_only_their_own_message(column, beside):
    nulls = with_nulls(column)
    schema = batch_of([]).rows.schema
    bad = Message(3, 99, 0, encode(Batch(pa.RecordBatch.from_arrays(nulls.columns, schema=schema), Header())))
    good = [message(sample(volume=i)) for i in range(beside)]
    got = feed(KEPT, State(KEPT), *good[:1], bad, *good[1:], message(mark=0))

    assert volumes(got) == list(range(beside))
    assert [(d.reason, d.detail, d.message.offset) for d in got.dead] == [("undecodable", "a column has nulls", 99)]
    assert got.counts["stage", "undecodable"] == 1


def test_a_call_may_be_all_refused():
    got = feed(KEPT, State(KEPT), message(sample(name=""), sample(type="x")))

    assert (got.published, len(got.dead)) == ({}, 2)


# What is remembered


def test_what_is_remembered_of_a_batchs_series_changes_nothing():
    """The same series again and again (a hit), against a state that forgets what it remembered before each call (a miss)."""
    the_plan = plan(
        {
            "k": [],
            "r": [("rate_of_change", {"target": {"name": "r", "scale": "100.0 / (resource_metadata.n or 1)"}})],
            "j": [("arithmetic", {"target": {"name": "j", "expr": "$(a) + $(b) * 2"}})],
            "g": [("aggregator", {"retention_time": 120}), ("delta", {"target": {"name": "gd"}})],
        },
        lateness=0,
    )
    hit, miss = State(the_plan), State(the_plan)
    hits = 0
    for period in range(12):
        given_ = [
            polled(name, 60 * period, volume=period * 7 % 5 + i, resource=f"r{i % 4}", metadata=f'{{"n":{i % 3}}}')
            for i, name in enumerate("abab" * 4 + "c")
        ]
        if period == 7:
            given_.reverse()
        the_message = message(*given_, interval=60)
        hits += len(hit.layouts)
        miss.layouts.clear()
        miss.caches.clear()
        miss.strings._seen.clear()
        left, right = feed(the_plan, hit, the_message), feed(the_plan, miss, the_message)
        assert published(left) == published(right)
        assert left.counts == right.counts
    assert hits > 8


def test_users_and_metadata_that_change_under_the_same_series_are_seen():
    state = State(KEPT)
    for metadata, user in (('{"a":1}', "u"), ('{"a":2}', "u"), ('{"a":2}', "v")):
        (got,) = published(feed(KEPT, state, message(sample(metadata=metadata, user_id=user))))
        assert (got.metadata, got.user_id) == (metadata, user)


def test_layouts_take_a_bounded_room():
    state = State(KEPT)
    for i in range(40):
        feed(KEPT, state, message(*(sample(f"m{i}", resource=f"r{k}") for k in range(200))))

    assert sum(len(v.name) for v in state.layouts.values()) <= CACHED_ROWS
    assert len(state.layouts) > 1


# Forgetting


def busy(state, the_plan, hour, count=2000):
    """An hour of `count` resources that never come again, and one that always does."""
    some = [sample("m", 3600 * hour, resource=f"gone-{hour}-{i}", metadata=f'{{"of":{hour}}}') for i in range(count)]
    return feed(the_plan, state, message(*some, sample("m", 3600 * hour, volume=hour, resource="stays")))


def test_forgetting_gives_memory_back_and_changes_no_result():
    the_plan = plan({"k": [RATE], "g": [("aggregator", {"retention_time": 600})]}, series_ttl=7200, lateness=0)
    state = State(the_plan)
    sizes, rates, gone = [], [], 0
    for hour in range(40):
        got = busy(state, the_plan, hour, 300)
        gone += got.counts["stage", "series_forgotten"]
        rates += [s.volume for s in published(got) if s.name == "rate" and s.resource_id == "stays"]
        sizes.append(
            (len(state.series["rate_of_change"].index), len(state.periods.index), len(state.strings.resources.values))
        )

    assert rates == pytest.approx([1 / 3600] * 39)
    assert gone == 300 * 37, (
        "all but those of the last three hours; a pushed series is forgotten once, by the step that knew it"
    )
    assert max(s[0] for s in sizes) < 300 * 5
    assert max(s[2] for s in sizes) < 300 * 16
    assert max(sizes[20:]) <= max(sizes[:20]), "it does not grow"
    assert state.series["rate_of_change"].columns.capacity < 300 * 6


def test_a_series_that_was_forgotten_begins_anew():
    the_plan = plan({"k": [RATE]}, series_ttl=7200, lateness=0)
    state = State(the_plan)
    feed(the_plan, state, message(sample(at=0, volume=5)))
    feed(the_plan, state, message(sample("other", 7200)))
    within = feed(the_plan, state, message(sample(at=0.5, volume=6)))
    feed(the_plan, state, message(sample("other", 7202)))
    beyond = feed(the_plan, state, message(sample(at=0.7, volume=7)))

    assert (volumes(within), volumes(beyond)) == ([2], [])
    assert beyond.counts["rate_of_change", "first"] == 1


def test_numbers_dealt_anew_mix_no_resources_up():
    """Resources come and go by thousands, so numbers are swept and dealt again, while one resource's windows, sets and rates stay open."""
    the_plan = plan(
        {
            "r": [("rate_of_change", {"target": {"name": "rate"}})],
            "j": [("arithmetic", {"target": {"name": "joined", "expr": "$(a) + $(b)"}, "interval": 432000})],
            "g": [("aggregator", {"retention_time": 432000, "target": {"name": "mean"}})],
            "h": [("aggregator", {"retention_time": 600, "target": {"name": "short"}})],
            "c": [("accumulator", {"size": 3, "max_hold": 10**7})],
        },
        sources=[
            {"name": "all", "meters": ["m", "a", "b"], "sinks": ["r", "j", "h"]},
            {"name": "long", "meters": ["l"], "sinks": ["g"]},
            {"name": "few", "meters": ["c"], "sinks": ["c"]},
        ],
        series_ttl=7200,
        lateness=0,
        dedupe_horizon=600,
    )
    state = State(the_plan)
    stays = {"resource": "stays", "user_id": "u-stays", "project_id": "p-stays", "metadata": '{"is":"stays"}'}
    feed(the_plan, state, message(sample("a", 0, 1, **stays), sample("c", 0, **stays)))
    seen, swept = [], 0
    for hour in range(1, 24):
        before = state.swept
        some = [
            sample(
                "m",
                3600 * hour,
                resource=f"gone-{hour}-{i}",
                user_id=f"u-{hour}-{i}",
                metadata=f'{{"of":"{hour}-{i}"}}',
            )
            for i in range(400)
        ]
        extra = [sample("l", 3600 * hour, hour, **stays), *([sample("c", 3600 * hour, **stays)] if hour == 12 else [])]
        got = feed(the_plan, state, message(*some, *extra, sample("m", 3600 * hour, volume=hour * 3600, **stays)))
        swept += state.swept != before
        seen += published(got)
    seen += published(feed(the_plan, state, message(sample("b", 86399, 2, **stays), sample("c", 86399, **stays))))
    seen += published(feed(the_plan, state, message(mark=10 * 86400)))

    assert swept > 1
    assert len(state.strings.resources.values) < 23 * 400 / 2, "numbers are dealt again"
    of_stays = [s for s in seen if s.resource_id == "stays"]
    assert sorted({(s.name, s.volume) for s in of_stays if s.name not in ("c", "short")}) == [
        ("joined", 3.0),
        ("mean", 12.0),
        ("rate", 1.0),
    ]
    assert len([s for s in of_stays if s.name == "rate"]) == 22
    assert len([s for s in of_stays if s.name == "c"]) == 3
    assert {(s.user_id, s.project_id, s.metadata) for s in of_stays} == {("u-stays", "p-stays", '{"is":"stays"}')}
    others = [s for s in seen if s.resource_id != "stays"]
    assert len({s.resource_id for s in others if s.name == "short"}) == 23 * 400
    for s in others:
        tail = s.resource_id.removeprefix("gone-")
        assert (s.user_id, s.metadata) == (f"u-{tail}", f'{{"of":"{tail}"}}')


def test_an_encoded_output_is_a_batch_like_any_other():
    """What one flow publishes another may read."""
    the_plan = plan({"k": [RATE], "g": []})
    state = State(the_plan)
    feed(the_plan, state, message(sample(volume=1, metadata='{"a":1}')))
    got = feed(the_plan, state, message(sample(at=2, volume=5, metadata='{"a":1}')))

    for rows_ in got.published["test://"]:
        rows_.validate(full=True)
        assert list(decode(encode(Batch(rows_))).samples()) == list(Batch(rows_).samples())
