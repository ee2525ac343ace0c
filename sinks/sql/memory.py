"""What a store remembers from question to question: kinds, the plan, and the numbers of resources.

Each question first reads, in its own transaction, the marks by which these are known to be still true: nobody takes a number
back but the sweeps, which count `about.swept` up, and kinds are only ever added.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import sqlalchemy as sa

from nephoscope.lifetimes import Plan
from nephoscope.natural import Kind
from sinks.sql import schema
from sinks.sql.plan import KEY
from sinks.sql.statements import Cursor, Statement

_MANY: Final = 100_000
_marks = Statement(
    sa.select(
        schema.about.c.value,
        sa.select(sa.func.max(schema.kind.c.id)).scalar_subquery(),
        sa.select(schema.note.c.text).where(schema.note.c.key == KEY).scalar_subquery(),
    ).where(schema.about.c.key == "swept")
)
_kinds = Statement(sa.select(*(schema.kind.c[f] for f in ("id", *Kind._fields))).order_by(schema.kind.c.id))


class Marks(NamedTuple):
    """The sweeps of numbers so far, the newest kind, the plan as it is kept."""

    swept: int
    kind: int | None
    plan: str | None


class Known:
    """What is known under some marks. Only ever added to, since several questions may look at once; a part that is full is put away."""

    def __init__(self, marks: Marks, cursor: Cursor) -> None:
        self.marks = marks
        self.kinds: dict[int, Kind] = {number: Kind(*parts) for number, *parts in _kinds.run(cursor)}
        self.plan = Plan() if marks.plan is None else Plan.from_json(marks.plan)
        self.numbers: dict[str, int] = {}
        """Of resources."""
        self.names: dict[int, str] = {}
        """Of resources."""

    def make_room(self) -> None:
        """See that neither is too large. Whoever holds one that was put away goes on with it."""
        if len(self.numbers) > _MANY:
            self.numbers = {}
        if len(self.names) > _MANY:
            self.names = {}


class Memory:
    """The memory of a store, for any number of threads."""

    def __init__(self) -> None:
        self._known: Known | None = None

    def known(self, cursor: Cursor) -> Known:
        """What holds as of this transaction."""
        marks = Marks(*_marks.run(cursor).fetchone())
        known = self._known
        if known is None or known.marks != marks:
            fresh = Known(marks, cursor)
            if known is not None and known.marks.swept == marks.swept:
                fresh.numbers, fresh.names = known.numbers, known.names
            # A question of an older moment than others may put back what they knew: that costs a look, no more.
            self._known = known = fresh
        known.make_room()
        return known
