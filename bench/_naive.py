"""The plain way to compute a rate with bytewax: one JSON message a sample, one key a resource, a Python function a sample."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from datetime import datetime
from typing import Any

import bytewax.operators as op
from bytewax.dataflow import Dataflow
from bytewax.testing import TestingSink, TestingSource, run_main

from nephoscope.batch import Batch
from nephoscope.sample import sample_to_dict


def messages(batches: Iterable[Batch]) -> list[bytes]:
    """One JSON message a sample."""
    return [json.dumps(sample_to_dict(s)).encode() for b in batches for s in b.samples()]


def rate(before: tuple[float, float] | None, sample: dict[str, Any]) -> tuple[tuple[float, float], bytes | None]:
    """Ceilometer's cpu_util for any cumulative meter."""
    now = datetime.fromisoformat(sample["timestamp"]).timestamp()
    volume = sample["volume"]
    if before is None or now <= before[0]:
        return (now, volume), None
    growth = volume - before[1] if volume >= before[1] else volume
    scale = 100.0 / (10**9 * (sample["resource_metadata"].get("cpu_number") or 1))
    out = sample | {"name": sample["name"] + ".rate", "type": "gauge", "volume": growth / (now - before[0]) * scale}
    return (now, volume), json.dumps(out).encode()


def samples_per_cpu_second(raw: list[bytes]) -> float:
    """Run all messages through bytewax the plain way."""
    flow = Dataflow("naive")
    stream = op.input("in", flow, TestingSource(raw, batch_size=1000))
    parsed = op.map("parse", stream, json.loads)
    keyed = op.key_on("key", parsed, lambda s: s["name"] + s["resource_id"])
    rates = op.stateful_map("rate", keyed, rate)
    op.output("out", op.filter_map("drop", rates, lambda kv: kv[1]), TestingSink([]))
    start = time.process_time()
    run_main(flow)
    return len(raw) / (time.process_time() - start)
