"""Every store that is tested: one suite for all of them, with the same data and the same answers."""

import itertools
from contextlib import contextmanager

import pytest

from sinks.sql import SQLStore


@pytest.fixture
def store_url(tmp_path):
    """Where an empty store may be."""
    return f"sqlite:///{tmp_path}/samples.db"


@pytest.fixture
def store(store_url):
    store = SQLStore(store_url)
    yield store
    store.close()


@pytest.fixture(scope="module")
def fresh_store(tmp_path_factory):
    """A context manager that gives an empty store, for property tests."""
    folder = tmp_path_factory.mktemp("stores")
    numbers = itertools.count()

    @contextmanager
    def make():
        path = folder / f"{next(numbers)}.db"
        # Nothing here outlives the machine: without waiting for the disk, ten times the examples.
        store = SQLStore(f"sqlite:///{path}?synchronous=off")
        try:
            yield store
        finally:
            store.close()
            for file in folder.glob(f"{path.name}*"):
                file.unlink()

    return make
