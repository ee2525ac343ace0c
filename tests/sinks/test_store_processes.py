"""Several processes, and the end of one at any moment."""

import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from nephoscope.errors import Unavailable
from nephoscope.lifetimes import Lifetimes
from nephoscope.store import ListQuery
from tests.sinks.made import by_id, polled, rows, samples

ROOT = Path(__file__).resolve().parents[2]

WRITER = """
import random, sys
from nephoscope.store import Written
from nephoscope import registry
from tests.sinks.made import rows, samples

store = registry.load_for(registry.STORE, sys.argv[1])(sys.argv[1])
chance = random.Random(int(sys.argv[2]))
everything = samples()
for _ in range(int(sys.argv[3])):
    some = [s for s in everything if chance.random() < 0.6]
    chance.shuffle(some)
    for begin in range(0, len(some), 100):
        written = store.write(rows(*some[begin : begin + 100]))
        print(written.stored, flush=True)
"""


def start(url, seed, rounds):
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(WRITER), url, str(seed), str(rounds)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
    )


def test_processes_that_write_the_same_at_once_store_it_once(store, store_url):
    writers = [start(store_url, seed, 4) for seed in range(3)]
    stored = 0
    for writer in writers:
        out, _ = writer.communicate(timeout=60)
        assert writer.returncode == 0
        stored += sum(map(int, out.split()))
    rest = store.write(rows(*samples()))

    assert stored + rest.stored == len(samples())
    assert by_id(store.each_sample()) == by_id(samples())
    assert store.check() == []


def test_a_killed_writer_leaves_whole_writes_and_nothing_else(store_url, make_store):
    """What it had been told of as written is there after kill -9; the rest comes with the second attempt, once."""
    chance = random.Random(7)
    for seed in range(3):
        writer = start(store_url, seed, 1000)
        told = 0
        assert writer.stdout is not None
        for _ in range(chance.randint(1, 12)):
            told += int(writer.stdout.readline())
        time.sleep(chance.random() * 0.01)
        writer.send_signal(signal.SIGKILL)
        writer.communicate(timeout=30)
        store = make_store()
        there = list(store.each_sample())

        assert len(there) == len({s.id for s in there}) >= told
        assert by_id(there) == by_id(s for s in samples() if s.id in {t.id for t in there})
        assert store.check() == []
        if seed < 2:
            # Begin anew, so that the next one has something to store.
            store.expire(Lifetimes(samples=0), 2**61)
            assert store.resources(ListQuery()).resources == ()
        else:
            store.write(rows(*samples()))
            assert by_id(store.each_sample()) == by_id(samples())


def test_a_closed_store_says_so(store):
    store.close()

    with pytest.raises(Unavailable, match="closed"):
        store.resources(ListQuery())
    with pytest.raises(Unavailable, match="closed"):
        store.write(rows(polled()))
