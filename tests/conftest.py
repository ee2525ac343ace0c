"""The real servers that tests share: a fixture each, started when first asked for. See tests/servers."""

import os

import pytest


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory):
    """A folder that all workers of this test run share."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@pytest.fixture(scope="session")
def kafka_addresses(run_folder):
    """The addresses of a Kafka broker: for everybody, and for those with a password."""
    from tests.servers.kafka import for_all

    with for_all(run_folder) as addresses:
        yield addresses


@pytest.fixture(scope="session")
def kafka(kafka_addresses):
    """The address of a Kafka broker. Use a topic prefix of your own, and leave it running."""
    return kafka_addresses[0]


@pytest.fixture(scope="session")
def zookeeper(run_folder):
    """The URL of a ZooKeeper. Use a group of your own, and leave it running."""
    from tests.servers.zookeeper import for_all

    with for_all(run_folder) as url:
        yield url


@pytest.fixture(scope="session")
def redis(run_folder):
    """The URL of a Redis. Use a group of your own, and leave it running."""
    from tests.servers.redis import for_all

    with for_all(run_folder) as url:
        yield url


@pytest.fixture(scope="session")
def memcached(run_folder):
    """The URL of a memcached. Use a group of your own, and leave it running."""
    from tests.servers.memcached import for_all

    with for_all(run_folder) as url:
        yield url


@pytest.fixture(scope="session")
def rabbitmq(run_folder):
    """The port of a RabbitMQ broker (user guest). Use a virtual host or queues of your own, and leave it running."""
    from tests.servers.rabbitmq import for_all

    with for_all(run_folder) as port:
        yield port
