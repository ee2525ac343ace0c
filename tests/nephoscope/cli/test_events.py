"""`event list` and `event types`, over a store with events."""

import json
import subprocess
import sys
from contextlib import closing

import pytest

from nephoscope.cli.events import trait_test
from nephoscope.errors import NephoscopeError
from nephoscope.event import Event, Trait
from nephoscope.lifetimes import Lifetimes
from sinks.sql import SQLStore

SECOND = 1_000_000


@pytest.fixture
def asked(tmp_path):
    url = f"sqlite:///{tmp_path}/store.db"
    traits = [(Trait("n", "int", i), Trait("state", "text", "active" if i % 2 else "error")) for i in range(4)]
    some = [
        Event(message_id=f"m{i}", event_type=f"a.{i % 2}", generated=i * SECOND, traits=t) for i, t in enumerate(traits)
    ]
    with closing(SQLStore(url, Lifetimes())) as store:
        store.write_events(some)

    def run(*arguments):
        command = [sys.executable, "-m", "nephoscope.cli", "event", *arguments, "--set", f"database.connection={url}"]
        return subprocess.run(
            [*command, "--set", f"state_dir={tmp_path}"], capture_output=True, text=True, check=False, timeout=60
        )

    return run


def test_types_and_events_newest_first(asked):
    assert asked("types").stdout == "type\na.0\na.1\n"
    done = asked("list", "--limit", "2")
    assert done.stdout.splitlines() == [
        "time\ttype\ttraits",
        "1970-01-01T00:00:03\ta.1\tn=3 state=active",
        "1970-01-01T00:00:02\ta.0\tn=2 state=error",
    ]
    assert "more than 2" in done.stderr


def test_by_type_trait_and_time(asked):
    found = asked("list", "--json", "--trait", "n>=1", "--trait", "state=active", "--end", "1970-01-01T00:00:03")
    assert [json.loads(line)["message_id"] for line in found.stdout.splitlines()] == ["m1"]
    assert json.loads(found.stdout)["traits"] == {"n": 1, "state": "active"}
    found = asked("list", "--json", "-t", "a.0", "--start", "1970-01-01T00:00:01")
    assert [json.loads(line)["message_id"] for line in found.stdout.splitlines()] == ["m2"]


def test_a_value_that_reads_as_a_number_is_one_unless_a_type_is_named():
    assert trait_test("n=7").value == 7
    assert trait_test("x<1.5").value == 1.5
    assert trait_test("serial=text::7").value == "7"
    with pytest.raises(NephoscopeError, match="NAME OP VALUE"):
        trait_test("state")
