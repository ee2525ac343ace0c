"""That the harness can fail: what is dropped, doubled or changed is found, to the row."""

import sqlite3

import numpy as np
import pytest

from flows.plan import Options, compile_plan
from flows.stage import process
from flows.state import State
from nephoscope import times
from nephoscope.batch import Batch
from nephoscope.pipeline import parse_pipeline
from nephoscope.topics import SAMPLES
from nephoscope.topics.embedded import EmbeddedLog
from sinks.sql import SQLStore
from tests.chaos import rows
from tests.chaos.cloud import INTERVAL, PIPELINE, Cloud
from tests.chaos.soak import Line
from tests.reference import Options as ReferenceOptions

PARTITIONS = 4


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    """A small cloud's samples on an embedded log."""
    log = EmbeddedLog(tmp_path_factory.mktemp("log") / "log.db", PARTITIONS)
    for records, _ in Cloud(200, 6_000, times.now(), PARTITIONS).records():
        log.append(SAMPLES, records)
    yield log
    log.close()


@pytest.fixture(scope="module")
def pipeline():
    return parse_pipeline(PIPELINE.replace("FILE", "file:///x"), publisher_schemes=("file",))


@pytest.fixture(scope="module")
def plan(pipeline):
    return compile_plan(pipeline, Options())


@pytest.fixture(scope="module")
def peace(log, plan):
    return rows.in_peace(log, plan)


def stored(log, plan, path, skipped=None):
    """What a store has after one pass over the log, but for the message at `skipped`, which the flow never sees."""
    store = SQLStore(f"sqlite:///{path}")
    for number, messages in rows.by_partition(log):
        state = State(plan)
        for place, message in enumerate(messages):
            if (number, place) != skipped:
                for url, batches in process(plan, state, [message]).published.items():
                    if url == "store://":
                        store.write(batches)
    found = rows.of_samples(store.each_sample())
    store.close()
    return found


def test_the_cloud_has_what_it_promises(log, peace):
    """Doubles, late ones, ones out of order, all the kinds of derived samples; the same for a seed."""
    assert peace.doubles > 100
    assert peace.samples > 5_500
    assert len(peace.stored) > 6_000
    assert len(peace.filed) > 100
    assert not peace.dead
    seen = set()
    for _, messages in rows.by_partition(log):
        time = np.concatenate([[s.timestamp for s in Batch.samples(rows.decode(m.value))] for m in messages])
        seen.add(bool((np.diff(time) < 0).any()))
        assert (np.maximum.accumulate(time) - time).max() > 2 * INTERVAL * 1_000_000
    assert seen == {True}
    once, twice = (list(Cloud(40, 400, 10**15, PARTITIONS).records()) for _ in range(2))
    assert once == twice


def test_one_pass_is_without_difference(log, plan, peace, tmp_path):
    found = rows.compare(stored(log, plan, tmp_path / "s.db"), peace.stored)

    assert not found, found
    assert str(found).endswith("rows: 0 missing, 0 double, 0 different")


def test_the_slow_reference_says_the_same(log, pipeline, peace):
    slow = rows.row_by_row(log, pipeline, ReferenceOptions(), [1])

    assert not rows.compare(peace.store[1], rows.once(rows.flat(slow)))


def test_a_message_that_is_skipped_is_found(log, plan, peace, tmp_path):
    found = rows.compare(stored(log, plan, tmp_path / "s.db", skipped=(1, 4)), peace.stored)

    assert found.missing > 10


def test_one_record_that_is_lost_from_the_store_is_found(log, plan, peace, tmp_path):
    stored(log, plan, tmp_path / "s.db")
    with sqlite3.connect(tmp_path / "s.db") as connection:
        gone = connection.execute(
            "DELETE FROM record WHERE (span, resource, place, tie) = (SELECT span, resource, place, tie FROM record LIMIT 1)"
        )
    connection.close()
    assert gone.rowcount == 1
    store = SQLStore(f"sqlite:///{tmp_path}/s.db")

    found = rows.compare(rows.of_samples(store.each_sample()), peace.stored)

    store.close()
    assert 0 < found.missing < 10
    assert (found.double, found.different) == (0, 0)


def test_each_kind_of_difference_is_counted(peace):
    good = peace.stored
    changed = good.copy()
    changed[7, 2] += np.uint64(1)
    strange = np.array([[1, 2, 3]], np.uint64)

    assert rows.compare(good[::-1], good) == rows.Difference(0, 0, 0, len(good))
    assert rows.compare(good[1:], good) == rows.Difference(1, 0, 0, len(good) - 1)
    assert rows.compare(np.concatenate([good, good[:2]]), good) == rows.Difference(0, 2, 0, len(good) + 2)
    assert rows.compare(np.concatenate([good, strange]), good) == rows.Difference(0, 1, 0, len(good) + 1)
    assert rows.compare(changed, good) == rows.Difference(0, 0, 1, len(good))


def test_every_attribute_counts(log):
    """A digest that leaves one out would call different samples equal."""
    import msgspec

    from nephoscope.batch import batch_of

    message = next(m for _, ms in rows.by_partition(log) for m in ms)
    one = next(rows.decode(message.value).samples())
    before = rows.digests(batch_of([one]).rows)
    for name, value in msgspec.structs.asdict(one).items():
        other = {str: f"{value}x", float: 3.5, int: 1, bool: True, bytes: b"\1" * 16}[type(value)]
        after = rows.digests(batch_of([msgspec.structs.replace(one, **{name: other})]).rows)
        assert (before != after).any(), name


@pytest.mark.parametrize(
    "values,flat",
    [
        ([100] * 60, True),
        ([100 + i % 7 for i in range(60)], True),
        ([i * 3 for i in range(60)], False),
        ([0] * 30 + [100 * i for i in range(30)], False),
        # What fills up at the beginning is not what leaks.
        ([min(i * 20, 400) for i in range(60)], True),
        ([1000 - i for i in range(60)], True),
    ],
)
def test_flat_is_flat(values, flat):
    assert Line("x", "MB", least=5, values=values).flat is flat


def test_of_rivals_either_is_right_and_nothing_else(peace):
    """An id that lies on two partitions with different content: the store may have one of them, and must have one."""
    good = peace.stored
    rival = good[:1].copy()
    rival[0, 2] += np.uint64(1)
    rows_ = np.concatenate([good, rival])
    other = np.concatenate([rival, good[1:]])
    wrong = other.copy()
    wrong[0, 2] += np.uint64(1)

    for stored_, difference in ((good, 0), (other, 0), (wrong, 1)):
        found = rows.compare(stored_, rows.either(rows_, stored_))
        assert (found.missing, found.double, found.different) == (0, 0, difference)
    assert rows.compare(good[1:], rows.either(rows_, good[1:])).missing == 1
