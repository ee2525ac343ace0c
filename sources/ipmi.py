"""Baseboard management controllers, by ipmitool: sensors, and the power and inlet temperature that DCMI tells.

This host's own (namespace `ipmi`), or over the network: ``ipmi://[USER@]HOST[:PORT][?credential=NAME]``, with the options `cipher` (3), `privilege`
(user; operator, administrator) and `resource_id`. A password is handed over in the environment, never on the command line.

Resources: the host, and ``HOST-SENSOR_(0xNUMBER)`` for a sensor, as Ceilometer's.

Guarantee: reads only. A sensor that has no reading gives none, and a controller without DCMI no power; what was read before an error is kept.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Final, NamedTuple

from nephoscope.errors import MissingExtra, NephoscopeError, Problem
from nephoscope.redaction import redacted
from nephoscope.sample import GAUGE
from nephoscope.settings import Settings
from nephoscope.settings.sections import HardwareSettings
from sources import inventory
from sources.addresses import address_of, credential_of
from sources.host import LOCAL_NAMES, host_name
from sources.pollster import Answer, Meter, PermanentError, Pollster, Reading, System, given, verified_by

_log = logging.getLogger(__name__)
_PORT: Final = 623
_OPTIONS: Final = ("credential", "cipher", "privilege", "resource_id")
_PRIVILEGES: Final = ("user", "operator", "administrator")
_SENSOR: Final = "sensor of a host"


def _sensor(name: str, unit: str, text: str) -> Meter:
    return Meter(f"hardware.ipmi.{name}", GAUGE, unit, _SENSOR, text)


_TEMPERATURE = _sensor("temperature", "C", "Temperature that a sensor reads")
_FAN = _sensor("fan", "RPM", "Speed of a fan")
_VOLTAGE = _sensor("voltage", "V", "Voltage that a sensor reads")
_WATTS = _sensor("current", "W", "Power that a sensor reads")
_AMPERES = _sensor("current", "A", "Current that a sensor reads")
_UNITS: Final[dict[str, tuple[Meter, Callable[[float], float]]]] = {
    "degrees C": (_TEMPERATURE, lambda t: t),
    "degrees F": (_TEMPERATURE, lambda t: (t - 32) / 1.8),
    "degrees K": (_TEMPERATURE, lambda t: t - 273.15),
    "RPM": (_FAN, lambda s: s),
    "Volts": (_VOLTAGE, lambda u: u),
    "Watts": (_WATTS, lambda p: p),
    "Amps": (_AMPERES, lambda i: i),
}
"""ipmitool's units. The unit says what a sensor is: its type would take a request more for each, every time."""
_POWER = Meter("hardware.ipmi.node.power", GAUGE, "W", "host", "Power that the host takes, by DCMI")
_INLET = Meter("hardware.ipmi.node.temperature", GAUGE, "C", "host", "Temperature of the air at the inlet, by DCMI")
_SENSORS: Final = (_TEMPERATURE, _FAN, _VOLTAGE, _WATTS, _AMPERES)
METERS: Final = (*_SENSORS, _POWER, _INLET)

_ELIST = re.compile(
    r"^(?P<name>[^|]*?)\s*\|\s*(?P<number>[0-9A-Fa-f]+)h\s*\|[^|]*\|\s*(?P<entity>[^|]*?)\s*\|\s*(?P<value>-?\d+(?:\.\d+)?) (?P<unit>[^|]+?)\s*$"
)
_WATTS_LINE = re.compile(r"Instantaneous power reading:\s*(\d+) Watts")
_INACTIVE = re.compile(r"Power reading state is:\s*deactivated", re.IGNORECASE)
_INLET_LINE = re.compile(r"\((?:40|37)h\)\s+\d+\s+([+-]?\d+) C")
_UNSUPPORTED = re.compile(r"\((?:c1|c9|cb|cc|d4|d5|d6)\)|not supported|Invalid command", re.IGNORECASE)
_NO_SESSION = re.compile("Unable to establish")
_NO_NAME = re.compile("Address lookup")
_SOON: Final = 2.0
"""Seconds: ipmitool waits longer for one that does not answer."""
_AT_ONCE: Final = 32
_CAUSES: Final = (
    (re.compile(r"RAKP 2 HMAC is invalid|password", re.IGNORECASE), "the password is wrong"),
    (re.compile(r"unauthorized name", re.IGNORECASE), "it knows no such user, or grants it no such privilege"),
    (re.compile(r"unauthorized role|privilege", re.IGNORECASE), "it does not grant the user this privilege"),
    (re.compile(r"cipher suite|no matching|unsupported", re.IGNORECASE), "it has no such cipher suite"),
)


class Bmc(NamedTuple):
    """A controller: `arguments` of ipmitool, the password, and what its samples are named. `place` is for messages."""

    place: str
    resource_id: str
    arguments: tuple[str, ...] = ()
    password: str = ""


class Refused(NephoscopeError):
    """ipmitool ended with an error, having printed `out`."""

    def __init__(self, message: str, out: str) -> None:
        super().__init__(message)
        self.out = out


class MissingProgram(MissingExtra):
    """There is no ipmitool. The extra [ipmi] is empty: pip has none."""

    def __init__(self) -> None:
        NephoscopeError.__init__(self, "polling by IPMI needs the program ipmitool (Debian: apt install ipmitool)")


class Ipmi:
    """Controllers, this host's own and those over the network."""

    def __init__(self, settings: HardwareSettings) -> None:
        self._settings = settings
        self._told: set[str] = set()
        self._running: set[subprocess.Popen[str]] = set()
        # A controller that is away holds one of these, and none of the agent's.
        self._threads = ThreadPoolExecutor(_AT_ONCE, "nephoscope-ipmi")

    def poll(self, resource: str, meters: Collection[str]) -> Answer:
        """Baseboard management controllers, by ipmitool: sensors, and the power and inlet temperature that DCMI tells."""
        bmc = self.parse(resource)
        _program()
        return Answer(self._threads.submit(self._poll, bmc, frozenset(meters)))

    def close(self) -> None:
        """Wait for nobody."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        for process in tuple(self._running):
            process.kill()

    def _poll(self, bmc: Bmc, meters: frozenset[str]) -> Iterable[Reading]:
        found: list[Reading] = []
        try:
            for reading in self._readings(bmc, meters):
                found.append(reading)  # noqa: PERF402 -- what came before an error stays
        except (OSError, NephoscopeError) as error:
            return given(found, error)
        return found

    def _readings(self, bmc: Bmc, meters: frozenset[str]) -> Iterator[Reading]:
        deadline = time.monotonic() + self._settings.ipmi_timeout
        about = {"node": bmc.resource_id}
        refused = None
        if any(m.name in meters for m in _SENSORS):
            try:
                said = self._run(bmc, deadline, "sdr", "elist", "full")
            except Refused as error:
                # One sensor that cannot be read makes it end so; and one without sensors may have DCMI.
                refused, said = error, error.out
            yield from _sensors(said, bmc.resource_id, meters)
        if _POWER.name in meters:
            said = self._dcmi(bmc, deadline, "power", "reading")
            found = _WATTS_LINE.search(said)
            if found and not _INACTIVE.search(said):
                yield Reading(_POWER, int(found[1]), bmc.resource_id, about)
        if _INLET.name in meters:
            found = _INLET_LINE.search(self._dcmi(bmc, deadline, "get_temp_reading"))
            if found:
                yield Reading(_INLET, int(found[1]), bmc.resource_id, about)
        if refused is not None:
            raise refused

    def check(self, _meters: Collection[str]) -> Iterable[Problem]:
        """What is wrong in the file of hosts; and ipmitool, where it names a controller."""
        if (yield from inventory.check(self._settings, "ipmi", self.parse)):
            try:
                _program()
            except MissingExtra as error:
                yield Problem(str(error))

    def parse(self, resource: str) -> Bmc:
        """The controller of a name. Raises PermanentError."""
        if not is_remote(resource):
            host = host_name() if resource in LOCAL_NAMES else resource
            return Bmc(f"the BMC of {host}", host)
        return parse(resource, self._settings)

    def _ipmitool(self, bmc: Bmc, deadline: float, *command: str) -> str:
        """What ipmitool prints. Refused where it ends with an error, TimeoutError where it does not end."""
        environment = {"PATH": os.environ.get("PATH", ""), "LC_ALL": "C", "IPMI_PASSWORD": bmc.password}
        environment |= {"HOME": os.environ["HOME"]} if "HOME" in os.environ else {}
        process = subprocess.Popen(  # noqa: S603 -- no shell, and every argument is checked
            [_program(), *bmc.arguments, *command],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        )
        self._running.add(process)
        try:
            out, err = process.communicate(timeout=max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            seconds = self._settings.ipmi_timeout
            raise TimeoutError(f"{bmc.place} takes too long: not all was read within {seconds:g} s") from None
        finally:
            if process.poll() is None:
                process.kill()
                process.communicate()
            self._running.discard(process)
        if process.returncode:
            said = (err.strip() or out.strip()).replace(bmc.password or "\0", "***")
            lines = [line.strip() for line in said.splitlines() if line.strip() and not line.startswith("Loading ")]
            raise Refused(f"{bmc.place}: {'; '.join(lines)[:500] or f'ipmitool ended with {process.returncode}'}", out)
        return out

    def _dcmi(self, bmc: Bmc, deadline: float, *command: str) -> str:
        """What DCMI says; '' where the controller has none."""
        try:
            return self._run(bmc, deadline, "dcmi", *command)
        except Refused as error:
            if not _UNSUPPORTED.search(str(error)):
                raise
            key = f"{bmc.place} {command[0]}"
            if key not in self._told:
                self._told.add(key)
                _log.info("%s has no DCMI %s", bmc.place, " ".join(command))
            return ""

    def _run(self, bmc: Bmc, deadline: float, *command: str) -> str:
        began = time.monotonic()
        try:
            return self._ipmitool(bmc, deadline, *command)
        except Refused as error:
            if not bmc.arguments or not _NO_SESSION.search(str(error)):
                raise
            if _NO_NAME.search(str(error)):
                raise ConnectionError(f"{bmc.place}: the name is not known") from None
        if time.monotonic() - began < _SOON:
            # It answered. Why there is no session ipmitool says only when it is asked to say more.
            try:
                self._ipmitool(bmc, deadline, "-v", "mc", "info")
            except Refused as error:
                for pattern, words in _CAUSES:
                    if pattern.search(str(error)):
                        raise PermanentError(f"{bmc.place}: {words}") from None
        raise ConnectionError(f"{bmc.place} does not answer, or gives no session")


def is_remote(resource: str) -> bool:
    """Whether a resource is a controller on the network."""
    return resource[:7].lower() == "ipmi://"


def is_local(resource: str) -> bool:
    """Whether a resource is this host."""
    return resource in LOCAL_NAMES or resource == host_name()


def parse(resource: str, settings: HardwareSettings) -> Bmc:
    """Take a URL apart and look its credential up. Raises PermanentError, which shows no secret."""
    shown = redacted(resource)
    try:
        address = address_of(resource, _PORT, _OPTIONS)
        options = address.options if address else {}
        credential = credential_of(options["credential"], settings) if "credential" in options else None
    except PermanentError as error:
        raise PermanentError(f"{shown}: {error}") from None
    if address is None or address.host.startswith("-") or address.path.strip("/"):
        raise PermanentError(f"{shown} is no ipmi://[USER@]HOST[:PORT]")
    user, password = address.user or "", address.password
    if credential is not None:
        user, password = user or credential.user, credential.password.get_secret_value()
    cipher, privilege = options.get("cipher", "3"), options.get("privilege", "user").lower()
    if not re.fullmatch(r"\d{1,2}", cipher) or privilege not in _PRIVILEGES:
        raise PermanentError(f"{shown}: cipher is a number, privilege one of {', '.join(_PRIVILEGES)}")
    there = ("-I", "lanplus", "-H", address.host, "-p", str(address.port), "-U", user, "-E")
    arguments = (*there, "-C", cipher, "-L", privilege.upper(), "-N", "1", "-R", "2")
    return Bmc(address.place, options.get("resource_id") or address.host, arguments, password)


def _program() -> str:
    found = shutil.which("ipmitool", path=os.environ.get("PATH", "") + ":/usr/bin:/usr/sbin")
    if found is None:
        raise MissingProgram
    return found


def _sensors(text: str, host: str, meters: Collection[str]) -> Iterator[Reading]:
    """The readings of `ipmitool sdr elist`: name | number | status | entity | reading. Of two that are called the same the second has its entity in its id."""
    seen: set[str] = set()
    for line in text.splitlines():
        found = _ELIST.match(line)
        if found is None or found["unit"] not in _UNITS:
            continue
        meter, converted = _UNITS[found["unit"]]
        if meter.name not in meters:
            continue
        ident = f"{found['name']} (0x{int(found['number'], 16):x})"
        resource = f"{host}-{ident.lower().replace(' ', '_')}"
        if resource in seen:
            resource += f"_{found['entity']}"
        seen.add(resource)
        yield Reading(meter, converted(float(found["value"])), resource, {"node": host, "sensor": found["name"]})


def system(settings: Settings) -> System:
    """The pollsters of this host's controller and of those on the network, and the discovery that reads the file of hosts."""
    ipmi = Ipmi(settings.hardware)
    timeout = settings.hardware.ipmi_timeout + 5
    local = Pollster(
        "ipmi", METERS, ipmi.poll, discovery="local_node", takes=is_local, timeout=timeout, namespace="ipmi"
    )
    remote = Pollster(
        "ipmi.lan",
        METERS,
        ipmi.poll,
        discovery="ipmi_hosts",
        takes=is_remote,
        timeout=timeout,
        verify=verified_by(ipmi.parse),
    )
    return System(
        (local, remote), {"ipmi_hosts": inventory.discovery(settings.hardware, "ipmi")}, ipmi.check, ipmi.close
    )
