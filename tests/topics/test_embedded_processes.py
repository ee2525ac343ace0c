"""The embedded log under several processes, some of which are killed."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from nephoscope.topics import SAMPLES, Record
from nephoscope.topics.embedded import EmbeddedLog

ROOT = Path(__file__).resolve().parent.parent.parent
WRITER = """
import sys
from pathlib import Path
from nephoscope.topics import SAMPLES, Record
from nephoscope.topics.embedded import EmbeddedLog

log = EmbeddedLog(Path(sys.argv[1]), 4)
name, acknowledged = sys.argv[2], Path(sys.argv[3])
with acknowledged.open("a", buffering=1) as out:
    for i in range(int(sys.argv[4])):
        # One append of several partitions: all of it or nothing must be seen.
        records = [Record(p, f"{name}:{i}:".encode() + bytes(3000 * p)) for p in range(4)]
        log.append(SAMPLES, records)
        out.write(f"{i}\\n")
"""


def start(path, name, acknowledged, count):
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path), name, str(acknowledged), str(count)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


def read_all(path):
    log = EmbeddedLog(path, 4, create=False)
    consumer = log.consumer(SAMPLES, dict.fromkeys(range(4), 0))
    got = {p: [] for p in range(4)}
    while messages := consumer.poll():
        for m in messages:
            assert m.offset == len(got[m.partition]), "a gap"
            got[m.partition].append(b":".join(m.value.split(b":")[:2]).decode())
    consumer.close()
    log.close()
    return got


def test_killed_writers_lose_nothing_acknowledged_and_tear_nothing(tmp_path):
    path = tmp_path / "log.db"
    seeds = random.Random(7)
    for i in range(4):
        writers = [start(path, f"{i}{n}", tmp_path / f"ack.{i}{n}", 100_000) for n in "ab"]
        deadline = time.monotonic() + 20
        while not all((tmp_path / f"ack.{i}{n}").exists() for n in "ab") and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(seeds.uniform(0.02, 0.3))
        for w in writers:
            os.kill(w.pid, signal.SIGKILL)
        for w in writers:
            w.wait()

    got = read_all(path)
    assert got[0] == got[1] == got[2] == got[3], "an append was torn"
    for i in range(4):
        for n in "ab":
            mine = [int(v.split(":")[1]) for v in got[0] if v.startswith(f"{i}{n}:")]
            acknowledged = [int(line) for line in (tmp_path / f"ack.{i}{n}").read_text().split("\n")[:-1]]
            assert mine == list(range(len(mine))), "twice, or out of order"
            # The one append that was made but not told about may be there.
            assert len(acknowledged) <= len(mine) <= len(acknowledged) + 1
    assert len(got[0]) > 20


def test_a_reader_never_sees_part_of_an_append(tmp_path):
    path = tmp_path / "log.db"
    log = EmbeddedLog(path, 4)
    writers = [start(path, name, tmp_path / f"ack.{name}", 150) for name in ("x", "y", "z")]
    consumer = log.consumer(SAMPLES, dict.fromkeys(range(4), 0))
    counts = [0] * 4
    deadline = time.monotonic() + 30
    while sum(counts) < 3 * 150 * 4 and time.monotonic() < deadline:
        for m in consumer.poll(1000, timeout=0.5):
            assert m.offset == counts[m.partition]
            counts[m.partition] += 1
        assert len(set(counts)) == 1, "part of an append"
    assert [w.wait() for w in writers] == [0, 0, 0]

    assert counts == [450] * 4
    consumer.close()
    log.close()


def test_many_may_make_the_file_at_once(tmp_path):
    path = tmp_path / "new" / "log.db"
    writers = [start(path, str(n), tmp_path / f"ack.{n}", 1) for n in range(6)]
    assert [w.wait() for w in writers] == [0] * 6

    assert len(read_all(path)[0]) == 6


def test_a_record_appended_by_another_process_is_seen_at_once(tmp_path):
    path = tmp_path / "log.db"
    log = EmbeddedLog(path, 4)
    log.append(SAMPLES, [Record(0, b"a")])
    consumer = log.consumer(SAMPLES, {0: 0})
    assert len(consumer.poll()) == 1
    assert start(path, "b", tmp_path / "ack", 1).wait() == 0

    assert [m.value for m in consumer.poll()] == [b"b:0:"]
    consumer.close()
    log.close()
