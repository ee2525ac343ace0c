"""Configuration, authentication, catalogue and regions, and services that do not do what they should; by the SDK's real client."""

import json
import logging
import subprocess
import sys
import threading
import time

import pytest

from nephoscope.errors import MissingExtra
from nephoscope.settings import load_settings
from sources.openstack import cloud, openstack, target_of
from sources.openstack.failures import CloudError, NotConfigured
from sources.pollster import PermanentError
from tests.servers.openstack_apis import PASSWORD, port

ALL = ("images", "volumes", "ports", "servers", "loadbalancers")


@pytest.fixture(autouse=True)
def _some(apis):
    apis.lists["/ports"] = [port(n) for n in range(25)]
    apis.lists["/images"] = [{"id": "i1", "size": 1, "owner": "p"}]


def refused(call, kind=CloudError):
    with pytest.raises(kind) as caught:
        call()
    assert PASSWORD not in str(caught.value)
    return str(caught.value)


def test_nothing_is_imported_or_asked_before_something_is_polled(apis):
    code = (
        "import sys\n"
        "from nephoscope.settings import load_settings\n"
        "from sources.openstack import openstack\n"
        "made = openstack(load_settings(environment={}))\n"
        "assert any(m.name == 'volume.size' for p in made.pollsters for m in p.meters)\n"
        "made.close()\n"
        "assert not {'openstack', 'keystoneauth1', 'requests'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert not apis.asked


def test_the_missing_client_is_named_with_its_extra(make, read, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "openstack", None)
    system = make()

    with pytest.raises(MissingExtra, match=r"nephoscope\[openstack\]"):
        read("ports", system=system)
    assert list(system.discoveries["tenant"]("")) == []
    (problem,) = system.check(["port"])
    assert "nephoscope[openstack]" in problem.message
    assert "nephoscope[openstack]" in caplog.text


def test_clouds_yaml_names_the_cloud_its_regions_and_end_points(apis, make, read, tmp_path):
    apis.regions = ["north", "south"]
    auth = apis.auth()
    secret = tmp_path / "clouds.yaml"
    secret.write_text(json.dumps({"clouds": {"mine": {"auth": auth, "regions": ["south"]}, "other": {"auth": {}}}}))
    system = make(auth="", cloud="mine", clouds_file=str(secret))

    assert list(system.discoveries["openstack_regions"]("")) == ["openstack://south"]
    assert len(read("ports", "openstack://south", system=system)) == 25


def test_a_cloud_that_clouds_yaml_has_not_is_told_once_and_polls_nothing(make, read, tmp_path, caplog):
    file = tmp_path / "clouds.yaml"
    file.write_text("clouds: {mine: {auth: {auth_url: 'http://127.0.0.1:1/v3'}}}")
    system = make(auth="", cloud="theirs", clouds_file=str(file))

    assert [list(system.discoveries["openstack_regions"]("")) for _ in range(2)] == [[], []]
    assert len([r for r in caplog.records if r.name == "sources.openstack"]) == 1
    assert "theirs" in refused(lambda: read("ports", system=system), NotConfigured)
    (problem,) = system.check(["port"])
    assert "theirs" in problem.message


def test_a_clouds_yaml_that_is_none_shows_nothing_of_itself(read, tmp_path, caplog):
    file = tmp_path / "clouds.yaml"
    file.write_text(f"clouds:\n  mine:\n    auth: {{password: '{PASSWORD}\n")

    assert "'mine'" in refused(lambda: read("ports", auth="", cloud="mine", clouds_file=str(file)), NotConfigured)
    assert "line 3" in caplog.text
    assert PASSWORD not in caplog.text


def test_without_a_region_all_of_the_catalogue_are_polled(apis, make):
    apis.regions = ["north", "south"]
    system = make()

    assert list(system.discoveries["images"]("")) == ["openstack://north", "openstack://south"]
    assert list(make(regions="south").discoveries["fip_services"]("")) == ["openstack://south"]


def test_a_region_of_any_name_is_a_target():
    assert target_of("a b/c") == "openstack://a%20b%2Fc"


def test_a_wrong_password_is_permanent_names_the_cause_and_is_asked_once(apis, make, read):
    apis.password = "another"
    system = make(regions="RegionOne")

    for pollster in ALL:
        told = refused(lambda p=pollster: read(p, system=system), PermanentError)
        assert told == (
            "Keystone refuses the credentials of the cloud: HTTP 401: The request you have made requires authentication."
        )
    assert apis.counts["POST /v3/auth/tokens"] == 1
    (problem,) = system.check(["port"])
    assert PASSWORD not in str(problem)


def test_a_token_that_expires_is_renewed(apis, make, read):
    apis.lifetime = 29  # keystoneauth renews what has less than half a minute left.
    system = make()
    assert len(read("ports", system=system)) == 25
    apis.lifetime = 3600
    before = apis.counts["POST /v3/auth/tokens"]

    assert [len(read("ports", system=system)) for _ in range(2)] == [25, 25]
    assert apis.counts["POST /v3/auth/tokens"] == before + 1


def test_a_token_that_is_refused_is_renewed_in_mid_list(apis, make, read):
    system = make(page_size=10)
    assert len(read("ports", system=system)) == 25
    apis.refused |= apis.tokens

    assert len(read("ports", system=system)) == 25


def test_a_service_that_answers_500_is_named_with_region_and_cause_and_the_others_go_on(apis, make, read):
    apis.faults["/network"] = 500
    system = make()

    told = refused(lambda: read("ports", system=system))
    assert "network in RegionOne: HTTP 500" in told
    assert "it is broken" in told
    assert len(read("images", system=system)) == 2


def test_a_service_that_never_answers_is_given_up_in_time(apis, make, read):
    apis.faults["/network/v2.0/ports"] = "never"
    system = make(timeout=0.5)

    assert refused(lambda: read("ports", system=system)) == "network in RegionOne: no answer within 0.5 s"
    assert len(read("images", system=system)) == 2


def test_a_keystone_that_never_answers_costs_many_listings_one_wait(apis, make, read):
    apis.faults["/v3"] = "never"
    system = make(timeout=1, regions="RegionOne")
    told = []

    def poll():
        told.append(refused(lambda: read("ports", system=system)))

    threads = [threading.Thread(target=poll) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(told) == 8
    assert all("Keystone" in t and "no answer within 1 s" in t for t in told)
    assert sum(apis.counts.values()) < 4


def test_while_one_tries_a_keystone_that_failed_the_others_wait_for_nothing(apis, make, read, monkeypatch):
    monkeypatch.setattr(cloud, "_AGAIN", 0.0)
    apis.faults["/v3"] = 500
    system = make(timeout=20, regions="RegionOne")
    refused(lambda: read("ports", system=system))
    apis.faults["/v3"] = "never"
    asked = len(apis.asked)
    tries = threading.Thread(target=lambda: refused(lambda: read("ports", system=system)))
    tries.start()
    while len(apis.asked) == asked:
        time.sleep(0.01)

    assert "HTTP 500" in refused(lambda: read("images", system=system))
    assert tries.is_alive()
    apis.ended.set()  # It closes the connection without an answer.
    tries.join()


@pytest.mark.parametrize(
    "garbage", [b"<html>oops</html>", b'{"other": []}', b'{"ports": [{"id": 7}]}', b"\xff\xfe", b"[" * 5000]
)
def test_garbage_is_an_error_that_names_the_service(apis, read, garbage):
    apis.faults["/network/v2.0/ports"] = garbage

    assert "network in RegionOne: the answer to /ports" in refused(lambda: read("ports"))


def test_a_service_that_is_not_there_is_an_error_with_the_reason(apis, make, read):
    apis.url = "http://127.0.0.1:1"  # As the catalogue tells it from now on.
    told = refused(
        lambda: read("ports", auth=json.dumps({**apis.auth(), "auth_url": f"http://127.0.0.1:{apis.server_port}/v3"}))
    )

    assert told == "network in RegionOne: no connection: Connection refused"


def test_a_missing_role_is_permanent_and_says_where_to_read(apis, read):
    apis.faults["/network/v2.0/ports"] = 403

    assert "docs/pollsters.md" in refused(lambda: read("ports"), PermanentError)


def test_a_service_that_the_catalogue_has_not_is_left_out_and_said_once(apis, make, read, caplog):
    apis.services -= {"load-balancer", "object-store"}
    system = make()

    assert [read("loadbalancers", system=system) for _ in range(3)] == [[], [], []]
    assert read("accounts", "0" * 32, system=system) == []
    assert len([r for r in caplog.records if "load-balancer" in r.getMessage()]) == 1
    assert list(system.check(["network.services.lb.pool", "port"])) == []


def test_an_extension_that_neutron_has_not_is_left_out_and_said_once(read, make, caplog):
    system = make()

    assert [read("firewalls", system=system) for _ in range(2)] == [[], []]
    assert len([r for r in caplog.records if "FWaaS" in r.getMessage()]) == 1


def test_projects_are_found_of_all_domains_or_of_one(apis, make):
    apis.projects = [{"id": f"{n:032x}"} for n in range(3)]
    system = make()

    assert (
        list(system.discoveries["tenant"](""))
        == list(system.discoveries["project"](""))
        == [f"{n:032x}" for n in range(3)]
    )
    list(system.discoveries["project"]("d1"))
    assert apis.asked[-1][:2] == ("/v3/projects", {"domain_id": ["d1"]})


def test_a_discovery_that_fails_raises_so_that_what_was_found_before_stays(apis, make):
    apis.faults["/v3/projects"] = 500

    assert "identity in RegionOne" in refused(lambda: list(make().discoveries["tenant"]("")))


def test_check_tries_each_list_that_is_wanted_and_tells_all_that_is_wrong(apis, make):
    apis.faults |= {"/network/v2.0/ports": 500, "/image/v2/images": 403}

    told = [str(p) for p in make().check(["port", "image.size", "volume"])]

    assert [t.partition(" in ")[0] for t in told] == [
        "openstack: image",
        "openstack: block-storage",
        "openstack: network",
    ]
    assert not any("limit" in params and params["limit"] != ["1"] for _, params, _ in apis.asked)


def test_no_secret_is_logged_even_in_detail(apis, make, read, caplog):
    caplog.set_level(logging.DEBUG)
    system = make()
    read("ports", system=system)
    apis.password = "another"
    refused(lambda: read("ports"), PermanentError)

    assert PASSWORD not in caplog.text
    assert not any(token in caplog.text for token in apis.tokens)
    assert PASSWORD not in repr(load_settings(environment={}, flags={"openstack.auth": json.dumps(apis.auth())}))


def test_a_number_in_auth_is_text_and_nonsense_is_told_without_its_value():
    found = load_settings(environment={}, flags={"openstack.auth": '{"username": 7}'})
    assert found.openstack.auth["username"].get_secret_value() == "7"

    with pytest.raises(Exception, match=r"openstack\.auth") as caught:
        load_settings(environment={}, flags={"openstack.auth": f"password={PASSWORD}"})
    assert PASSWORD not in str(caught.value)


def test_a_system_that_is_closed_twice_is_closed():
    system = openstack(load_settings(environment={}))
    system.close()
    system.close()
