"""What differs from database to database: connections, transactions, locks, how records go in and out.

A backend holds no state of a transaction; everything is done by the cursor that it is given.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from nephoscope.errors import Problem
from sinks.sql.statements import Cursor

I64 = npt.NDArray[np.int64]


class Met(NamedTuple):
    """A record that was there already: its position among those given, and what it holds."""

    row: int
    state: int
    form: int
    fields: bytes


class Records(NamedTuple):
    """Records to write, a column each, in the order of the table."""

    span: I64
    resource: I64
    place: I64
    tie: Sequence[bytes]
    state: I64
    form: I64
    fields: Sequence[bytes]

    def take(self, at: Sequence[int]) -> Records:
        """Some of them."""
        rows = np.asarray(at, np.int64)
        return Records(
            self.span[rows], self.resource[rows], self.place[rows], [self.tie[i] for i in at],
            self.state[rows], self.form[rows], [self.fields[i] for i in at],
        )  # fmt: skip

    def rows(self) -> Iterator[tuple[Any, ...]]:
        """A tuple each."""
        columns = (c.tolist() if isinstance(c, np.ndarray) else c for c in self)
        return zip(*columns, strict=True)


class Backend(ABC):
    """One database."""

    dialect: str
    driver: str
    guarantee: str
    place: str
    """Where it is, without a secret."""
    alone = False
    """Whether nothing else may be in the same database."""
    names_limited = True
    """Whether a name may be only so long."""

    @abstractmethod
    def connect(self) -> Any:
        """A connection that commits by itself unless told to begin."""

    def cursor(self, connection: Any) -> Cursor:
        """A cursor of it."""
        return Cursor(connection.cursor(), self.dialect)

    @abstractmethod
    def translated(self, *, writing: bool = False) -> AbstractContextManager[None]:
        """The driver's errors as Unavailable or StoreError. While writing, only what is wrong with the rows themselves is final.

        A table that is missing or a damaged file is no fault of the samples: they wait until it is mended.
        """

    @abstractmethod
    def transient(self, error: Exception) -> bool:
        """Whether the same transaction may succeed when it is tried again at once (a deadlock)."""

    @abstractmethod
    def begin(self, cursor: Cursor) -> None:
        """Begin to write. From here to the end nobody removes numbers (see `sweeping`)."""

    @abstractmethod
    def begin_reading(self, cursor: Cursor) -> None:
        """Begin to read as of one moment."""

    def sweeping(self, cursor: Cursor) -> None:
        """Begin a transaction that removes numbers: no writer is under way until it ends."""
        self.begin(cursor)

    def removing(self, cursor: Cursor) -> None:
        """Begin a transaction that removes records: no other one does until it ends."""
        self.begin(cursor)

    def lock_numbers(self, cursor: Cursor) -> bool:
        """From here to the end of the transaction nobody else gives numbers. Whether others may have given some before."""
        return False

    def end(self, connection: Any, cursor: Cursor) -> None:
        """Commit."""
        cursor.execute("COMMIT")

    def undo(self, connection: Any, cursor: Cursor) -> None:
        """Roll back, where there is something to."""
        with suppress(Exception):
            cursor.execute("ROLLBACK")

    @abstractmethod
    def begin_making(self, cursor: Cursor) -> None:
        """Begin to make or change tables. Whoever comes second waits until the first has done."""

    @abstractmethod
    def tables(self, cursor: Cursor) -> set[str]:
        """The tables and indexes that there are."""

    @abstractmethod
    def privileges(self, cursor: Cursor) -> list[Problem]:
        """What we may not do, though we must."""

    @abstractmethod
    def remember(self, connection: Any) -> None:
        """A writer's connection: prepare it."""

    def ready(self, spans: I64) -> None:  # noqa: B027 - most databases have nothing to do
        """Records of these spans are about to be written."""

    @abstractmethod
    def insert_natural(self, cursor: Cursor, records: Records) -> list[Met]:
        """Insert records that are known by their keys; those that were there are told, and left."""

    @abstractmethod
    def insert_tied(self, cursor: Cursor, records: Records) -> list[int]:
        """Insert records that are known by their ties alone; returns which were not there."""

    def locked(self, cursor: Cursor, records: Records, met: list[Met]) -> list[Met]:
        """The same records, kept from others until the end."""
        return met

    @abstractmethod
    def update(self, cursor: Cursor, records: Records) -> None:
        """Give records new states, forms and fields."""

    def drop_due(self, base: int, last: int, told: Callable[[int], None]) -> None:  # noqa: B027 - see `ready`
        """Remove what lies wholly before a span of a class whose spans begin at `base`, where that is cheaper than by records."""

    @abstractmethod
    def server(self) -> str:
        """Its name and version."""


@contextmanager
def closing(connection: Any) -> Iterator[Any]:
    """The connection, closed in the end, however broken."""
    try:
        yield connection
    finally:
        with suppress(Exception):
            connection.close()
