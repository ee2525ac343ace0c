"""The command line over each store: the same table from all, and `check`, which connects."""

import sys

import pytest

from nephoscope.cli import app
from tests.sinks.made import polled, rows

TABLE = [
    ["period_start", "period_end", "project_id", "count", "sum", "stddev", "cardinality", "unit"],
    ["2020-01-01T12:00:00", "2020-01-01T12:05:00", "p0", "10", "181.43", "12.163", '{"resource_id":2}', "%"],
    ["2020-01-01T12:00:00", "2020-01-01T12:05:00", "p1", "5", "90.714", "12.122", '{"resource_id":1}', "%"],
    ["2020-01-01T12:05:00", "2020-01-01T12:10:00", "p0", "10", "610", "12.163", '{"resource_id":2}', "%"],
    ["2020-01-01T12:05:00", "2020-01-01T12:10:00", "p1", "5", "305", "12.122", '{"resource_id":1}', "%"],
]


@pytest.fixture
def nephoscope(monkeypatch, capfd, tmp_path, store_url):
    """Run a command on the store: (exit status, what it printed, what it complained of)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STORE_URL", store_url)
    monkeypatch.setenv("COLUMNS", "160")

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["nephoscope", *arguments, "--set", "database.connection=${env:STORE_URL}"])
        with pytest.raises(SystemExit) as caught:
            app.main()
        sys.stdout.flush()
        return caught.value.code or 0, *capfd.readouterr()

    return run


def test_statistics_print_the_same_table_from_every_store(store, nephoscope):
    store.write(
        rows(
            *(
                polled(name, f"vm-{n}", at, volume=n + at / 7, project_id=f"p{n % 2}", unit="%")
                for name in ("cpu", "mem")
                for n in range(3)
                for at in range(0, 600, 60)
            )
        )
    )

    status, out, err = nephoscope("statistics", "-m", "cpu", "-p", "300", "-g", "project_id", "-a", "count", "-a", "sum",
                                  "-a", "stddev", "-a", "cardinality/resource_id")  # fmt: skip

    assert (status, err) == (0, "")
    assert [line.split("\t") for line in out.splitlines()] == TABLE


def test_check_connects_and_finds_nothing_wrong(nephoscope):
    status, out, err = nephoscope("check")

    assert (status, err) == (0, "")
    assert "environment: ok" in out
