"""A sample, and its two forms as JSON: Nephoscope's own and Ceilometer's metering message.

Own form::

    {"name", "type", "unit", "volume", "user_id", "project_id", "resource_id", "timestamp",
     "resource_metadata", "source"} and, where known, "id", "measured_at", "late", "origin"

Ceilometer's: ``counter_name``, ``counter_type``, ``counter_unit``, ``counter_volume``, ``message_id``, ``monotonic_time``,
``message_signature`` in their place. Either is read wherever a sample is read.
"""

from __future__ import annotations

import hashlib
import hmac
import math
from collections.abc import Mapping
from typing import Any

import msgspec

from nephoscope import identity
from nephoscope.errors import SampleError
from nephoscope.times import NEVER, TOO_LATE, format_time, parse_time

GAUGE, DELTA, CUMULATIVE = "gauge", "delta", "cumulative"
TYPES = (GAUGE, DELTA, CUMULATIVE)
DEFAULT_SOURCE = "openstack"

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode


class Sample(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One measurement of one meter of one resource.

    `timestamp` and `measured_at` are microseconds UTC (measured_at: NEVER where unknown); `metadata` is the
    resource's metadata as the text of a JSON object; `id` is 16 bytes. Absent users and projects are ''.
    """

    name: str
    type: str
    unit: str
    volume: float
    resource_id: str
    timestamp: int
    user_id: str = ""
    project_id: str = ""
    metadata: str = "{}"
    source: str = DEFAULT_SOURCE
    measured_at: int = NEVER
    id: bytes
    origin: str = ""
    late: bool = False

    @property
    def resource_metadata(self) -> dict[str, Any]:
        """The metadata, parsed."""
        parsed: dict[str, Any] = _decode(self.metadata)
        return parsed


def _text(message: Mapping[str, Any], key: str, *, required: bool = False) -> str:
    value = message.get(key)
    if value is None or value == "":
        if required:
            raise SampleError(key.removeprefix("counter_"), f"{key} is missing")
        return ""
    if not isinstance(value, str):
        raise SampleError(key.removeprefix("counter_"), f"{key} must be a string, not {type(value).__name__}")
    return value


def volume_of(value: Any) -> float:
    """A finite number; text that reads as one counts. Raises SampleError."""
    if value is None:
        raise SampleError("volume", "volume is missing")
    if isinstance(value, list | dict):
        raise SampleError("volume", f"volume must be a number, not {type(value).__name__}")
    try:
        number = float(value)
    except (ValueError, OverflowError):
        raise SampleError("volume", f"volume must be a finite number, not {str(value)[:40]!r}") from None
    if not math.isfinite(number):
        raise SampleError("volume", f"volume must be a finite number, not {number}")
    return number


def check_time(micros: int, field: str = "timestamp") -> int:
    """`micros`, or SampleError where no cloud can have measured anything then."""
    if not 0 <= micros < TOO_LATE:
        raise SampleError("timestamp", f"{field} must lie between 1970 and 2200")
    return micros


def _time(value: Any, field: str) -> int:
    if not isinstance(value, str):
        raise SampleError("timestamp", f"{field} must be an ISO 8601 time, not {type(value).__name__}")
    try:
        return check_time(parse_time(value), field)
    except (ValueError, OverflowError):
        raise SampleError("timestamp", f"{field} must be an ISO 8601 time, not {value[:40]!r}") from None


def metadata_text(metadata: Any) -> str:
    """The text that batches and stores keep of a resource's metadata."""
    if metadata is None:
        return "{}"
    if not isinstance(metadata, dict):
        raise SampleError("metadata", f"resource_metadata must be an object, not {type(metadata).__name__}")
    try:
        return _encode(metadata).decode()
    except (TypeError, ValueError, RecursionError) as error:
        raise SampleError("metadata", f"resource_metadata cannot be written as JSON: {error}") from None


def sample_from_dict(message: Mapping[str, Any]) -> Sample:
    """Read either form. A sample without an id is taken as pushed: it gets a fresh one.

    Raises SampleError, whose reason is the name of the bad field.
    """
    if not isinstance(message, Mapping):
        raise SampleError("json", f"a sample is a JSON object, not {type(message).__name__}")
    old = "counter_name" in message
    prefix = "counter_" if old else ""
    kind = _text(message, prefix + "type", required=True)
    if kind not in TYPES:
        raise SampleError("type", f"type must be one of {', '.join(TYPES)}, not {kind[:40]!r}")
    measured = message.get("measured_at")
    measured_at = NEVER if measured is None else _time(measured, "measured_at")
    monotonic = message.get("monotonic_time")
    if measured_at == NEVER and isinstance(monotonic, int | float) and 0 <= monotonic < TOO_LATE / 1e6:
        # Only differences of measured_at are ever used, so a clock that starts with the host serves as well.
        measured_at = round(monotonic * 1_000_000)
    given = _text(message, "message_id" if old else "id")
    return Sample(
        name=_text(message, prefix + "name", required=True),
        type=kind,
        unit=_text(message, prefix + "unit"),
        volume=volume_of(message.get(prefix + "volume")),
        user_id=_text(message, "user_id"),
        project_id=_text(message, "project_id"),
        resource_id=_text(message, "resource_id", required=True),
        timestamp=_time(message.get("timestamp"), "timestamp"),
        metadata=metadata_text(message.get("resource_metadata")),
        source=_text(message, "source") or DEFAULT_SOURCE,
        measured_at=measured_at,
        id=identity.parse_id(given) if given else identity.drawn_id(),
        late=message.get("late") is True,
    )


def sample_from_json(raw: bytes | str) -> Sample:
    """Read a sample from JSON text; SampleError where that fails."""
    try:
        message = _decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise SampleError("json", f"not JSON: {error}") from None
    return sample_from_dict(message)


def sample_to_dict(sample: Sample) -> dict[str, Any]:
    """The own form. Times are UTC without a zone, as Ceilometer writes them."""
    out: dict[str, Any] = {
        "id": identity.format_id(sample.id),
        "name": sample.name,
        "type": sample.type,
        "unit": sample.unit,
        "volume": sample.volume,
        "user_id": sample.user_id or None,
        "project_id": sample.project_id or None,
        "resource_id": sample.resource_id,
        "timestamp": format_time(sample.timestamp),
        "resource_metadata": sample.resource_metadata,
        "source": sample.source,
    }
    if sample.measured_at != NEVER:
        out["measured_at"] = format_time(sample.measured_at)
    if sample.late:
        out["late"] = True
    if sample.origin:
        out["origin"] = sample.origin
    return out


def sample_to_ceilometer(sample: Sample, secret: str = "") -> dict[str, Any]:
    """Ceilometer's metering message, signed where there is a secret."""
    message: dict[str, Any] = {
        "source": sample.source,
        "counter_name": sample.name,
        "counter_type": sample.type,
        "counter_unit": sample.unit,
        "counter_volume": sample.volume,
        "user_id": sample.user_id or None,
        "project_id": sample.project_id or None,
        "resource_id": sample.resource_id,
        "timestamp": format_time(sample.timestamp),
        "resource_metadata": sample.resource_metadata,
        "message_id": identity.format_id(sample.id),
    }
    message["message_signature"] = sign(message, secret)
    return message


def to_json(message: Any) -> bytes:
    """Compact JSON."""
    return _encode(message)


def sign(message: Mapping[str, Any], secret: str) -> str:
    """HMAC-SHA256 as Ceilometer computes it (ceilometer/publisher/utils.py): names and values in the order of the names.

    Nested names are joined by ':'. Without a delimiter between name and value it is ambiguous: it tells old senders from
    strangers, no more. An empty secret gives ''.
    """
    if not secret:
        return ""
    mac = hmac.new(secret.encode(), digestmod=hashlib.sha256)
    for name, value in _flat(message):
        if name != "message_signature":
            mac.update(name.encode())
            mac.update(str(value).encode())
    return mac.hexdigest()


def verify(message: Mapping[str, Any], secret: str) -> bool:
    """Whether the message's signature is right; without a secret every message is."""
    if not secret:
        return True
    given = message.get("message_signature")
    return isinstance(given, str) and hmac.compare_digest(given.encode(), sign(message, secret).encode())


def _flat(message: Mapping[str, Any], above: str = "") -> list[tuple[str, Any]]:
    out: list[tuple[str, Any]] = []
    for name in sorted(message):
        value = message[name]
        whole = f"{above}:{name}" if above else str(name)
        if isinstance(value, Mapping):
            out += _flat(value, whole)
        else:
            out.append((whole, _in_order(value)))
    return out


def _in_order(value: Any) -> Any:
    """A value whose mappings, however deep in lists, are in the order of their names: JSON keeps none."""
    if isinstance(value, list | tuple):
        return [_in_order(v) for v in value]
    if isinstance(value, Mapping):
        return {name: _in_order(value[name]) for name in sorted(value)}
    return value
