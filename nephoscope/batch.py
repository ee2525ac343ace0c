"""A batch: the columns of many samples of one partition, and its form as a message on a topic.

Columns (Arrow; n rows, no nulls anywhere):

=================  =============================  ===============================================
name type unit     dictionary<int32, utf8>        type is gauge, delta or cumulative
volume             float64                        finite
user_id            dictionary<int32, utf8>        '' where unknown
project_id         dictionary<int32, utf8>        '' where unknown
resource_id        dictionary<int32, utf8>
timestamp          timestamp[us, UTC]             a polled sample's: the start of its period
measured_at        timestamp[us, UTC]             the least int64 where unknown
resource_metadata  dictionary<int32, utf8>        the text of a JSON object
source             dictionary<int32, utf8>
id                 fixed_size_binary[16]
origin             dictionary<int32, utf8>        '' for a raw sample, see nephoscope.identity
late               bool                           caught up, or of a window's late part
=================  =============================  ===============================================

A message is ``NEPH``, a version byte, three zero bytes, the number of rows and the length of the header (uint32), xxh64 of all that
follows (uint64, little endian all), the header (JSON, padded with blanks to a multiple of 8), one Arrow IPC stream.
Compression is the producer's business.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

import msgspec
import numpy as np
import pyarrow as pa
import xxhash

from nephoscope.errors import BatchError
from nephoscope.sample import Sample
from nephoscope.times import NEVER

_DICT = pa.dictionary(pa.int32(), pa.utf8())
_TIME = pa.timestamp("us", tz="UTC")
SCHEMA = pa.schema(
    [
        pa.field("name", _DICT, nullable=False),
        pa.field("type", _DICT, nullable=False),
        pa.field("unit", _DICT, nullable=False),
        pa.field("volume", pa.float64(), nullable=False),
        pa.field("user_id", _DICT, nullable=False),
        pa.field("project_id", _DICT, nullable=False),
        pa.field("resource_id", _DICT, nullable=False),
        pa.field("timestamp", _TIME, nullable=False),
        pa.field("measured_at", _TIME, nullable=False),
        pa.field("resource_metadata", _DICT, nullable=False),
        pa.field("source", _DICT, nullable=False),
        pa.field("id", pa.binary(16), nullable=False),
        pa.field("origin", _DICT, nullable=False),
        pa.field("late", pa.bool_(), nullable=False),
    ]
)
_DICTIONARIES = tuple(i for i, f in enumerate(SCHEMA) if pa.types.is_dictionary(f.type))

_HEAD = struct.Struct("<4sB3xIIQ")
_MAGIC = b"NEPH"
_VERSION = 1
MAX_MESSAGE = 900_000
"""Bytes of a message that every broker takes with its default limit (1 MB)."""
MAX_ROWS = 1_000_000


_Seconds = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]
_Int64 = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
# Beyond these the arithmetic on int64 columns would fail: a message that a reader cannot get past.


class Header(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=False):
    """What a message says of itself beside its rows.

    `interval`: seconds between the polls that gave these samples; 0 for pushed and notified ones. `polling`: the names of the polling
    sources they were polled for. `mark`: a moment (microseconds) that the writer's clock has reached. `member` and `generation`: who wrote
    it, a diagnostic.
    """

    interval: _Seconds = 0
    polling: tuple[str, ...] = ()
    mark: _Int64 = NEVER
    member: str = ""
    generation: _Int64 = 0


PUSHED = Header()
_header_decoder = msgspec.json.Decoder(Header)
_header_encoder = msgspec.json.Encoder()


@dataclass(frozen=True, slots=True)
class Batch:
    """Columns of samples of one partition, with the header they travel under."""

    rows: pa.RecordBatch
    header: Header = field(default=PUSHED)

    def __len__(self) -> int:
        return int(self.rows.num_rows)

    def samples(self) -> Iterator[Sample]:
        """One Sample a row."""
        columns = {f.name: self.rows.column(f.name).to_pylist() for f in SCHEMA if not pa.types.is_timestamp(f.type)}
        times = int_column(self.rows, "timestamp").tolist()
        measured = int_column(self.rows, "measured_at").tolist()
        for i in range(len(self)):
            yield Sample(
                name=columns["name"][i],
                type=columns["type"][i],
                unit=columns["unit"][i],
                volume=columns["volume"][i],
                user_id=columns["user_id"][i],
                project_id=columns["project_id"][i],
                resource_id=columns["resource_id"][i],
                timestamp=times[i],
                measured_at=measured[i],
                metadata=columns["resource_metadata"][i],
                source=columns["source"][i],
                id=columns["id"][i],
                origin=columns["origin"][i],
                late=columns["late"][i],
            )


def values_of(column: pa.Array, kind: type[np.generic], width: int = 1) -> Any:
    """The values of a column, `width` of this kind a row, as a numpy view.

    No more is looked at than they are: how long the buffer is says whoever wrote the message, and Arrow takes any that is long enough.
    """
    rows = len(column)
    return np.frombuffer(column.buffers()[1], kind, width * rows, width * column.offset * np.dtype(kind).itemsize)


def int_column(rows: pa.RecordBatch, name: str) -> Any:
    """A timestamp column as a numpy array of int64 microseconds, without a copy."""
    return values_of(rows.column(name), np.int64)


def batch_of(samples: Iterable[Sample], header: Header = PUSHED) -> Batch:
    """The batch of these samples, in their order."""
    items = samples if isinstance(samples, list) else list(samples)

    def words(texts: list[str]) -> pa.DictionaryArray:
        return pa.array(texts, pa.utf8()).dictionary_encode()

    columns: list[Any] = [
        words([s.name for s in items]),
        words([s.type for s in items]),
        words([s.unit for s in items]),
        pa.array([s.volume for s in items], pa.float64()),
        words([s.user_id for s in items]),
        words([s.project_id for s in items]),
        words([s.resource_id for s in items]),
        pa.array([s.timestamp for s in items], pa.int64()).cast(_TIME),
        pa.array([s.measured_at for s in items], pa.int64()).cast(_TIME),
        words([s.metadata for s in items]),
        words([s.source for s in items]),
        pa.array([s.id for s in items], pa.binary(16)),
        words([s.origin for s in items]),
        pa.array([s.late for s in items], pa.bool_()),
    ]
    return Batch(pa.RecordBatch.from_arrays(columns, schema=SCHEMA), header)


EMPTY = batch_of([]).rows


def encode(batch: Batch) -> bytes:
    """The message of a batch; one with no rows (a mark) is header only."""
    head = _header_encoder.encode(batch.header)
    head += b" " * (-len(head) % 8)
    body = b""
    if len(batch):
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, SCHEMA) as writer:
            writer.write_batch(batch.rows)
        body = sink.getvalue().to_pybytes()
    return frame(head, body, len(batch))


def frame(head: bytes, body: bytes, rows: int) -> bytes:
    """A message of a header's JSON and an IPC stream."""
    hasher = xxhash.xxh64(head)
    hasher.update(body)
    return _HEAD.pack(_MAGIC, _VERSION, rows, len(head), hasher.intdigest()) + head + body


def encode_split(batch: Batch, limit: int = MAX_MESSAGE) -> list[bytes]:
    """The messages of a batch, each within `limit`: halved until it fits. A single row goes out whatever its size."""
    message = encode(batch)
    if len(message) <= limit or len(batch) <= 1:
        return [message]
    half = len(batch) // 2
    parts = (compact(batch.rows.slice(0, half)), compact(batch.rows.slice(half)))
    return [m for part in parts for m in encode_split(Batch(part, batch.header), limit)]


def compact(rows: pa.RecordBatch) -> pa.RecordBatch:
    """The same rows with dictionaries of only the values that they use."""
    columns = [
        rows.column(f.name).cast(pa.utf8()).dictionary_encode()
        if pa.types.is_dictionary(f.type)
        else rows.column(f.name)
        for f in SCHEMA
    ]
    return pa.RecordBatch.from_arrays(columns, schema=SCHEMA)


def decode(message: bytes, *, nulls: bool = False) -> Batch:
    """The batch of a message, validated in full: checksum, schema, offsets, indices, UTF-8, no nulls.

    The columns are views into `message`. Raises BatchError, whatever the bytes. `nulls`: the caller looks for nulls itself (has_nulls), once for
    many messages.
    """
    if len(message) < _HEAD.size:
        raise BatchError(f"{len(message)} bytes are no batch")
    magic, version, rows, head_length, checksum = _HEAD.unpack_from(message)
    if magic != _MAGIC:
        raise BatchError("no batch: it does not begin with NEPH")
    if version != _VERSION:
        raise BatchError(f"version {version} of the batch format is not known here (known: {_VERSION})")
    view = memoryview(message)[_HEAD.size :]
    if xxhash.xxh64_intdigest(view) != checksum:
        raise BatchError("the checksum does not match")
    try:
        header = _header_decoder.decode(view[:head_length])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BatchError(f"bad header: {error}") from None
    if not rows:
        return Batch(EMPTY, header)
    try:
        reader = pa.ipc.open_stream(pa.py_buffer(view[head_length:]))
        if not reader.schema.equals(SCHEMA):
            raise BatchError("the schema is not that of a batch of samples")
        batch = reader.read_next_batch()
        batch.validate(full=True)
    except (pa.ArrowException, OSError, StopIteration, OverflowError) as error:
        raise BatchError(f"not Arrow: {str(error)[:200]}") from None
    if batch.num_rows != rows or rows > MAX_ROWS:
        raise BatchError(f"{batch.num_rows} rows, but {rows} announced")
    if not nulls and has_nulls(batch):
        raise BatchError(HAS_NULLS)
    return Batch(batch, header)


def rows_of(message: bytes) -> int:
    """How many rows a message says that it has; 0 where it is none."""
    return int(_HEAD.unpack_from(message)[2]) if message[:4] == _MAGIC and len(message) >= _HEAD.size else 0


HAS_NULLS = "a column has nulls"


def has_nulls(rows: pa.RecordBatch) -> bool:
    """Whether a column, or a word of a dictionary, is null."""
    columns = rows.columns
    return any(c.null_count for c in columns) or any(columns[i].dictionary.null_count for i in _DICTIONARIES)


def mark(moment: int, member: str = "", generation: int = 0) -> bytes:
    """The message that says: this writer's clock has reached `moment`."""
    return encode(Batch(EMPTY, Header(mark=moment, member=member, generation=generation)))


def split_by(batch: Batch, keys: Sequence[int]) -> dict[int, Batch]:
    """Rows grouped by a number each (their partition), order kept within a group."""
    numbers = np.asarray(keys)
    out: dict[int, Batch] = {}
    for number in np.unique(numbers).tolist():
        rows = batch.rows.take(pa.array(np.flatnonzero(numbers == number)))
        out[number] = Batch(compact(rows), batch.header)
    return out
