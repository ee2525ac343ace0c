"""Texts as servers keep them: their UTF-8 bytes, and long ones deflated where that is shorter.

Servers compress by themselves what is longer than a page or so; metadata are some hundreds of bytes, of which there are many.
"""

from __future__ import annotations

import zlib
from typing import Final

_DEFLATED: Final = b"\xff"
"""What no UTF-8 begins with."""
_RAW: Final = -15
"""Of zlib: no header, no checksum."""


def squeezed(text: str) -> bytes:
    """The bytes to keep."""
    plain = text.encode()
    work = zlib.compressobj(wbits=_RAW)
    short = _DEFLATED + work.compress(plain) + work.flush()
    return min(plain, short, key=len)


def text_of(raw: bytes) -> str:
    """The text that was kept as these bytes."""
    return (zlib.decompress(raw[1:], _RAW) if raw[:1] == _DEFLATED else raw).decode()
