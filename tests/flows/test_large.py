"""The same rule at sizes where the stage gathers, caches, sweeps strings and forgets series: thousands of rows, resources that come and go."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from nephoscope import identity
from nephoscope.sample import CUMULATIVE, DELTA, GAUGE, Sample
from nephoscope.times import NEVER, SECOND
from tests.flows.bridge import run_reference, run_stage
from tests.reference import Message, Options
from tests.strategies import START

PIPELINE = r"""
sources:
  - {name: all, meters: ['*'], sinks: [raw, minutes, hours, groups]}
  - {name: counters, meters: ['cpu', 'net.*'], sinks: [rates, util, deltas, slow]}
  - {name: memory, meters: ['mem*'], sinks: [share, converted]}
sinks:
  - {name: raw, publishers: ['test://']}
  - name: rates
    publishers: ['test://']
    transformers:
      - name: rate_of_change
        parameters: {source: {map_from: {name: 'net\.(in|out)'}}, target: {map_to: {name: 'net.\1.rate'}}}
  - name: util
    publishers: ['test://']
    transformers:
      - {name: rate_of_change, parameters: {target: {name: util, scale: '100.0 / (resource_metadata.cpus or 1)', max: 90}}}
      - {name: aggregator, parameters: {retention_time: 120}}
  - {name: deltas, publishers: ['test://'], transformers: [{name: delta, parameters: {growth_only: true}}]}
  - name: slow
    publishers: ['test://']
    transformers: [{name: aggregator, parameters: {retention_time: 60, volume: last}}, {name: rate_of_change, parameters: {}}]
  - name: share
    publishers: ['test://']
    transformers: [{name: arithmetic, parameters: {target: {name: share, expr: '100 * $(mem.usage) / $(mem)'}}}]
  - name: converted
    publishers: ['test://']
    transformers: [{name: unit_conversion, parameters: {target: {scale: 'volume / resource_metadata.cpus'}}}]
  - {name: minutes, publishers: ['test://'], transformers: [{name: aggregator, parameters: {retention_time: 60, size: 3}}]}
  - {name: hours, publishers: ['test://'], transformers: [{name: aggregator, parameters: {retention_time: 600, user_id: last}}]}
  - name: groups
    publishers: ['test://']
    transformers: [{name: accumulator, parameters: {size: 700, max_hold: 100}}, {name: aggregator, parameters: {size: 5}}]
"""
METERS = {
    "cpu": CUMULATIVE,
    "net.in": CUMULATIVE,
    "net.out": CUMULATIVE,
    "mem": GAUGE,
    "mem.usage": GAUGE,
    "calls": DELTA,
}


def churning_log(seed: int, periods: int, resources: int) -> list[Message]:
    """Polls of a minute in messages of very different sizes; a tenth of the resources is new each period; doubles, late and pushed rows."""
    rng = random.Random(seed)
    alive = [f"r{i}" for i in range(resources)]
    born, out = resources, []
    counters: Counter[tuple[str, str]] = Counter()
    recent: list[Message] = []
    for period in range(periods):
        now = START + period * 60 * SECOND
        for _ in range(resources // 10):
            alive[rng.randrange(resources)] = f"r{born}"
            born += 1
        rows = []
        for resource in alive:
            for meter, kind in METERS.items():
                if rng.random() < 0.05:
                    continue
                counters[meter, resource] += rng.randrange(100)
                if rng.random() < 0.01:
                    counters[meter, resource] = 0
                rows.append(_row(rng, meter, kind, resource, now, float(counters[meter, resource]), period))
        pushed = [_pushed(rng, now, period * 1000 + i) for i in range(rng.randrange(resources))]
        while rows:
            size = rng.choice((3, 40, 150, 2000))
            part, rows = rows[:size], rows[size:]
            recent.append(Message(now + 5 * SECOND, tuple(part), 60, ("all", "counters", "memory")))
            out.append(recent[-1])
        out.append(Message(now + 20 * SECOND, tuple(pushed)))
        if rng.random() < 0.3:
            out.append(rng.choice(recent[-10:]))
        if rng.random() < 0.7:
            out.append(Message(now + 50 * SECOND, mark=now + 50 * SECOND))
    return out


def _row(rng: random.Random, meter: str, kind: str, resource: str, now: int, volume: float, period: int) -> Sample:
    late = rng.random() < 0.02
    time = now - rng.randrange(1, 8) * 60 * SECOND if late else now
    return Sample(
        name=meter,
        type=kind,
        unit="u",
        volume=volume,
        user_id=f"u{hash_of(resource) % 7}" if rng.random() > 0.01 else "other",
        project_id=f"p{hash_of(resource) % 3}",
        resource_id=resource,
        timestamp=time,
        measured_at=time + rng.randrange(3 * SECOND) if rng.random() < 0.8 else NEVER,
        metadata=f'{{"cpus":{hash_of(resource) % 5},"host":"h{period // 9}","of":"{resource}"}}',
        id=identity.polled_id("openstack", meter, resource, time),
    )


def _pushed(rng: random.Random, now: int, number: int) -> Sample:
    wrong = rng.random()
    return Sample(
        name=rng.choice(("calls", "mem", "cpu")) if wrong > 0.02 else "",
        type=DELTA,
        unit="u",
        volume=float(rng.randrange(50)),
        resource_id=f"x{rng.randrange(40)}",
        timestamp=now - rng.choice((0, 0, 1, 30, 200, 4000)) * SECOND,
        metadata='{"cpus":2}' if wrong > 0.04 else "no",
        id=number.to_bytes(16, "big"),
    )


def hash_of(text: str) -> int:
    """A number that is the same in every process."""
    return identity.digest(text)[0]


@pytest.mark.parametrize("sizes", [[1], [7, 1, 30]], ids=["one-by-one", "gathered"])
def test_a_log_with_churn(sizes: list[int]) -> None:
    """What the stage remembers by content, and what it forgets, never shows."""
    options = Options(lateness=120 * SECOND, series_ttl=600 * SECOND, dedupe_horizon=900 * SECOND)
    log = churning_log(seed=7, periods=25, resources=30)

    want = run_reference(PIPELINE, options, log)
    got = run_stage(PIPELINE, options, log, sizes, snapshots=len(sizes) > 1)

    for sink in {p.sink for p in want.published}:
        assert [p for p in want.published if p.sink == sink] == [p for p in got.published if p.sink == sink]
    assert Counter(want.published) == Counter(got.published)
