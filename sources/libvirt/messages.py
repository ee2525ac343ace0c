"""What the agent and its worker processes tell each other: msgpack, a message a frame of their pipe."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Any

import msgspec

PARTS = 16
"""A host's domains are polled in so many parts, whoever polls them: agents that share a host must agree."""


def part_of(uuid: str) -> int:
    """The part that a domain belongs to."""
    return zlib.crc32(uuid.encode()) % PARTS


class Ask(msgspec.Struct, array_like=True, tag="ask"):
    """What is asked of a worker: the domains of a part, or those of `only`, or of both empty all. Without groups they are only listed.

    `size`: how many domains a call to libvirt is for.
    """

    part: int | None = None
    only: list[str] | None = None
    groups: list[str] = []
    size: int = 25


class Domain(msgspec.Struct, array_like=True):
    """A domain; `xml` is empty where no statistics are asked for."""

    uuid: str
    name: str
    active: bool
    xml: str


class Found(msgspec.Struct, array_like=True, tag="found"):
    """The domains that there are, in the order in which their statistics come."""

    domains: list[Domain]


class Stats(msgspec.Struct, array_like=True, tag="stats"):
    """What one call told: statistics by UUID, and the wall clock (microseconds) before and after it."""

    rows: dict[str, dict[str, Any]]
    began: int
    ended: int


class Done(msgspec.Struct, array_like=True, tag="done"):
    """All was told; the first thing that a worker says, once it has started."""


class Failure(msgspec.Struct, array_like=True, tag="failure"):
    """libvirt's own words. `permanent`: no waiting mends it."""

    text: str
    permanent: bool = False


Answer = Found | Stats | Done | Failure

encode = msgspec.msgpack.Encoder().encode
decode_ask = msgspec.msgpack.Decoder(Ask).decode
decode_answer: Callable[[bytes], Answer] = msgspec.msgpack.Decoder(Answer).decode
