"""Groups in memcached: `memcached://HOST[:11211]`.

Guarantee: as sources.coordination.keyvalue. memcached keeps nothing over a restart, and may throw away what has not been used for long: the members
register anew then, and what the marks would have spared is polled again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from typing import Any, TypeVar

from pymemcache.client.base import Client
from pymemcache.exceptions import MemcacheError, MemcacheServerError, MemcacheUnexpectedCloseError

from nephoscope.errors import ConfigError, Problem
from sources.coordination import Unreachable
from sources.coordination.keyvalue import KeyValueBackend
from sources.coordination.urls import FIELD, Address, parse

_T = TypeVar("_T")
_OPTIONS = ("membership_timeout", "timeout")


class MemcachedBackend(KeyValueBackend):
    """A Backend on one memcached. Options: `membership_timeout` (the lease), `timeout` (of a call)."""

    def __init__(self, url: str, group: str, member: str, lease: float) -> None:
        address = parse(url, 11211, times=_OPTIONS)
        if address.user or address.password or address.path:
            raise ConfigError([Problem("memcached takes no user, password or path", field=FIELD)])
        lease = address.seconds("membership_timeout", lease)
        super().__init__(_MemcachedStore(address, address.seconds("timeout", lease / 3)), group, member, lease)


class _MemcachedStore:
    def __init__(self, address: Address, timeout: float) -> None:
        self._shown = address.shown
        self._client = Client(address.hosts[0], connect_timeout=timeout, timeout=timeout, no_delay=True)

    def get(self, keys: Collection[str]) -> dict[str, bytes]:
        found = self._ask(lambda: self._client.get_many(list(keys)))
        return {k: v for k, v in found.items() if isinstance(v, bytes)}

    def put(self, key: str, value: bytes, seconds: float) -> None:
        # It counts whole seconds, of a clock that ticks once a second.
        self._must(self._ask(lambda: self._client.set(key, value, expire=math.ceil(seconds) + 1, noreply=False)))

    def swap(self, key: str, old: bytes | None, new: bytes) -> bool:
        if old is None:
            return bool(self._ask(lambda: self._client.add(key, new, noreply=False)))
        value, token = self._ask(lambda: self._client.gets(key))
        return value == old and bool(self._ask(lambda: self._client.cas(key, new, token, noreply=False)))

    def drop(self, key: str) -> None:
        self._ask(lambda: self._client.delete(key, noreply=False))

    def close(self) -> None:
        self._client.close()

    def _must(self, stored: Any) -> None:
        if not stored:
            raise Unreachable(f"{self._shown} did not store a value")

    def _ask(self, call: Callable[[], _T]) -> _T:
        try:
            return call()
        except MemcacheUnexpectedCloseError:
            raise Unreachable(f"{self._shown} cannot be reached: it has closed the connection") from None
        except MemcacheServerError as error:
            raise Unreachable(f"{self._shown} refuses: {error}") from None
        except OSError as error:
            self._client.close()
            raise Unreachable(f"{self._shown} cannot be reached: {error}") from None
        except (MemcacheError, ValueError, TypeError, IndexError, KeyError, AttributeError) as error:
            # What the client comes up with when it is answered in another protocol.
            self._client.close()
            raise Unreachable(f"{self._shown} does not answer as a memcached does: {type(error).__name__}") from None
