"""A cloud's APIs on a port of the loopback, and the system that reads them with the SDK's real client."""

import json

import pytest

from nephoscope.settings import load_settings
from sources.openstack import openstack
from sources.openstack.failures import CloudError
from tests.servers.openstack_apis import running


@pytest.fixture
def apis():
    with running() as found:
        found.behind = "http://elsewhere.invalid"  # There is a proxy in front that the services know nothing of.
        yield found


@pytest.fixture
def make(apis, monkeypatch):
    """Make a system for these settings of the section `openstack`; it is closed in the end."""
    for name in ("OS_CLOUD", "OS_AUTH_URL", "OS_CLIENT_CONFIG_FILE"):
        monkeypatch.delenv(name, raising=False)
    made = []

    def system(**settings):
        given = {"auth": json.dumps(apis.auth()), "timeout": 5} | settings
        flags = {f"openstack.{name}": value for name, value in given.items()}
        made.append(openstack(load_settings(environment={}, flags=flags)))
        return made[-1]

    yield system
    for one in made:
        one.close()


@pytest.fixture
def read(make):
    """Read what a pollster gives of a target: by default the only region."""

    def of(pollster, resource="openstack://RegionOne", meters=None, system=None, **settings):
        (found,) = [p for p in (system or make(**settings)).pollsters if p.name == f"openstack.{pollster}"]
        assert found.takes(resource)
        return list(found.poll(resource, {m.name for m in found.meters} if meters is None else meters))

    return of


@pytest.fixture
def read_until_it_fails(make):
    """Read what a pollster gives before it raises CloudError; the resources, and the error."""

    def of(pollster, meters, resource="openstack://RegionOne", *, after=0, then=lambda: None, **settings):
        (found,) = [p for p in make(**settings).pollsters if p.name == f"openstack.{pollster}"]
        seen = []
        try:
            for reading in found.poll(resource, meters):
                seen.append(reading.resource_id)
                if len(seen) == after:
                    then()
        except CloudError as error:
            return seen, str(error)
        return seen, ""

    return of
