"""Dynamic pollsters of a cloud: the end point from the catalogue, the session's token, and the same bounds."""

import json

import pytest

from nephoscope.errors import NephoscopeError
from nephoscope.settings import load_settings
from sources.dynamic import dynamic
from tests.servers.openstack_apis import running

REGION = "openstack://RegionOne"
SERVERS = """\
- name: server.status
  sample_type: gauge
  unit: server
  value_attribute: status
  endpoint_type: compute
  url_path: /compute/v2.1/servers/detail?all_tenants=true
  headers: {Openstack-API-Version: compute 2.65}
  project_id_attribute: tenant_id
  response_entries_key: servers
  metadata_fields: [name]
  value_mapping: {ACTIVE: "1"}
  default_value: 0
"""
PROJECT_NAME = """\
  extra_metadata_fields:
    - name: project_name
      endpoint_type: identity
      url_path: "'/v3/projects/' + str(sample['project_id'])"
      value: name
"""


@pytest.fixture
def apis():
    with running() as found:
        found.lists["/servers/detail"] = [
            {"id": "s1", "status": "ACTIVE", "tenant_id": "p1", "name": "web"},
            {"id": "s2", "status": "ERROR", "tenant_id": "p1", "name": "db"},
        ]
        yield found


@pytest.fixture
def ask(apis, tmp_path, monkeypatch):
    """Poll the only pollster of a definition in the cloud's region: (readings, what was raised)."""
    for name in ("OS_CLOUD", "OS_AUTH_URL", "OS_CLIENT_CONFIG_FILE"):
        monkeypatch.delenv(name, raising=False)
    made = []

    def of(text=SERVERS, *, check=False, **settings):
        (tmp_path / "one.yaml").write_text(text)
        auth = {"openstack.auth": json.dumps(apis.auth()), "openstack.timeout": 5} | settings
        made.append(dynamic(load_settings(environment={}, flags={"pollsters_definitions_dirs": str(tmp_path), **auth})))
        (pollster,) = made[-1].pollsters
        assert pollster.discovery == "openstack_regions"
        assert pollster.takes(REGION)
        if check:
            return list(made[-1].check({m.name for m in pollster.meters}))
        return of.again(pollster)

    def again(pollster):
        of.last = pollster
        readings, error = [], None
        try:
            readings += pollster.poll(REGION, {m.name for m in pollster.meters})
        except NephoscopeError as raised:
            error = raised
        return readings, error

    of.again = again
    yield of
    for one in made:
        one.close()


def test_servers_by_the_catalogue_and_the_session(apis, ask):
    readings, error = ask()

    assert error is None
    assert [(r.resource_id, r.volume, r.project_id, r.metadata) for r in readings] == [
        ("s1", 1.0, "p1", {"name": "web"}),
        ("s2", 0.0, "p1", {"name": "db"}),
    ]
    (headers,) = [h for path, _, h in apis.asked if path.endswith("/servers/detail")]
    assert headers["Openstack-API-Version"] == "compute 2.65"
    assert headers["X-Auth-Token"] in apis.tokens


def test_a_token_that_was_refused_is_renewed(apis, ask):
    ask()
    first = set(apis.tokens)
    apis.refused |= first
    readings, error = ask.again(ask.last)

    assert (len(readings), error) == (2, None)
    assert apis.tokens > first


@pytest.mark.parametrize("kind", ["volumev3", "block-storage"])
def test_a_service_by_any_of_its_types(apis, ask, kind):
    apis.faults["/volume/v3/things"] = b'[{"id": "a", "status": "ACTIVE"}]'
    readings, error = ask(
        SERVERS.replace("compute\n", f"{kind}\n", 1).replace("/compute/v2.1/servers/detail", "/volume/v3/things")
    )

    assert (len(readings), error) == (1, None)


def test_a_service_that_is_not_there_gives_nothing_and_is_no_error(apis, ask):
    apis.services.discard("compute")

    assert ask() == ([], None)
    assert ask(check=True) == []


def test_a_service_that_fails_is_named(apis, ask):
    apis.faults["/compute"] = 500
    readings, error = ask()

    assert readings == []
    assert f"{apis.url}/compute/v2.1/servers/detail answers 500" in str(error)
    (problem,) = ask(check=True)
    assert "answers 500" in problem.message
    assert problem.field == "server.status"


def test_wrong_credentials_are_told_without_them(apis, ask):
    _, error = ask(**{"openstack.auth": json.dumps({**apis.auth(), "password": "wr0ng-word"})})

    assert "refuses the credentials" in str(error)
    assert "wr0ng" not in str(error)


def test_metadata_of_another_service(apis, ask):
    apis.faults["/v3/projects/p1"] = json.dumps({"project": {"id": "p1", "name": "shop"}}).encode()
    readings, error = ask(SERVERS + PROJECT_NAME)

    assert error is None
    assert [r.metadata for r in readings] == [
        {"project_name": "shop", "name": "web"},
        {"project_name": "shop", "name": "db"},
    ]
    assert apis.counts["GET /v3/projects/p1"] == 1


def test_a_next_page_elsewhere_gets_no_token(apis, ask):
    apis.faults["/compute/v2.1/servers/detail"] = json.dumps({"servers": [], "next": "http://127.0.0.9:1/x"}).encode()
    _, error = ask(SERVERS + "  next_sample_url_attribute: next\n")

    assert "another host or less safe" in str(error)
