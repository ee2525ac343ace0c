"""A pollster as a third party would ship it: INSTANT_RESOURCES resources that answer at once. Put this folder on PYTHONPATH."""

import os
import time

from sources.pollster import Meter, Pollster, Reading

METERS = (
    Meter("instant.cpu", "cumulative", "ns", "instance", "CPU time used"),
    Meter("instant.memory", "gauge", "MB", "instance", "Memory in use"),
)


def poll(resource, _meters):
    """Read one resource."""
    return [Reading(meter, float(time.monotonic_ns() % 10**9), resource) for meter in METERS]


def discover(_parameter):
    """All there are."""
    return [f"instance-{i:05}" for i in range(int(os.environ.get("INSTANT_RESOURCES", "100")))]


POLLSTER = Pollster("instant", METERS, poll, discovery="instant")
