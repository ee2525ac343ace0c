"""Real services: what is polled agrees with what the `openstack` client lists, and what happens where they fail.

``./justw test-openstack`` runs it; its name keeps it out of the other runs. The tests of failures come last, in the order of the file.
"""

import json
import os
import signal
import subprocess
import sys
import time

import httpx
import pymysql
import pytest

from sources.openstack.failures import CloudError
from sources.pollster import PermanentError
from tests.openstack import contents
from tests.openstack.configuration import SECRET, TOKEN_CACHE
from tests.servers import suspend
from tests.servers.mariadb import USER

REGION = "openstack://RegionOne"


def volumes(readings, meter):
    return {r.resource_id: r.volume for r in readings if r.meter.name == meter}


@pytest.mark.parametrize(
    "pollster,meter,count,command",
    [
        ("images", "image", len(contents.IMAGES) + 1, "image list --long"),
        ("volumes", "volume", len(contents.VOLUMES), "volume list --all-projects"),
        ("volume_snapshots", "snapshot", 1, "volume snapshot list --all-projects"),
        ("volume_backups", "volume.backup.size", 1, "volume backup list --all-projects"),
        ("networks", "network", 2, "network list"),
        ("subnets", "subnet", 2, "subnet list"),
        ("ports", "port", None, "port list --long"),
        ("routers", "router", 1, "router list"),
        ("floating_ips", "ip.floating", 2, "floating ip list"),
        ("vpn_services", "network.services.vpn", 1, "vpn service list"),
        ("ipsec_connections", "network.services.vpn.connections", 1, "vpn ipsec site connection list"),
        ("servers", "instance", 2, "server list --all-projects --long"),
        ("loadbalancers", "network.services.lb.loadbalancer", 1, "loadbalancer list"),
        ("listeners", "network.services.lb.listener", 1, "loadbalancer listener list"),
        ("pools", "network.services.lb.pool", 1, "loadbalancer pool list"),
        ("healthmonitors", "network.services.lb.health_monitor", 1, "loadbalancer healthmonitor list"),
        ("members", "network.services.lb.member", 2, "loadbalancer member list backends"),
    ],
)
def test_the_same_is_there_as_the_client_lists(listed, read, pollster, meter, count, command):
    found = volumes(read(pollster), meter)

    assert {entry.get("ID") or entry["id"] for entry in listed[command]} == set(found)
    assert len(found) == (count if count is not None else len(listed[command]))
    assert pollster != "ports" or len(found) > contents.PORTS


def test_sizes_of_images_agree_and_an_image_without_data_has_none(listed, read):
    readings = read("images")
    images = {i["ID"]: i for i in listed["image list --long"]}

    sizes = {i: entry["Size"] for i, entry in images.items() if entry["Status"] == "active"}
    assert volumes(readings, "image.size") == sizes
    assert sorted(sizes.values()) == sorted(contents.IMAGES.values())
    for reading in readings:
        about, entry = reading.metadata, images[reading.resource_id]
        assert (about.get("name"), about["status"], about["disk_format"]) == (
            entry["Name"],
            entry["Status"],
            entry["Disk Format"],
        )
        assert reading.project_id == entry["Project"]


def test_sizes_of_volumes_snapshots_and_backups_agree(listed, read):
    for pollster, meter, command in (
        ("volumes", "volume.size", "volume list --all-projects"),
        ("volume_snapshots", "volume.snapshot.size", "volume snapshot list --all-projects"),
        ("volume_backups", "volume.backup.size", "volume backup list --all-projects"),
    ):
        known = {v["ID"]: v for v in listed[command]}
        readings = read(pollster)
        assert volumes(readings, meter) == {i: v["Size"] for i, v in known.items()}
        assert {r.metadata["name"] for r in readings} == {v["Name"] for v in known.values()}
        assert {r.project_id for r in readings} == {admins_project(listed)}
        assert all(r.user_id for r in readings)


def admins_project(listed):
    return next(p["ID"] for p in listed["project list"] if p["Name"] == "admin")


def test_capacities_of_the_pool_agree(cloud, read):
    """With what the API says to a plain request: the client has no such list."""
    headers = {"X-Auth-Token": cloud.token()}
    project = cloud.connect().current_project_id
    url = f"{cloud.place.url('cinder')}/v3/{project}/scheduler-stats/get_pools?detail=true"
    pools = {p["name"]: p["capabilities"] for p in httpx.get(url, headers=headers, timeout=30).json()["pools"]}
    readings = read("volume_pools")

    assert pools
    for what in ("total", "free", "allocated", "provisioned"):
        told = {n: said.get(f"{what}_capacity_gb") for n, said in pools.items()}
        known = {n: number for n, number in told.items() if isinstance(number, int | float)}
        assert volumes(readings, f"volume.provider.pool.capacity.{what}") == known, what


def test_metadata_of_networks_agrees(listed, read):
    ports = {p["ID"]: p for p in listed["port list --long"]}
    for reading in read("ports"):
        entry = ports[reading.resource_id]
        assert reading.metadata["mac_address"] == entry["MAC Address"]
        assert reading.metadata["status"] == entry["Status"]
        assert reading.metadata.get("device_owner", "") == entry["Device Owner"]
    floating = {f["ID"]: f for f in listed["floating ip list"]}
    for reading in read("floating_ips"):
        entry = floating[reading.resource_id]
        assert reading.metadata["floating_ip_address"] == entry["Floating IP Address"]
        assert reading.metadata.get("port_id") == entry["Port"]
        assert reading.project_id == entry["Project"]
    subnets = {s["ID"]: s for s in listed["subnet list"]}
    assert {r.resource_id: r.metadata["cidr"] for r in read("subnets")} == {i: s["Subnet"] for i, s in subnets.items()}


def test_the_pre_shared_key_of_a_vpn_is_nowhere(read):
    (reading,) = read("ipsec_connections")

    assert reading.metadata["peer_address"] == "203.0.113.1"
    assert "the-pre-shared-key" not in str(reading)


def test_servers_have_flavor_image_host_and_what_users_marked(listed, read):
    servers = {s["ID"]: s for s in listed["server list --all-projects --long"]}
    readings = {r.metadata["display_name"]: r for r in read("servers")}
    flavor = listed["flavor show tiny"]

    for name, reading in readings.items():
        entry, about = servers[reading.resource_id], reading.metadata
        assert (name, about["status"].upper()) == (entry["Name"], entry["Status"])
        assert about["instance_host"] == entry["Host"] == "fakehost1"
        assert about["image_ref"] == entry["Image ID"]
        assert about["OS-EXT-AZ:availability_zone"] == entry["Availability Zone"]
        assert (about["vcpus"], about["memory_mb"], about["root_gb"]) == (
            flavor["vcpus"],
            flavor["ram"],
            flavor["disk"],
        )
        assert about["ephemeral_gb"] == flavor["OS-FLV-EXT-DATA:ephemeral"]
    assert readings["alpha"].metadata["user_metadata"] == {"stack": "blue"}
    assert "user_metadata" not in readings["beta"].metadata


def test_load_balancers_tell_their_states_and_statistics(listed, read):
    (known,) = listed["loadbalancer list"]
    readings = read("loadbalancers")
    (balancer,) = [r for r in readings if r.meter.name == "loadbalancer.provisioning"]
    assert balancer.metadata["provisioning_status"] == known["provisioning_status"]
    assert balancer.metadata["vip_address"] == known["vip_address"]
    statistics = {r.meter.name.rpartition("lb.")[2]: r.volume for r in read("loadbalancer_statistics")}
    shown = listed["loadbalancer stats show front"]
    assert statistics == {
        "active.connections": shown["active_connections"],
        "total.connections": shown["total_connections"],
        "incoming.bytes": shown["bytes_in"],
        "outgoing.bytes": shown["bytes_out"],
    }


def test_accounts_and_containers_agree(listed, read):
    project = admins_project(listed)
    readings = read("accounts")
    shown = listed["object store account show"]
    containers = {c["Name"]: c for c in listed["container list --long"]}

    sums = {r.meter.name: r.volume for r in readings if r.resource_id == project}
    assert sums == {
        "storage.objects": int(shown["Objects"]),
        "storage.objects.size": int(shown["Bytes"]),
        "storage.objects.containers": int(shown["Containers"]),
    }
    assert sums["storage.objects.size"] == sum(sum(sizes) for sizes in contents.CONTAINERS.values())
    assert volumes(readings, "storage.containers.objects") == {
        f"{project}/{n}": c["Count"] for n, c in containers.items()
    }
    assert volumes(readings, "storage.containers.objects.size") == {
        f"{project}/{n}": c["Bytes"] for n, c in containers.items()
    }
    # Each project has an account, if only an empty one.
    assert {r.project_id for r in readings} == {p["ID"] for p in listed["project list"]}


def test_projects_are_those_that_the_client_lists(listed, make):
    assert set(make().discoveries["tenant"]("")) == {p["ID"] for p in listed["project list"]}


def test_check_finds_everything_right_and_shows_no_secret(cloud, tmp_path):
    (tmp_path / "polling.yaml").write_text(
        "sources:\n  - {name: all, interval: 300, meters: [image.size, 'volume*', port, 'network.services.*', 'storage.*']}\n"
    )
    auth = cloud.auth("telemetry", "service") | {"password": "${env:OS_SECRET}"}
    (tmp_path / "nephoscope.yaml").write_text(
        f"openstack: {{auth: {auth}}}\nstate_dir: state\npolling_cfg_file: polling.yaml\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "nephoscope.cli", "check"],
        cwd=tmp_path,
        env={**os.environ, "OS_SECRET": SECRET},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert SECRET not in done.stdout + done.stderr


def test_a_user_without_the_role_is_told_so_for_good(make, read):
    with pytest.raises(PermanentError, match=r"object-store in RegionOne: HTTP 403.*docs/pollsters.md"):
        read("accounts", make(user="admin", project="admin"))


def test_a_wrong_password_names_the_cause_and_not_itself(cloud, make):
    auth = json.dumps(cloud.auth("telemetry", "service") | {"password": "no-such-word"})
    (problem,) = make(auth=auth, regions="RegionOne").check(["port"])

    assert "HTTP 401" in problem.message
    assert "no-such-word" not in problem.message


def token_of(system):
    """The token that a system's pollsters use in the region."""
    return system.close.__self__._connections["RegionOne"].session.get_token()


def test_a_token_that_is_revoked_is_renewed(cloud, make, read):
    system = make()
    before = len(read("ports", system))
    token = token_of(system)
    revoked = httpx.delete(
        f"{cloud.place.url('keystone')}/v3/auth/tokens",
        headers={"X-Auth-Token": token, "X-Subject-Token": token},
        timeout=30,
    )
    assert revoked.status_code == 204
    time.sleep(TOKEN_CACHE + 1)  # Until then the service does not ask Keystone again.

    assert len(read("ports", system)) == before
    assert token_of(system) != token


def test_a_token_that_expires_is_renewed(cloud, make, read):
    cloud.restart_keystone(token_lifetime=32)  # keystoneauth renews what has less than half a minute left.
    system = make()
    before = len(read("images", system))
    token = token_of(system)
    time.sleep(3)

    assert len(read("images", system)) == before
    assert token_of(system) != token
    cloud.restart_keystone(token_lifetime=3600)


def test_a_service_that_answers_500_is_named_and_the_others_go_on(cloud, make, read):
    system = make()
    with pymysql.connect(host="127.0.0.1", port=cloud.place.database_port, user=USER) as connection:
        connection.cursor().execute("RENAME TABLE glance.images TO glance.images_away")
        try:
            with pytest.raises(CloudError, match="image in RegionOne: HTTP 500"):
                read("images", system)
            assert read("volumes", system)
        finally:
            connection.cursor().execute("RENAME TABLE glance.images_away TO glance.images")
    assert read("images", system)


def test_a_service_that_never_answers_is_given_up_in_time_and_the_others_go_on(cloud, make, read):
    system = make(timeout=3)
    read("ports", system)
    suspend(cloud.servers["neutron"].pid)
    try:
        with pytest.raises(CloudError, match="network in RegionOne: no answer within 3 s"):
            read("ports", system)
        assert read("volumes", system)
    finally:
        os.kill(cloud.servers["neutron"].pid, signal.SIGCONT)
    assert read("ports", make())


def test_a_service_that_is_down_is_named_with_the_reason(cloud, make, read):
    system = make()
    cloud.servers["octavia"].kill()

    with pytest.raises(CloudError, match="load-balancer in RegionOne: no connection: Connection refused"):
        read("pools", system)
    assert read("servers", system)


def test_a_service_that_leaves_the_catalogue_is_left_out_and_said_once(cloud, make, read, caplog):
    connection = cloud.connect()
    connection.identity.delete_service(connection.identity.find_service("octavia"))
    system = make()

    assert [read("pools", system), read("listeners", system)] == [[], []]
    assert len([r for r in caplog.records if "no load-balancer in its catalogue" in r.getMessage()]) == 1
    assert read("networks", system)
