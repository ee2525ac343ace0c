"""The processes that ask: over libvirt's own test driver, which needs no server and tells little more than names."""

import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import psutil
import pytest

from nephoscope.settings import load_settings
from sources.libvirt import pool as pools
from sources.libvirt.messages import Ask, Found, Stats, part_of
from sources.libvirt.part import Parts
from sources.libvirt.pool import LibvirtError, Pool
from sources.libvirt.system import libvirt_system, takes
from sources.pollster import PermanentError
from tests.servers import missing

TEST = "test:///default"


@pytest.fixture
def pool():
    if find_spec("libvirt") is None:
        missing("there is no libvirt-python: ./justw test installs it where libvirt-dev, gcc and pkg-config are")
    pool = Pool(TEST, 2)
    yield pool
    pool.close()


def workers(pid=None):
    found = psutil.Process(pid).children(recursive=True)
    return [p for p in found if "sources.libvirt.worker" in command_of(p)]


def command_of(process):
    try:
        return process.cmdline()
    except psutil.NoSuchProcess:  # A zombie is one as well.
        return []


def gone(process, patience=30.0):
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        if not process.is_running() or process.status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.05)
    return False


def ask(pool, **what):
    return list(pool.ask(Ask(**what), 20, time.monotonic() + 20))


def test_a_worker_tells_the_domains_and_their_statistics_and_is_used_again(pool):
    found, stats = ask(pool, groups=["state"])

    assert isinstance(found, Found)
    assert [d.name for d in found.domains] == ["test"]
    assert found.domains[0].active
    assert "<domain" in found.domains[0].xml
    assert isinstance(stats, Stats)
    assert stats.rows[found.domains[0].uuid]["state.state"] == 1
    assert stats.began <= stats.ended
    (before,) = workers()
    ask(pool, groups=["state"])
    assert workers() == [before]


def test_only_the_part_that_is_asked_for_is_told(pool):
    ((listed,),) = [found.domains for found in ask(pool)]

    assert listed.xml == ""
    part = part_of(listed.uuid)
    assert [d.uuid for d in ask(pool, part=part)[0].domains] == [listed.uuid]
    assert ask(pool, part=(part + 1) % 16)[0].domains == []
    assert ask(pool, only=[])[0].domains == []


def test_a_worker_that_hangs_is_killed_and_the_poll_goes_on_without_it(pool):
    parts = Parts(pool, "host", 2)
    assert [r.meter.name for r in parts.poll(Ask(), ["instance"])] == ["instance"]
    (hanging,) = workers()
    hanging.suspend()

    assert [r.meter.name for r in parts.poll(Ask(), ["instance"])] == ["instance"]

    assert gone(hanging)
    assert len(workers()) == 1


def test_a_worker_that_dies_is_replaced(pool):
    parts = Parts(pool, "host", 5)
    list(parts.poll(Ask(), ["instance"]))
    workers()[0].kill()

    assert len(list(parts.poll(Ask(), ["instance"]))) == 1


def test_close_ends_them_and_nothing_more_is_started(pool):
    ask(pool)
    (worker,) = workers()
    pool.close()

    assert gone(worker)
    with pytest.raises(LibvirtError, match="closed"):
        ask(pool)


def test_an_agent_that_is_killed_leaves_none(pool):
    code = (
        "import time\nfrom sources.libvirt.messages import Ask\nfrom sources.libvirt.pool import Pool\n"
        f"pool = Pool({TEST!r}, 1)\nlist(pool.ask(Ask(), 20, time.monotonic() + 20))\n"
        "print('asked', flush=True)\ntime.sleep(600)\n"
    )
    root = Path(__file__).resolve().parents[3]
    agent = subprocess.Popen([sys.executable, "-c", code], cwd=root, stdout=subprocess.PIPE, text=True)
    assert agent.stdout.readline() == "asked\n"
    (worker,) = workers(agent.pid)
    agent.send_signal(signal.SIGKILL)
    agent.wait()
    agent.stdout.close()

    assert gone(worker)


def test_an_instance_that_is_not_there_is_an_error_that_names_it(pool):
    with pytest.raises(LibvirtError, match="there is no instance 00000000-0000"):
        list(Parts(pool, "host", 5).poll(Ask(only=["00000000-0000-0000-0000-000000000000"]), ["instance"]))


def test_where_the_uri_is_wrong_nobody_waits(pool):
    wrong = Pool("qemu+pigeon:///system", 1)
    try:
        with pytest.raises(PermanentError, match=r"qemu\+pigeon:///system: .*transport"):
            list(Parts(wrong, "host", 5).poll(Ask(), ["cpu"]))
    finally:
        wrong.close()


def test_a_password_in_the_uri_is_shown_nowhere(pool):
    secret = Pool("qemu+pigeon://user:hunter2@host/system?token=hunter3", 1)
    try:
        with pytest.raises(PermanentError) as caught:
            list(Parts(secret, "host", 20).poll(Ask(), ["cpu"]))
        assert "hunter" not in str(caught.value)
        ask(pool)
        assert not any("test://" in argument for worker in workers() for argument in command_of(worker))
    finally:
        secret.close()


def test_a_libvirtd_that_is_away_is_told_after_the_time_with_its_cause(pool, tmp_path):
    uri = f"qemu+unix:///system?socket={tmp_path}/none"
    system = libvirt_system(load_settings(flags={"compute.libvirt_uri": uri, "compute.libvirt_timeout": "2"}))
    try:
        (pollster,) = system.pollsters
        with pytest.raises(LibvirtError, match="No such file or directory"):
            list(pollster.poll("instances/00", ["cpu"]))
        (problem,) = system.check(["cpu"])
        assert problem.field == "compute.libvirt_uri"
        assert "No such file or directory" in problem.message
        with pytest.raises(LibvirtError):
            system.discoveries["local_instances"]("")
    finally:
        system.close()


def test_without_the_client_it_names_the_extra(monkeypatch):
    monkeypatch.setattr(pools, "find_spec", lambda _name: None)
    system = libvirt_system(load_settings())
    (pollster,) = system.pollsters

    with pytest.raises(PermanentError, match=r"pip install 'nephoscope\[libvirt\]'"):
        list(pollster.poll("instances/00", ["cpu"]))
    (problem,) = system.check(["cpu"])
    assert "[libvirt]" in problem.message


def test_it_takes_parts_and_instances():
    assert takes("instances/00")
    assert takes("instances/15")
    assert takes("5fab1f05-f4e1-4ec4-8d8e-f3121555f46a")
    assert not any(map(takes, ["instances/16", "instances/1", "localhost", "", "5fab1f05"]))


def test_the_type_says_where_libvirt_is_unless_the_uri_does():
    from sources.libvirt.system import uri_of

    assert uri_of(load_settings()) == "qemu:///system"
    assert uri_of(load_settings(flags={"compute.libvirt_type": "lxc"})) == "lxc:///"
    assert uri_of(load_settings(flags={"compute.libvirt_type": "lxc", "compute.libvirt_uri": TEST})) == TEST
