"""Energy and power of probes, by Kwapi's API: ``GET /v1/probes/`` of ``kwapi://HOST[:PORT][/PATH][?credential=NAME]``, kwapis with TLS.

A credential's `token` is sent as X-Auth-Token. PATH is /v1 where there is none.

Resources: the probe.

Guarantee: reads only. Samples are dated by Kwapi's own time of the measurement (`measured_at`); a probe whose figures are no numbers gives none,
and is said.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any, Final, NamedTuple

import msgspec

from nephoscope.errors import MissingExtra, Problem
from nephoscope.redaction import redacted
from nephoscope.sample import CUMULATIVE, GAUGE
from nephoscope.settings import Settings
from nephoscope.settings.sections import HardwareSettings
from nephoscope.times import MAX_TIME, NEVER, SECOND
from sources import inventory
from sources.addresses import address_of, credential_of
from sources.dynamic.web import AskError, Deadline, fetch
from sources.pollster import Meter, PermanentError, Pollster, Reading, System, verified_by

_SCHEMES: Final = {"kwapi": "http", "kwapis": "https"}
_PORT: Final = 5000
_ENERGY = Meter("energy", CUMULATIVE, "kWh", "probe", "Energy that a probe has counted")
_POWER = Meter("power", GAUGE, "W", "probe", "Power that a probe measures")
METERS: Final = (_ENERGY, _POWER)
_FIELDS: Final = ((_ENERGY, "kwh"), (_POWER, "w"))


class Api(NamedTuple):
    """An API: the URL of its probes, and the token that it wants, or ''."""

    url: str
    token: str


class Kwapi:
    """The APIs that are polled."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings.hardware
        self._timeout = settings.polling.timeout

    def poll(self, resource: str, meters: Collection[str]) -> Iterable[Reading]:
        """Energy and power of probes, by Kwapi's API."""
        api = parse(resource, self._settings)
        try:
            from sources.dynamic.door import WebDoor
        except ModuleNotFoundError as error:
            if error.name == "httpx":
                raise MissingExtra("polling of Kwapi", "http") from None
            raise
        headers = {"Accept": "application/json"} | ({"X-Auth-Token": api.token} if api.token else {})
        with WebDoor(api.url) as door:
            try:
                body = fetch(door, api.url, headers, Deadline(self._timeout), self._timeout)
            except AskError as error:
                raise error if api.url in str(error) else AskError(f"{api.url}: {error}") from None
        yield from readings(body, api.url, meters)

    def check(self, _meters: Collection[str]) -> Iterable[Problem]:
        """What is wrong in the file of hosts."""
        yield from inventory.check(self._settings, "kwapi", lambda url: parse(url, self._settings))


def takes(resource: str) -> bool:
    """Whether a resource that a source names is an API of Kwapi."""
    return resource.partition("://")[0].lower() in _SCHEMES and "://" in resource


def parse(resource: str, settings: HardwareSettings) -> Api:
    """Take a URL apart and look its credential up. Raises PermanentError, which shows no secret."""
    shown = redacted(resource)
    try:
        address = address_of(resource, _PORT, ("credential",))
        name = address.options.get("credential", "") if address else ""
        credential = credential_of(name, settings) if name else None
    except PermanentError as error:
        raise PermanentError(f"{shown}: {error}") from None
    if address is None or address.user is not None:
        raise PermanentError(f"{shown} is no kwapi://HOST[:PORT][/PATH]; a token belongs into a credential")
    scheme = _SCHEMES[resource.partition("://")[0].lower()]
    token = credential.token.get_secret_value() if credential else ""
    return Api(f"{scheme}://{address.place}{address.path.rstrip('/') or '/v1'}/probes/", token)


def readings(body: bytes | bytearray, url: str, meters: Collection[str]) -> Iterable[Reading]:
    """The readings of an answer, {"probes": {ID: {"timestamp": s, "kwh": …, "w": …}}}. Those that are right come before the error of those that are not."""
    try:
        answer = msgspec.json.decode(body)
    except msgspec.DecodeError as error:
        raise AskError(f"{url} answers with no JSON: {error}") from None
    probes = answer.get("probes") if isinstance(answer, dict) else None
    if not isinstance(probes, dict):
        raise AskError(f"{url} answers with no probes")
    wrong = []
    for name, probe in probes.items():
        if not isinstance(probe, dict):
            wrong.append(name)
            continue
        at = _time(probe.get("timestamp"))
        about = {"probe": name}
        for meter, field in _FIELDS:
            volume = _number(probe.get(field))
            if meter.name not in meters or field not in probe:
                continue
            if volume is None:
                wrong.append(f"{name}.{field}")
            else:
                yield Reading(meter, volume, name, about, measured_at=at)
    if wrong:
        more = f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise AskError(f"{url}: no numbers: {', '.join(wrong[:5])[:200]}{more}")


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _time(value: Any) -> int:
    seconds = _number(value)
    return round(seconds * SECOND) if seconds is not None and 0 < seconds * SECOND < MAX_TIME else NEVER


def system(settings: Settings) -> System:
    """The pollster of Kwapi's APIs, and the discovery that reads the file of hosts."""
    kwapi = Kwapi(settings)
    verify = verified_by(lambda url: parse(url, settings.hardware))
    pollster = Pollster("kwapi", METERS, kwapi.poll, discovery="kwapi_hosts", takes=takes, verify=verify)
    return System((pollster,), {"kwapi_hosts": inventory.discovery(settings.hardware, "kwapi")}, kwapi.check)
