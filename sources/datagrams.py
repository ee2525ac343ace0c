"""Datagrams, many a system call where the kernel can: recvmmsg(2) on Linux, one recv each elsewhere.

Each call gives the interpreter's lock away, and a thread that asks for it back waits for up to five milliseconds while others compute: at 50,000
datagrams a second, one a call, the kernel's buffer would overflow.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import socket
import struct
import sys
from collections.abc import Callable

_MOST = 512
"""Datagrams a call. Of the buffers only the pages that were written to take memory."""
_SIZE = 65_536
"""More than any datagram's: none is cut."""
_WAIT_FOR_ONE = 0x10000
_NOTHING = {errno.EAGAIN, errno.EWOULDBLOCK, errno.EINTR}


class _Vector(ctypes.Structure):
    """struct iovec."""

    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


class _Message(ctypes.Structure):
    """struct msghdr."""

    _fields_ = (
        ("name", ctypes.c_void_p),
        ("name_length", ctypes.c_uint32),
        ("vectors", ctypes.POINTER(_Vector)),
        ("vector_count", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("control_length", ctypes.c_size_t),
        ("flags", ctypes.c_int),
    )


class _Header(ctypes.Structure):
    """struct mmsghdr: with the length of what came."""

    _fields_ = (("message", _Message), ("length", ctypes.c_uint32))


class Datagrams:
    """What comes in at a socket.

    Args:
        server: bound; its timeout is set.
        wait: seconds that `receive` waits for the first datagram.
        many: whether to try recvmmsg.

    """

    def __init__(self, server: socket.socket, wait: float, *, many: bool = True) -> None:
        self._socket = server
        self._many = _recvmmsg() if many else None
        if self._many is None:
            server.settimeout(wait)
            return
        # A timeout of Python's would make the socket one that does not wait, and recvmmsg return at once.
        server.settimeout(None)
        seconds = int(wait)
        micros = round((wait - seconds) * 1e6)
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("@ll", seconds, micros))
        self._buffer = mmap.mmap(-1, _MOST * _SIZE)
        first = ctypes.addressof(ctypes.c_char.from_buffer(self._buffer))
        self._vectors = (_Vector * _MOST)(*(_Vector(first + i * _SIZE, _SIZE) for i in range(_MOST)))
        self._headers = (_Header * _MOST)()
        for header, vector in zip(self._headers, self._vectors, strict=True):
            header.message.vectors = ctypes.pointer(vector)
            header.message.vector_count = 1
        start, step = _Header.length.offset, ctypes.sizeof(_Header)
        words = memoryview(self._headers).cast("B").cast("I")
        self._lengths = words[start // 4 :: step // 4]

    def receive(self) -> list[bytes]:
        """What is there, in its order, at most 512; [] where nothing came in time. Raises OSError."""
        if self._many is None:
            try:
                return [self._socket.recv(_SIZE)]
            except TimeoutError:
                return []
        count = self._many(self._socket.fileno(), self._headers, _MOST, _WAIT_FOR_ONE, None)
        if count < 0:
            number = ctypes.get_errno()
            if number in _NOTHING:
                return []
            raise OSError(number, os.strerror(number))
        buffer = self._buffer
        return [
            buffer[place : place + length]
            for place, length in zip(range(0, count * _SIZE, _SIZE), self._lengths[:count].tolist(), strict=True)
        ]


def _recvmmsg() -> Callable[..., int] | None:
    """The C library's, if it has it."""
    if not sys.platform.startswith("linux"):
        return None
    try:
        found = ctypes.CDLL(None, use_errno=True).recvmmsg
    except (OSError, AttributeError):
        return None
    found.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, ctypes.c_int, ctypes.c_void_p)
    found.restype = ctypes.c_int
    return found
