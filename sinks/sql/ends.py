"""The ends of a resource's life: its newest sample, which says what it is, and the time of its oldest."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import numpy.typing as npt
import sqlalchemy as sa

from nephoscope.filters import EVERYTHING
from sinks.columns import Newest, newest_by_resource, newest_rows, oldest_rows
from sinks.sql.catalogue import Catalogue
from sinks.sql.found import Found, joined
from sinks.sql.plan import blocks
from sinks.sql.scan import Scan
from sinks.sql.schema import record, state
from sinks.sql.statements import Cursor, Lookup, Statement, chunks

I64 = npt.NDArray[np.int64]

_begin = Statement(sa.select(sa.func.min(record.c.span)).where(record.c.span >= sa.bindparam("base")))
_spans = Lookup(sa.select(state.c.resource, state.c.first, state.c.last), state.c.resource)


def newest(cursor: Cursor, catalogue: Catalogue, numbers: Sequence[int]) -> dict[int, Newest]:
    """Of each resource that has samples. Of several samples at one time, the last by name and id says what the resource is."""
    parts = _ends(cursor, catalogue, numbers, newest_rows, last=True)
    if not parts:
        return {}
    return newest_by_resource(joined(parts))


def oldest(cursor: Cursor, catalogue: Catalogue, numbers: Sequence[int]) -> dict[int, int]:
    """The time of the oldest sample of each resource that has samples."""
    parts = _ends(cursor, catalogue, numbers, oldest_rows, last=False)
    return {n: t for p in parts for n, t in zip(p.resource.tolist(), p.time.tolist(), strict=True)}


def _ends(
    cursor: Cursor, catalogue: Catalogue, numbers: Sequence[int], pick: Callable[[Found], Found], *, last: bool
) -> list[Found]:
    """One row for each resource that has samples."""
    bounds: dict[int, tuple[int, int]] = {}
    # Expiry does not touch a state that lives on.
    begins = ((_begin.first(cursor, base=base), base) for base in blocks(catalogue.plan))
    begin = min((span - base for span, base in begins if span is not None), default=0)
    for number, low, high in _spans.run(cursor, numbers):
        low = max(low, begin)
        known = bounds.get(number, (low, high))
        bounds[number] = min(known[0], low), max(known[1], high)
    by_span: dict[int, list[int]] = defaultdict(list)
    for number, both in bounds.items():
        by_span[both[last]].append(number)
    out: list[Found] = []
    for span, some in by_span.items():
        scan = Scan.of_resources(cursor, catalogue, some, EVERYTHING)
        out += _picked(scan.found([span]), pick)
    there = {number for part in out for number in part.resource.tolist()}
    for number in bounds.keys() - there:
        # What the states say are bounds: a sample that came second left nothing, an expired one is gone.
        scan = Scan.of_resources(cursor, catalogue, [number], EVERYTHING)
        spans = scan.spans_between(*bounds[number])
        for few in chunks(spans[::-1] if last else spans, 64):
            if part := _picked(scan.found(few), pick):
                out += part
                break
    return out


def _picked(parts: Iterable[Found], pick: Callable[[Found], Found]) -> list[Found]:
    some = list(parts)
    return [pick(joined(some))] if some else []
