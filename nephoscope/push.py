"""The way of samples onto the topic, for whoever has samples: the REST API, UDP, the command line, tests.

Guarantee: what `push` returned for is in the log. A sample with an id of its own may be pushed again after an error: the
flow and the stores keep the first. One without gets a fresh id each time it is read.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

import msgspec

from nephoscope.batch import PUSHED, Header, encode_split, mark
from nephoscope.dead_letters import KEPT, DeadLetter, bury
from nephoscope.errors import SampleError
from nephoscope.grouping import grouped
from nephoscope.metrics import Counts
from nephoscope.sample import Sample, sample_from_dict, sample_from_json, sample_to_dict, to_json
from nephoscope.topics import SAMPLES, Log, Record

MAX_SAMPLE_BYTES = 262_144
"""The default of `max_sample_bytes`."""
_BLOCK = 65_536

Given = Sample | Mapping[str, Any] | bytes | str
"""A sample, or either of its JSON forms: parsed or as text."""


@dataclass(frozen=True, slots=True)
class Pushed:
    """What became of what was pushed: samples in the log, and how many were refused for which reason."""

    sent: int
    refused: Mapping[str, int]

    @property
    def dropped(self) -> int:
        """All that were refused."""
        return sum(self.refused.values())


def push(
    log: Log,
    samples: Iterable[Given],
    header: Header = PUSHED,
    *,
    max_sample_bytes: int = MAX_SAMPLE_BYTES,
    seen: Callable[[list[Sample]], None] | None = None,
) -> Pushed:
    """Append samples, each to the partition of its resource, in their order.

    What cannot be read, or is larger than `max_sample_bytes`, goes to the dead letters; the rest goes on, and is shown to `seen`. Raises as
    Log.append does; some blocks of 65536 samples may be in the log then.
    """
    counts = Counts("push")
    sent = 0
    refused: dict[str, int] = {}
    stream = iter(samples)
    while block := list(islice(stream, _BLOCK)):
        counts.received(len(block))
        good, letters = _sorted_out(block, max_sample_bytes)
        # The letters come first: where the second append fails and all is pushed again, a letter twice does no harm, a
        # sample twice under two ids would.
        bury(log, letters)
        for letter in letters:
            counts.dropped(1, letter.reason)
            refused[letter.reason] = refused.get(letter.reason, 0) + 1
        if seen is not None:
            seen(good)
        log.append(SAMPLES, list(records_of(good, header, log.partitions(SAMPLES))))
        counts.sent(len(good))
        sent += len(good)
    return Pushed(sent, refused)


def records_of(samples: Iterable[Sample], header: Header, partitions: int) -> Iterator[Record]:
    """The messages of samples: batches, each of one partition and below the brokers' limit."""
    items = samples if isinstance(samples, list) else list(samples)
    for number, batch in grouped(items, header, partitions):
        for message in encode_split(batch):
            yield Record(number, message)


def marks(moment: int, partitions: int, member: str = "", generation: int = 0) -> list[Record]:
    """A mark for every partition: this writer's clock has reached `moment`, and what it had for it is in the log."""
    message = mark(moment, member, generation)
    return [Record(number, message) for number in range(partitions)]


def too_large(limit: int, *texts: str) -> int:
    """The size in bytes of a sample's texts if it exceeds the limit, else 0. Raises UnicodeEncodeError for what is no text."""
    whole = "".join(texts)
    # Most are ASCII, a byte a character, and need no encoding; a lone surrogate must not pass.
    if len(whole) <= limit and whole.isascii():
        return 0
    size = sum(len(text.encode()) for text in texts)
    return size if size > limit else 0


def _sorted_out(items: Iterable[Given], limit: int) -> tuple[list[Sample], list[DeadLetter]]:
    good: list[Sample] = []
    letters: list[DeadLetter] = []
    for item in items:
        try:
            s = item if type(item) is Sample else _read(item, limit)
            size = too_large(limit, s.name, s.unit, s.resource_id, s.user_id, s.project_id, s.source, s.metadata)
            if size:
                raise SampleError("too_large", f"{size} bytes; the limit is {limit}")
            if not math.isfinite(s.volume):
                raise SampleError("volume", f"volume must be a finite number, not {s.volume}")
            good.append(s)
        except SampleError as error:
            letters.append(_letter(item, error.reason, str(error)))
        except UnicodeEncodeError as error:
            letters.append(_letter(item, "text", f"not UTF-8: {error.reason}"))
    return good, letters


def _read(item: Given, limit: int) -> Sample:
    if isinstance(item, Sample):
        return item
    if isinstance(item, Mapping):
        return sample_from_dict(item)
    # Before it is parsed: the text of a sample within the limit, escapes included, is no longer than this.
    if len(item) > 6 * limit + 4096:
        raise SampleError("too_large", f"{len(item)} bytes of JSON; the limit is {limit}")
    return sample_from_json(item)


def _letter(item: Given, reason: str, detail: str) -> DeadLetter:
    key = item.resource_id if isinstance(item, Sample) else item.get("resource_id") if isinstance(item, Mapping) else ""
    return DeadLetter(
        reason=reason, detail=detail, data=_bytes_of(item), key=key[:1000] if isinstance(key, str) else ""
    )


def _bytes_of(item: Given) -> bytes:
    if isinstance(item, bytes):
        return item
    if isinstance(item, str):
        return item.encode("utf-8", "replace")
    try:
        return to_json(sample_to_dict(item) if isinstance(item, Sample) else item)
    except (TypeError, ValueError, OverflowError, RecursionError, msgspec.MsgspecError):
        pass
    try:
        # Not even JSON: its text, of which no more than what is kept matters.
        return repr(item)[: 2 * KEPT].encode("utf-8", "replace")
    except (RecursionError, ValueError):
        return b""
