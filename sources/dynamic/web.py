"""Requests to an API: one page after the other, redirects and all, within bounds.

A *door* is what sends them: httpx with a definition's own credentials here, a cloud's session in sources/dynamic/cloud.py. Whatever a server answers, a poll ends
within its time, takes no more than `MAX_BYTES` a page, and sends its credentials to no other host.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any, Final, NamedTuple, Protocol
from urllib.parse import urljoin, urlsplit

from nephoscope.errors import ExpressionError, NephoscopeError
from nephoscope.expressions.parse import MISSING
from sources.dynamic.answers import Pages, Unreadable
from sources.dynamic.model import Request
from sources.dynamic.secrets import shown
from sources.pollster import PermanentError

MAX_BYTES: Final = 32 << 20
"""Of a page, unpacked."""
MAX_PAGES: Final = 10_000
MAX_ENTRIES: Final = 1_000_000
MAX_REDIRECTS: Final = 5
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_PLAIN: Final = frozenset({"", "identity", "gzip", "x-gzip", "deflate"})
_DENIED: Final = frozenset({401, 403})
_PORTS: Final = {"http": 80, "https": 443}


class AskError(NephoscopeError):
    """An API did not answer as it should: names the place and the cause."""


class NothingThere(NephoscopeError):
    """There is nothing to ask here, and that is nobody's fault: a cloud without the service."""


class Reply(NamedTuple):
    """An answer that has begun. Header names are in lower case."""

    status: int
    reason: str
    headers: Mapping[str, str]
    chunks: Iterator[bytes]


class Door(Protocol):
    """Sends requests to one API, with its credentials."""

    @property
    def base(self) -> str:
        """The URL that relative ones start at; credentials go to its host alone."""
        ...

    def ask(self, url: str, headers: Mapping[str, str], wait: float) -> AbstractContextManager[Reply]:
        """Send a GET request; no redirect is followed. Raises AskError where there is no answer within `wait` seconds."""
        ...


OpenDoor = Callable[[Request, str, str], AbstractContextManager[Door]]
"""Opens the door of a request: (it, its URL or path with the references replaced, the target)."""


class Deadline:
    """The moment by which a poll must be over."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._end = time.monotonic() + seconds

    def left(self, most: float) -> float:
        """Seconds that are left, at most so many. Raises AskError where there are none."""
        found = self._end - time.monotonic()
        if found <= 0:
            raise AskError(f"it was not read within {self.seconds:g} s")
        return min(found, most)


def pages(
    door: Door,
    request: Request,
    url: str,
    headers: Mapping[str, str],
    deadline: Deadline,
    keys: Collection[str] | None = None,
) -> Iterator[list[Any]]:
    """The entries of each page of an answer, the first at `url`; of each only the members `keys`. Raises AskError, PermanentError."""
    reader = Pages(request, keys)
    url = join_url(door.base, url)
    seen: set[str] = set()
    count = 0
    while url:
        if url in seen:
            raise AskError(f"{shown(url)}: its pages lead back to one that was read")
        if len(seen) >= MAX_PAGES:
            raise AskError(f"{shown(url)}: there are more than {MAX_PAGES} pages")
        seen.add(url)
        body = fetch(door, url, headers, deadline, request.timeout)
        try:
            entries, document = reader.read(body)
        except Unreadable as error:
            raise AskError(f"{shown(url)}: {error}") from None
        del body
        count += len(entries)
        if count > MAX_ENTRIES:
            raise AskError(f"{shown(url)}: there are more than {MAX_ENTRIES} entries")
        yield entries
        url = _next(door, request, url, document)


def _next(door: Door, request: Request, url: str, document: Any) -> str:
    if request.next_url is None:
        return ""
    try:
        found = request.next_url.read(document)
    except ExpressionError as error:
        raise AskError(f"{shown(url)}: next_sample_url_attribute: {error}") from None
    if not found or found is MISSING:
        return ""
    if not isinstance(found, str):
        raise AskError(f"{shown(url)}: next_sample_url_attribute gives no text")
    return join_url(url if found.startswith("?") else door.base, found, door.base)


def join_url(at: str, to: str, base: str = "") -> str:
    """A URL as it stands in something at `at`. Raises AskError where it is not of the host of `base`, by which credentials would leave it."""
    try:
        joined = urljoin(at, to)
        same = _is_of(base or at, joined)
    except ValueError:
        raise AskError(f"{to[:100]!r} is no URL") from None
    if not same:
        hint = "; value.replace('http:', 'https:') mends it" if joined.startswith("http:") else ""
        raise AskError(f"{shown(base or at)} leads to {shown(joined)[:200]}, which is another host or less safe{hint}")
    return joined


def _is_of(base: str, url: str) -> bool:
    ours, theirs = urlsplit(base), urlsplit(url)
    if theirs.scheme not in _PORTS or not theirs.hostname or theirs.hostname != ours.hostname:
        return False
    if ours.scheme == "http" and theirs.scheme == "https":
        return True
    ports = (ours.port or _PORTS[ours.scheme], theirs.port or _PORTS[theirs.scheme])
    return ours.scheme == theirs.scheme and ports[0] == ports[1]


def fetch(door: Door, url: str, headers: Mapping[str, str], deadline: Deadline, timeout: float) -> bytes:
    """The body of an answer, unpacked. Raises AskError; PermanentError where the credentials are wrong."""
    first = url
    for _ in range(MAX_REDIRECTS + 1):
        with door.ask(url, headers, deadline.left(timeout)) as reply:
            if reply.status not in _REDIRECTS:
                _check(reply, url)
                return _read(reply, url, deadline)
            url = join_url(url, reply.headers.get("location", ""), door.base)
    raise AskError(f"{shown(first)} redirects more than {MAX_REDIRECTS} times")


def _check(reply: Reply, url: str) -> None:
    if reply.status in _DENIED:
        raise PermanentError(
            f"{shown(url)} answers {reply.status} {reply.reason[:100]}: the credentials are not good for it"
        )
    if not 200 <= reply.status < 300:
        raise AskError(f"{shown(url)} answers {reply.status} {reply.reason[:100]}")
    if reply.headers.get("content-encoding", "").strip().lower() not in _PLAIN:
        # Of several codings, one in the other, a small piece can unpack to more than there is memory.
        raise AskError(f"{shown(url)} answers in a coding that was not asked for")


def _read(reply: Reply, url: str, deadline: Deadline) -> bytes:
    chunks = []
    size = 0
    for chunk in reply.chunks:
        chunks.append(chunk)
        size += len(chunk)
        if size > MAX_BYTES:
            raise AskError(f"{shown(url)} answers with more than {MAX_BYTES >> 20} MiB")
        deadline.left(1)
    return b"".join(chunks)
