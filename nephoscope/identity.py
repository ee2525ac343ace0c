"""The id of a sample: derived, never drawn, so that the same sample has the same id whoever makes it and however often.

* polled:       h(source, meter, resource, timestamp)
* one to one:   h(sink, step, id of the input)
* arithmetic:   h(sink, step, resource, period)
* aggregator:   h(sink, step, key, window, part)
* notification: h(message_id, meter, position)
* pushed:       a fresh uuid, or the client's idempotency key

Ids are 128 bits, kept as two columns of uint64 (`hi`, `lo`). Strings are hashed by XXH3-128 over length-delimited
UTF-8; numbers are mixed in by a Feistel network whose round function is the finaliser of MurmurHash3 (Appleby 2011,
public domain). A Feistel network is a bijection of the 128 bits, so a step with one output for an input adds no
collision of its own. None of it is cryptographic: whoever may choose a pushed sample's id can choose a clash.

`origin` says where a sample comes from as JSON: ``["openstack","cpu"]`` is a raw one, ``["openstack","cpu",["cpu_sink",0]]`` what step 0
of the sink cpu_sink made of it, ``[["sink",0]]`` the output of an arithmetic step. With it, a store can compute an id that is a
function of the sample's key, and need not keep it.
"""

from __future__ import annotations

import json
import uuid
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

U64 = npt.NDArray[np.uint64]
I64 = npt.NDArray[np.int64]

_M1 = np.uint64(0xFF51AFD7ED558CCD)
_M2 = np.uint64(0xC4CEB9FE1A85EC53)
_K = (np.uint64(0x9E3779B97F4A7C15), np.uint64(0xD1B54A32D192ED03), np.uint64(0x8CB92BA72F3D8DD7))
_S33 = np.uint64(33)
_S29 = np.uint64(29)


def digest(*parts: str | bytes | int) -> tuple[int, int]:
    """128 bits of length-delimited parts, as (hi, lo)."""
    pieces: list[bytes] = []
    for part in parts:
        raw = part.encode() if isinstance(part, str) else str(part).encode() if isinstance(part, int) else part
        pieces += (len(raw).to_bytes(8, "little"), raw)
    whole = xxhash.xxh3_128_intdigest(b"".join(pieces))
    return whole >> 64, whole & 0xFFFFFFFFFFFFFFFF


def _scramble(x: U64) -> U64:
    """MurmurHash3's 64-bit finaliser, the last shift left out (the next round mixes on)."""
    x ^= x >> _S33
    x *= _M1
    x ^= x >> _S29
    x *= _M2
    return x


def mix(hi: U64, lo: U64, key_hi: Any, key_lo: Any) -> tuple[U64, U64]:
    """(hi, lo) mixed with a key, elementwise; a bijection of (hi, lo) for a given key. Inputs are not changed."""
    hi = hi ^ key_hi
    lo = lo ^ key_lo
    t = _scramble(lo + _K[0])
    t ^= t >> _S33
    hi ^= t
    t = _scramble(hi + _K[1])
    t ^= t >> _S33
    lo ^= t
    t = _scramble(lo + _K[2])
    t ^= t >> _S33
    hi ^= t
    return hi, lo


@lru_cache(maxsize=4096)
def base_key(parts: tuple[str | int, ...]) -> tuple[np.uint64, np.uint64]:
    """The key of what makes a sample beside its resource and time: ('polled', source, meter), ('join', sink, step)."""
    hi, lo = digest(*parts)
    return np.uint64(hi), np.uint64(lo)


@lru_cache(maxsize=4096)
def step_key(sink: str, step: int) -> tuple[np.uint64, np.uint64]:
    """The key of a step of a sink."""
    hi, lo = digest("step", sink, step)
    return np.uint64(hi), np.uint64(lo)


def keyed(base_hi: Any, base_lo: Any, resource_hi: U64, resource_lo: U64, time: I64) -> tuple[U64, U64]:
    """The id of what is known by (base, resource, time): polled samples and arithmetic's output."""
    return mix(resource_hi ^ np.asarray(time).view(np.uint64), resource_lo, base_hi, base_lo)


@lru_cache(maxsize=65536)
def resource_key(resource: str) -> tuple[int, int]:
    """128 bits of a resource's id."""
    return digest("resource", resource)


def polled_id(source: str, meter: str, resource: str, timestamp: int) -> bytes:
    """The id of one polled sample, 16 bytes."""
    hi, lo = resource_key(resource)
    base = base_key(("polled", source, meter))
    out = keyed(*base, np.array([hi], np.uint64), np.array([lo], np.uint64), np.array([timestamp], np.int64))
    raw: bytes = pack(*out)[0].tobytes()
    return raw


def notification_id(message_id: str, meter: str, position: int) -> bytes:
    """The id of the sample that a definition makes of a notification, 16 bytes: as `digest` gives it, both lanes little endian."""
    return id_at(notification_head(message_id), notification_place(meter, position))


def notification_head(message_id: str) -> bytes:
    """What the ids of all samples of a notification begin with, before they are hashed."""
    raw = message_id.encode()
    return _NOTIFICATION + len(raw).to_bytes(8, "little") + raw


@lru_cache(maxsize=65536)
def notification_place(meter: str, position: int) -> bytes:
    """What tells them apart."""
    return _delimited(meter, str(position))


def id_at(head: bytes, place: bytes) -> bytes:
    """The id of a sample of a notification, 16 bytes."""
    digest = xxhash.xxh3_128_digest(head + place)
    return digest[7::-1] + digest[:7:-1]


def _delimited(*parts: str) -> bytes:
    raws = [part.encode() for part in parts]
    return b"".join(len(raw).to_bytes(8, "little") + raw for raw in raws)


_NOTIFICATION = _delimited("notification")


def drawn_id() -> bytes:
    """A fresh id, for a pushed sample that brings none."""
    return uuid.uuid4().bytes


def pack(hi: U64, lo: U64) -> npt.NDArray[np.uint8]:
    """(n, 16) bytes of n ids."""
    out = np.empty((len(hi), 2), np.uint64)
    out[:, 0] = hi
    out[:, 1] = lo
    return out.view(np.uint8).reshape(len(hi), 16)


def unpack(ids: npt.NDArray[np.uint8]) -> tuple[U64, U64]:
    """The two lanes of (n, 16) bytes of ids, as views where the bytes are contiguous."""
    lanes = np.ascontiguousarray(ids).view(np.uint64).reshape(-1, 2)
    return lanes[:, 0], lanes[:, 1]


def format_id(raw: bytes) -> str:
    """An id as text: the form of a uuid."""
    return str(uuid.UUID(bytes=raw))


def parse_id(text: str) -> bytes:
    """16 bytes of an id's text. A uuid is taken as it is; any other text (a client's idempotency key) is hashed."""
    try:
        return uuid.UUID(text).bytes
    except ValueError:
        hi, lo = digest("key", text)
        return hi.to_bytes(8, "little") + lo.to_bytes(8, "little")


@lru_cache(maxsize=65536)
def raw_origin(source: str, meter: str) -> str:
    """The origin of a sample that no step has touched."""
    return json.dumps([source, meter], ensure_ascii=False, separators=(",", ":"))


@lru_cache(maxsize=65536)
def step_origin(origin: str, sink: str, step: int) -> str:
    """The origin of what a step makes, one for one, of samples of `origin`."""
    return json.dumps([*json.loads(origin), [sink, step]], ensure_ascii=False, separators=(",", ":"))


def join_origin(sink: str, step: int) -> str:
    """The origin of what a step makes of several samples."""
    return json.dumps([[sink, step]], ensure_ascii=False, separators=(",", ":"))


@lru_cache(maxsize=65536)
def origin_keys(origin: str) -> tuple[tuple[np.uint64, np.uint64], tuple[tuple[np.uint64, np.uint64], ...]]:
    """(base key, step keys in order) of an origin: what its samples' ids are computed with."""
    parts = json.loads(origin)
    if isinstance(parts[0], list):
        sink, step = parts[0]
        return base_key(("join", sink, int(step))), tuple(step_key(s, int(i)) for s, i in parts[1:])
    return base_key(("polled", parts[0], parts[1])), tuple(step_key(s, int(i)) for s, i in parts[2:])
