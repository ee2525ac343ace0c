"""Metadata that other requests give: a project's name for its id. Answers are kept for a while, so that a thousand entries ask once."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import msgspec

from nephoscope.errors import ExpressionError, NephoscopeError
from nephoscope.expressions.parse import MISSING
from sources.dynamic.entries import Tally, metadata_of
from sources.dynamic.model import Extra
from sources.dynamic.operations import Names
from sources.dynamic.web import AskError, Deadline, Door, join_url, pages

MAX_KEPT: Final = 10_000
MAX_VALUE: Final = 1 << 16
"""Bytes of what one answer gives, as JSON."""
MAX_FAILURES: Final = 5
"""Requests that may fail in a poll before no more are made."""
Found = tuple[tuple[str, Any, Mapping[str, Any]], ...]
"""Of each field that a request gives: its name, its value, more metadata."""
Headers = tuple[tuple[str, str], ...]


class Extras:
    """The extra fields of a view, and what was found for them. For several threads.

    Fields of one request share its answer.
    """

    def __init__(self, extras: Sequence[Extra]) -> None:
        self._groups: list[list[Extra]] = []
        for extra in extras:
            same = next((g for g in self._groups if g[0].request == extra.request and g[0].skip == extra.skip), None)
            if same is None:
                self._groups.append([extra])
            else:
                same.append(extra)
        self._kept: dict[tuple[int, str], tuple[float, Found]] = {}
        self._lock = threading.Lock()

    def kept(self, key: tuple[int, str]) -> Found | None:
        """What was found before, and not too long ago."""
        with self._lock:
            until, found = self._kept.get(key, (0.0, ()))
        return found if time.monotonic() < until else None

    def keep(self, key: tuple[int, str], found: Found, seconds: float) -> None:
        """Keep what was found."""
        with self._lock:
            if len(self._kept) >= MAX_KEPT:
                now = time.monotonic()
                self._kept = {k: v for k, v in self._kept.items() if v[0] > now}
                if len(self._kept) >= MAX_KEPT:
                    self._kept.clear()
            self._kept[key] = time.monotonic() + seconds, found

    def for_poll(
        self, door_of: Callable[[Extra], tuple[Door, Headers]], deadline: Deadline, tally: Tally
    ) -> Callable[[Mapping[str, Any]], Mapping[str, Any]]:
        """What gives an entry its extra metadata during one poll. A request that fails leaves its fields out; the tally tells."""
        failed: dict[tuple[int, str], None] = {}

        def enrich(sample: Mapping[str, Any]) -> Mapping[str, Any]:
            captured: dict[str, Any] = {}
            by_name: dict[str, Any] = {}
            scope = {"sample": sample, "extra_metadata_captured": captured, "extra_metadata_by_name": by_name}
            for number, group in enumerate(self._groups):
                if any(_matches(pattern, sample) for pattern in group[0].skip):
                    continue
                for name, value, metadata in self._found(number, group, scope, door_of, deadline, tally, failed):
                    captured[name] = value
                    captured.update({k: v for k, v in metadata.items() if v is not None or k not in captured})
                    by_name[name] = {"value": value, "metadata": metadata}
            return captured

        return enrich

    def _found(
        self,
        number: int,
        group: list[Extra],
        scope: Names,
        door_of: Callable[[Extra], tuple[Door, Headers]],
        deadline: Deadline,
        tally: Tally,
        failed: dict[tuple[int, str], None],
    ) -> Found:
        first = group[0]
        try:
            door, headers = door_of(first)
            path = first.request.url_path if first.path is None else first.path(scope)
            if not isinstance(path, str):
                raise AskError("url_path gives no text")
            url = join_url(door.base, path)
            key = number, url
            found = self.kept(key)
            if found is not None:
                return found
            if key in failed or len(failed) >= MAX_FAILURES:
                tally.refuse("extra", "")
                return ()
            try:
                found = _read(group, door, url, headers, deadline)
            except NephoscopeError:
                failed[key] = None
                raise
            self.keep(key, found, min(extra.cached for extra in group))
        except NephoscopeError as error:
            tally.refuse("extra", f"extra metadata {first.name!r}: {error}")
            return ()
        return found


def _read(group: list[Extra], door: Door, url: str, headers: Headers, deadline: Deadline) -> Found:
    out = []
    for page in pages(door, group[0].request, url, dict(headers), deadline):
        for entry in page:
            for extra in group:
                try:
                    value = extra.value.read(entry)
                except ExpressionError as error:
                    raise AskError(f"{extra.value.text!r}: {error}") from None
                if value is not MISSING:
                    out.append((extra.name, value, metadata_of(extra.metadata)(entry)))
            if len(out) > MAX_FAILURES * 200:
                raise AskError("its answer has too many entries for metadata")
    if len(msgspec.json.encode(out)) > MAX_VALUE:
        raise AskError(f"its answer gives more than {MAX_VALUE >> 10} KiB of metadata")
    return tuple(out)


def _matches(pattern: Any, sample: Any) -> bool:
    if isinstance(pattern, dict):
        return isinstance(sample, Mapping) and all(k in sample and _matches(v, sample[k]) for k, v in pattern.items())
    return bool(pattern == sample)
