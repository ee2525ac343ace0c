"""SNMPv1 and v2c messages, to bytes and back: RFC 1157, RFC 1901 and RFC 3416, in the BER subset of RFC 3417 section 8.

An object identifier is a tuple of numbers; a value an int, bytes, a tuple of numbers, None (NULL), or END where there is no object. Why this is
not left to pysnmp: docs/decisions/0107-snmp-messages.md.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Any, Final, NamedTuple

Oid = tuple[int, ...]
_LONGEST: Final = 128 * 5
"""Bytes of an object identifier of 128 numbers of 32 bits, the most that SMIv2 allows."""

GET, NEXT, RESPONSE, BULK = 0xA0, 0xA1, 0xA2, 0xA5
_INTEGER, _OCTETS, _NULL, _OID, _SEQUENCE = 0x02, 0x04, 0x05, 0x06, 0x30
_UNSIGNED: Final = frozenset({0x41, 0x42, 0x43, 0x46, 0x47})
"""Counter32, Gauge32, TimeTicks, Counter64, Unsigned32."""
_NO_OBJECT: Final = frozenset({0x80, 0x81, 0x82})
"""noSuchObject, noSuchInstance, endOfMibView."""


class _End:
    def __repr__(self) -> str:
        return "END"


END: Final = _End()
"""There is no such object, or none after it."""


class Response(NamedTuple):
    """What an agent said to request `number`. `wrong`: its error-index, the binding (from 1) that `status` is about."""

    number: int
    status: int
    wrong: int
    bindings: list[tuple[Oid, Any]]


def request(
    version: int, community: bytes, kind: int, number: int, oids: Iterable[Oid], first: int = 0, second: int = 0
) -> bytes:
    """A request's bytes.

    Args:
        version: 0 is SNMPv1, 1 is v2c.
        community: which of them.
        kind: GET, NEXT or BULK.
        number: up to 31 bits; the response has the same.
        oids: what is asked for.
        first: BULK's non-repeaters.
        second: BULK's max-repetitions.

    """
    bindings = _tlv(_SEQUENCE, b"".join(map(_asked, oids)))
    pdu = _tlv(kind, _integer(number) + _integer(first) + _integer(second) + bindings)
    return _tlv(_SEQUENCE, _integer(version) + _tlv(_OCTETS, community) + pdu)


def response(data: bytes) -> Response:
    """Read a response. ValueError where the bytes are none."""
    try:
        start, stop = _of(_SEQUENCE, data, 0, len(data))
        _, at = _whole(data, start, stop)
        _, at = _of(_OCTETS, data, at, stop)
        start, stop = _of(RESPONSE, data, at, stop)
        number, at = _whole(data, start, stop)
        status, at = _whole(data, at, stop)
        wrong, at = _whole(data, at, stop)
        at, stop = _of(_SEQUENCE, data, at, stop)
        bindings = []
        while at < stop:
            start, end = _of(_SEQUENCE, data, at, stop)
            name_at, name_end = _of(_OID, data, start, end)
            bindings.append((_oid(data[name_at:name_end]), _value(data, name_end, end)))
            at = end
    except IndexError:
        raise ValueError("ends in the middle") from None
    return Response(number, status, wrong, bindings)


def _head(data: bytes, at: int, end: int) -> tuple[int, int, int]:
    """Tag, and where its content begins and ends."""
    tag, length = data[at], data[at + 1]
    at += 2
    if length >= 0x80:
        size = length & 0x7F
        if not 0 < size <= 4:
            raise ValueError("a length that is none")
        length = int.from_bytes(data[at : at + size], "big")
        at += size
    if at + length > end:
        raise ValueError("longer than what it is in")
    return tag, at, at + length


def _of(wanted: int, data: bytes, at: int, end: int) -> tuple[int, int]:
    tag, start, stop = _head(data, at, end)
    if tag != wanted:
        raise ValueError(f"a 0x{tag:02x} where a 0x{wanted:02x} must be")
    return start, stop


def _whole(data: bytes, at: int, end: int) -> tuple[int, int]:
    """An INTEGER, and what is behind it."""
    start, stop = _of(_INTEGER, data, at, end)
    return _number(data[start:stop], signed=True), stop


def _value(data: bytes, at: int, end: int) -> Any:
    tag, start, stop = _head(data, at, end)
    content = data[start:stop]
    if tag in _UNSIGNED:
        return _number(content, signed=False)
    if tag == _INTEGER:
        return _number(content, signed=True)
    if tag in _NO_OBJECT:
        return END
    if tag == _OID:
        return _oid(content)
    return None if tag == _NULL else content


def _number(content: bytes, *, signed: bool) -> int:
    if not 0 < len(content) <= 9:
        raise ValueError("a number of no length, or of more than 64 bits")
    return int.from_bytes(content, "big", signed=signed)


@lru_cache(16384)
def _oid(content: bytes) -> Oid:
    """An object identifier. An agent sends the same ones again and again."""
    if not 0 < len(content) <= _LONGEST or content[-1] & 0x80:
        raise ValueError("an object identifier that has no end, or is too long")
    numbers = []
    number = 0
    for byte in content:
        number = (number << 7) | (byte & 0x7F)
        if not byte & 0x80:
            numbers.append(number)
            number = 0
    first = min(numbers[0] // 40, 2)
    return (first, numbers[0] - 40 * first, *numbers[1:])


@lru_cache(16384)
def _asked(oid: Oid) -> bytes:
    """A binding with nothing in it."""
    content = b"".join(map(_base128, (40 * oid[0] + oid[1], *oid[2:])))
    return _tlv(_SEQUENCE, _tlv(_OID, content) + bytes((_NULL, 0)))


def _base128(number: int) -> bytes:
    out = [number & 0x7F]
    while number := number >> 7:
        out.append(0x80 | (number & 0x7F))
    return bytes(reversed(out))


def _integer(number: int) -> bytes:
    return _tlv(_INTEGER, number.to_bytes(number.bit_length() // 8 + 1, "big", signed=True))


def _tlv(tag: int, content: bytes) -> bytes:
    size = len(content)
    if size < 0x80:
        return bytes((tag, size)) + content
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(length))) + length + content
