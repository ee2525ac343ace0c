"""Octavia: operating status as a number, members and statistics one parent at a time."""

import pytest

BALANCERS = [
    {"id": f"l{n}", "name": f"lb{n}", "operating_status": state, "provisioning_status": "ACTIVE", "project_id": "p1"}
    for n, state in enumerate(["ONLINE", "OFFLINE", "DEGRADED", "NEW"])
]


@pytest.fixture(autouse=True)
def _octavia(apis):
    apis.lists |= {
        "/lbaas/loadbalancers": BALANCERS,
        "/lbaas/listeners": [{"id": "n1", "operating_status": "ONLINE", "protocol": "HTTP", "project_id": "p1"}],
        "/lbaas/pools": [
            {"id": "o1", "operating_status": "ERROR", "members": [{"id": "m1"}], "project_id": "p1"},
            {"id": "o2", "operating_status": "ONLINE", "members": [{"id": "m2"}], "project_id": "p1"},
            {"id": "o3", "operating_status": "ONLINE", "members": [], "project_id": "p1"},
        ],
        "/lbaas/pools/o1/members": [
            {"id": "m1", "operating_status": "NO_MONITOR", "address": "10.0.0.1", "project_id": "p1"}
        ],
        "/lbaas/pools/o2/members": [
            {"id": "m2", "operating_status": "DRAINING", "address": "10.0.0.2", "project_id": "p1"}
        ],
        "/lbaas/healthmonitors": [{"id": "h1", "type": "PING", "delay": 5, "project_id": "p1"}],
        "/l0/stats": [
            {"active_connections": 1, "total_connections": 20, "bytes_in": 300, "bytes_out": 4000, "request_errors": 0}
        ],
    }


def test_states_are_ceilometers_numbers_and_unknown_ones_give_nothing(read):
    readings = read("loadbalancers", meters={"network.services.lb.loadbalancer"})

    assert {r.resource_id: r.volume for r in readings} == {"l0": 1, "l1": 0, "l2": 5}
    assert [r.volume for r in read("loadbalancers", meters={"loadbalancer.operating"})] == [1, 3, 4]
    assert [r.volume for r in read("loadbalancers", meters={"loadbalancer.provisioning"})] == [1, 1, 1, 1]
    assert [r.volume for r in read("listeners")] == [1]
    assert [r.volume for r in read("pools")] == [4, 1, 1]
    assert [(r.volume, r.metadata["type"]) for r in read("healthmonitors")] == [(1, "PING")]


def test_members_are_asked_of_each_pool_that_has_some(apis, read):
    readings = read("members")

    assert [(r.resource_id, r.volume, r.metadata["pool_id"]) for r in readings] == [("m1", 3, "o1"), ("m2", 2, "o2")]
    assert not any("/pools/o3/" in path for path, _, _ in apis.asked)


def test_one_pool_that_fails_leaves_the_others_as_they_are(apis, read_until_it_fails):
    apis.faults["/load-balancer/v2.0/lbaas/pools/o1"] = 500
    seen, error = read_until_it_fails("members", {"network.services.lb.member"})

    assert seen == ["m2"]
    assert error.startswith("load-balancer in RegionOne: HTTP 500")
    assert error.endswith("(1 of 2 pools)")


def test_statistics_are_counters_and_a_balancer_without_gives_none(read):
    readings = read("loadbalancer_statistics")

    assert {r.meter.name.rpartition("lb.")[2]: (r.meter.type, r.volume) for r in readings} == {
        "active.connections": ("gauge", 1),
        "total.connections": ("cumulative", 20),
        "incoming.bytes": ("cumulative", 300),
        "outgoing.bytes": ("cumulative", 4000),
    }
    assert {r.resource_id for r in readings} == {"l0"}
    assert readings[0].metadata is readings[-1].metadata
