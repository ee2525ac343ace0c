"""Requests of SNMPv3, by pysnmp: users, passwords, privacy (RFC 3414)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any, Final, Self

from pysnmp.carrier.asyncio.dgram import udp, udp6
from pysnmp.error import PySnmpError
from pysnmp.hlapi.v3arch import asyncio as hlapi
from pysnmp.proto import errind, rfc1905
from pysnmp.proto.rfc1902 import Null, ObjectName

from sources.pollster import PermanentError
from sources.snmp.addresses import Access, Address
from sources.snmp.ber import END
from sources.snmp.session import GET, Bindings, Oid

_NOTHING: Final = Null("")
_AUTH: Final = {
    "md5": hlapi.USM_AUTH_HMAC96_MD5,
    "sha": hlapi.USM_AUTH_HMAC96_SHA,
    "sha224": hlapi.USM_AUTH_HMAC128_SHA224,
    "sha256": hlapi.USM_AUTH_HMAC192_SHA256,
    "sha384": hlapi.USM_AUTH_HMAC256_SHA384,
    "sha512": hlapi.USM_AUTH_HMAC384_SHA512,
}
_PRIV: Final = {
    "des": hlapi.USM_PRIV_CBC56_DES,
    "3des": hlapi.USM_PRIV_CBC168_3DES,
    "aes128": hlapi.USM_PRIV_CFB128_AES,
    "aes192": hlapi.USM_PRIV_CFB192_AES,
    "aes256": hlapi.USM_PRIV_CFB256_AES,
}
_PERMANENT: Final[Mapping[type[Any], str]] = {
    errind.WrongDigest: "the password is wrong, or its auth_proto",
    errind.AuthenticationFailure: "the password is wrong, or its auth_proto",
    errind.UnknownUserName: "it knows no such user",
    errind.UnknownSecurityName: "it knows no such user",
    errind.UnsupportedSecurityLevel: "it wants another level of security: privacy, or none",
    errind.DecryptionError: "the password for privacy is wrong, or its priv_proto",
}
_OWN: Final = 64
"""Engines for one host."""
_heard: dict[tuple[str, int], int] = {}
"""Datagrams that came from where an answer is waited for, be they what they may."""


class Engines:
    """The engines of the users. Each has one of its own: an engine knows no two users of one name. All of it runs in one event loop."""

    def __init__(self) -> None:
        self._shared: dict[Access, hlapi.SnmpEngine] = {}
        self._own: dict[tuple[Access, tuple[str, int]], hlapi.SnmpEngine] = {}
        self._untried: set[tuple[Access, tuple[str, int]]] = set()

    def of(self, access: Access, place: tuple[str, int]) -> hlapi.SnmpEngine:
        """The engine that asks a host."""
        own = self._own.get((access, place))
        if own is not None:
            return own
        if access not in self._shared:
            self._shared[access] = hlapi.SnmpEngine()
        return self._shared[access]

    def renew(self, access: Access, place: tuple[str, int]) -> None:
        """Ask this host with an engine that knows nothing of it: its own may be another one than it was.

        Where a new one has not helped, there is none again: it takes a quarter of a second.
        """
        if (access, place) in self._untried:
            return
        self._untried.add((access, place))
        old = self._own.pop((access, place), None)
        if old is None and len(self._own) >= _OWN:
            old = self._own.pop(next(iter(self._own)))
        if old is not None:
            old.close_dispatcher()
        self._own[access, place] = hlapi.SnmpEngine()

    def worked(self, access: Access, place: tuple[str, int]) -> None:
        """This host has answered."""
        self._untried.discard((access, place))

    def close(self) -> None:
        """Close the sockets."""
        for engine in (*self._shared.values(), *self._own.values()):
            engine.close_dispatcher()
        self._shared.clear()
        self._own.clear()


class User:
    """A way to ask one host: as `community.Community`, by a user."""

    def __init__(self, engines: Engines, address: Address, ip: str, timeout: float, retries: int) -> None:
        self._engines = engines
        self._address = address
        self._place = (ip, address.port)
        self._timeout = timeout
        self._retries = retries
        self._auth = _auth(address.access)
        self._context = hlapi.ContextData(contextName=address.access.context.encode())

    async def __aenter__(self) -> Self:
        kind = _Target6 if ":" in self._place[0] else _Target
        self._target = await kind.create(self._place, timeout=self._timeout, retries=self._retries)
        return self

    async def __aexit__(self, *_error: object) -> None:
        """The engine's socket stays."""

    async def __call__(self, kind: str, oids: Iterable[Oid], many: int = 1) -> tuple[int, int, Bindings]:
        """One request: error status, error index, bindings. Raises where there is no answer, or not the one to trust."""
        access, here = self._address.access, self._target.transport_address
        command, more = (hlapi.get_cmd, ()) if kind == GET else (hlapi.bulk_cmd, (0, many))
        engine = self._engines.of(access, self._place)
        _heard[here] = 0
        try:
            indication, status, index, bindings = await command(
                engine, self._auth, self._target, self._context, *more, *map(_asked, oids), lookupMib=False
            )
            heard = _heard[here]
        except PySnmpError as error:
            words = str(error).partition("\n")[0][:200]
            raise ConnectionError(f"{self._address.place} cannot be asked: {words}") from None
        finally:
            _heard.pop(here, None)
        if indication is None:
            self._engines.worked(access, self._place)
            return int(status), int(index), [(tuple(name), _value(value)) for name, value in bindings]
        if heard:
            self._engines.renew(access, self._place)
        raise self._refusal(indication, heard)

    def _refusal(self, indication: Any, heard: int) -> Exception:
        place, user = self._address.place, self._address.access.user
        for kind, words in _PERMANENT.items():
            if isinstance(indication, kind):
                return PermanentError(f"{place}: {words} (user {user!r})")
        if not isinstance(indication, errind.RequestTimedOut):
            return ConnectionError(f"{place} cannot be asked: {indication}")
        if heard:
            hint = " (the password for privacy may be wrong)" if self._address.access.priv_password else ""
            return ConnectionError(f"{place} answered {heard} times, but no SNMPv3 that could be read{hint}")
        seconds = self._timeout * (self._retries + 1)
        return TimeoutError(
            f"{place}: no answer within {seconds:g} s (it is away, or the password for privacy is wrong)"
        )


def _count(source: tuple[Any, ...]) -> None:
    if source[:2] in _heard:
        _heard[source[:2]] += 1


class _Transport(udp.UdpAsyncioTransport):  # type: ignore[misc] # pysnmp has no types
    def datagram_received(self, datagram: Any, transportAddress: Any) -> None:  # noqa: N803 -- pysnmp's name
        _count(transportAddress)
        super().datagram_received(datagram, transportAddress)


class _Transport6(udp6.Udp6AsyncioTransport):  # type: ignore[misc] # pysnmp has no types
    def datagram_received(self, datagram: Any, transportAddress: Any) -> None:  # noqa: N803 -- as above
        _count(transportAddress)
        super().datagram_received(datagram, transportAddress)


class _Target(hlapi.UdpTransportTarget):  # type: ignore[misc] # pysnmp has no types
    PROTO_TRANSPORT = _Transport

    async def _resolve_address(self, transportAddr: Any) -> tuple[str, int]:  # noqa: N803 -- as above
        return transportAddr  # type: ignore[no-any-return] # it has been resolved


class _Target6(hlapi.Udp6TransportTarget):  # type: ignore[misc] # pysnmp has no types
    PROTO_TRANSPORT = _Transport6

    async def _resolve_address(self, transportAddr: Any) -> tuple[str, int]:  # noqa: N803 -- as above
        return transportAddr  # type: ignore[no-any-return] # as above


def _auth(access: Access) -> hlapi.UsmUserData:
    return hlapi.UsmUserData(
        access.user,
        authKey=access.auth_password or None,
        authProtocol=_AUTH.get(access.auth_proto),
        privKey=access.priv_password or None,
        privProtocol=_PRIV.get(access.priv_proto),
    )


@lru_cache(16384)
def _asked(oid: Oid) -> tuple[Any, Any]:
    return ObjectName(oid), _NOTHING


def _value(value: Any) -> Any:
    if isinstance(value, rfc1905.NoSuchObject | rfc1905.NoSuchInstance | rfc1905.EndOfMibView):
        return END
    try:
        return int(value)
    except (TypeError, ValueError):
        return bytes(value)
