"""Swift: a project's account and its containers."""

import pytest

from sources.openstack.object_storage import account_url

MINE, OTHER = "a" * 32, "b" * 32


@pytest.fixture(autouse=True)
def _accounts(apis):
    apis.accounts[MINE] = [
        {
            "name": "c1",
            "count": 2,
            "bytes": 300,
            "last_modified": "2026-11-20T12:00:00.000000",
            "storage_policy": "gold",
        },
        {"name": "c2 ä ü", "count": 1, "bytes": 7},
    ]


def test_an_account_gives_its_sums_and_its_containers(apis, read):
    readings = read("accounts", MINE)

    assert [(r.meter.name, r.resource_id, r.volume) for r in readings] == [
        ("storage.objects", MINE, 3),
        ("storage.objects.size", MINE, 307),
        ("storage.objects.containers", MINE, 2),
        ("storage.containers.objects", f"{MINE}/c1", 2),
        ("storage.containers.objects.size", f"{MINE}/c1", 300),
        ("storage.containers.objects", f"{MINE}/c2 ä ü", 1),
        ("storage.containers.objects.size", f"{MINE}/c2 ä ü", 7),
    ]
    assert {r.project_id for r in readings} == {MINE}
    assert readings[3].metadata == {"storage_policy": "gold"}


def test_sums_alone_take_one_head(apis, read):
    assert len(read("accounts", MINE, meters={"storage.objects"})) == 1

    assert apis.counts[f"HEAD /object-store/v1/AUTH_{MINE}"] == 1
    assert apis.counts[f"GET /object-store/v1/AUTH_{MINE}"] == 0


def test_many_containers_come_in_pages(apis, read):
    apis.largest = 10
    apis.accounts[MINE] = [{"name": f"c{n:03}", "count": n, "bytes": n} for n in range(35)]

    assert [r.volume for r in read("accounts", MINE, meters={"storage.containers.objects"})] == list(range(35))


def test_a_project_without_an_account_gives_nothing(read):
    assert read("accounts", OTHER) == []


def test_two_regions_are_told_apart_and_one_swift_for_both_is_read_once(apis, make, read):
    apis.regions = ["north", "south"]
    assert len(read("accounts", MINE)) == 7

    catalogue = apis.catalogue()
    for service in catalogue:
        if service["type"] == "object-store":
            service["endpoints"][1]["url"] = service["endpoints"][1]["url"].replace("127.0.0.1", "localhost")
    apis.catalogue = lambda: catalogue
    assert [r.resource_id for r in read("accounts", MINE, meters={"storage.objects"})] == [MINE, f"{MINE}@south"]


def test_a_region_that_fails_leaves_the_other_as_it_is(apis, read_until_it_fails):
    apis.regions = ["north", "south"]
    catalogue = apis.catalogue()
    for service in catalogue:
        if service["type"] == "object-store":
            service["endpoints"][0]["url"] = "http://127.0.0.1:1/v1/AUTH_x"
    apis.catalogue = lambda: catalogue
    seen, error = read_until_it_fails("accounts", {"storage.objects"}, MINE)

    assert seen == [f"{MINE}@south"]
    assert error == "object-store in north: no connection: Connection refused"


@pytest.mark.parametrize(
    "endpoint",
    ["http://h:8080/v1/AUTH_mine", "http://h:8080/v1", "http://h:8080", "http://h:8080/"],
)
def test_the_account_is_beside_that_of_the_end_point(endpoint):
    assert account_url(endpoint, "AUTH_", "p1") == "http://h:8080/v1/AUTH_p1"


def test_only_ids_of_projects_and_regions_are_targets(make):
    taken = {p.name: p.takes for p in make().pollsters}

    assert taken["openstack.accounts"](MINE)
    for resource in ("localhost", "snmp://public@host", "libvirt:///system"):
        assert not any(takes(resource) for takes in taken.values())
    assert not taken["openstack.accounts"]("openstack://RegionOne")
