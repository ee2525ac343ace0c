"""One cloud for the whole job, and what reads it."""

import json

import pytest

from nephoscope.settings import load_settings


@pytest.fixture(scope="session")
def cloud(tmp_path_factory):
    """The real services, with something in them."""
    from tests.openstack.cloud import running
    from tests.openstack.contents import fill

    with running(tmp_path_factory.mktemp("cloud")) as found:
        fill(found)
        yield found


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
