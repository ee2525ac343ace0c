"""Samples as the tests of stores want them. It imports nothing that only tests need: their child processes start sooner."""

from nephoscope import identity
from nephoscope.batch import batch_of
from nephoscope.sample import Sample
from nephoscope.times import SECOND

START = 1_577_880_000 * SECOND


def polled(name="cpu", resource="r1", at=0, **rest):
    timestamp = START + at * SECOND
    values = {
        "type": "gauge",
        "unit": "",
        "volume": 1.0,
        "id": identity.polled_id("openstack", name, resource, timestamp),
    }
    return Sample(name=name, resource_id=resource, timestamp=timestamp, **(values | rest))


def rows(*samples):
    return batch_of(list(samples)).rows


def by_id(samples):
    return sorted(samples, key=lambda s: s.id)


def samples():
    """Records of several meters, shared resources, pushed ones among them."""
    return [
        polled(
            f"m{meter}",
            f"r{resource}",
            at,
            volume=float(at + meter),
            metadata=f'{{"v":{at // 300}}}',
            **({"id": bytes([meter, resource, at % 251, at // 251]) * 4} if meter == 3 else {}),
        )
        for resource in range(12)
        for at in range(0, 900, 60)
        for meter in range(4)
    ]
