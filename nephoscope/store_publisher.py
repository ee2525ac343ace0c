"""A store as a publisher: a sink may name several, beside the configured one (``store://``), each by the URL that `database.connection` takes.

Guarantee: that of the store. What was published is in it once `flush` has returned; after a restart the same samples come again, and are known.
"""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import urlsplit

from nephoscope import registry
from nephoscope.errors import ConfigError, Problem
from nephoscope.event import Event
from nephoscope.lifetimes import Lifetimes
from nephoscope.store import Refused, Rows, Store, refusals

WAIT = "wait"
_HINT = "user:${env:NAME}@host, or ${file:/path}"


class StorePublisher:
    """Writes to one store.

    Args:
        url: with references to secrets in the place of secrets.
        lifetimes: what the store is to take up.

    Raises ConfigError, MissingExtra, StoreError for what is something else's, Unavailable where it is away.

    """

    guarantee = "exactly once in effect: a store keeps an id once"
    policy = WAIT
    """A store is what the samples are for: while it is away the flow waits, and loses nothing."""

    def __init__(self, url: str, lifetimes: Lifetimes | None = None) -> None:
        from nephoscope.publishers import referenced

        try:
            whole = referenced(url)
        except ValueError as error:
            raise ConfigError([Problem("the store's URL cannot be used", hint=str(error))]) from None
        self._store: Store = registry.load_for(registry.STORE, whole)(whole, lifetimes)

    @staticmethod
    def check(url: str) -> None:
        """ConfigError for a URL with a secret in it. What else may be wrong is seen when the store is opened."""
        try:
            password = urlsplit(url).password
        except ValueError:
            raise ConfigError([Problem("the store's URL cannot be read")]) from None
        if password and not password.startswith("${"):
            raise ConfigError([Problem("a password in a store's URL stands there by reference", hint=_HINT)])

    def publish(self, rows: Rows) -> None:
        """Write the rows. See Publisher."""
        refused = refusals(self._store, rows)
        if refused:
            raise Refused(str(refused[0][1]), [row for row, _ in refused])

    def publish_events(self, events: Sequence[Event]) -> None:
        """Write the events."""
        self._store.write_events(events)

    def problems(self) -> list[Problem]:
        """What is missing in the store."""
        return self._store.check()

    def flush(self) -> None:
        """Nothing is left to do. See Publisher."""

    def discard(self) -> int:
        """Nothing waits. See Publisher."""
        return 0

    def close(self) -> None:
        """Give back the connections."""
        self._store.close()


def names_store(url: str) -> bool:
    """Whether a publisher's URL is a store's."""
    return url.partition(":")[0].lower() in registry.names(registry.STORE)
