"""MySQL and MariaDB, through PyMySQL: one writer at a time, as on SQLite; readers are never in its way."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import pymysql
import sqlalchemy as sa
from sqlalchemy.engine import URL

from nephoscope.errors import Problem, StoreError, Unavailable
from sinks.sql import schema
from sinks.sql.servers import InTurns
from sinks.sql.statements import Cursor, Statement

_CONNECT_TIMEOUT: Final = 10
_LOCK_WAIT: Final = 30
"""Seconds that a writer waits for another one."""
_FINAL: Final = {1264, 1406, 1366, 1153, 3988}
"""Errors that are the rows' own fault: out of range, too long, not to be kept, larger than max_allowed_packet."""
_TRANSIENT: Final = {1213, 1205}
_OLDEST: Final = {"MariaDB": (10, 5), "MySQL": (8, 0)}
"""They have recursive queries; older ones are out of their makers' care."""

_guard = Statement(sa.select(schema.about.c.value).where(schema.about.c.key == "swept").with_for_update())


def too_old(version: str) -> list[Problem]:
    """What is wrong with a server that calls itself so: 8.0.36, 10.11.6-MariaDB-log."""
    family = "MariaDB" if "mariadb" in version.lower() else "MySQL"
    found = re.search(r"(\d+)\.(\d+)\.\d+(?!.*\d+\.\d+\.\d+-MariaDB)", version)
    if found and (int(found[1]), int(found[2])) >= _OLDEST[family]:
        return []
    return [Problem(f"the server is {family} {version}", hint=f"{'.'.join(map(str, _OLDEST[family]))} or newer")]


class MySQL(InTurns):
    """A MySQL or MariaDB database."""

    dialect, driver = "mysql", "pymysql"
    guarantee = (
        "exactly once in effect: an id is stored once, the first write wins; what was written has been committed by the server, with "
        "its setting of innodb_flush_log_at_trx_commit"
    )

    def __init__(self, url: URL) -> None:
        self._url = url
        self.place = url.set(query={}).render_as_string(hide_password=True)

    def connect(self) -> Any:
        """See Backend."""
        url = self._url
        options: dict[str, Any] = {k: str(v) for k, v in url.query.items()}
        for name in ("ssl_verify_cert", "ssl_verify_identity"):
            if name in options:
                options[name] = options[name].lower() in {"1", "true", "yes"}
        return pymysql.connect(
            host=url.host or "localhost",
            port=url.port or 3306,
            user=url.username,
            password=str(url.password or ""),
            database=url.database,
            charset="utf8mb4",
            autocommit=True,
            connect_timeout=_CONNECT_TIMEOUT,
            read_timeout=600,
            write_timeout=60,
            init_command=f"SET innodb_lock_wait_timeout = {_LOCK_WAIT}, sql_mode = 'STRICT_ALL_TABLES,ANSI_QUOTES'",
            **options,
        )

    @contextmanager
    def translated(self, *, writing: bool = False) -> Iterator[None]:
        """See Backend."""
        try:
            yield
        except pymysql.Error as error:
            number = error.args[0] if error.args else 0
            text = f"{self.place}: {error.args[1] if len(error.args) > 1 else error} [{number}]"
            away = isinstance(error, pymysql.OperationalError | pymysql.InterfaceError | pymysql.InternalError)
            away = away and number not in {1044, 1045, 1049, 1142, 1143}
            if writing:
                away = number not in _FINAL
            raise (Unavailable if away else StoreError)(text) from None

    def transient(self, error: Exception) -> bool:
        """See Backend."""
        return isinstance(error, pymysql.Error) and bool(error.args) and error.args[0] in _TRANSIENT

    def begin(self, cursor: Cursor) -> None:
        """See Backend: writers take turns."""
        cursor.execute("SET TRANSACTION ISOLATION LEVEL READ COMMITTED")
        cursor.execute("BEGIN")
        _guard.run(cursor).fetchall()

    def begin_reading(self, cursor: Cursor) -> None:
        """See Backend."""
        cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        cursor.execute("START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY")

    def begin_making(self, cursor: Cursor) -> None:
        """See Backend: every statement that makes a table commits, so a lock of the connection keeps others away."""
        if cursor.execute("SELECT GET_LOCK('nephoscope', 60)").fetchone()[0] != 1:
            raise Unavailable(f"{self.place}: another process is making the tables")
        cursor.execute("BEGIN")

    def tables(self, cursor: Cursor) -> set[str]:
        """See Backend."""
        tables = "SELECT table_name FROM information_schema.tables WHERE table_schema = database()"
        indexes = "SELECT index_name FROM information_schema.statistics WHERE table_schema = database()"
        return {name for (name,) in (*cursor.execute(tables).fetchall(), *cursor.execute(indexes).fetchall())}

    def privileges(self, cursor: Cursor) -> list[Problem]:
        """See Backend: tried, since grants can be given in many ways."""
        out = [*too_old(str(cursor.execute("SELECT VERSION()").fetchone()[0]))]
        for table in schema.tables.sorted_tables:
            for what, statement in (
                (
                    "INSERT",
                    sa.insert(table).from_select([c.name for c in table.columns], sa.select(table).where(sa.false())),
                ),
                (
                    "UPDATE",
                    sa.update(table).where(sa.false()).values({list(table.columns)[-1]: list(table.columns)[-1]}),
                ),
                ("DELETE", sa.delete(table).where(sa.false())),
            ):
                try:
                    Statement(statement).run(cursor)
                except pymysql.OperationalError as error:
                    if error.args[0] != 1142:
                        raise
                    out.append(Problem(f"no privilege {what} on table {table.name}"))
        return out

    def remember(self, connection: Any) -> None:
        """See Backend."""

    def server(self) -> str:
        """See Backend."""
        connection = self.connect()
        try:
            return f"MySQL {connection.get_server_info()}"
        finally:
            connection.close()
