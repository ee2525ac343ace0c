"""Groups in ZooKeeper: `zookeeper://[USER:PASSWORD@]HOST[:2181][,HOST…][/ROOT]`; `kazoo://` is the same.

Guarantee: a member is an ephemeral node, and the lease is its session's; marks are nodes that stay, on disk with ZooKeeper.
The generation is the number of changes of the members' node (cversion), plus a base that goes up where ZooKeeper has lost its data.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from kazoo.client import KazooClient
from kazoo.exceptions import (
    BadVersionError,
    KazooException,
    NodeExistsError,
    NoNodeError,
)
from kazoo.handlers.threading import KazooTimeoutError, SequentialThreadingHandler
from kazoo.security import make_digest_acl

from sources.addresses import place_of
from sources.coordination import Gone, Mark, Replaced, Unreachable, View, latest
from sources.coordination.documents import decode_marks, encode_marks
from sources.coordination.keeper import boot_clock
from sources.coordination.urls import Address, parse

_log = logging.getLogger(__name__)
_ROOT = "/nephoscope"
_TRIES = 10


class ZooKeeperBackend:
    """A Backend on ZooKeeper. Options: `timeout` (the session's, which is the lease)."""

    def __init__(self, url: str, group: str, member: str, lease: float) -> None:
        self._address = parse(url, 2181, times=("timeout",), hosts=100)
        self.lease = self._address.seconds("timeout", lease)
        self.changed: Callable[[], None] = lambda: None
        root = self._address.path or _ROOT
        self._root = root
        self._group = f"{root}/{group}"
        self._members = f"{root}/{group}/members"
        self._marks = f"{root}/{group}/marks"
        self._member = member
        self._status: bytes | None = None
        self._made: _Client | None = None
        self._given_up: set[int] = set()
        self._watched = False

    def join(self, status: bytes, *, least: int = 0, take: bool = True) -> View:
        """As Backend says."""
        ask = self._conversation()
        for path in (self._members, self._marks):
            ask("ensure_path_async", path)
        for _ in range(_TRIES):
            try:
                ask("create_async", self._node, status, ephemeral=True)
                break
            except NodeExistsError:
                with contextlib.suppress(NoNodeError):
                    _, stat = ask("get_async", self._node)
                    if stat.ephemeralOwner == self._session:
                        break  # Ours: the answer to our last try was lost.
                    if not take and stat.ephemeralOwner not in self._given_up:
                        raise Replaced(f"another process is a member under the name {self._member!r}") from None
                    ask("delete_async", self._node)
        else:
            raise Unreachable(f"{self._address.shown}: others keep joining as {self._member!r}")
        self._status = status
        # The session that holds the node has been told how long it lasts.
        self.lease = self._client.granted or self.lease
        return self._look(ask, least)

    def heartbeat(self, status: bytes) -> View:
        """As Backend says."""
        ask = self._conversation()
        try:
            _, stat = ask("get_async", self._node)
            if stat.ephemeralOwner in self._given_up:
                raise Gone("our session was given up")
            if stat.ephemeralOwner != self._session:
                raise Replaced(f"another process has joined under our name {self._member!r}")
            if status != self._status:
                ask("set_async", self._node, status)
                self._status = status
            return self._look(ask)
        except NoNodeError:
            self._watched = False
            raise Gone("our session has ended") from None

    def leave(self) -> None:
        """As Backend says."""
        with contextlib.suppress(Unreachable, KazooException):
            ask = self._conversation()
            _, stat = ask("get_async", self._node)
            if stat.ephemeralOwner == self._session:
                ask("delete_async", self._node)

    def members(self) -> tuple[View, dict[str, bytes]]:
        """As Backend says."""
        ask = self._conversation()
        statuses = {}
        try:
            view = self._look(ask, watch=False)
        except NoNodeError:
            return View(0, ()), {}
        for name in view.members:
            with contextlib.suppress(NoNodeError):
                statuses[name] = ask("get_async", f"{self._members}/{name}")[0]
        return view, statuses

    def marks(self) -> dict[int, Mark]:
        """As Backend says."""
        ask = self._conversation()
        found = []
        with contextlib.suppress(NoNodeError):
            for name in ask("get_children_async", self._marks):
                with contextlib.suppress(NoNodeError):
                    found.append(decode_marks(ask("get_async", f"{self._marks}/{name}")[0]))
        return latest(found)

    def mark(self, marks: Mapping[int, Mark]) -> None:
        """As Backend says."""
        ask = self._conversation()
        path, data = f"{self._marks}/{self._member}", encode_marks(marks)
        try:
            ask("set_async", path, data)
        except NoNodeError:
            try:
                ask("create_async", path, data, makepath=True)
            except NodeExistsError:
                ask("set_async", path, data)

    def groups(self) -> list[str]:
        """As Backend says."""
        try:
            return sorted(self._conversation()("get_children_async", self._root))
        except NoNodeError:
            return []

    def close(self) -> None:
        """As Backend says."""
        if self._made is not None:
            self._made.close()
            self._made = None

    @property
    def _node(self) -> str:
        return f"{self._members}/{self._member}"

    @property
    def _client(self) -> _Client:
        if self._made is None or self._made.broken:
            if self._made is not None:
                self._given_up.add(self._made.session)
            self.close()
            self._watched = False
            self._made = _Client(self._address, self.lease)
        return self._made

    @property
    def _session(self) -> int:
        return self._client.session

    def _conversation(self) -> Callable[..., Any]:
        """How to ask several things within half of the lease."""
        return partial(self._client.ask, boot_clock() + self.lease / 2)

    def _look(self, ask: Callable[..., Any], least: int = 0, *, watch: bool = True) -> View:
        """The members, and their generation, which is at least `least` afterwards. Raises NoNodeError."""
        told = self._tell if watch and not self._watched else None
        names, stat = ask("get_children_async", self._members, watch=told, include_data=True)
        self._watched = self._watched or told is not None
        for _ in range(_TRIES):
            data, about = ask("get_async", self._group)
            # Signed, and it may have gone round.
            generation = _number(data) + (stat.cversion & 0xFFFFFFFF)
            if generation >= least:
                return View(generation, tuple(sorted(names)))
            with contextlib.suppress(BadVersionError):
                base = b"%d" % (_number(data) + least - generation)
                ask("set_async", self._group, base, version=about.version)
        raise Unreachable(f"{self._address.shown}: the generation is changed by others again and again")

    def _tell(self, _event: object) -> None:
        self._watched = False
        self.changed()


def _number(data: bytes) -> int:
    return int(data) if data.isdigit() and len(data) < 19 else 0


class _Client:
    """A session with ZooKeeper, kept up by kazoo's own threads for as long as that works.

    `granted`: seconds that the session lasts without a sign from us, once the server has said it; `broken`: kazoo has given up.
    """

    def __init__(self, address: Address, lease: float) -> None:
        self.granted: float | None = None
        self.broken = False
        self._lease = lease
        self._away: float | None = None
        self._shown = address.shown
        more: dict[str, Any] = {}
        if address.user:
            more["auth_data"] = [("digest", f"{address.user}:{address.password}")]
            more["default_acl"] = [make_digest_acl(address.user, address.password, all=True)]
        places = [place_of(*one) for one in address.hosts]
        self._kazoo = KazooClient(
            # kazoo waits for a greeting for the session's time divided by the number of hosts: of one that accepts and says nothing
            # (it is just starting) that would cost the session.
            ",".join(places * (1 if len(places) > 2 else 3)),
            timeout=lease,
            handler=_Handler(self._break),
            connection_retry={"max_tries": -1, "delay": 0.05, "max_delay": min(1.0, lease / 8)},
            command_retry={"max_tries": 0},
            logger=_Ears(self._hear),
            **more,
        )
        self._connected: threading.Event = self._kazoo.start_async()

    @property
    def session(self) -> int:
        """The session's number; 0 before there is one."""
        known = self._kazoo.client_id
        return known[0] if known else 0

    def ask(self, deadline: float, what: str, *args: Any, **more: Any) -> Any:
        """Call one of kazoo's …_async; the answer. Raises Unreachable, and what ZooKeeper's answer means (NoNodeError …)."""
        left = deadline - boot_clock()
        if not self._connected.wait(max(0.0, left)) or self.broken:
            now = boot_clock()
            self._away = self._away or now
            # The session has ended by then. A server that has lost its data takes nobody who has seen later ones: only a new
            # client can go on there.
            self.broken = self.broken or now - self._away > self._lease
            raise Unreachable(f"{self._shown} cannot be reached, or is no ZooKeeper")
        self._away = None
        try:
            return getattr(self._kazoo, what)(*args, **more).get(timeout=max(0.001, deadline - boot_clock()))
        except (NodeExistsError, NoNodeError, BadVersionError):
            raise
        except KazooTimeoutError:
            raise Unreachable(f"{self._shown} does not answer in time") from None
        except KazooException as error:
            raise Unreachable(f"{self._shown}: {type(error).__name__} {error}".rstrip()) from None

    def close(self) -> None:
        """End the session, where that takes no waiting."""
        if self._connected.is_set():
            self._end()
        else:
            threading.Thread(target=self._end, name="nephoscope-zookeeper-end", daemon=True).start()

    def _end(self) -> None:
        with contextlib.suppress(Exception):
            self._kazoo.stop()
        with contextlib.suppress(Exception):
            self._kazoo.close()

    def _break(self) -> None:
        self.broken = True

    def _hear(self, milliseconds: int) -> None:
        self.granted = milliseconds / 1000


class _Handler(SequentialThreadingHandler):  # type: ignore[misc]
    """kazoo's threads, but one that fails on an answer that it cannot read ends quietly, and says so."""

    def __init__(self, failed: Callable[[], None]) -> None:
        super().__init__()
        self._failed = failed

    def spawn(self, func: Callable[..., Any], *args: Any, **more: Any) -> threading.Thread:
        """Run something in a thread."""

        def guarded() -> None:
            try:
                func(*args, **more)
            except Exception as error:  # noqa: BLE001 -- whatever garbage does to a parser
                _log.debug("kazoo's thread has ended: %s: %s", type(error).__name__, error)
                self._failed()

        spawned: threading.Thread = super().spawn(guarded)
        return spawned


class _Ears:
    """In place of kazoo's logger: what goes wrong is said once, by whoever asked, and without tracebacks.

    It is also the only one that kazoo tells what session time-out the server grants.
    """

    def __init__(self, granted: Callable[[int], None]) -> None:
        self._granted = granted

    def log(self, _level: int, message: str, *args: Any, **_: Any) -> None:
        if message.startswith("Session created") and len(args) > 2 and isinstance(args[2], int):
            self._granted(args[2])

    def debug(self, *_: Any, **__: Any) -> None:
        """Nobody wants to know."""

    def info(self, message: str, *args: Any, **_: Any) -> None:
        _log.debug(message, *args)

    warn = warning = error = exception = info

    def isEnabledFor(self, _level: int) -> bool:  # noqa: N802 -- kazoo asks for it by logging's name
        return False
