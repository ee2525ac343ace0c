"""`run --kafka`, as processes: the whole of `run`, through a real broker."""

import os
import signal
import sqlite3
import subprocess
import sys
import time
import uuid

import pytest

from nephoscope.filters import Compare
from nephoscope.topics import SAMPLES
from nephoscope.topics.kafka import KafkaLog, Options
from sinks.sql import SQLStore

POLLING = "sources: [{name: host, interval: 1, meters: [compute.node.cpu.time]}]\n"


def stored(path):
    if not path.exists():
        return []
    store = SQLStore(f"sqlite:///{path}")
    try:
        return [(s.name, s.timestamp) for s in store.each_sample(Compare("timestamp", ">", 0))]
    except sqlite3.Error:
        return []
    finally:
        store.close()


@pytest.mark.slow
def test_it_polls_computes_and_stores_through_a_broker_and_survives_a_kill(kafka, tmp_path):
    prefix = f"{uuid.uuid4()}."
    (tmp_path / "polling.yaml").write_text(POLLING)
    (tmp_path / "nephoscope.yaml").write_text(
        "polling_cfg_file: polling.yaml\nstate_dir: state\nepoch_interval: 1\npartitions: 8\n"
        f"log: {{kafka: {{topic_prefix: '{prefix}'}}}}\n"
    )
    command = [sys.executable, "-m", "nephoscope.cli", "run", "--quiet", "--kafka", kafka]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("NEPHOSCOPE_")}
    found = []
    for last in (False, True):
        seen = len(found)
        process = subprocess.Popen(
            command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True
        )
        deadline = time.monotonic() + 30
        try:
            while sum(name == "hardware.cpu.util" for name, _ in found[seen:]) < 2:
                assert time.monotonic() < deadline
                assert process.poll() is None
                time.sleep(0.3)
                found = sorted(stored(tmp_path / "state" / "samples.db"), key=lambda s: s[1])
            process.send_signal(signal.SIGTERM if last else signal.SIGKILL)
            status = process.wait(30)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            told = process.stderr.read()
            process.stderr.close()
        assert status == (0 if last else -signal.SIGKILL), told

    found = stored(tmp_path / "state" / "samples.db")
    assert len(found) == len(set(found)), "a sample twice"
    polled = sorted(moment for name, moment in found if name == "compute.node.cpu.time")
    assert sorted(moment for name, moment in found if name == "hardware.cpu.util") == polled[1:]
    log = KafkaLog(kafka, 8, Options(prefix=prefix))
    assert sum(log.end(SAMPLES)) > 0
    log.close()
    assert not (tmp_path / "state" / "log.db").exists()
