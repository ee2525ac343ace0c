"""A worker of a cluster that waits for another leaves the machine to it."""

import itertools
import time

import psutil
import pytest

from nephoscope.push import push
from nephoscope.topics.embedded import EmbeddedLog
from tests.nephoscope.cli.test_reload import Flow, pipeline, samples, stored
from tests.servers import suspend


def used(process):
    times = process.cpu_times()
    return times.user + times.system


@pytest.mark.slow
def test_who_waits_for_a_stopped_worker_sleeps_and_goes_on_after_it(tmp_path):
    (tmp_path / "pipeline.yaml").write_text(pipeline(60))
    log = EmbeddedLog(tmp_path / "state" / "log.db", 8)
    flow = Flow(tmp_path, 2)
    moments = itertools.count()

    def have(count):
        push(log, samples(next(moments)))
        return len([s for s in stored(tmp_path) if s.name == "volume.size"]) >= count

    try:
        flow.until(lambda: have(100))
        waiting, stopped = psutil.Process(flow.process.pid).children()
        suspend(stopped.pid)
        for _ in range(5):
            push(log, samples(next(moments)))
        # The epoch of a second has ended by then, and what came before its end is done with.
        time.sleep(4)
        before, began = used(waiting), time.monotonic()
        time.sleep(4)
        share = (used(waiting) - before) / (time.monotonic() - began)
        stopped.resume()
        flow.until(lambda: have(20 * 12))
    finally:
        flow.end()
    log.close()

    # It would be all of a core.
    assert share < 0.4
