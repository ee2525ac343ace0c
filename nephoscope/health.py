"""How a process stands: its counters on `/metrics`, and on `/ready` whether everything that it needs is there.

`/ready` answers 200 or 503 with JSON; a part that is not ready says since when, and why::

    {"ready": false, "component": "flow", "since": "2026-01-01T00:00:00",
     "parts": {"store": {"ready": false, "since": "2026-01-01T09:30:00", "seconds": 12.5, "detail": "…"},
               "log": {"ready": true, "lag_messages": 3, "lag_seconds": 0.8},
               "http://127.0.0.1:8080/hook": {"ready": false, "needed": false, "queued": 1200, …}}}

The server is for the machine's own monitoring: unauthenticated, on loopback unless the settings say otherwise.
"""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import msgspec
from prometheus_client import CONTENT_TYPE_LATEST

from nephoscope import times
from nephoscope.metrics import exposition

_log = logging.getLogger(__name__)
_SLOWEST_CLIENT = 5.0
"""Seconds that a client may take for its request."""

Look = Callable[[], tuple[bool, Mapping[str, Any]]]
"""Whether a part is ready, and what else there is to say of it; called for each answer."""


class Health:
    """What a process needs, and whether it is there. Safe for several threads.

    Args:
        component: who it is: flow, agent.
        parts: names of what is needed; ready until somebody says otherwise.

    """

    def __init__(self, component: str, *parts: str) -> None:
        self.component = component
        self._since = times.now()
        self._lock = threading.Lock()
        self._away: dict[str, tuple[int, float, str] | None] = dict.fromkeys(parts)
        self._looks: dict[str, Look] = {}
        self._spare: set[str] = set()
        self._refresh: list[Callable[[], None]] = []

    def away(self, part: str, detail: str = "", *, needed: bool = True) -> None:
        """A part cannot be used now; `since` is when that was said first. Not `needed`: that is shown, and the process is ready all the same."""
        with self._lock:
            (self._spare.discard if needed else self._spare.add)(part)
            known = self._away.get(part)
            since, began = known[:2] if known else (times.now(), time.monotonic())
            self._away[part] = since, began, detail

    def back(self, part: str) -> None:
        """A part works."""
        if self._away.get(part, ()) is not None:  # Said for every batch: no lock where nothing changes.
            with self._lock:
                self._away[part] = None

    def look(self, part: str, look: Look, *, needed: bool = True) -> None:
        """Have a part looked at whenever somebody asks."""
        with self._lock:
            (self._spare.discard if needed else self._spare.add)(part)
            self._away.setdefault(part, None)
            self._looks[part] = look

    def refresh(self, refresh: Callable[[], None]) -> None:
        """Have the gauges set anew before they are shown."""
        self._refresh.append(refresh)

    def report(self) -> dict[str, Any]:
        """What /ready says."""
        with self._lock:
            away, looks, spare = dict(self._away), dict(self._looks), set(self._spare)
        parts: dict[str, dict[str, Any]] = {}
        for name, state in away.items():
            part: dict[str, Any] = {"ready": state is None}
            if state is not None:
                since, began, detail = state
                part |= {
                    "since": times.format_time(since),
                    "seconds": round(time.monotonic() - began, 1),
                    "detail": detail,
                }
            if name in looks:
                ready, more = looks[name]()
                part |= {**more, "ready": part["ready"] and ready}
            if name in spare:
                part["needed"] = False
            parts[name] = part
        return {
            "ready": all(p["ready"] or name in spare for name, p in parts.items()),
            "component": self.component,
            "since": times.format_time(self._since),
            "parts": parts,
        }

    def metrics(self) -> bytes:
        """What /metrics says."""
        for refresh in self._refresh:
            refresh()
        return exposition()


def address_of(listen: str, place: int = 0) -> tuple[str, int] | None:
    """(host, port) of a setting `HOST:PORT`, `PORT` or `[HOST]:PORT`; `place` is added to the port. None: no server.

    ValueError for what is none of these.
    """
    if not listen.strip():
        return None
    host, _, port = listen.strip().rpartition(":")
    number = int(port)
    if not 0 <= number <= 65535:
        raise ValueError(f"a port lies between 0 and 65535, not at {number}")
    if not number:
        return None
    if number + place > 65535:
        raise ValueError(f"port {number} leaves no room for {place} more")
    return host.strip("[]") or "127.0.0.1", number + place


@contextmanager
def serve(health: Health, listen: str, place: int = 0) -> Iterator[tuple[str, int] | None]:
    """Answer /metrics and /ready from a thread of its own, as long as the context is open; yields the address.

    Where the port is taken, that is said and the process goes on: measuring must not depend on being measured. None then.
    """
    address = address_of(listen, place)
    if address is None:
        yield None
        return
    try:
        server = _Server(address, health)
    except OSError as error:
        _log.warning(
            "no /metrics and no /ready: %s:%d cannot be listened on (%s); name another metrics.listen, or '' for none",
            *address,
            error.strerror or error,
        )
        yield None
        return
    thread = threading.Thread(target=server.serve_forever, args=(0.2,), name="nephoscope-health", daemon=True)
    thread.start()
    try:
        yield server.server_address[0], server.server_address[1]  # type: ignore[misc]
    finally:
        server.shutdown()
        server.server_close()
        thread.join(1.0)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, address: tuple[str, int], health: Health) -> None:
        self.health = health
        if ":" in address[0]:
            self.address_family = socket.AF_INET6
        super().__init__(address, _Handler)

    def server_bind(self) -> None:
        """Bind, without asking a name server who we are, as the base class does."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = self.server_address[:2]  # type: ignore[assignment]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no news."""
        _log.debug("a request for /metrics or /ready failed", exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = _SLOWEST_CLIENT
    server_version = "nephoscope"
    sys_version = ""

    def do_GET(self) -> None:
        path = self.path.partition("?")[0].rstrip("/")
        if path == "/metrics":
            self._answer(200, CONTENT_TYPE_LATEST, self.server.health.metrics())
        elif path == "/ready":
            report = self.server.health.report()
            self._answer(200 if report["ready"] else 503, "application/json", msgspec.json.encode(report) + b"\n")
        else:
            self._answer(404, "text/plain; charset=utf-8", b"there are /metrics and /ready\n")

    do_HEAD = do_GET  # noqa: N815 - the base class looks for this name

    def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002 - the base class names it so
        _log.debug(format, *arguments)

    def _answer(self, status: int, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


__all__ = ["Health", "Look", "address_of", "serve"]
