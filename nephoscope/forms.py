"""The forms in which others get samples: messages of JSON, made of whole columns.

The structs say what each form looks like (the AsyncAPI document is made of them); `lines` writes the same bytes as encoding a struct for each row would, some
twenty times as fast, by joining columns of fragments.

`json`         Nephoscope's own (nephoscope.sample); of what is unknown, users and projects are null, the rest is left out
`cloudevents`  CloudEvents 1.0, JSON event format, the own form as data
`ceilometer`   Ceilometer's metering message, signed where there is a secret (then row by row)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal
from urllib.parse import quote

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nephoscope.batch import Batch, int_column
from nephoscope.identity import format_id
from nephoscope.natural import codes, stored_ids
from nephoscope.sample import Sample, sample_to_ceilometer, to_json
from nephoscope.times import NEVER, SECOND, format_time

JSON, CLOUDEVENTS, CEILOMETER = "json", "cloudevents", "ceilometer"
FORMS = (JSON, CLOUDEVENTS, CEILOMETER)
EVENT_TYPE = "nephoscope.sample.v1"
_encode = msgspec.json.Encoder().encode
_HEX = np.frombuffer(bytes(range(256)).hex().encode(), np.uint16)
_THOUSAND = np.frombuffer("".join(f"{i:03d}" for i in range(1000)).encode(), np.uint8).reshape(1000, 3)


class SampleForm(msgspec.Struct, omit_defaults=True, kw_only=True):
    """A sample. Times are UTC, ISO 8601 without a zone."""

    id: str
    name: str
    type: Literal["gauge", "delta", "cumulative"]
    unit: str
    volume: float
    user_id: str | None
    project_id: str | None
    resource_id: str
    timestamp: str
    resource_metadata: dict[str, Any]
    source: str
    measured_at: str | msgspec.UnsetType = msgspec.UNSET
    late: bool = False
    origin: str = ""


class CloudEventForm(msgspec.Struct, kw_only=True):
    """A sample as a CloudEvent. (source, id) is unique; partitionkey and subject are the resource."""

    specversion: Literal["1.0"] = "1.0"
    id: str
    source: str
    type: Literal["nephoscope.sample.v1"] = EVENT_TYPE  # type: ignore[assignment]
    subject: str
    time: str
    datacontenttype: Literal["application/json"] = "application/json"
    partitionkey: str
    data: SampleForm


class MeteringForm(msgspec.Struct, kw_only=True):
    """A sample as Ceilometer's metering message. message_signature: HMAC-SHA256 with telemetry_secret, '' without one."""

    source: str
    counter_name: str
    counter_type: Literal["gauge", "delta", "cumulative"]
    counter_unit: str
    counter_volume: float
    user_id: str | None
    project_id: str | None
    resource_id: str
    timestamp: str
    resource_metadata: dict[str, Any]
    message_id: str
    message_signature: str = ""


STRUCTS: dict[str, type[msgspec.Struct]] = {JSON: SampleForm, CLOUDEVENTS: CloudEventForm, CEILOMETER: MeteringForm}


def form_of(sample: Sample, form: str = JSON) -> msgspec.Struct:
    """One sample in a form, unsigned."""
    about: dict[str, Any] = {
        "user_id": sample.user_id or None,
        "project_id": sample.project_id or None,
        "resource_id": sample.resource_id,
        "timestamp": format_time(sample.timestamp),
        "resource_metadata": msgspec.Raw(sample.metadata.encode()),
        "source": sample.source,
    }
    kind: Any = sample.type
    if form == CEILOMETER:
        return MeteringForm(
            counter_name=sample.name,
            counter_type=kind,
            counter_unit=sample.unit,
            counter_volume=sample.volume,
            message_id=format_id(sample.id),
            **about,
        )
    own = SampleForm(
        id=format_id(sample.id),
        name=sample.name,
        type=kind,
        unit=sample.unit,
        volume=sample.volume,
        measured_at=msgspec.UNSET if sample.measured_at == NEVER else format_time(sample.measured_at),
        late=sample.late,
        origin=sample.origin,
        **about,
    )
    if form == JSON:
        return own
    return CloudEventForm(
        id=own.id,
        source=_source_uri(sample.source),
        subject=sample.resource_id,
        time=own.timestamp + "Z",
        partitionkey=sample.resource_id,
        data=own,
    )


def lines(rows: pa.RecordBatch, form: str = JSON, *, secret: str = "", end: bytes = b"") -> list[bytes]:
    """A message for each row of a batch, in order, each followed by `end`."""
    if form == CEILOMETER and secret:
        return [to_json(sample_to_ceilometer(sample, secret)) + end for sample in Batch(rows).samples()]
    if not rows.num_rows:
        return []
    columns = _own(rows) if form != CEILOMETER else _metering(rows)
    if form == CLOUDEVENTS:
        columns = [*_event(rows), *columns, b"}"]
    columns.append(end)
    joined = pc.binary_join_element_wise(*_merged(columns), pa.scalar(b"", pa.binary()))
    out: list[bytes] = joined.to_pylist()
    return out


def ids(rows: pa.RecordBatch) -> list[bytes]:
    """The ids of the rows as text."""
    raw = _id_text(rows, b"", b"")
    width = raw.shape[1]
    whole = raw.tobytes()
    return [whole[i : i + width] for i in range(0, len(whole), width)]


def _own(rows: pa.RecordBatch) -> list[Any]:
    return [
        _fixed(_id_text(rows, b'{"id":"', b'"')),
        _words(rows, "name", b',"name":'),
        _words(rows, "type", b',"type":'),
        _words(rows, "unit", b',"unit":'),
        b',"volume":',
        _volumes(rows),
        *_about(rows),
        _words(rows, "source", b',"source":'),
        _measured(rows),
        _late(rows),
        _words(rows, "origin", b',"origin":', empty=b""),
        b"}",
    ]


def _metering(rows: pa.RecordBatch) -> list[Any]:
    return [
        _words(rows, "source", b'{"source":'),
        _words(rows, "name", b',"counter_name":'),
        _words(rows, "type", b',"counter_type":'),
        _words(rows, "unit", b',"counter_unit":'),
        b',"counter_volume":',
        _volumes(rows),
        *_about(rows),
        _fixed(_id_text(rows, b',"message_id":"', b'"')),
        b',"message_signature":""}',
    ]


def _about(rows: pa.RecordBatch) -> list[Any]:
    return [
        _words(rows, "user_id", b',"user_id":', empty=b',"user_id":null'),
        _words(rows, "project_id", b',"project_id":', empty=b',"project_id":null'),
        _words(rows, "resource_id", b',"resource_id":'),
        _moments(rows, "timestamp", b',"timestamp":"', b'"'),
        _words(rows, "resource_metadata", b',"resource_metadata":', form=str.encode),
    ]


def _event(rows: pa.RecordBatch) -> list[Any]:
    return [
        _fixed(_id_text(rows, b'{"specversion":"1.0","id":"', b'"')),
        _words(rows, "source", b',"source":', form=lambda text: _encode(_source_uri(text))),
        _words(rows, "resource_id", b',"type":"' + EVENT_TYPE.encode() + b'","subject":'),
        _moments(rows, "timestamp", b',"time":"', b'Z"'),
        _words(rows, "resource_id", b',"datacontenttype":"application/json","partitionkey":'),
        b',"data":',
    ]


def _source_uri(source: str) -> str:
    """CloudEvents wants a URI reference."""
    return f"/{quote(source, safe='')}"


def _merged(columns: list[Any]) -> list[Any]:
    """Neighbouring constants as one scalar."""
    out: list[Any] = []
    text = b""
    for column in [*columns, None]:
        if isinstance(column, bytes):
            text += column
            continue
        if text:
            out.append(pa.scalar(text, pa.binary()))
            text = b""
        if column is not None:
            out.append(column)
    return out


def _words(
    rows: pa.RecordBatch,
    name: str,
    before: bytes,
    *,
    empty: bytes | None = None,
    form: Callable[[str], bytes] = _encode,
) -> pa.Array:
    """A column of text, each distinct value formed once, with `before`. `empty`: what stands for an empty one."""
    indices: Any = codes(rows, name)
    dictionary = rows.column(name).dictionary
    if len(dictionary) > 2 * len(indices):
        dictionary = dictionary.take(pa.array(used := np.unique(indices)))
        indices = np.searchsorted(used, indices)
    fragments = [empty if empty is not None and not text else before + form(text) for text in dictionary.to_pylist()]
    return _taken(fragments, indices)


def _volumes(rows: pa.RecordBatch) -> pa.Array:
    return pa.array(_encode(rows.column("volume").to_pylist())[1:-1].split(b","), pa.binary())


def _late(rows: pa.RecordBatch) -> pa.Array:
    late = rows.column("late")
    if not late.true_count:
        return b""
    return pc.if_else(late, pa.scalar(b',"late":true', pa.binary()), pa.scalar(b"", pa.binary()))


def _measured(rows: pa.RecordBatch) -> Any:
    return _moments(rows, "measured_at", b',"measured_at":"', b'"')


def _moments(rows: pa.RecordBatch, name: str, before: bytes, after: bytes) -> Any:
    """Times as nephoscope.times.format_time has them; nothing at all for NEVER."""
    values = int_column(rows, name)
    seconds = pa.array(values // SECOND).dictionary_encode()
    micros = values % SECOND
    texts = np.datetime_as_string(seconds.dictionary.to_numpy().view("M8[s]")).astype("S19")
    unknown = values == NEVER
    if not micros[~unknown].any():
        firsts = [second == NEVER // SECOND for second in seconds.dictionary.to_pylist()]
        fragments = [b"" if no else before + text + after for text, no in zip(texts.tolist(), firsts, strict=True)]
        return _taken(fragments, seconds.indices)
    out = _grid(len(values), before + b" " * 19 + b".000000" + after)
    start = len(before)
    out[:, start : start + 19] = texts.view(np.uint8).reshape(-1, 19)[seconds.indices.to_numpy()]
    out[:, start + 20 : start + 23] = _THOUSAND[micros // 1000]
    out[:, start + 23 : start + 26] = _THOUSAND[micros % 1000]
    found = _fixed(out)
    even = micros == 0
    if not even.any() and not unknown.any():
        return found
    # Some have no fraction, or are not known at all.
    whole = _fixed(np.ascontiguousarray(np.delete(out, np.s_[start + 19 : start + 26], axis=1)))
    nothing = pa.scalar(b"", pa.binary())
    return pc.if_else(pa.array(unknown), nothing, pc.if_else(pa.array(even), whole, found))


def _id_text(rows: pa.RecordBatch, before: bytes, after: bytes) -> Any:
    """(n, width) bytes: ids in the form of a uuid between two constants."""
    digits = _HEX[stored_ids(rows)].view(np.uint8)
    out = _grid(len(digits), before + b"00000000-0000-0000-0000-000000000000" + after)
    at, start = 0, len(before)
    for place, length in ((0, 8), (9, 4), (14, 4), (19, 4), (24, 12)):
        out[:, start + place : start + place + length] = digits[:, at : at + length]
        at += length
    return out


def _grid(n: int, row: bytes) -> Any:
    """(n, width) bytes: this row n times."""
    return np.tile(np.frombuffer(row, np.uint8), (n, 1))


def _taken(fragments: list[bytes], indices: Any) -> Any:
    if len(fragments) == 1:
        return fragments[0]
    return pa.array(fragments, pa.binary()).take(pa.array(indices))


def _fixed(texts: Any) -> pa.Array:
    """A column of binary of texts of one width."""
    n, width = texts.shape
    offsets = np.arange(n + 1, dtype=np.int32) * np.int32(width)
    return pa.Array.from_buffers(pa.binary(), n, [None, pa.py_buffer(offsets), pa.py_buffer(texts)])
