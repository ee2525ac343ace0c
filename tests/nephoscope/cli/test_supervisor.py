"""Children live and die together."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nephoscope.cli import supervisor
from nephoscope.cli.supervisor import Child, Supervisor

LOYAL = "import time; from nephoscope.cli.supervisor import die_with_parent; die_with_parent(); time.sleep(60)"
SLEEPER = [sys.executable, "-c", "import time; time.sleep(60)"]


@pytest.fixture
def supervise():
    """Supervisors that leave nothing behind."""
    made = []

    def make(*commands):
        said = []
        made.append(Supervisor([Child(f"child {i}", c) for i, c in enumerate(commands)], said.append))
        made[-1].start()
        return made[-1], said

    yield make
    for one in made:
        one.stop()


def until(condition, seconds=10):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


def test_stop_ends_every_child(supervise):
    one, _ = supervise(SLEEPER, SLEEPER)

    one.stop()

    assert [c.process.returncode for c in one.children] == [-signal.SIGTERM] * 2


def test_a_child_that_does_not_listen_is_killed(supervise, monkeypatch):
    monkeypatch.setattr(supervisor, "_GRACE", 0.1)
    deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(60)"
    one, said = supervise([sys.executable, "-c", deaf])
    time.sleep(0.5)

    one.stop()

    assert one.children[0].process.returncode == -signal.SIGKILL
    assert "killed" in said[0]


def test_a_child_that_fails_is_started_again_after_a_pause_that_doubles(supervise, tmp_path):
    log = tmp_path / "starts"
    one, said = supervise([sys.executable, "-c", f"open({str(log)!r}, 'a').write('x'); raise SystemExit(3)"])

    until(lambda: one.watch() is None and log.exists() and len(log.read_text()) >= 2)

    assert "exit status 3" in said[0]
    assert "0.5 s" in said[0]
    until(lambda: one.watch() is None and len(said) >= 2)
    assert "1 s" in said[1]


def test_what_a_child_says_is_passed_on(supervise):
    one, said = supervise(
        [sys.executable, "-c", "import sys, time; print('hello', file=sys.stderr, flush=True); time.sleep(60)"]
    )

    until(lambda: one.watch() is None and said == ["child 0: hello"])


def test_one_for_all(supervise, monkeypatch):
    """The end of one ends the others, and all are started again, once and together."""
    monkeypatch.setattr(supervisor, "_LAST_WORDS", 0.1)
    one, said = supervise(SLEEPER, SLEEPER)
    one.one_for_all = True
    renewed = []
    one.renew = lambda: renewed.append([c.process for c in one.children])
    first = [c.process for c in one.children]

    first[1].kill()
    until(lambda: one.watch() is None and all(c.process not in (None, *first) for c in one.children))

    assert first[0].returncode == -signal.SIGKILL
    assert renewed == [[None, None]]
    assert said == ["child 1 ended (killed by SIGKILL); starting all 2 again in 0.5 s"]
    assert [c.process.poll() for c in one.children] == [None, None]


def test_what_will_never_work_ends_one_for_all_whoever_says_it(supervise):
    """The peers of one that refuses end as well, and say less."""
    one, _ = supervise(
        [sys.executable, "-c", "raise SystemExit(1)"],
        [sys.executable, "-c", f"import time; time.sleep(0.3); raise SystemExit({supervisor.EX_FINAL})"],
    )
    one.one_for_all = True

    until(lambda: one.watch() == supervisor.EX_FINAL)


def test_a_wrong_configuration_ends_it_all(supervise):
    one, _ = supervise([sys.executable, "-c", "raise SystemExit(78)"], SLEEPER)

    until(lambda: one.watch() == 78)


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's help is Linux's")
def test_children_die_with_a_parent_that_is_killed(tmp_path):
    file = tmp_path / "pid"
    code = (
        "import sys, time\nfrom nephoscope.cli.supervisor import Child, Supervisor\n"
        f"s = Supervisor([Child('c', {[sys.executable, '-c', LOYAL]!r})], print); s.start()\n"
        f"open({str(file)!r}, 'w').write(str(s.children[0].process.pid)); time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code])
    until(lambda: file.exists() and file.read_text())
    child = int(file.read_text())
    time.sleep(1)  # It has told the kernel by then.

    parent.kill()
    parent.wait()

    def gone():
        try:
            os.kill(child, 0)
        except ProcessLookupError:
            return True
        # An orphan may stay a zombie where nobody reaps.
        return Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0] == "Z"

    until(gone)
