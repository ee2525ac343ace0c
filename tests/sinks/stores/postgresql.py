"""PostgreSQL: a database for each worker of the run, emptied after each test."""

import contextlib
from contextlib import contextmanager

import psycopg

from tests.servers.postgresql import database, for_all
from tests.sinks.stores import Kind
from tests.sinks.stores.sqlite import KIND as SQLITE

_EMPTY = """
DO $$ DECLARE t text; BEGIN
  FOR t IN SELECT relname FROM pg_class WHERE relkind IN ('r', 'p') AND relnamespace = 'public'::regnamespace
           AND relname <> 'about' AND relname NOT LIKE 'record\\_p%' LOOP
    EXECUTE format('TRUNCATE %I', t);
  END LOOP;
END $$
"""


@contextmanager
def _place(run_folder):
    with for_all(run_folder) as server, database(server) as url:

        @contextmanager
        def empty():
            try:
                yield url
            finally:
                with (
                    psycopg.connect(url, autocommit=True) as connection,
                    contextlib.suppress(psycopg.errors.UndefinedTable),
                ):
                    connection.execute(_EMPTY)

        yield empty


KIND = Kind("postgresql", _place, examples=6, small_steps=SQLITE.small_steps)
