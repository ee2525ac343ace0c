"""Where the engine puts a partition's state, and that the work is spread evenly."""

from collections import Counter

import bytewax.operators as op
import pytest
from bytewax.dataflow import Dataflow
from bytewax.outputs import DynamicSink, StatelessSinkPartition
from bytewax.testing import TestingSource, cluster_main

from flows.engine import Share
from flows.placement import key_of, partition_of, worker_of


class Where(DynamicSink):
    """Notes which worker an item came to."""

    def __init__(self, seen):
        self.seen = seen

    def build(self, step_id, worker_index, worker_count):
        class Part(StatelessSinkPartition):
            def write_batch(_, items):  # noqa: N805 - `self` is the sink
                self.seen.update((key, worker_index) for key, _ in items)

        return Part()


@pytest.mark.parametrize("workers", [1, 2, 3, 5])
def test_the_engine_puts_a_key_where_we_say(workers):
    keys = [key_of(p) for p in range(40)] + ["", "a", "eight by", "nine byte", "ü"]
    seen = set()
    flow = Dataflow("where")
    items = op.input("in", flow, TestingSource([(k, 1) for k in keys]))
    summed = op.stateful_map("sum", items, lambda state, value: ((state or 0) + value, value))
    op.output("out", summed, Where(seen))
    cluster_main(flow, [], 0, worker_count_per_proc=workers)
    assert seen == {(key, worker_of(key, workers)) for key in keys}


@pytest.mark.parametrize("workers", range(1, 9))
@pytest.mark.parametrize("partitions", [1, 7, 64, 100])
def test_workers_have_equal_shares(workers, partitions):
    counts = Counter(worker_of(key_of(p), workers) for p in range(partitions))
    assert max(counts.values()) - min(counts[w] for w in range(workers)) <= 1


def test_a_key_says_its_partition():
    assert [partition_of(key_of(p)) for p in (0, 7, 63, 65535)] == [0, 7, 63, 65535]
    assert len({key_of(p) for p in range(1000)}) == 1000


def test_shares_make_up_the_whole():
    for workers, each in ((1, 1), (3, 1), (2, 2)):
        shares = [Share(i * each, each, workers * each) for i in range(workers)]
        for p in range(64):
            assert sum(s.has(key_of(p)) for s in shares) == 1
