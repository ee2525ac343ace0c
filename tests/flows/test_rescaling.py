"""Stop with n workers, start with m: state goes to whoever has its partition then, whatever the number of files of the recovery store."""

from datetime import timedelta

import bytewax.operators as op
import pytest
from bytewax.dataflow import Dataflow
from bytewax.recovery import MissingPartitionsError
from bytewax.testing import TestingSink, TestingSource, cluster_main

from flows.engine import recovery
from flows.placement import key_of


def once(folder, workers):
    """Each key's count over all runs."""
    out = []
    flow = Dataflow("counts")
    items = op.input("in", flow, TestingSource([(key_of(p), 1) for p in range(12)]))
    counts = op.stateful_map("count", items, lambda state, one: ((state or 0) + one,) * 2)
    op.output("out", counts, TestingSink(out))
    cluster_main(
        flow, [], 0, worker_count_per_proc=workers, recovery_config=recovery(folder, 2), epoch_interval=timedelta(0)
    )
    return dict(out)


class Again(TestingSource):
    """From the beginning, whatever the store says."""

    def build_part(self, step_id, for_part, resume_state):
        return super().build_part(step_id, for_part, None)


def test_the_number_of_workers_is_free(tmp_path, monkeypatch):
    monkeypatch.setitem(once.__globals__, "TestingSource", Again)
    for number, workers in enumerate((1, 3, 2, 5), 1):
        assert once(tmp_path, workers) == {key_of(p): number for p in range(12)}


def test_a_missing_file_is_refused(tmp_path):
    once(tmp_path, 1)
    (tmp_path / "part-1.sqlite3").unlink()
    with pytest.raises(MissingPartitionsError):
        once(tmp_path, 1)
