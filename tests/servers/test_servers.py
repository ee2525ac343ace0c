"""What the servers' modules share: who skips and who fails, who starts and stops, and that nothing stays behind."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests import servers

SLEEP = [sys.executable, "-c", "import time; print('awake', flush=True); time.sleep(600)"]


def gone(pid, patience=10.0):
    """Whether a process ends (a zombie has)."""
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.05)
    return False


def test_what_is_missing_skips_with_its_reason_and_fails_under_ci(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="there is no java"):
        servers.java()

    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="there is no java"):
        servers.java()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(pytest.fail.Exception, match="mvn"):
        servers.jars("none", "a:b:1")


def test_a_server_that_ends_or_never_answers_fails_with_the_end_of_its_log(tmp_path):
    code = "print('no port left'); raise SystemExit(3)"
    dead = servers.Server(tmp_path, [sys.executable, "-c", code])

    def not_yet():
        raise OSError("refused")

    with pytest.raises(pytest.fail.Exception, match=r"ended with 3:\nno port left"):
        dead.start(not_yet)
    mute = servers.Server(tmp_path, SLEEP)
    with pytest.raises(pytest.fail.Exception, match="not ready after"):
        mute.start(not_yet, timeout=0.3)
    assert gone(mute.pid)


def test_the_first_starts_it_and_the_last_stops_it(tmp_path):
    started = []

    def start(folder):
        server = servers.Server(folder, SLEEP)
        server.start(lambda: server.log.read_text().index("awake"))
        started.append(server.disown())
        return started[-1], {"address": str(folder)}

    with servers.shared(tmp_path, "s", start) as first:
        with servers.shared(tmp_path, "s", start) as second:
            assert first == second
        os.kill(started[0], 0)
    assert len(started) == 1
    assert gone(started[0])

    with servers.shared(tmp_path, "s", start):
        assert len(started) == 2


def test_a_killed_test_run_leaves_no_server(tmp_path):
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom tests.servers import Server\n"
        f"server = Server(Path({str(tmp_path)!r}), {SLEEP!r})\n"
        "server.start(lambda: server.log.read_text().index('awake'))\nprint(server.pid, flush=True)\ntime.sleep(600)\n"
    )
    root = Path(__file__).resolve().parent.parent.parent
    environment = {k: v for k, v in os.environ.items() if k != "PYTEST_XDIST_WORKER"} | {"PYTHONPATH": str(root)}
    run = subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True)
    pid = int(run.stdout.readline())
    run.send_signal(signal.SIGKILL)
    run.wait()
    run.stdout.close()

    assert gone(pid)
