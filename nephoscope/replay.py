"""Dead letters, sent on their way again: what is a sample or a whole batch by now.

A letter holds one of these: a whole message of a topic; a sample in either JSON form; a row of a batch, as the flow writes it down. What the
*store* refused goes to the store again, since the flow is done with it; all else goes onto `telemetry.samples`.

Guarantee: at least once, and once in effect: the ids are those that the samples had, or follow from the letter's place, so what is
replayed twice is one sample in every store.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from nephoscope import identity, times
from nephoscope.batch import PUSHED, Batch, decode
from nephoscope.dead_letters import Buried
from nephoscope.errors import BatchError, SampleError
from nephoscope.push import MAX_SAMPLE_BYTES, records_of, too_large
from nephoscope.sample import Sample, check_time, sample_from_dict
from nephoscope.times import SECOND
from nephoscope.topics import SAMPLES, Record

STORE_REFUSED = "store_refused"
_MAGIC = b"NEPH"


@dataclass(frozen=True, slots=True)
class Revived:
    """What can be sent again, or `problem`: why not. `batch` is a whole message; a `sample` stands alone."""

    letter: Buried
    sample: Sample | None = None
    batch: Batch | None = None
    problem: str = ""

    @property
    def for_store(self) -> bool:
        """Whether it goes to the store, and not through the flow again."""
        return self.letter.reason == STORE_REFUSED

    @property
    def samples(self) -> int:
        """How many samples it holds."""
        return len(self.batch) if self.batch is not None else int(self.sample is not None)


def revive(letter: Buried, *, max_sample_bytes: int = MAX_SAMPLE_BYTES, max_future: float = 86400.0) -> Revived:
    """What a letter holds, if it can be used now: what would be refused again stays where it is."""
    if letter.truncated:
        return Revived(letter, problem=f"truncated: {len(letter.data)} of {letter.size} bytes are kept")
    if letter.data.startswith(_MAGIC):
        try:
            return Revived(letter, batch=decode(letter.data))
        except BatchError as error:
            return Revived(letter, problem=f"still no batch: {error}")
    try:
        sample = _sample(letter)
        size = too_large(
            max_sample_bytes,
            sample.name, sample.unit, sample.resource_id, sample.user_id, sample.project_id, sample.source, sample.metadata,
        )  # fmt: skip
        if size:
            raise SampleError("too_large", f"{size} bytes; the limit is {max_sample_bytes} (max_sample_bytes)")
        if sample.timestamp > times.now() + round(max_future * SECOND):
            raise SampleError("timestamp", f"more than {max_future:g} s in the future (max_future)")
    except SampleError as error:
        return Revived(letter, problem=f"still no sample: {error}")
    except UnicodeEncodeError as error:
        return Revived(letter, problem=f"still no sample: not UTF-8: {error.reason}")
    return Revived(letter, sample=sample)


def records(revived: Revived, partitions: int) -> list[Record]:
    """The messages that put it onto `telemetry.samples` again."""
    if revived.batch is not None:
        origin = revived.letter.origin
        if origin is not None and origin.topic == SAMPLES and 0 <= origin.partition < partitions:
            return [Record(origin.partition, revived.letter.data)]
        return list(records_of(revived.batch.samples(), revived.batch.header, partitions))
    if revived.sample is not None:
        return list(records_of([revived.sample], PUSHED, partitions))
    return []


def _sample(letter: Buried) -> Sample:
    try:
        message = msgspec.json.decode(letter.data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise SampleError("json", f"neither a batch nor JSON: {error}") from None
    if isinstance(message, dict) and isinstance(message.get("timestamp"), int):
        return _of_row(message)
    sample = sample_from_dict(message)
    if not message.get("message_id" if "counter_name" in message else "id"):
        # A fresh id would be another one with each replay.
        sample = msgspec.structs.replace(
            sample, id=identity.parse_id(f"dead letter {letter.name} {letter.time} {letter.size}")
        )
    origin = message.get("origin")
    return msgspec.structs.replace(sample, origin=origin) if isinstance(origin, str) else sample


def _of_row(row: Mapping[str, Any]) -> Sample:
    """The sample of a batch's row: times are numbers, the metadata is text, the id is hexadecimal."""
    try:
        sample = msgspec.convert(
            {**row, "metadata": row["resource_metadata"], "id": bytes.fromhex(row["id"])},
            Sample,
            builtin_types=(bytes,),
        )
        metadata = sample.resource_metadata
    except (KeyError, TypeError, ValueError, msgspec.MsgspecError) as error:
        raise SampleError("row", str(error)) from None
    if not isinstance(metadata, dict):
        raise SampleError("metadata", "resource_metadata must be an object")
    if not (math.isfinite(sample.volume) and sample.name and sample.resource_id and len(sample.id) == 16):
        raise SampleError("row", "name, resource_id, a finite volume and an id of 16 bytes are needed")
    if sample.type not in {"gauge", "delta", "cumulative"}:
        raise SampleError("type", f"type must be gauge, delta or cumulative, not {sample.type[:40]!r}")
    check_time(sample.timestamp)
    return sample


__all__ = ["STORE_REFUSED", "Revived", "records", "revive"]
