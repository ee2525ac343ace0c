"""`run`, as processes: it shows what it computes, stops when asked, goes on where it was, and survives a kill."""

import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections import Counter

import pytest

from nephoscope.filters import Compare
from sinks.sql import SQLStore

POLLING = "sources: [{name: host, interval: 1, meters: [compute.node.cpu.time, hardware.cpu.load.1min]}]\n"
PATIENCE = 60


@pytest.fixture
def start(tmp_path):
    """Start `nephoscope run` in an empty folder, polling every second; whatever still runs in the end is killed."""
    (tmp_path / "polling.yaml").write_text(POLLING)
    (tmp_path / "nephoscope.yaml").write_text("polling_cfg_file: polling.yaml\nstate_dir: state\nepoch_interval: 1\n")
    environment = {k: v for k, v in os.environ.items() if not k.startswith("NEPHOSCOPE_")}
    made = []

    def begin(*arguments):
        command = [sys.executable, "-m", "nephoscope.cli", "run", *arguments]
        # A process group of its own: what is left of it can be killed as a whole.
        process = subprocess.Popen(
            command,
            cwd=tmp_path,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        made.append(process)
        return process

    yield begin
    for process in made:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()


def wait_for(process, word, count=1):
    """Read its output until `count` lines with the word have come; all that was read."""
    lines: queue.Queue[str] = queue.Queue()
    threading.Thread(
        target=lambda: [lines.put(line) for line in iter(process.stdout.readline, "")], daemon=True
    ).start()
    seen = []
    end = time.monotonic() + PATIENCE
    while sum(word in line for line in seen) < count:
        try:
            seen.append(lines.get(timeout=max(0.0, end - time.monotonic())))
        except queue.Empty:
            pytest.fail(f"no {word!r} in:\n{''.join(seen)}")
    return seen


def stored(tmp_path):
    """(meter, second) of every stored sample, with how often."""
    store = SQLStore(f"sqlite:///{tmp_path}/state/samples.db")
    found = Counter((s.name, s.timestamp // 1_000_000) for s in store.each_sample(Compare("timestamp", ">", 0)))
    store.close()
    return found


def check_complete(found):
    """No sample is double; each second that was polled has its rate, but for the first, and is kept itself."""
    assert set(found.values()) == {1}
    polled = sorted(second for name, second in found if name == "compute.node.cpu.time")
    rates = sorted(second for name, second in found if name == "hardware.cpu.util")
    assert rates == polled[1:]


@pytest.mark.slow
def test_it_shows_the_utilisation_stops_on_request_and_goes_on(start, tmp_path):
    first = start()
    wait_for(first, "hardware.cpu.util", 2)
    first.send_signal(signal.SIGTERM)
    assert first.wait(PATIENCE) == 0
    before = stored(tmp_path)
    check_complete(before)

    second = start()
    # The first line is a rate already: the predecessor came from the snapshot.
    wait_for(second, "hardware.cpu.util", 2)
    second.send_signal(signal.SIGINT)
    assert second.wait(PATIENCE) == 0

    after = stored(tmp_path)
    check_complete(after)
    assert before.keys() < after.keys()


@pytest.mark.slow
def test_a_kill_loses_and_doubles_nothing(start, tmp_path):
    for _ in range(2):
        process = start()
        wait_for(process, "hardware.cpu.util", 2)
        process.kill()
        process.wait()
    last = start()
    wait_for(last, "hardware.cpu.util", 2)
    last.send_signal(signal.SIGTERM)
    assert last.wait(PATIENCE) == 0

    check_complete(stored(tmp_path))


@pytest.mark.slow
def test_two_in_one_state_folder_are_one_too_many(start):
    first = start()
    wait_for(first, "Ctrl-C")
    second = start()

    assert second.wait(PATIENCE) == 1
    assert "another nephoscope runs" in second.stdout.read()


def test_a_wrong_pipeline_is_told_before_anything_starts(start, tmp_path):
    (tmp_path / "pipeline.yaml").write_text("sources: []\nsink: []\n")

    process = start("--set", "pipeline_cfg_file=pipeline.yaml")

    assert process.wait(PATIENCE) == 78
    assert "pipeline.yaml:2: " in process.stdout.read()
