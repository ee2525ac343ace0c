"""Meters that are the same wherever a host's hardware is read: by psutil here, by SNMP elsewhere. Names and units are Ceilometer's."""

from __future__ import annotations

from typing import Final

from nephoscope.sample import CUMULATIVE, GAUGE
from sources.pollster import Meter


def metered(kind: str, unit: str, resource: str, described: dict[str, str]) -> dict[str, Meter]:
    """Meters by name, of one type, unit and resource, with what each says."""
    return {name: Meter(name, kind, unit, resource, text) for name, text in described.items()}


LOAD: Final = metered(
    GAUGE,
    "process",
    "host",
    {
        "hardware.cpu.load.1min": "CPU load, mean of the past minute",
        "hardware.cpu.load.5min": "CPU load, mean of the past 5 minutes",
        "hardware.cpu.load.15min": "CPU load, mean of the past 15 minutes",
    },
)
DISK: Final = metered(
    CUMULATIVE,
    "B",
    "host.device",
    {"hardware.disk.read.bytes": "Read from a disk", "hardware.disk.write.bytes": "Written to a disk"},
) | metered(
    CUMULATIVE,
    "request",
    "host.device",
    {"hardware.disk.read.requests": "Reads of a disk", "hardware.disk.write.requests": "Writes to a disk"},
)
NETWORK: Final = metered(
    CUMULATIVE,
    "B",
    "host.interface",
    {"hardware.network.incoming.bytes": "Received", "hardware.network.outgoing.bytes": "Sent"},
) | metered(
    CUMULATIVE,
    "packet",
    "host.interface",
    {
        "hardware.network.incoming.packets": "Packets received",
        "hardware.network.outgoing.packets": "Packets sent",
        "hardware.network.incoming.errors": "Packets received with an error",
        "hardware.network.outgoing.errors": "Packets that an error kept from being sent",
        "hardware.network.incoming.drop": "Received packets that were dropped",
        "hardware.network.outgoing.drop": "Packets dropped before they were sent",
    },
)
