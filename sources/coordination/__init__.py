"""Coordination: the agents of a group find each other through a back end (ZooKeeper, Redis, memcached), and share the work.

A *group* has members with stable names. Whoever has joined holds a *lease* that each heartbeat renews; one that is not renewed ends, and the others
see the member gone. Each change of the members has a higher *generation*. Members also leave *marks*: for each slot the first period that
is not done, so that the next owner knows where to go on.

The registry's group `nephoscope.coordination` has a class for each scheme of `coordination.backend_url`: a `Backend`. Who talks to it is
`sources.coordination.keeper`, and what follows from its answers is decided in `sources.membership`, which knows no clock and no network.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple, Protocol

import msgspec

from nephoscope.errors import NephoscopeError

NAME = r"^[A-Za-z0-9][A-Za-z0-9._:@-]{0,99}$"
"""What members and groups may be called."""


class Unreachable(NephoscopeError):
    """The back end cannot be reached, or what answers is none: nobody knows whether the lease still holds."""


class Gone(NephoscopeError):
    """The back end says that we are no member (any more)."""


class Replaced(Gone):
    """... because another process has joined under our name."""


class View(NamedTuple):
    """The members of a group, in alphabetical order, and the generation. `look_in`: seconds after which to look again at the latest."""

    generation: int
    members: tuple[str, ...]
    look_in: float = float("inf")


class Mark(NamedTuple):
    """The first period (its start, microseconds) of a slot that is not done, as its owner of a generation left it."""

    generation: int
    first: int


class Status(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a member tells of itself with each heartbeat, for people and for `check`.

    `definition`: a digest of what it polls, the same for all members of a group; `meters`: those it can give. `last`: the newest period
    (its start, microseconds) of which something is in the log; `slots`, `targets`, `missed` and `late`: as the metrics of these names.
    """

    host: str = ""
    since: int = 0
    definition: str = ""
    meters: tuple[str, ...] = ()
    slots: int = 0
    targets: int = 0
    last: int = 0
    missed: int = 0
    late: int = 0

    def encode(self) -> bytes:
        """As it is kept in the back end."""
        return _encoder.encode(self)

    @classmethod
    def decode(cls, data: bytes) -> Status:
        """What a member told; an empty one where that cannot be read (another version's, or damaged)."""
        try:
            return _decoder.decode(data)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return cls()


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Status)


class Backend(Protocol):
    """One group on a back end as one of its members sees it. One thread at a time. Guarantee: a member's lease is never given up by others
    before its own count of it, from the moment a call that renews it was begun, has ended.

    The class takes (url, group, member, lease): the URL with its password, names as in `NAME`, seconds. Making one waits for nothing;
    ConfigError where the URL is wrong. Every call but `leave` and `close` raises Unreachable, within about half of the lease.
    """

    changed: Callable[[], None]
    """Called, from any thread, when the members may have changed: by those back ends that tell. Set by whoever wants to know."""

    @property
    def lease(self) -> float:
        """Seconds that the lease lasts: as asked for, or what the back end has granted since `join`."""
        ...

    def join(self, status: bytes, *, least: int = 0, take: bool = True) -> View:
        """Become a member with a fresh lease; the view, ourselves included, has a generation of at least `least`.

        A member of our name is replaced (it is ourselves before a restart); without `take` it raises Replaced.
        """
        ...

    def heartbeat(self, status: bytes) -> View:
        """Renew the lease and look who is there; members whose lease has ended are no longer. Raises Gone, Replaced."""
        ...

    def leave(self) -> None:
        """Be a member no longer, at once. Raises nothing."""
        ...

    def members(self) -> tuple[View, dict[str, bytes]]:
        """Who is there, and the status that each told last. We need not be a member."""
        ...

    def marks(self) -> dict[int, Mark]:
        """The greatest mark of each slot, from all members there are and were."""
        ...

    def mark(self, marks: Mapping[int, Mark]) -> None:
        """Replace our own marks. Nobody else writes them, so nothing is lost to a race."""
        ...

    def groups(self) -> list[str]:
        """All groups that there are on this back end."""
        ...

    def close(self) -> None:
        """Give back what it holds; the lease is left to end by itself unless `leave` was called. Raises nothing."""
        ...


def latest(documents: Iterable[Mapping[int, Mark]]) -> dict[int, Mark]:
    """The greatest mark of each slot: of the newest generation, and there the furthest."""
    out: dict[int, Mark] = {}
    for document in documents:
        for slot, mark in document.items():
            if slot not in out or out[slot] < mark:
                out[slot] = mark
    return out
