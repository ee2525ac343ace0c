"""MariaDB: a database for each worker of the run, emptied after each test."""

from contextlib import contextmanager

import pymysql

from tests.servers.mariadb import USER, database, for_all
from tests.sinks.stores import Kind
from tests.sinks.stores.sqlite import KIND as SQLITE


@contextmanager
def _place(run_folder):
    with for_all(run_folder) as server, database(server) as url:

        @contextmanager
        def empty():
            try:
                yield url
            finally:
                _empty(url)

        yield empty


def _empty(url):
    address, _, name = url.partition("@")[2].partition("/")
    port = int(address.partition(":")[2])
    with pymysql.connect(host="127.0.0.1", port=port, user=USER, database=name, autocommit=True) as connection:
        cursor = connection.cursor()
        cursor.execute("SELECT table_name FROM information_schema.tables WHERE table_schema = database()")
        for (table,) in cursor.fetchall():
            if table != "about":
                cursor.execute(f"DELETE FROM `{table}`")


KIND = Kind("mariadb", _place, examples=3, small_steps=SQLITE.small_steps)
