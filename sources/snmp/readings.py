"""What is asked of a host for some meters, and the readings of its answers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from nephoscope import times
from nephoscope.times import SECOND
from sources.hardware import DISK, LOAD, NETWORK
from sources.pollster import Meter, Reading
from sources.snmp import meters as m
from sources.snmp.meters import Oid

_KILOBYTE = 1024
_FULL = 2**31 - 1
"""What an Integer32 shows of a larger value."""
_FULL_SPEED = 2**32 - 1
_IDLE = "hardware.cpu.idle"
_HOUR = 3600 * SECOND
Column = Mapping[Oid, Any]
Columns = Mapping[Oid, Column]


@dataclass
class Known:
    """What is remembered of a host between two polls. Nothing of it is needed."""

    failing: bool = False
    processors: int = 0
    counted_at: int = times.NEVER
    rows: dict[str, int] = field(default_factory=dict)
    narrow: set[str] = field(default_factory=set)
    """Tables of which a row has no counters of 64 bits."""


class Ask:
    """What to ask of a host: `get` its single values, `tables` the columns of each table."""

    def __init__(self, wanted: Collection[str], known: Known, now: int, *, old: bool = False) -> None:
        self.wanted = frozenset(wanted)
        self.get: list[Oid] = []
        self.tables: dict[str, list[Oid]] = {}
        self._singles()
        if m.TICKS.keys() & self.wanted and not 0 <= now - known.counted_at < _HOUR:
            self.tables["processors"] = [m.PROCESSORS]
        if self._columns("filesystems", (m.DISK_PATH, m.DISK_DEVICE), m.DISK_SIZES, lambda c: c[:1]):
            self.tables["filesystems"] += [m.DISK_SIZES[n][2] for n in m.DISK_SIZES if n in self.wanted]
        narrow = old or "disks" in known.narrow
        self._columns("disks", (m.IO_DEVICE,), m.IO, lambda c: c if narrow else c[:1])
        narrow = old or "interfaces" in known.narrow
        about = (m.IF_NAME, m.IF_SPEED, m.IF_MAC, m.IF_HIGH_SPEED)
        if self._columns("interfaces", about, m.TRAFFIC, lambda c: sum(c if narrow else c[:1], ())):
            self.tables["addresses"] = [m.IF_ADDRESS]

    def _singles(self) -> None:
        wanted = self.wanted
        self.get += [oid for name, oid in m.LOADS.items() if name in wanted]
        # The idle time tells whether the agent has counted anything yet.
        self.get += [oid for name, oid in m.RAW.items() if name in wanted or (name == _IDLE and m.RAW.keys() & wanted)]
        self.get += [m.IDLE] if m.SHARES.keys() & wanted else []
        sizes = [small for name, (small, _) in m.SIZES.items() if name in wanted]
        if "hardware.memory.used" in wanted and m.SIZES["hardware.memory.total"][0] not in sizes:
            sizes.append(m.SIZES["hardware.memory.total"][0])
        self.get += sizes
        self.get += [oid for name, oids in m.COUNTERS.items() if name in wanted for oid in oids]

    def _columns(
        self,
        table: str,
        about: Iterable[Oid],
        columns: Mapping[str, Any],
        of: Callable[[Any], Iterable[Oid]],
    ) -> bool:
        wanted = [oid for name, choices in columns.items() if name in self.wanted for oid in of(choices)]
        if wanted:
            self.tables[table] = [*about, *wanted]
        return bool(wanted)

    def larger(self, values: Mapping[Oid, Any]) -> list[Oid]:
        """The objects of 64 bits to ask for, where those of 32 do not do."""
        return [large for small, large in m.SIZES.values() if small in values and _number(values[small]) >= _FULL]


def host_readings(
    values: Mapping[Oid, Any], wanted: Collection[str], host: str, about: Mapping[str, Any], at: int
) -> Iterator[Reading]:
    """The readings of the host itself. What it does not have is left out."""

    def reading(meter: Meter, volume: float) -> Reading:
        return Reading(meter, volume, host, about, measured_at=at)

    for name, meter in LOAD.items():
        if name in wanted and m.LOADS[name] in values:
            yield reading(meter, float(_text(values[m.LOADS[name]])))
    for name, meter in m.TICKS.items():
        if name in wanted and m.RAW[name] in values and values.get(m.RAW[_IDLE]):
            yield reading(meter, _number(values[m.RAW[name]]))
    if m.IDLE in values:
        idle = _number(values[m.IDLE])
        for (name, meter), volume in zip(m.SHARES.items(), (100 - idle, idle), strict=True):
            if name in wanted:
                yield reading(meter, volume)
    for name, meter in m.MEMORY.items():
        size = _size(values, name)
        total = _size(values, "hardware.memory.total") if name == "hardware.memory.used" else None
        if name == "hardware.memory.used" and size is not None:
            size = None if total is None else total - size
        if name in wanted and size is not None:
            yield reading(meter, size * _KILOBYTE)
    for name, meter in (m.BLOCKS | m.DATAGRAMS).items():
        found = next((values[oid] for oid in m.COUNTERS[name] if oid in values), None)
        if name in wanted and found is not None:
            yield reading(meter, _number(found))


def _size(values: Mapping[Oid, Any], name: str) -> int | None:
    small, large = m.SIZES[name]
    found = values.get(large, values.get(small))
    return None if found is None else _number(found)


def filesystem_readings(
    columns: Columns, wanted: Collection[str], host: str, about: Mapping[str, Any], at: int
) -> Iterator[Reading]:
    """The readings of dskTable. Its indices have holes."""
    devices, paths = columns[m.DISK_DEVICE], columns[m.DISK_PATH]
    named = _names({i: _text(v) for i, v in devices.items()}, lambda i: _text(paths.get(i, b"")))
    for index, (name, device) in named.items():
        told = {**about, "device": device, "path": _text(paths.get(index, b""))}
        for meter_name, (small, low, high) in m.DISK_SIZES.items():
            if meter_name not in wanted:
                continue
            kilobytes = columns[small].get(index)
            if index in columns.get(low, ()) and index in columns.get(high, ()):
                kilobytes = (_number(columns[high][index]) << 32) + _number(columns[low][index])
            if kilobytes is not None:
                volume = _number(kilobytes) * _KILOBYTE
                yield Reading(m.FILESYSTEM[meter_name], volume, f"{host}.{name}", told, measured_at=at)


def disk_readings(
    columns: Columns, wanted: Collection[str], host: str, about: Mapping[str, Any], at: int
) -> Iterator[Reading]:
    """The readings of diskIOTable."""
    named = _names({i: _text(v) for i, v in columns[m.IO_DEVICE].items()}, _dotted)
    for index, (name, device) in named.items():
        if device.startswith(("loop", "ram")):
            continue  # They show other disks' files, whose disks are counted.
        told = {**about, "device": device}
        for meter_name, choices in m.IO.items():
            found = next((columns[c][index] for c in choices if index in columns.get(c, ())), None)
            if meter_name in wanted and found is not None:
                yield Reading(DISK[meter_name], _number(found), f"{host}.{name}", told, measured_at=at)


def interface_readings(
    columns: Columns, wanted: Collection[str], host: str, about: Mapping[str, Any], at: int, addresses: Column
) -> Iterator[Reading]:
    """The readings of ifTable and ifXTable. `addresses`: the interface's index by IPv4 address."""
    ips: dict[int, str] = {}
    for address, interface in addresses.items():
        ips.setdefault(_number(interface), _dotted(address))
    named = _names({i: _text(v) for i, v in columns[m.IF_NAME].items()}, _dotted)
    for index, (name, described) in named.items():
        mac = columns[m.IF_MAC].get(index, b"")
        told = {
            **about,
            "name": described,
            "mac": _octets(mac).hex(),
            "ip": ips.get(index[0], ""),
            "speed": _speed(columns, index),
        }
        for meter_name, choices in m.TRAFFIC.items():
            found = next((c for c in choices if c[0] in columns and index in columns[c[0]]), None)
            if meter_name in wanted and found is not None:
                volume = sum(_number(columns[c].get(index, 0)) for c in found)
                yield Reading(NETWORK[meter_name], volume, f"{host}.{name}", told, measured_at=at)


def is_narrow(columns: Columns, name: Oid, choices: Mapping[str, Any], wanted: Collection[str]) -> bool:
    """Whether a row lacks one of the first choices that have a second."""
    for meter_name, options in choices.items():
        if meter_name not in wanted or len(options) < 2:
            continue
        first = options[0]
        column = columns.get(first if isinstance(first[0], int) else first[0], {})
        if columns[name].keys() - column.keys():
            return True
    return False


def _speed(columns: Columns, index: Oid) -> int:
    """B/s, as Ceilometer has it."""
    bits = _number(columns[m.IF_SPEED].get(index, 0))
    if bits in {0, _FULL_SPEED}:
        bits = _number(columns[m.IF_HIGH_SPEED].get(index, 0)) * 1_000_000 or bits
    return bits // 8


def _names(described: Mapping[Oid, str], otherwise: Callable[[Oid], str]) -> dict[Oid, tuple[str, str]]:
    """The name of each row, and what it is called: the first of several that are called the same has this name alone, the others more."""
    seen: Counter[str] = Counter()
    out = {}
    for index, text in described.items():
        seen[text] += 1
        name = text or _dotted(index)
        out[index] = (name if seen[text] == 1 or not text else f"{name}.{otherwise(index)}", text)
    return out


def _dotted(index: Oid) -> str:
    return ".".join(map(str, index))


def _number(value: Any) -> int:
    """What must be a number, and may be anything."""
    if not isinstance(value, int):
        raise ValueError(f"{str(value)[:40]} is no number")  # noqa: TRY004 -- it is what the host says that is wrong
    return value


def _octets(value: Any) -> bytes:
    return value if isinstance(value, bytes) else b""


def _text(value: Any) -> str:
    return _octets(value).decode("utf-8", "replace").replace("\0", "")
