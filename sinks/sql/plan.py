"""Which samples are in which class of lifetimes: the plan that the store keeps, and the spans of a class."""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa

from nephoscope.lifetimes import Lifetimes, Plan
from sinks.sql.schema import BLOCK_BITS, note, record
from sinks.sql.statements import Cursor, Statement

KEY: Final = "plan"
"""Of the note that it is."""
_read = Statement(sa.select(note.c.text).where(note.c.key == KEY))
_removed = Statement(sa.delete(note).where(note.c.key == KEY))
_added = Statement(sa.insert(note))
_any_record = Statement(sa.select(record.c.span).limit(1))


def plan(cursor: Cursor) -> Plan:
    """The plan of this store."""
    text = _read.first(cursor)
    return Plan() if text is None else Plan.from_json(text)


def revise(cursor: Cursor, lifetimes: Lifetimes, now: int) -> None:
    """Keep the plan under these settings. In a write transaction of its own, before anything is written under them."""
    before = plan(cursor)
    after = before.revised(lifetimes, now, empty=_any_record.first(cursor) is None)
    if after != before:
        _removed.run(cursor)
        _added.run(cursor, key=KEY, text=after.to_json())


def block(number: int) -> int:
    """Where the spans of a class begin."""
    return number << BLOCK_BITS


def blocks(known: Plan) -> list[int]:
    """Where the spans of each class begin."""
    return [block(n) for n in range(len(known.names) + 1)]
