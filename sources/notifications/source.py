"""What is listened to: the part of the settings that every feed needs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple


class Wanted(NamedTuple):
    """Queues or topics, and how they are read.

    `queues`: ``<topic>.<priority>``, as oslo.messaging names them. `exchanges`: those of the services; a queue that is made is bound to them.
    """

    queues: tuple[str, ...]
    exchanges: tuple[str, ...] = ()
    prefetch: int = 2000
    create_queues: bool = True
    queue_type: str = "classic"
    durable: bool = False
    group: str = "nephoscope-notifications"


class FeedKind(NamedTuple):
    """What serves the URLs of a scheme: `open(url, wanted)` gives a Feed, `check(url)` raises ConfigError for one that cannot be meant."""

    open: Callable[[str, Wanted], Any]
    check: Callable[[str], None]
