"""Whose a recovery store is, that there is no half of one, and what is said when its disk is full. With processes: locks are the kernel's."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from functools import partial

import pytest

from flows import recovery
from flows.engine import RECOVERY_PARTITIONS, PositionedSink, _First, _Outlet
from flows.engine import recovery as make
from flows.pipeline import _command_line
from nephoscope.batch import batch_of
from nephoscope.errors import NephoscopeError, Unavailable
from tests.disk import small_disk, why_not
from tests.flows.made import sample

HOLDER = """
import sys, time
from pathlib import Path
from flows import engine, recovery
from nephoscope.errors import NephoscopeError
folder = Path(sys.argv[1])
recovery._GRACE = float(sys.argv[4])
try:
    recovery.hold(folder, sys.argv[2], int(sys.argv[3]), lambda: engine.recovery(folder))
except NephoscopeError as error:
    print(error, flush=True)
else:
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """Start a process that wants the store as (execution, process) and say what became of it."""
    made = []

    def begin(execution, process_id=0, grace=0.1):
        process = subprocess.Popen(
            [
                sys.executable,
                "-c",
                textwrap.dedent(HOLDER),
                str(tmp_path / "r"),
                execution,
                str(process_id),
                str(grace),
            ],
            stdout=subprocess.PIPE,
            text=True,
        )
        made.append(process)
        return process

    yield begin
    for process in made:
        process.kill()
        process.wait()
        process.stdout.close()


def said(process):
    return process.stdout.readline().strip()


def test_another_execution_is_refused_and_told_who_has_it(holder, tmp_path):
    one = holder("a")
    assert said(one) == "held"

    assert (
        said(holder("b"))
        == f"another flow (process {one.pid}) runs on the recovery store {tmp_path / 'r'}: stop it first"
    )


def test_processes_of_one_execution_share_it_and_each_is_there_once(holder):
    processes = [holder("a", number) for number in range(3)]

    assert [said(p) for p in processes] == ["held"] * 3
    assert f"process {processes[1].pid}" in said(holder("a", 1))
    assert "another flow" in said(holder("b", 3))


def test_a_paused_process_of_a_cluster_keeps_others_out_though_its_number_is_no_longer_in_use(holder):
    first, last = holder("a", 0), holder("a", 2)
    assert {said(first), said(last)} == {"held"}
    first.kill()
    first.wait()
    os.kill(last.pid, signal.SIGSTOP)

    assert f"process {last.pid}" in said(holder("b", 0))

    last.kill()
    last.wait()
    assert said(holder("b", 0)) == "held"


def test_one_that_is_just_going_is_waited_for(holder):
    one = holder("a")
    assert said(one) == "held"
    other = holder("b", grace=30)
    time.sleep(0.5)

    one.kill()

    assert said(other) == "held"


def test_many_processes_make_one_store(holder, tmp_path):
    processes = [holder("a", number, 5) for number in range(4)]

    assert [said(p) for p in processes] == ["held"] * 4
    assert len(list((tmp_path / "r").glob("part-*.sqlite3"))) == RECOVERY_PARTITIONS
    assert (tmp_path / "r").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("moment", ["init_db_dir", "rename"])
def test_what_was_half_made_is_made_anew(tmp_path, monkeypatch, moment):
    def dies(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        if moment == "rename":
            patch.setattr("pathlib.Path.rename", dies)
        else:
            patch.setattr("flows.engine.init_db_dir", lambda folder, _: (folder / "part-0.sqlite3").touch() or dies())
        with pytest.raises(KeyboardInterrupt):
            make(tmp_path / "r")
    assert not list((tmp_path / "r").glob("part-*"))

    make(tmp_path / "r")

    parts = sorted((tmp_path / "r").glob("part-*.sqlite3"))
    assert len(parts) == RECOVERY_PARTITIONS
    assert all(p.stat().st_size for p in parts)
    assert sorted(p.name for p in (tmp_path / "r").iterdir()) == [p.name for p in parts]


def test_a_file_is_gone_back_to_its_beginning_until_there_is_a_snapshot(tmp_path):
    """Whoever is killed before the first snapshot begins anew, and so must the file; what somebody else wrote before stays."""
    from sinks.file import FilePublisher

    path = tmp_path / "out.jsonl"
    one, other = ([[batch_of([sample("cpu", at=n)]).rows]] for n in (0, 60))
    path.write_text("somebody else's\n")
    url = f"file://{path}"

    def start(resume=None):
        sink = PositionedSink([url], FilePublisher, partial(recovery.beginning, tmp_path))
        return sink.build_part("step", url, resume)

    first = start()
    first.write_batch(one)
    written = path.read_bytes()
    assert written.count(b"\n") == 2
    # Killed: no close.
    second = start()
    assert path.read_bytes() == b"somebody else's\n"
    second.write_batch(one)
    position = second.snapshot()
    second.write_batch(other)

    start(position)

    assert path.read_bytes() == written


@pytest.mark.skipif(bool(why_not()), reason=why_not() or "-")
def test_a_full_disk_is_said_at_once_and_not_found_out_by_the_engine(tmp_path):
    with small_disk(tmp_path / "r", 900) as disk:
        with pytest.raises(Unavailable, match="cannot be written: No space left on device"):
            recovery.see_room(tmp_path / "r")
        assert list((tmp_path / "r").iterdir()) == []

        disk.resize(2000)
        recovery.see_room(tmp_path / "r")
        disk.fill()

        with pytest.raises(Unavailable, match="No space left"), recovery.explained(tmp_path / "r", together=False):
            raise RuntimeError('SqliteFailure(…, Some("disk I/O error"))')


def test_what_the_engine_says_of_its_store_is_told_in_words(tmp_path):
    with (
        pytest.raises(Unavailable, match="cannot be used: disk I/O error"),
        recovery.explained(tmp_path, together=False),
    ):
        raise RuntimeError('(src/run.rs) SqliteFailure(Error { … }, Some("disk I/O error"))')
    with pytest.raises(RuntimeError, match="else"), recovery.explained(tmp_path, together=True):
        raise RuntimeError("something else")


def test_a_panic_in_a_cluster_is_the_end_of_another_process(tmp_path):
    class PanicException(BaseException):
        pass

    with pytest.raises(Unavailable, match="another process"), recovery.explained(tmp_path, together=True):
        raise PanicException
    with pytest.raises(PanicException), recovery.explained(tmp_path, together=False):
        raise PanicException


def test_the_first_error_of_our_own_is_kept(monkeypatch):
    first = _First()
    monkeypatch.setattr("flows.engine._first", first)

    class Failing:
        def take(self, _):
            raise NephoscopeError("broken")

    with pytest.raises(NephoscopeError):
        _Outlet(Failing()).write_batch([])
    assert str(first.error) == "broken"


@pytest.mark.parametrize(
    "arguments,environment,expected",
    [
        (["x:flow", "-r", "f", "-i", "1", "-a", "h:1;h:2"], {}, ("f", 1, "h:1;h:2")),
        (["x:flow", "-rf", "-i1"], {}, ("f", 1, None)),
        (["x:flow", "--recovery-dir=f", "--proc", "1"], {}, ("f", 1, None)),
        (["x:flow", "-s", "1", "-b", "0", "-w", "2"], {}, (None, None, None)),
        (["x:flow"], {"BYTEWAX_RECOVERY_DIRECTORY": "f", "BYTEWAX_PROCESS_ID": "2", "BYTEWAX_ADDRESSES": "a"}, ("f", 2, "a")),
        (["x:flow", "-r", "g"], {"BYTEWAX_RECOVERY_DIRECTORY": "f"}, ("g", None, None)),
        (["x:flow"], {"BYTEWAX_POD_NAME": "set-3", "BYTEWAX_STATEFULSET_NAME": "set"}, (None, 3, None)),
    ],
)  # fmt: skip
def test_what_bytewax_was_told_is_understood_as_bytewax_does(arguments, environment, expected):
    given = _command_line(arguments, environment)

    assert (given.recovery_directory, given.process_id, given.addresses) == expected


@pytest.mark.slow
def test_two_clusters_under_plain_bytewax_run_the_second_is_refused(tmp_path):
    """Two processes each, by -i and -a; the first goes on as if nothing had been."""
    from tests.servers import free_port

    (tmp_path / "nephoscope.yaml").write_text("state_dir: state\npartitions: 4\nmetrics: {listen: ''}\n")
    make(tmp_path / "r")
    environment = {k: v for k, v in os.environ.items() if not k.startswith("NEPHOSCOPE_")}
    started = []

    def cluster():
        addresses = ";".join(f"127.0.0.1:{free_port()}" for _ in range(2))
        for number in range(2):
            command = ["bytewax.run", "flows.pipeline:flow", "-r", "r", "-s", "1", "-b", "0"]
            started.append(
                subprocess.Popen(
                    [sys.executable, "-m", *command, "-i", str(number), "-a", addresses],
                    cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True,
                )
            )  # fmt: skip
        return started[-2:]

    try:
        first = cluster()
        deadline = time.monotonic() + 30
        while len(list((tmp_path / "r").glob("lock-[0-9]*"))) < 2:
            assert time.monotonic() < deadline
            assert [p.poll() for p in first] == [None, None]
            time.sleep(0.1)
        second = cluster()
        told = [p.communicate(timeout=60)[1] for p in second]

        assert all(p.returncode for p in second)
        assert all(f"(process {first[0].pid}) runs on the recovery store r: stop it first" in t for t in told), told
        assert [p.poll() for p in first] == [None, None]
        for process in first:
            process.send_signal(signal.SIGTERM)
        assert [p.wait(30) for p in first] == [0, 0]
    finally:
        for process in started:
            process.kill()
            process.communicate()
