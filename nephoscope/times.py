"""Times are integers: microseconds since 1970-01-01 UTC. This module reads and writes them as text."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

SECOND = 1_000_000
NEVER = -(2**63)
"""Stands for an absent time (measured_at); never subtract before testing."""
MIN_TIME = -(2**62)
MAX_TIME = 2**62
"""Minus and plus infinity of watermarks: far enough from the ends of int64 that arithmetic on them does not overflow."""
TOO_LATE = 7_258_118_400 * SECOND
"""2200-01-01: no sample's timestamp lies at or after it."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_EPOCH_UTC = _EPOCH.replace(tzinfo=None)


def now() -> int:
    """The wall clock, in microseconds."""
    return time.time_ns() // 1000


def parse_time(text: str) -> int:
    """Microseconds of an ISO 8601 time; without a zone it is UTC, as in Ceilometer's messages.

    Raises ValueError for anything else.
    """
    moment = datetime.fromisoformat(text.strip())
    since = moment - (_EPOCH_UTC if moment.tzinfo is None else _EPOCH)
    return (since.days * 86_400 + since.seconds) * SECOND + since.microseconds


def format_time(micros: int) -> str:
    """ISO 8601 in UTC without a zone, as Ceilometer writes it, with a fraction only where there is one: ``2015-06-01T12:00:00``."""
    return (_EPOCH + timedelta(microseconds=micros)).replace(tzinfo=None).isoformat()
