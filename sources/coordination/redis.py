"""Groups in Redis: `redis://[USER:PASSWORD@]HOST[:6379][/DB]`, `rediss://…` with TLS.

Guarantee: as sources.coordination.keyvalue. A Redis without persistence loses the group when it ends: the members register anew, and what the marks
would have spared is polled again.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, ResponseError
from redis.retry import Retry

from nephoscope.errors import ConfigError, Problem
from sources.coordination import Unreachable
from sources.coordination.keyvalue import KeyValueBackend
from sources.coordination.urls import FIELD, Address, parse

_SWAP = """
local now = redis.call('GET', KEYS[1])
if (ARGV[1] == '0' and not now) or (ARGV[1] == '1' and now == ARGV[2]) then
  redis.call('SET', KEYS[1], ARGV[3])
  return 1
end
return 0
"""
_OPTIONS = ("membership_timeout", "timeout")
_FILES = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")


class RedisBackend(KeyValueBackend):
    """A Backend on Redis. Options: `membership_timeout` (the lease), `timeout` (of a call), `ssl_ca_certs`, `ssl_certfile`, `ssl_keyfile`."""

    def __init__(self, url: str, group: str, member: str, lease: float) -> None:
        address = parse(url, 6379, times=_OPTIONS, words=_FILES)
        if address.path.strip("/") and not address.path.strip("/").isdecimal():
            raise ConfigError(
                [Problem("the path is the number of a database", field=FIELD, hint="redis://HOST:6379/0")]
            )
        lease = address.seconds("membership_timeout", lease)
        super().__init__(_RedisStore(address, address.seconds("timeout", lease / 3)), group, member, lease)


class _RedisStore:
    def __init__(self, address: Address, timeout: float) -> None:
        host, port = address.hosts[0]
        more: dict[str, Any] = {}
        if address.scheme == "rediss":
            more = {"ssl": True, **{k: v for k, v in address.options.items() if k in _FILES}}
        self._shown = address.shown
        self._client = Redis(
            host=host,
            port=port,
            db=int(address.path.strip("/") or 0),
            username=address.user or None,
            password=address.password or None,
            socket_timeout=timeout,
            socket_connect_timeout=timeout,
            # Who calls tries again himself, in time for the lease.
            retry=Retry(NoBackoff(), 0),
            protocol=2,
            driver_info=None,
            **more,
        )

    def get(self, keys: Collection[str]) -> dict[str, bytes]:
        names = list(keys)
        values = self._ask("MGET", *names) if names else []
        if not isinstance(values, list) or len(values) != len(names):
            raise Unreachable(f"{self._shown} does not answer as a Redis does")
        return {k: v for k, v in zip(names, values, strict=True) if isinstance(v, bytes)}

    def put(self, key: str, value: bytes, seconds: float) -> None:
        self._ask("SET", key, value, "PX", round(seconds * 1000))

    def swap(self, key: str, old: bytes | None, new: bytes) -> bool:
        return bool(self._ask("EVAL", _SWAP, 1, key, "0" if old is None else "1", old or b"", new) == 1)

    def drop(self, key: str) -> None:
        self._ask("DEL", key)

    def close(self) -> None:
        self._client.close()

    def _ask(self, *command: Any) -> Any:
        try:
            return self._client.execute_command(*command)  # type: ignore[no-untyped-call]
        except ResponseError as error:
            # NOAUTH, WRONGTYPE, READONLY: it is a Redis, which does not let us.
            raise Unreachable(f"{self._shown} refuses: {error}") from None
        except (RedisError, OSError) as error:
            raise Unreachable(f"{self._shown} cannot be reached: {error}") from None
        except (ValueError, TypeError, IndexError, AttributeError, UnicodeError) as error:
            # What a client comes up with when it is answered in another protocol.
            self._client.close()
            raise Unreachable(f"{self._shown} does not answer as a Redis does: {type(error).__name__}") from None
