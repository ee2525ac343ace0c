"""What the shipped pipeline makes of this host's meters."""

from pathlib import Path

import pytest

from nephoscope import identity
from nephoscope.sample import CUMULATIVE, Sample
from tests.flows.bridge import run_stage
from tests.reference import Message, Options

TEXT = (Path(__file__).parents[2] / "conf" / "pipeline.yaml").read_text(encoding="utf-8")
SECOND = 1_000_000
START = 1_577_880_000 * SECOND


def derived(name, unit, volumes, metadata="{}"):
    """What other sinks than meter_sink publish for a meter polled every 10 s: (name, type, unit, volume)."""
    messages = []
    for i, volume in enumerate(volumes):
        time = START + 10 * i * SECOND
        sample = Sample(
            name=name,
            type=CUMULATIVE,
            unit=unit,
            volume=volume,
            resource_id="h",
            timestamp=time,
            metadata=metadata,
            id=identity.polled_id("openstack", name, "h", time),
        )
        messages.append(Message(time, (sample,), 10, ("host",)))
    out = run_stage(TEXT, Options(), messages).published
    assert sum(p.sink == "meter_sink" for p in out) == len(volumes)
    return [(p.sample.name, p.sample.type, p.sample.unit, p.sample.volume) for p in out if p.sink != "meter_sink"]


def test_cpu_utilisation_is_the_rate_of_the_busy_time_over_all_cpus():
    volumes = (0.0, 10e9, 30e9, 130e9)
    assert derived("compute.node.cpu.time", "ns", volumes, '{"cpu_number":4}') == [
        ("hardware.cpu.util", "gauge", "%", pytest.approx(25)),
        ("hardware.cpu.util", "gauge", "%", pytest.approx(50)),
        ("hardware.cpu.util", "gauge", "%", 100),
    ]


def test_the_share_of_a_mode_needs_the_number_of_cpus():
    volumes = (0.0, 10e9)
    assert derived("compute.node.cpu.kernel.time", "ns", volumes, '{"cpu_number":4}') == [
        ("hardware.system_stats.cpu.kernel", "gauge", "%", pytest.approx(25))
    ]
    assert derived("compute.node.cpu.kernel.time", "ns", volumes) == []


@pytest.mark.parametrize(
    "name, unit, rate",
    [
        ("hardware.network.incoming.bytes", "B", "B/s"),
        ("hardware.network.outgoing.packets", "packet", "packet/s"),
        ("hardware.disk.write.requests", "request", "request/s"),
        ("network.incoming.packets", "packet", "packet/s"),
        ("disk.read.bytes", "B", "B/s"),
        ("disk.device.write.requests", "request", "request/s"),
    ],
)
def test_rates(name, unit, rate):
    assert derived(name, unit, (100.0, 150.0)) == [(f"{name}.rate", "gauge", rate, 5.0)]


def test_an_instance_s_cpu():
    assert sorted(derived("cpu", "ns", (0.0, 20e9), '{"cpu_number":"4"}')) == [
        ("cpu.delta", "delta", "ns", 20e9),
        ("cpu_util", "gauge", "%", pytest.approx(50)),
    ]
