"""What the back ends keep: marks as JSON of our own, read with care, since anybody may write there."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from nephoscope.partition import SLOTS
from sources.coordination import Mark


class _Marks(msgspec.Struct):
    """`marks`: (generation, first period, the slots as bits of a hexadecimal number)."""

    version: int
    marks: list[tuple[int, int, str]]


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(_Marks)


def encode_marks(marks: Mapping[int, Mark]) -> bytes:
    """A member's marks. Slots that are done through the same period, which most are, cost a bit each."""
    bits: dict[Mark, int] = {}
    for slot, mark in marks.items():
        bits[mark] = bits.get(mark, 0) | 1 << slot
    return _encoder.encode(_Marks(1, [(m.generation, m.first, f"{b:x}") for m, b in bits.items()]))


def decode_marks(data: bytes) -> dict[int, Mark]:
    """The marks of a document; none where it cannot be read: what they would spare is polled again."""
    try:
        read = _decoder.decode(data)
        if read.version != 1:
            return {}
        out = {}
        for generation, first, bits in read.marks:
            number = int(bits[: SLOTS // 4], 16)
            mark = Mark(generation, first)
            out.update({s: mark for s in range(SLOTS) if number >> s & 1})
    except (msgspec.MsgspecError, UnicodeDecodeError, ValueError):
        return {}
    return out
