"""Every store that is tested: one suite for all of them, with the same data and the same answers. See tests/sinks/stores."""

from contextlib import contextmanager

import pytest

from tests.sinks.stores import KINDS


@pytest.fixture(
    scope="session",
    params=[pytest.param(k.name, marks=[getattr(pytest.mark, m) for m in k.marks]) for k in KINDS.values()],
)
def kind(request):
    """The kind of store that a test runs over."""
    return KINDS[request.param]


@pytest.fixture(scope="session")
def empty_store(kind, run_folder, request):
    """A context manager that gives the URL of an empty store."""
    if kind.name == "hbase":
        request.getfixturevalue("hbase")
    with kind.place(run_folder) as empty:
        yield empty


@pytest.fixture(scope="session")
def hbase(run_folder):
    """The addresses of Thrift and Thrift 2 of an HBase. It takes long to start: once a run, whoever asks for it first."""
    from tests.servers.hbase import for_all

    with for_all(run_folder) as addresses:
        yield addresses


@pytest.fixture
def store_url(empty_store):
    """Where an empty store may be."""
    with empty_store() as url:
        yield url


@pytest.fixture
def make_store(kind, store_url):
    """Opens the store at `store_url`, with lifetimes or without, as often as wanted; all are closed in the end."""
    opened = []

    def make(lifetimes=None):
        opened.append(kind.open(store_url, lifetimes))
        return opened[-1]

    yield make
    for store in opened:
        store.close()


@pytest.fixture
def store(make_store):
    """An empty store."""
    return make_store()


@pytest.fixture
def fresh_store(kind, empty_store):
    """A context manager that gives an empty store with some lifetimes, for property tests."""

    @contextmanager
    def make(lifetimes=None):
        with empty_store() as url:
            store = kind.open(url, lifetimes)
            try:
                yield store
            finally:
                store.close()

    return make


@pytest.fixture
def small_steps(kind):
    """Expires three records a step, without pauses between them."""
    with kind.small_steps(3):
        yield
