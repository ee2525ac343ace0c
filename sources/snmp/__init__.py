"""Hosts, by SNMP (v1, v2c, v3): CPU, memory, filesystems, disks, network; Ceilometer's `hardware.*`.

Resources: the host; ``host.device``; ``host.interface``. Where several rows of a host are called the same, the second has more in its name.

Guarantee: reads only. Counters start anew with the agent, and those of 32 bits (SNMPv1, old agents) at 4,294,967,296: rate_of_change takes
both for a reset. What a host does not have gives no readings; what was read before an error is kept.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING

from nephoscope import times
from nephoscope.errors import MissingExtra, NephoscopeError, Problem
from nephoscope.settings import Settings
from sources import inventory
from sources.pollster import Answer, Pollster, Reading, System, given, verified_by
from sources.snmp import addresses, readings
from sources.snmp import meters as m
from sources.snmp.addresses import Address
from sources.snmp.community import Community
from sources.snmp.loop import Loop
from sources.snmp.readings import Ask, Known
from sources.snmp.session import Session

if TYPE_CHECKING:
    from sources.snmp.users import Engines, User

_AT_ONCE = 64
"""Hosts that are asked at once: an answer must not wait longer for us than its time-out."""
_FAILING_AT_ONCE = 512
_REMEMBERED = 100_000


class Snmp:
    """All hosts that are polled by SNMP, on one event loop."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings.hardware
        self._deadline = settings.polling.timeout
        self._loop = Loop("nephoscope-snmp")
        self._lane = asyncio.Semaphore(_AT_ONCE)
        self._side_lane = asyncio.Semaphore(_FAILING_AT_ONCE)
        self._engines: Engines | None = None
        self._known: dict[str, Known] = {}

    def poll(self, resource: str, meters: Collection[str]) -> Answer:
        """Hosts, by SNMP (v1, v2c, v3): CPU, memory, filesystems, disks, network.

        Raises MissingExtra for SNMPv3 without its client, PermanentError for a bad URL or credential; the answer raises what asking gives.
        """
        address = self.parse(resource)
        return Answer(self._loop.submit(self._poll(address, resource, frozenset(meters))))

    def check(self, _meters: Collection[str]) -> Iterable[Problem]:
        """What is wrong in the file of hosts."""
        yield from inventory.check(self._settings, "snmp", self.parse)

    def close(self) -> None:
        """Close the sockets, end the thread."""

        async def last() -> None:
            if self._engines is not None:
                self._engines.close()

        self._loop.close(last)

    def parse(self, url: str) -> Address:
        """Take a URL apart. Raises PermanentError; MissingExtra for SNMPv3 without its client."""
        address = addresses.parse(url, self._settings)
        if address.access.version == "3":
            try:
                import sources.snmp.users  # noqa: F401 -- whether it can be
            except ModuleNotFoundError as error:
                if error.name and error.name.partition(".")[0] in {"pysnmp", "pyasn1", "cryptography"}:
                    raise MissingExtra("SNMPv3", "snmp") from None
                raise
        return address

    async def _poll(self, address: Address, resource: str, wanted: frozenset[str]) -> Iterable[Reading]:
        if len(self._known) >= _REMEMBERED:
            self._known.clear()
        known = self._known.setdefault(resource, Known())
        found: list[Reading] = []
        failed: Exception | None = None
        # Those that gave no answer the last time wait beside the others, not before them.
        lane = self._side_lane if known.failing else self._lane
        async with lane:
            known.failing = True  # Also where this is cancelled.
            try:
                async with asyncio.timeout(self._deadline), self._asking(address, await _ip(address)) as request:
                    await self._read(Session(address, request), address, known, wanted, found)
            except TimeoutError as error:
                words = f"{address.place} takes too long: not all was read within {self._deadline:g} s"
                failed = error if str(error) else TimeoutError(words)
            except (OSError, NephoscopeError) as error:
                failed = error  # Told with what was read before it.
            except Exception as error:  # noqa: BLE001 -- whatever the answers of a host make of the code that reads them
                failed = ValueError(f"{address.place} answers what cannot be used: {type(error).__name__}: {error}")
            known.failing = failed is not None
        return given(found, failed)

    def _asking(self, address: Address, ip: str) -> Community | User:
        timeout, retries = self._settings.snmp_timeout, self._settings.snmp_retries
        if address.access.version != "3":
            return Community(address, ip, timeout, retries)
        from sources.snmp.users import Engines, User

        if self._engines is None:
            self._engines = Engines()
        return User(self._engines, address, ip, timeout, retries)

    async def _read(
        self, session: Session, address: Address, known: Known, wanted: frozenset[str], out: list[Reading]
    ) -> None:
        ask = Ask(wanted, known, times.now(), old=address.access.version == "1")
        host = address.resource_id
        about = {"host": host, "resource_url": address.url}
        values = await session.get(ask.get) if ask.get else {}
        at = times.now()
        if larger := ask.larger(values):
            values |= await session.get(larger)
        columns = (
            await session.walk(ask.tables.pop("processors"), known.processors) if "processors" in ask.tables else {}
        )
        if columns:
            known.processors, known.counted_at = len(columns[m.PROCESSORS]), at
        told = {**about, "cpu_number": known.processors} if known.processors and m.TICKS.keys() & wanted else about
        out += readings.host_readings(values, wanted, host, told, at)
        if not ask.tables:
            return
        every = [column for columns in ask.tables.values() for column in columns]
        found = await session.walk(every, max(known.rows.values(), default=0))
        at = times.now()
        known.rows = {table: len(found[columns[0]]) for table, columns in ask.tables.items()}
        for table, name, choices in (("disks", m.IO_DEVICE, m.IO), ("interfaces", m.IF_NAME, m.TRAFFIC)):
            if table in ask.tables and table not in known.narrow and readings.is_narrow(found, name, choices, wanted):
                known.narrow.add(table)
                more = Ask(wanted, known, at).tables[table]
                found |= await session.walk([c for c in more if c not in found], known.rows[table])
        if "filesystems" in ask.tables:
            out += readings.filesystem_readings(found, wanted, host, about, at)
        if "disks" in ask.tables:
            out += readings.disk_readings(found, wanted, host, about, at)
        if "interfaces" in ask.tables:
            out += readings.interface_readings(found, wanted, host, about, at, found.get(m.IF_ADDRESS, {}))


async def _ip(address: Address) -> str:
    """The host's address. OSError where its name is not known."""
    try:
        return str(ipaddress.ip_address(address.host))
    except ValueError:
        loop = asyncio.get_running_loop()
    try:
        return str((await loop.getaddrinfo(address.host, None, type=socket.SOCK_DGRAM))[0][4][0])
    except OSError as error:
        raise OSError(f"{address.place}: the name is not known ({error.strerror or error})") from None


def system(settings: Settings) -> System:
    """The pollster of hosts by SNMP, and the discovery that reads the file of hosts."""
    snmp = Snmp(settings)
    pollster = Pollster(
        "snmp",
        m.METERS,
        snmp.poll,
        discovery="snmp_hosts",
        takes=addresses.takes,
        verify=verified_by(snmp.parse),
    )
    return System((pollster,), {"snmp_hosts": inventory.discovery(settings.hardware, "snmp")}, snmp.check, snmp.close)
