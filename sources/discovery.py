"""Finding targets, apart from polling them: each discovery is asked once a period, and what it found is kept until then.

`name://parameter` passes the parameter on. A discovery that fails, or takes too long, leaves what it found before as it is.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import partial

import msgspec

from nephoscope.metrics import Counts
from nephoscope.redaction import redacted
from nephoscope.times import SECOND
from sources.pollster import Discover
from sources.workers import Job, Outcome

_log = logging.getLogger(__name__)


class Discovery(msgspec.Struct, eq=False):
    """A discovery URL, and how it stands. `interval` in microseconds, `period` the number of the last one begun."""

    url: str
    interval: int
    period: int = -1
    running: bool = False
    answered: bool = False


class Discoveries:
    """The discoveries that a polling needs.

    Args:
        needed: their URLs, and how often (seconds) each is asked.
        known: the callables, by name.
        counts: errors{reason="discovery"|"timeout"} are counted here.

    """

    def __init__(self, needed: Mapping[str, int], known: Mapping[str, Discover], counts: Counts) -> None:
        self.found: dict[str, list[str]] = {}
        self._all = [Discovery(url, seconds * SECOND) for url, seconds in needed.items()]
        self._known = known
        self._counts = counts

    @property
    def answered(self) -> bool:
        """Whether each has answered once, with targets or an error."""
        return all(d.answered for d in self._all)

    def due(self, now: int, timeout: float) -> list[Job]:
        """The calls to make now."""
        jobs = []
        for discovery in self._all:
            period = now // discovery.interval
            if discovery.running or discovery.period == period:
                continue
            discovery.period = period
            name, _, parameter = discovery.url.partition("://")
            call = self._known.get(name)
            if call is None:
                self._counts.failed("discovery")
                if not discovery.answered:
                    _log.error("there is no discovery %r (known: %s)", name, ", ".join(sorted(self._known)) or "none")
                discovery.answered = True
                continue
            discovery.running = True
            jobs.append(Job(discovery, partial(call, parameter), min(timeout, discovery.interval / SECOND)))
        return jobs

    def take(self, discovery: Discovery, outcome: Outcome) -> bool:
        """Take what became of a call; whether other targets are found now."""
        changed = False
        if outcome.state == "timeout":
            self._counts.failed("timeout")
            _log.warning("the discovery %s takes too long: what it found before is kept", redacted(discovery.url))
        else:
            discovery.running = False
        if outcome.error is not None:
            self._counts.failed("discovery")
            said = redacted(f"{type(outcome.error).__name__}: {outcome.error}")
            _log.warning("the discovery %s failed: %s", redacted(discovery.url), said)
        elif outcome.state == "done":
            found = [str(item) for item in outcome.items]
            changed = found != self.found.get(discovery.url)
            self.found[discovery.url] = found
        discovery.answered = True
        return changed
