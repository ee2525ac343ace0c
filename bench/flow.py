"""The flow's figures: samples per CPU-second of the fused stage, bytes in to bytes out; what its state costs.

`against` is the naive way in the same run (bench/_naive.py) for throughputs, the limit for the rest. The case "floor" is Arrow decoding and encoding of
the same messages alone: what no stage can beat.
"""

from __future__ import annotations

import gc
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import bytewax.operators as op
import psutil
import pyarrow as pa
from bytewax.dataflow import Dataflow
from bytewax.testing import TestingSink, TestingSource, run_main

from bench import _naive
from bench._cloud import METERS, Periods, instances
from flows import engine
from flows.placement import key_of
from flows.plan import Plan, compile_plan
from flows.snapshot import Snapshot, restore, take
from flows.stage import Output, process
from flows.state import State
from nephoscope.batch import SCHEMA, decode, mark
from nephoscope.pipeline import parse_pipeline
from nephoscope.topics import Message

PARTITIONS = 64
REPEATS = 5

_RATE = """
  - name: {name}
    publishers: [store]
    transformers:
      - name: rate_of_change
        parameters:
          source: {{map_from: {{name: '{pattern}', unit: (B|request|packet)}}}}
          target: {{map_to: {{name: '{to}', unit: \\1/s}}, type: gauge}}
"""
DEFAULT = (
    """
sources:
  - {name: meter_source, meters: ["*"], sinks: [meter_sink]}
  - {name: cpu_source, meters: [cpu], sinks: [cpu_sink, cpu_delta_sink]}
  - {name: disk_source, meters: [disk.read.bytes, disk.read.requests, disk.write.bytes, disk.write.requests], sinks: [disk_sink]}
  - name: disk_device_source
    meters: [disk.device.read.bytes, disk.device.read.requests, disk.device.write.bytes, disk.device.write.requests]
    sinks: [disk_device_sink]
  - name: network_source
    meters: [network.incoming.bytes, network.incoming.packets, network.outgoing.bytes, network.outgoing.packets]
    sinks: [network_sink]
sinks:
  - {name: meter_sink, publishers: [store]}
  - name: cpu_sink
    publishers: [store]
    transformers:
      - name: rate_of_change
        parameters:
          target: {name: cpu_util, unit: "%", type: gauge, max: 100, scale: "100.0 / (10**9 * (resource_metadata.cpu_number or 1))"}
  - name: cpu_delta_sink
    publishers: [store]
    transformers:
      - {name: delta, parameters: {target: {name: cpu.delta}, growth_only: true}}
"""
    + _RATE.format(name="disk_sink", pattern=r"disk\.(read|write)\.(bytes|requests)", to=r"disk.\1.\2.rate")
    + _RATE.format(
        name="disk_device_sink", pattern=r"disk\.device\.(read|write)\.(bytes|requests)", to=r"disk.device.\1.\2.rate"
    )
    + _RATE.format(
        name="network_sink", pattern=r"network\.(incoming|outgoing)\.(bytes|packets)", to=r"network.\1.\2.rate"
    )
)
RATE = """
sources:
  - {name: counters, meters: [cpu, "disk.*", "network.*"], sinks: [rates]}
sinks:
  - name: rates
    publishers: [store]
    transformers:
      - name: rate_of_change
        parameters:
          source: {map_from: {name: "$", unit: "$"}}
          target: {map_to: {name: .rate, unit: /s}, type: gauge}
"""
ARITHMETIC = """
sources:
  - {name: memory, meters: ["memory*"], sinks: [share]}
sinks:
  - name: share
    publishers: [store]
    transformers:
      - name: arithmetic
        parameters:
          target: {name: memory.util, unit: "%", type: gauge, expr: "100 * $(memory.usage) / $(memory)"}
"""
AGGREGATOR = """
sources:
  - {name: all, meters: ["*"], sinks: [minutes]}
sinks:
  - name: minutes
    publishers: [store]
    transformers:
      - {name: aggregator, parameters: {retention_time: 60}}
"""


def cases() -> Iterator[dict[str, Any]]:
    """All cases, the throughputs first."""
    cloud = Periods([instances(p, 157) for p in range(PARTITIONS)])
    naive = _median(lambda: _naive.samples_per_cpu_second(_naive_messages(cloud)), 3)
    yield _case("floor", _floor(cloud), "samples/CPU-s", naive)
    default = _throughput(DEFAULT, cloud)
    yield _case("default-pipeline", default, "samples/CPU-s", naive)
    yield _case("rate-of-change", _throughput(RATE, cloud), "samples/CPU-s", naive)
    small = Periods([instances(p, 15) for p in range(PARTITIONS)])
    yield _case("default-pipeline-small-batches", _throughput(DEFAULT, small, waiting=10), "samples/CPU-s", naive)
    memory = (("", "memory", "gauge", "MB"), ("", "memory.usage", "gauge", "MB"))
    pairs = Periods([instances(p, 750, memory) for p in range(PARTITIONS)])
    yield _case("arithmetic", _throughput(ARITHMETIC, pairs), "samples/CPU-s", naive)
    tens = Periods([instances(p, 150) for p in range(PARTITIONS)], interval=20)
    yield _case("aggregator", _throughput(AGGREGATOR, tens, together=3), "samples/CPU-s", naive)
    yield from _state()


def plan_of(text: str) -> Plan:
    """A pipeline compiled."""
    return compile_plan(parse_pipeline(text, publisher_schemes=()))


def encode_output(out: Output) -> int:
    """What a publisher of Arrow would send: one IPC stream for each publisher. How many bytes."""
    size = 0
    for batches in out.published.values():
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, SCHEMA) as writer:
            for batch in batches:
                writer.write_batch(batch)
        size += sink.getvalue().size
    return size


def _throughput(text: str, cloud: Periods, *, waiting: int = 1, together: int = 1) -> float:
    """Samples per CPU-second, median of REPEATS rounds of `together` calls; each call takes `waiting` messages of a partition."""
    plan = plan_of(text)
    states = [State(plan) for _ in cloud.templates]
    rates = []
    for turn in range(REPEATS + 3):
        calls = []
        for call in range(turn * together, (turn + 1) * together):
            waited = [list(cloud.messages(call * waiting + k)) for k in range(waiting)]
            calls += list(zip(states, zip(*waited, strict=True), strict=True))
        gc.collect()
        start = time.process_time()
        for state, messages in calls:
            encode_output(process(plan, state, messages))
        rates.append(cloud.rows * waiting * together / (time.process_time() - start))
    return statistics.median(rates[3:])


def _floor(cloud: Periods) -> float:
    """Decoding and encoding alone."""

    def once() -> float:
        messages = list(cloud.messages(0))
        start = time.process_time()
        for message in messages:
            out = Output()
            out.add(["store"], decode(message.value).rows)
            encode_output(out)
        return cloud.rows / (time.process_time() - start)

    return _median(once, REPEATS)


def _naive_messages(cloud: Periods) -> list[bytes]:
    return _naive.messages(cloud.batch(p, period) for period in range(3) for p in range(8))


def _state() -> Iterator[dict[str, Any]]:
    """A million series: what they weigh, what snapshots cost, how long it takes to resume."""
    plan = plan_of(DEFAULT)
    cloud = Periods([instances(p, 1563) for p in range(PARTITIONS)])
    process_info = psutil.Process()
    warm = list(cloud.messages(0))
    gc.collect()
    before = process_info.memory_info().rss
    states = [State(plan) for _ in range(PARTITIONS)]
    for state, message in zip(states, warm, strict=True):
        process(plan, state, [message])
    gc.collect()
    size = (process_info.memory_info().rss - before) / cloud.rows
    for period in (1, 2):
        for state, message in zip(states, cloud.messages(period), strict=True):
            process(plan, state, [message])
    snapshots = [take(plan, state).to_bytes() for state in states]

    def resume() -> float:
        start = time.perf_counter()
        for one in snapshots:
            restore(plan, Snapshot(None, one))
        return time.perf_counter() - start

    yield _case("resume-1m-series", _median(resume, REPEATS), "s", 2.0)
    yield _case("state-bytes-per-series", size, "B", 200.0)
    share = _median(lambda: _snapshot_seconds(plan, states), REPEATS) / 10
    yield _case("snapshot-1m-series", 100 * share, "% of a CPU at epochs of 10 s", 5.0)


def _snapshot_seconds(plan: Plan, states: list[State]) -> float:
    """CPU-seconds of one epoch's snapshots, through the engine and into its recovery store."""
    epochs = 4
    now = max(s.watermark for s in states) + 120_000_000
    marks = [(key_of(p), Message(p, epoch, now, mark(now))) for epoch in range(epochs) for p in range(len(states))]

    def seconds(folder: str | None) -> float:
        # Nothing happens but an empty call for each partition and epoch: the state is handed over as it is.
        given = iter(states)
        flow = Dataflow("snapshots")
        source = op.input("marks", flow, TestingSource(marks, batch_size=len(states)))
        stage = op.stateful_batch("stage", source, lambda _resume: engine.PartitionStage(plan, next(given)))
        op.output("out", stage, TestingSink([]))
        recovery = engine.recovery(Path(folder)) if folder else None
        start = time.process_time()
        run_main(flow, epoch_interval=timedelta(0), recovery_config=recovery)
        return time.process_time() - start

    with tempfile.TemporaryDirectory() as folder:
        return (seconds(folder) - seconds(None)) / epochs


def _median(measure: Callable[[], float], times: int) -> float:
    return statistics.median(measure() for _ in range(times))


def _case(name: str, value: float, unit: str, against: float) -> dict[str, Any]:
    return {
        "case": name,
        "value": round(value) if value > 100 else round(value, 3),
        "unit": unit,
        "against": round(against) if against > 100 else against,
        "ratio": round(value / against, 3),
    }


__all__ = ["METERS", "cases"]
