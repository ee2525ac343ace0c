"""Ceilometer's metering message in msgpack, straight into a sample: the quick way for what is as it should be.

Whatever is not, in however small a thing, is left to `nephoscope.sample.sample_from_dict`: one place decides what a sample is and words the errors.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, Literal

import msgspec

from nephoscope.identity import parse_id
from nephoscope.sample import DEFAULT_SOURCE, Sample
from nephoscope.times import NEVER, TOO_LATE, parse_time


class _Metering(msgspec.Struct, gc=False):
    """The message, with the types that Ceilometer writes. Another type, or a required name that is missing, and it is none."""

    counter_name: str
    counter_type: Literal["gauge", "delta", "cumulative"]
    counter_volume: float
    resource_id: str
    timestamp: str
    message_id: str
    counter_unit: str | None = None
    user_id: str | None = None
    project_id: str | None = None
    source: str | None = None
    resource_metadata: dict[str, Any] | None = None
    monotonic_time: Any = None
    measured_at: Any = None
    late: Any = None


_decode = msgspec.msgpack.Decoder(_Metering).decode
_encode = msgspec.json.Encoder().encode
_moment = lru_cache(maxsize=1024)(parse_time)
_DASHES = (8, 13, 18, 23)


def sample_of(message: bytes) -> Sample | None:
    """The sample of a message; None: it is not quite as Ceilometer sends it, which says nothing about its being good or bad."""
    try:
        m = _decode(message)
        if m.measured_at is not None or m.late is not None or m.monotonic_time is not None:
            return None
        moment = _moment(m.timestamp)
        metadata = _encode(m.resource_metadata).decode() if m.resource_metadata else "{}"
        text = m.message_id
        key = bytes.fromhex(text.replace("-", "")) if len(text) == 36 else b""
        # 36 characters of which four are dashes and 32 are digits are a uuid; what is no such thing, parse_id knows about.
        if len(key) != 16 or any(text[i] != "-" for i in _DASHES):
            if not text:
                return None
            key = parse_id(text)
    except (
        ValueError,
        TypeError,
        OverflowError,
        RecursionError,
    ):  # msgspec's errors and what is no UTF-8 are ValueErrors.
        return None
    if not (m.counter_name and m.resource_id and math.isfinite(m.counter_volume) and 0 <= moment < TOO_LATE):
        return None
    return Sample(
        name=m.counter_name,
        type=m.counter_type,
        unit=m.counter_unit or "",
        volume=m.counter_volume,
        user_id=m.user_id or "",
        project_id=m.project_id or "",
        resource_id=m.resource_id,
        timestamp=moment,
        metadata=metadata,
        source=m.source or DEFAULT_SOURCE,
        measured_at=NEVER,
        id=key,
    )
