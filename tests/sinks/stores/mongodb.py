"""MongoDB: a database of the run's server, emptied for each store. To make one takes a tenth of a second and more."""

import secrets
from contextlib import contextmanager

import pytest
from pymongo import MongoClient

from nephoscope.lifetimes import Plan
from sinks.mongodb import expire, layout
from tests.servers.mongodb import for_all
from tests.sinks.stores import Kind


@contextmanager
def _place(run_folder):
    with for_all(run_folder) as address, MongoClient(f"mongodb://{address}/?replicaSet=rs0") as client:
        name = f"suite_{secrets.token_hex(4)}"
        free = [f"{name}_0"]
        made = 1

        @contextmanager
        def empty():
            nonlocal made
            if not free:
                free.append(f"{name}_{made}")
                made += 1
            database = free.pop()
            try:
                yield f"mongodb://{address}/{database}?replicaSet=rs0"
            finally:
                if _emptied(client[database]):
                    free.append(database)

        try:
            yield empty
        finally:
            for number in range(made):
                client.drop_database(f"{name}_{number}")


def _emptied(database):
    """Whether it is as a new one. One that was tampered with is not used again."""
    if layout.problems(database):
        return False
    for collection in ("record", "tied", "kind", "resource", "state", "event"):
        database[collection].delete_many({})
        for index, facts in database[collection].index_information().items():
            # What lives for a time, or belongs to a class, is a lifetime's doing.
            if "expireAfterSeconds" in facts or (index.startswith("ttl_") and index not in {"ttl_t0", "ttl_t"}):
                database[collection].drop_index(index)
    database["about"].delete_many({"_id": {"$ne": "head"}})
    done = database["about"].update_one({"_id": "head"}, {"$set": {"swept": 0, "plan": Plan().to_json()}})
    return done.matched_count == 1


@contextmanager
def _small_steps(documents, *, pauses=False):
    with pytest.MonkeyPatch.context() as patch:
        if not pauses:
            patch.setattr(expire, "_LEAST_PAUSE", 0.0)
            patch.setattr(expire, "_PAUSE", 0.0)
        patch.setattr(expire, "DOCUMENTS_A_STEP", documents)
        yield


KIND = Kind("mongodb", _place, examples=8, small_steps=_small_steps)
