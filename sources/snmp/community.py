"""Requests of SNMPv1 and v2c over UDP: a socket a host, so that what others send is not even seen."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Iterable
from types import TracebackType
from typing import Self

from sources.snmp import ber
from sources.snmp.addresses import Address
from sources.snmp.session import BULK, GET, Bindings, Oid

_KINDS = {GET: ber.GET, BULK: ber.BULK}


class Community(asyncio.DatagramProtocol):
    """A way to ask one host. Use it as a context manager, in an event loop.

    Args:
        address: the host.
        ip: its address.
        timeout: seconds until a request is repeated, ...
        retries: ... so often at most.

    """

    def __init__(self, address: Address, ip: str, timeout: float, retries: int) -> None:
        self._address = address
        self._ip = ip
        self._timeout = timeout
        self._retries = retries
        self._community = address.access.community.encode()
        self._old = address.access.version == "1"
        self._number = secrets.randbits(30)
        self._transport: asyncio.DatagramTransport | None = None
        self._answer: asyncio.Future[ber.Response] | None = None
        self._strange = 0

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        try:
            found = await loop.create_datagram_endpoint(lambda: self, remote_addr=(self._ip, self._address.port))
            self._transport = found[0]
        except OSError as error:
            raise ConnectionError(f"{self._address.place} cannot be reached: {error.strerror or error}") from None
        return self

    async def __aexit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        if self._transport is not None:
            self._transport.close()

    async def __call__(self, kind: str, oids: Iterable[Oid], many: int = 1) -> tuple[int, int, Bindings]:
        """One request: error status, error index, bindings. TimeoutError or ConnectionError where there is no answer."""
        assert self._transport is not None
        self._number = (self._number + 1) & 0x7FFFFFFF
        code = ber.NEXT if kind == BULK and self._old else _KINDS[kind]
        repeat = many if code == ber.BULK else 0
        data = ber.request(0 if self._old else 1, self._community, code, self._number, oids, 0, repeat)
        self._strange = 0
        self._answer = asyncio.get_running_loop().create_future()
        for _ in range(self._retries + 1):
            self._transport.sendto(data)
            await asyncio.wait((self._answer,), timeout=self._timeout)
            if not self._answer.done():
                continue
            found = self._answer.result()
            return found.status, found.wrong, found.bindings
        seconds = self._timeout * (self._retries + 1)
        if self._strange:
            what = f"SNMPv{self._address.access.version}"
            raise ConnectionError(
                f"{self._address.place} answered {self._strange} times, but no {what} that could be read"
            )
        raise TimeoutError(
            f"{self._address.place}: no answer within {seconds:g} s (it is away, or the community is wrong)"
        )

    def datagram_received(self, data: bytes, _address: object) -> None:
        """An answer, or something else."""
        try:
            found = ber.response(data)
        except ValueError:
            self._strange += 1
            return
        # One that is late belongs to a request that was repeated.
        if self._answer is not None and found.number == self._number and not self._answer.done():
            self._answer.set_result(found)

    def error_received(self, error: Exception) -> None:
        """The host, or one on the way, says that nobody is there."""
        if self._answer is not None and not self._answer.done():
            said = getattr(error, "strerror", None) or error
            self._answer.set_exception(ConnectionError(f"{self._address.place} cannot be reached: {said}"))
