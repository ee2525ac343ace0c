"""Which groups an agent belongs to, under which name, and whether they fit together."""

import socket

import pytest

from nephoscope.errors import ConfigError, MissingExtra
from nephoscope.pipeline import Polling, PollingSource
from nephoscope.settings import load_settings
from sources.coordination import Status
from sources.groups import (
    Name,
    backend_of,
    definition_of,
    groups_of,
    host_name,
    keepers_of,
    problems_of,
    problems_there,
)
from sources.pollster import Meter, Pollster

CPU = Meter("cpu", "gauge", "%", "host", "CPU")
LOAD = Meter("load", "gauge", "1", "host", "Load")
POLLING = Polling((PollingSource("a", 60, ("*",), line=3),), "polling.yaml")


def pollster(name="p", *meters, namespace="central"):
    return Pollster(name, meters or (CPU,), lambda _r, _m: [], namespace=namespace)


@pytest.fixture
def settings(tmp_path):
    def settings(url="redis://127.0.0.1:1", **more):
        flags = {"state_dir": tmp_path, "coordination.backend_url": url}
        return load_settings(environment={}, flags=flags | {k.replace("__", "."): v for k, v in more.items()})

    return settings


def test_namespaces_share_by_prefix_and_those_of_a_host_only_where_told_to(settings):
    both = ["central", "compute"]
    assert groups_of(settings(""), both) == {}
    assert groups_of(settings(), both) == {"central": "central"}
    prefixed = settings(polling__partitioning_group_prefix="rack1", compute__workload_partitioning=True)
    assert groups_of(prefixed, both) == {"central": "rack1:central", "compute": f"rack1:compute@{host_name()}"}


def test_ceilometers_older_name_of_the_prefix_works(tmp_path):
    file = tmp_path / "n.yaml"
    file.write_text("central: {partitioning_group_prefix: rack2}\ncompute: {workload_partitioning: true}\n")
    read = load_settings(file, environment={})
    assert read.polling.partitioning_group_prefix == "rack2"
    assert read.compute.workload_partitioning


def test_a_name_stays_over_restarts_and_agents_of_one_folder_have_different_ones(settings, tmp_path):
    first, second = Name(settings()), Name(settings())
    assert (first.text, second.text) == (host_name(), f"{host_name()}-2")
    assert first.file(tmp_path) != second.file(tmp_path)
    first.close()
    again = Name(settings())
    assert again.text == first.text
    for name in (second, again):
        name.close()
    assert Name(settings(coordination__member="n1")).text == "n1"


def test_an_odd_host_name_makes_a_good_one(monkeypatch):
    monkeypatch.setattr(socket, "gethostname", lambda: "-höst 1/x.")
    assert host_name() == "h-st-1-x"
    monkeypatch.setattr(socket, "gethostname", lambda: "--")
    assert host_name() == "host"


@pytest.mark.parametrize(
    "url, said",
    [
        ("redis", "is no URL"),
        ("reddis://h", "did you mean 'redis'"),
        ("redis://u:hunter2@h:p", "names no HOST:PORT"),
        ("etcd3://h", "there is no coordination back end 'etcd3'"),
    ],
)
def test_a_wrong_back_end_is_refused_and_its_password_not_told(settings, url, said):
    with pytest.raises(ConfigError, match=said) as raised:
        keepers_of(settings(url), ["central"], "me")
    assert "hunter2" not in str(raised.value)
    (problem,) = problems_of(settings(url), POLLING)[0]
    assert said in str(problem)


def test_a_client_that_is_not_installed_is_named(settings, monkeypatch):
    from nephoscope import registry

    monkeypatch.setitem(__import__("sys").modules, "redis", None)
    monkeypatch.delitem(__import__("sys").modules, "sources.coordination.redis", raising=False)
    registry.load.cache_clear()
    with pytest.raises(MissingExtra, match=r"\[redis\]"):
        backend_of(settings(), "g", "m")
    registry.load.cache_clear()


@pytest.mark.parametrize("url", ["memcached://h", "redis://h", "zookeeper://h"])
def test_the_lease_is_twice_the_heartbeat_at_least(settings, url):
    option = "timeout" if url.startswith("z") else "membership_timeout"
    (problem,) = problems_of(settings(f"{url}?{option}=1.5"), POLLING)[0]
    assert "the lease of 1.5 s must be at least twice the heartbeat of 1 s" in str(problem)
    assert problems_of(settings(f"{url}?{option}=2"), POLLING) == ([], [])


def test_lateness_covers_lease_and_catch_up(settings):
    # 5 (lease) + 1 (heartbeat) + 15 (a quarter of the interval) + 30 (time-out)
    assert problems_of(settings(lateness=51), POLLING)[0] == []
    (problem,) = problems_of(settings(lateness=50), POLLING)[0]
    assert problem.field == "lateness"
    assert "at least 51" in problem.hint
    assert problems_of(settings("", lateness=0), POLLING) == ([], [])


def test_an_interval_below_twice_the_lease_is_a_warning(settings):
    polling = Polling((PollingSource("a", 9, ("*",), line=3), PollingSource("b", 10, ("*",), line=9)), "polling.yaml")
    problems, (warning,) = problems_of(settings(), polling)
    assert problems == []
    assert str(warning).startswith("polling.yaml:3: sources.a.interval: the interval of 9 s is shorter than twice")


def test_workload_partitioning_needs_a_back_end(settings):
    (problem,) = problems_of(settings("", compute__workload_partitioning=True), POLLING)[0]
    assert problem.field == "compute.workload_partitioning"


def test_a_definition_is_the_same_for_the_same_polling_only():
    one = definition_of(POLLING, [pollster("p", CPU), pollster("q", LOAD, namespace="compute")], "central")
    assert one.meters == ("cpu",)
    assert one == definition_of(POLLING, [pollster("p", CPU)], "central")
    other = Polling((PollingSource("a", 61, ("*",)),))
    assert definition_of(other, [pollster("p", CPU)], "central").digest != one.digest
    assert Status.decode(one.status(slots=3).encode()).slots == 3


def test_no_secret_of_a_polling_is_in_what_the_back_end_gets():
    def digest(secret):
        resources = (f"snmp://{secret}@10.0.0.1",)
        polling = Polling((PollingSource("a", 60, ("*",), resources, (f"find://https://u:{secret}@h",)),))
        return definition_of(polling, [pollster("p", CPU)], "central").digest

    assert digest("one") == digest("two")


def test_groups_of_one_prefix_must_poll_different_meters(settings, redis):
    prefix = f"t{__import__('uuid').uuid4().hex[:8]}"
    mine = settings(redis, polling__partitioning_group_prefix=prefix)
    poll = [pollster("p", CPU, LOAD)]
    assert problems_there(mine, POLLING, poll) == ([], [])

    def member(group, *meters, definition="x"):
        back_end = backend_of(mine, group, "other")
        back_end.join(Status(definition=definition, meters=meters).encode())
        return back_end

    ends = [member(f"{prefix}:ipmi", "watts"), member(f"{prefix}:compute@h1", "load")]
    assert problems_there(mine, POLLING, poll) == ([], [])
    ends.append(member(f"{prefix}:network", "load"))
    (problem,), warnings = problems_there(mine, POLLING, poll)
    assert f"{prefix}:central and {prefix}:network both poll load" in str(problem)
    assert warnings == []

    ends.append(member(f"{prefix}x:central", "cpu"))
    ends.append(member(f"{prefix}:central", "cpu"))
    problems, warnings = problems_there(mine, POLLING, poll)
    assert [str(p) for p in problems] == [str(problem)]
    first, second = sorted(map(str, warnings))
    assert "other in the group" in first
    assert f"{prefix}x:central both poll cpu" in second
    for end in ends:
        end.leave()
        end.close()
