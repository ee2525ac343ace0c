"""One cloud for the whole job, and what reads it."""

import json

import pytest

from nephoscope.settings import load_settings

COMMANDS = (
    "project list",
    "image list --long",
    "volume list --all-projects",
    "volume snapshot list --all-projects",
    "volume backup list --all-projects",
    "network list",
    "subnet list",
    "port list --long",
    "router list",
    "floating ip list",
    "vpn service list",
    "vpn ipsec site connection list",
    "server list --all-projects --long",
    "flavor show tiny",
    "loadbalancer list",
    "loadbalancer listener list",
    "loadbalancer pool list",
    "loadbalancer healthmonitor list",
    "loadbalancer member list backends",
    "loadbalancer stats show front",
    "object store account show",
    "container list --long",
)


@pytest.fixture(scope="session")
def cloud(tmp_path_factory):
    """The real services, with something in them."""
    from tests.openstack.cloud import running
    from tests.openstack.contents import fill

    with running(tmp_path_factory.mktemp("cloud")) as found:
        fill(found)
        yield found


@pytest.fixture(scope="session")
def listed(cloud):
    """What the `openstack` client lists, by command."""
    from tests.openstack.cloud import say

    found = cloud.client(COMMANDS)
    say("the client has listed it all")
    return found


@pytest.fixture
def make(cloud):
    """Make the system for settings of the section `openstack`; it is closed in the end."""
    from sources.openstack import openstack

    made = []

    def system(user="telemetry", project="service", **settings):
        given = {"auth": json.dumps(cloud.auth(user, project)), "page_size": 20, "timeout": 20} | settings
        flags = {f"openstack.{name}": value for name, value in given.items()}
        made.append(openstack(load_settings(environment={}, flags=flags)))
        return made[-1]

    yield system
    for one in made:
        one.close()


@pytest.fixture
def read(make):
    """Read a pollster's meters, by the target that its discovery finds."""

    def of(pollster, system=None):
        system = system or make()
        (found,) = [p for p in system.pollsters if p.name == f"openstack.{pollster}"]
        meters = {m.name for m in found.meters}
        return [r for target in system.discoveries[found.discovery]("") for r in found.poll(target, meters)]

    return of
