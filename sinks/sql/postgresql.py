"""PostgreSQL, through psycopg: records in partitions of a day, columns as binary arrays.

Any number of writers at once: numbers are given under a lock of their own, records are inserted in the order of their keys, and what
another writer brings at the same moment is waited for. Expiry detaches and drops whole days.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import psycopg
import sqlalchemy as sa
from psycopg.abc import Buffer
from psycopg.adapt import Dumper
from psycopg.pq import Format
from sqlalchemy.dialects import postgresql
from sqlalchemy.engine import URL

from nephoscope.errors import Problem, StoreError, Unavailable
from nephoscope.times import SECOND
from sinks.sql import schema
from sinks.sql.backend import Met, Records, closing
from sinks.sql.bulk import ARRAYS, Array, arrays, given
from sinks.sql.counting import samples_in
from sinks.sql.schema import BLOCK_BITS, IN_BLOCK, SPAN, record, tie
from sinks.sql.servers import KEY, Server, tie_columns
from sinks.sql.statements import Cursor, Statement

I64 = npt.NDArray[np.int64]

SPANS_A_PART: Final = 86_400 * SECOND // SPAN
_FILLED: Final = 95
"""Per cent of an index page that what comes in order fills. A span's later moments come between its first ones and split the pages;
with the server's 90 they are emptier in the end for all usual intervals (10, 20, 30, 60, 300, 600 s)."""
_OLDEST: Final = 140000
"""DETACH CONCURRENTLY came with 14."""
_CONNECT_TIMEOUT: Final = 10
_SWEEP, _NUMBERS, _PARTS, _DROP, _MAKE, _REMOVE = (0x4E657068 + n for n in range(6))
"""Advisory locks. Another application in the same database is unlikely to use these numbers, and would only make us wait."""
_FINAL: Final = ("22", "54")
"""Classes of SQLSTATE that are the rows' own fault: data, program limit. All else may be mended."""

_wanted = given(KEY, ordinality="row")
_same_key = sa.and_(*(c == _wanted.c[c.name] for c in KEY), record.c.tie == sa.literal_column("''::bytea"))
_found = (
    sa.select(_wanted.c.row, record.c.state, record.c.form, record.c.fields)
    .select_from(_wanted.join(record, _same_key))
    .order_by(_wanted.c.row)
)
_find, _find_locked = Statement(_found), Statement(_found.with_for_update(of=record))
_tie_added = Statement(
    postgresql.insert(tie)
    .from_select([c.name for c in tie.columns], sa.select(given(list(tie.columns))))
    .on_conflict_do_nothing()
    .returning(tie.c.tie)
)
_changed = (*KEY, record.c.state, record.c.form, record.c.fields)
_new = given(_changed)
_update = Statement(
    sa.update(record)
    .where(*(c == _new.c[c.name] for c in KEY), record.c.tie == sa.literal_column("''::bytea"))
    .values({c.name: _new.c[c.name] for c in _changed[3:]})
)
_PARTS_THERE: Final = (
    "SELECT c.relname, i.inhrelid IS NOT NULL, coalesce(i.inhdetachpending, false) FROM pg_class c"
    " LEFT JOIN pg_inherits i ON i.inhrelid = c.oid"
    " WHERE c.relnamespace = current_schema()::regnamespace AND c.relkind = 'r' AND c.relname ~ '^record_p[0-9]+$'"
)


def _dumper(kind: type[Array]) -> type[Dumper]:
    class ArrayDumper(Dumper):
        format = Format.BINARY
        oid = kind.oid

        def dump(self, obj: Array) -> Buffer | None:
            return obj.raw

    return ArrayDumper


class PostgreSQL(Server):
    """A PostgreSQL database."""

    dialect, driver = "postgresql", "psycopg"
    guarantee = (
        "exactly once in effect: an id is stored once, the first write wins; what was written has been committed by the server, with "
        "its setting of synchronous_commit"
    )

    def __init__(self, url: URL) -> None:
        self._url = url.set(drivername="postgresql").render_as_string(hide_password=False)
        self.place = url.set(query={}).render_as_string(hide_password=True)
        self._parts: set[int] = set()

    def connect(self) -> Any:
        """See Backend."""
        connection = psycopg.connect(
            self._url,
            autocommit=True,
            connect_timeout=_CONNECT_TIMEOUT,
            application_name="nephoscope",
            keepalives_idle=30,
            tcp_user_timeout=60_000,
        )
        for kind in ARRAYS:
            connection.adapters.register_dumper(kind, _dumper(kind))
        return connection

    def cursor(self, connection: Any) -> Cursor:
        """See Backend: results in the binary format."""
        return Cursor(connection.cursor(binary=True), self.dialect)

    @contextmanager
    def translated(self, *, writing: bool = False) -> Iterator[None]:
        """See Backend."""
        try:
            yield
        except psycopg.Error as error:
            state = error.sqlstate or ""
            # What the server says may quote a row; its first line does not, and a password is in none.
            text = f"PostgreSQL: {str(error).partition(chr(10))[0]}" + (f" [{state}]" if state else "")
            away = not state or state[:2] in {"08", "25", "40", "53", "55", "57", "58", "XX"}
            if writing:
                away = state[:2] not in _FINAL
            raise (Unavailable if away else StoreError)(text) from None

    def transient(self, error: Exception) -> bool:
        """See Backend. 23514: expiry dropped the day that a late record belongs to; it is made anew."""
        if not isinstance(error, psycopg.Error) or error.sqlstate not in {"40P01", "40001", "23514", "23505", "55P03"}:
            return False
        self._parts.clear()
        return True

    def begin(self, cursor: Cursor) -> None:
        """See Backend."""
        cursor.execute("BEGIN ISOLATION LEVEL READ COMMITTED")
        cursor.execute("SELECT pg_advisory_xact_lock_shared(%s)", (_SWEEP,))

    def begin_reading(self, cursor: Cursor) -> None:
        """See Backend."""
        cursor.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")

    def sweeping(self, cursor: Cursor) -> None:
        """See Backend."""
        cursor.execute("BEGIN ISOLATION LEVEL READ COMMITTED")
        cursor.execute("SELECT pg_advisory_xact_lock(%s)", (_SWEEP,))

    def removing(self, cursor: Cursor) -> None:
        """See Backend."""
        cursor.execute("BEGIN ISOLATION LEVEL READ COMMITTED")
        cursor.execute("SELECT pg_advisory_xact_lock(%s)", (_REMOVE,))

    def lock_numbers(self, cursor: Cursor) -> bool:
        """See Backend."""
        cursor.execute("SELECT pg_advisory_xact_lock(%s)", (_NUMBERS,))
        return True

    def remember(self, connection: Any) -> None:
        """See Backend."""

    # -- records

    def find(self, cursor: Cursor, records: Records, *, lock: bool) -> list[Met]:
        """See Server."""
        rows = (_find_locked if lock else _find).run(cursor, **arrays(KEY, records[:3])).fetchall()
        return [Met(row - 1, state, form, fields) for row, state, form, fields in rows]

    def new_ties(self, cursor: Cursor, records: Records) -> list[int]:
        """See Server. In the order of the ties, so that two writers wait for each other in one direction only."""
        order = sorted(range(len(records.tie)), key=lambda i: records.tie[i])
        values = tie_columns(records.take(order))
        fresh = {bytes(t) for (t,) in _tie_added.run(cursor, **arrays(list(tie.columns), values)).fetchall()}
        return [i for i, t in enumerate(records.tie) if t in fresh]

    def update(self, cursor: Cursor, records: Records) -> None:
        """See Backend."""
        _update.run(cursor, **arrays(_changed, (*records[:3], *records[4:])))

    # -- partitions

    def ready(self, spans: I64) -> None:
        """See Backend: the days that records go into must be there."""
        wanted = set(np.unique(_part_of(spans)).tolist())
        if wanted <= self._parts:
            return
        with closing(self.connect()) as connection:
            connection.execute("SELECT pg_advisory_lock(%s)", (_PARTS,))
            there = {name for name, attached, pending in connection.execute(_PARTS_THERE) if attached and not pending}
            for number in sorted(wanted - self._parts):
                if _name(number) not in there:
                    self._make(connection, number)
                self._parts.add(number)

    def _make(self, connection: Any, number: int) -> None:
        """Made apart and attached: that locks out nobody, where CREATE … PARTITION OF would lock out all."""
        low = _begin_of(number)
        name = psycopg.sql.Identifier(_name(number))
        bounds = {"name": name, "low": low, "high": min(low + SPANS_A_PART, (low | IN_BLOCK) + 1), "filled": _FILLED}
        with connection.transaction():
            for statement in (
                "DROP TABLE IF EXISTS {name}",
                (
                    "CREATE TABLE {name} (LIKE record INCLUDING ALL EXCLUDING INDEXES, CHECK (span >= {low} AND span < {high}),"
                    " PRIMARY KEY (span, resource, place, tie) WITH (fillfactor = {filled}))"
                ),
                "ALTER TABLE record ATTACH PARTITION {name} FOR VALUES FROM ({low}) TO ({high})",
            ):
                connection.execute(psycopg.sql.SQL(statement).format(**bounds))

    def drop_due(self, base: int, last: int, told: Callable[[int], None]) -> None:
        """See Backend: whole days are detached, which locks out nobody, and dropped."""
        with closing(self.connect()) as connection:
            # One at a time: a second expiry would wait for tables that are gone.
            connection.execute("SELECT pg_advisory_lock(%s)", (_DROP,))
            for name, attached, pending in sorted(connection.execute(_PARTS_THERE).fetchall()):
                number = int(name.removeprefix("record_p"))
                low = _begin_of(number)
                if low >> BLOCK_BITS != base >> BLOCK_BITS or low + SPANS_A_PART > last:
                    continue
                named = psycopg.sql.Identifier(name)
                if attached:
                    how = "FINALIZE" if pending else "CONCURRENTLY"
                    statement = "ALTER TABLE record DETACH PARTITION {name} " + how
                    connection.execute(psycopg.sql.SQL(statement).format(name=named))
                self._parts.discard(number)
                count = samples_in(Cursor(connection.cursor(), self.dialect), name)
                connection.execute(psycopg.sql.SQL("DROP TABLE {name}").format(name=named))
                told(count)

    # -- the tables and the server

    def begin_making(self, cursor: Cursor) -> None:
        """See Backend."""
        cursor.execute("BEGIN")
        cursor.execute("SELECT pg_advisory_xact_lock(%s)", (_MAKE,))

    def tables(self, cursor: Cursor) -> set[str]:
        """See Backend."""
        rows = cursor.execute("SELECT relname FROM pg_class WHERE relnamespace = current_schema()::regnamespace")
        return {name for (name,) in rows.fetchall()}

    def privileges(self, cursor: Cursor) -> list[Problem]:
        """See Backend."""
        out = []
        version = cursor.raw.connection.info.server_version
        if version < _OLDEST:
            out.append(Problem(f"the server is PostgreSQL {version // 10000}", hint=f"{_OLDEST // 10000} or newer"))
        names = sorted(schema.tables.tables)
        asked = "SELECT t, p FROM unnest(%s::text[]) t, unnest(%s::text[]) p WHERE NOT has_table_privilege(t, p)"
        lacking = cursor.execute(asked, (names, ["SELECT", "INSERT", "UPDATE", "DELETE"]))
        out += [Problem(f"no privilege {privilege} on table {table}") for table, privilege in lacking.fetchall()]
        owner, create = cursor.execute(
            "SELECT pg_has_role(relowner, 'USAGE'), has_schema_privilege(relnamespace, 'CREATE') FROM pg_class"
            " WHERE oid = 'record'::regclass"
        ).fetchone()
        if not owner:
            out.append(Problem("another user owns table record", hint="only its owner can add and drop its days"))
        if not create:
            out.append(Problem("no privilege CREATE on the schema", hint="each day is a table"))
        return out

    def server(self) -> str:
        """See Backend."""
        with closing(self.connect()) as connection:
            return f"PostgreSQL {connection.info.parameter_status('server_version')}"


def _part_of(spans: I64) -> I64:
    """The numbers of the partitions: days of a class's block."""
    return np.asarray((spans >> BLOCK_BITS) * 1_000_000 + (spans & IN_BLOCK) // SPANS_A_PART)


def _begin_of(number: int) -> int:
    return (number // 1_000_000 << BLOCK_BITS) + number % 1_000_000 * SPANS_A_PART


def _name(number: int) -> str:
    return f"record_p{number}"
