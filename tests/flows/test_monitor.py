"""What a flow tells of itself: each count under its own name, and how far it is behind."""

import pickle

import pytest

from flows.engine import PartitionStage
from flows.monitor import Monitor
from flows.plan import compile_plan
from flows.stage import Output
from flows.state import State
from nephoscope import times
from nephoscope.errors import Unavailable
from nephoscope.health import Health
from nephoscope.metrics import exposition
from nephoscope.pipeline import parse_pipeline
from nephoscope.push import push
from nephoscope.sample import sample_from_dict
from nephoscope.times import SECOND
from nephoscope.topics import SAMPLES, Message, Record
from nephoscope.topics.embedded import EmbeddedLog

PIPELINE = """
sources:
  - {name: all, meters: ["*"], sinks: [rates, means]}
sinks:
  - name: rates
    transformers: [{name: rate_of_change, parameters: {}}]
    publishers: ["database://"]
  - name: means
    transformers: [{name: aggregator, parameters: {retention_time: 60}}]
    publishers: ["database://"]
"""
PLAN = compile_plan(parse_pipeline(PIPELINE, publisher_schemes=()))


def made(second, volume=1.0, **more):
    moment = times.format_time(1_700_000_000 * SECOND + second * SECOND)
    about = {
        "name": "cpu",
        "type": "cumulative",
        "unit": "ns",
        "resource_id": "vm",
        "timestamp": moment,
        "volume": volume,
    }
    return sample_from_dict({**about, "id": f"{second}", **more})


@pytest.fixture
def log(tmp_path):
    log = EmbeddedLog(tmp_path / "log.db", 1)
    yield log
    log.close()


@pytest.fixture
def grown():
    """What has been added to the flow's counters since the test began."""
    counts = Monitor(Health("flow")).counts

    def told():
        return {k: v for k, v in counts.values().items() if v}

    before = told()
    return lambda: {k: v - before.get(k, 0) for k, v in told().items() if v != before.get(k, 0)}


def everything(log):
    consumer = log.consumer(SAMPLES, {0: 0})
    try:
        return consumer.poll()
    finally:
        consumer.close()


def fed(log, monitor, state=None):
    stage = PartitionStage(PLAN, state or State(PLAN), monitor)
    outputs, _ = stage.on_batch(everything(log))
    for output in outputs:
        monitor.count(output)
    return stage, list(outputs)


def test_each_count_has_its_name(log, grown):
    samples = [made(0), made(10), made(10), made(5), made(500), made(20, id="late"), made(600, id="other")]
    push(log, samples)
    log.append(SAMPLES, [Record(0, b"rubbish")])

    fed(log, Monitor(Health("flow")))

    # Series that are forgotten are no samples.
    assert {k: v for k, v in grown().items() if k != "series_forgotten"} == {
        "received": 7,
        "dropped.first": 1,
        "dropped.double": 1,
        "dropped.late": 2,  # of rate_of_change: nothing comes of them
        "dropped.undecodable": 1,
        "late": 1,  # of the aggregator: published in a late part, and so no loss
    }


def test_drops_say_at_which_step(log):
    push(log, [made(0, resource_id="steps")])
    monitor = Monitor(Health("flow"))
    fed(log, monitor)

    text = Health("flow").metrics().decode()

    assert 'nephoscope_flow_dropped_total{reason="first",step="rate_of_change"}' in text


def test_lag_is_what_is_not_published(log):
    now = times.now() // SECOND - 1_700_000_000
    push(log, [made(now - 100)])
    push(log, [made(now - 90)])
    monitor = Monitor(Health("flow"), lambda: log, lateness=120 * SECOND)
    monitor.begins(0, 0)
    monitor.read(0, 2, times.now())

    # Read is not published.
    assert monitor._behind(log.end(SAMPLES)).messages == 2

    _, outputs = fed(log, monitor)
    monitor.published(outputs)
    behind = monitor._behind(log.end(SAMPLES))
    assert (behind.messages, behind.most, behind.seconds) == (0, 0, 0)

    push(log, [made(now)])
    behind = monitor._behind(log.end(SAMPLES))
    assert (behind.messages, behind.most) == (1, 1)
    # What is published reaches up to 90 s ago.
    assert behind.seconds == pytest.approx(90, abs=5)


def test_a_lag_too_long_is_not_ready(log):
    health = Health("flow")
    monitor = Monitor(health, lambda: log, ready_lag=60)
    monitor.begins(0, 0)
    push(log, [made(0)])
    monitor.read(0, 1, times.now() - 61 * SECOND)

    part = health.report()["parts"]["log"]

    assert part["ready"] is False
    assert part["lag_messages"] == 1
    assert part["detail"] == "more than 60 s behind"


def test_in_a_cluster_only_what_is_read_here_counts(log):
    push(log, [made(0)])
    push(log, [made(1)])
    monitor = Monitor(Health("flow"), lambda: log, alone=False)
    monitor.begins(0, 0)

    monitor.read(0, 1, times.now() - 1000 * SECOND)
    # Published here, but read elsewhere: that process tells of it.
    monitor.published([Output(at=(7, 100, 0))])

    assert monitor._behind([2] * 8).messages == 1
    # What came last tells the age: no watermark of this partition is known here.
    monitor.read(0, 2, times.now())
    assert monitor._behind([3] * 8).seconds < 5


def test_before_anything_is_read_nobody_knows_the_lag(log):
    """0 would say: all is done."""
    push(log, [made(0)])
    monitor = Monitor(Health("flow"), lambda: log)
    monitor.counts.gauge("lag_messages", 77)

    monitor.refresh()
    assert b"nephoscope_flow_lag_messages 77" in exposition()
    assert b"nephoscope_flow_partitions_read 0" in exposition()

    monitor.begins(0, 0)
    monitor.refresh()
    assert b"nephoscope_flow_lag_messages 1" in exposition()
    assert b"nephoscope_flow_partitions_read 1" in exposition()


def test_a_log_that_is_away_is_no_end_of_metrics():
    def away():
        raise Unavailable("no broker")

    health = Health("flow")
    Monitor(health, away)

    assert b"nephoscope_flow_partitions 0.0" in health.metrics()
    assert health.report()["parts"]["log"] == {"ready": False, "detail": "no broker"}


def test_state_and_snapshots(log, grown):
    push(log, [made(0), made(0, name="mem", id="mem")])
    health = Health("flow")
    monitor = Monitor(health)
    stage, _ = fed(log, monitor)

    size = len(stage.snapshot().to_bytes())
    text = health.metrics().decode()

    # Two series, that of the rate each; only polled ones are remembered by the dedupe as well.
    assert "nephoscope_flow_state_series 2.0\n" in text
    assert f"nephoscope_flow_state_bytes {float(size)}\n" in text
    # W is the newest timestamp less 120 s.
    assert "nephoscope_flow_watermark_seconds 1.69999988e+09\n" in text
    assert grown()["snapshots"] == 1
    assert 0 < grown()["snapshot_seconds"] < 1


def test_a_snapshot_that_is_told_of_pickles(log):
    push(log, [made(0)])
    stage, _ = fed(log, Monitor(Health("flow")))

    again = pickle.loads(pickle.dumps(stage.snapshot()))

    assert again.parts()["watermark"] == (1_700_000_000 - 120) * SECOND


def test_the_stage_says_how_far_it_is(log):
    state = State(PLAN)
    stage = PartitionStage(PLAN, state)

    (out,), _ = stage.on_batch([Message(3, 41, 0, b"rubbish"), Message(3, 42, 0, b"rubbish")])

    assert out.at == (3, 43, state.watermark)
