"""One cloud for the whole job."""

import pytest


@pytest.fixture(scope="session")
def cloud(tmp_path_factory):
    """The real services."""
    from tests.openstack.cloud import running

    with running(tmp_path_factory.mktemp("cloud")) as found:
        yield found
