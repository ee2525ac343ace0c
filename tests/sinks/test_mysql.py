"""What is MySQL's own: which servers are too old, and a database of an older layout."""

import pytest

from sinks.sql.mysql import too_old
from sinks.sql.schema import VERSION
from sinks.sql.statements import Cursor
from tests.sinks.made import by_id, polled, rows
from tests.sinks.stores import KINDS


@pytest.fixture(scope="module")
def kind():
    return KINDS["mariadb"]


@pytest.fixture(scope="module")
def empty_store(kind, run_folder):
    # One of this module: that of the suite is kept for the kinds that it goes through.
    with kind.place(run_folder) as empty:
        yield empty


@pytest.mark.parametrize("version", ["8.0.36", "8.4.0-debug", "10.11.6-MariaDB-0+deb12u1-log", "5.5.5-10.11.6-MariaDB"])
def test_a_server_that_is_new_enough(version):
    assert too_old(version) == []


@pytest.mark.parametrize("version", ["5.7.44-log", "10.4.32-MariaDB", "5.5.5-10.1.48-MariaDB", "unknown"])
def test_a_server_that_is_too_old_is_named(version):
    (problem,) = too_old(version)

    assert version in problem.message
    assert "or newer" in problem.hint


def test_a_database_of_layout_2_is_taken_along(store, make_store):
    samples = [polled(metadata='{"said":"%s"}' % ("often " * 50)), polled(at=60, volume=0.5)]
    store.write(rows(*samples))
    connection = store._backend.connect()
    cursor = Cursor(connection.cursor(), "mysql")
    cursor.execute("UPDATE about SET value = 2 WHERE \"key\" = 'version'")

    upgraded = make_store()

    version = cursor.execute("SELECT value FROM about WHERE \"key\" = 'version'").fetchone()
    connection.close()
    assert version == (VERSION,)
    assert by_id(upgraded.each_sample()) == by_id(samples)
    assert upgraded.write(rows(*samples)).stored == 0
