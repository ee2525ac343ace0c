"""Two stores on one sink: one of them is killed, the flow stops until it is there again, and both have every sample once."""

import json
import signal
import time
from contextlib import closing

import pytest

from nephoscope.errors import Unavailable
from nephoscope.push import push
from nephoscope.sample import Sample
from nephoscope.topics.embedded import EmbeddedLog
from sinks.mongodb import MongoStore
from sinks.sql import SQLStore
from tests.flows.test_publishers import EACH, PARTITIONS, PATIENCE, Flow, samples
from tests.servers import free_port, mongodb, postgresql


def everything(numbers) -> list[Sample]:
    return [s for number in numbers for s in samples(number)]


def by_id(some):
    return sorted(some, key=lambda s: s.id)


def made(folder):
    folder.mkdir()
    return folder


def away(part):
    """The flow says that it waits for this part, and what it has not done."""
    return lambda r: part in r["parts"] and not r["parts"][part]["ready"] and not r["ready"]


def until(holds, patience=3 * PATIENCE):
    deadline = time.monotonic() + patience
    while not holds():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.1)


def count(store):
    """How many samples it has; none while it is away."""
    try:
        return len(list(store.each_sample()))
    except Unavailable:
        return 0


@pytest.mark.slow
def test_a_store_that_is_killed_stops_the_flow_and_neither_store_loses_or_doubles_a_sample(tmp_path):
    port = free_port()
    with (
        postgresql.running(made(tmp_path / "postgresql")) as first,
        mongodb.running(made(tmp_path / "mongodb")) as second,
        closing(SQLStore(first.url())) as one,
        closing(MongoStore(second.url("samples"))) as there,
    ):
        # The driver gives up soon, so that the flow says soon who is away.
        other = second.url("samples", options="serverSelectionTimeoutMS=500")
        (tmp_path / "pipeline.yaml").write_text(
            json.dumps(
                {
                    "sources": [{"name": "all", "meters": ["*"], "sinks": ["out"]}],
                    "sinks": [{"name": "out", "publishers": ["store://", other]}],
                }
            )
        )
        (tmp_path / "nephoscope.yaml").write_text(
            f"pipeline_cfg_file: pipeline.yaml\nstate_dir: state\nepoch_interval: 0.2\npartitions: {PARTITIONS}\n"
            f"metrics: {{listen: '127.0.0.1:{port}'}}\ndatabase: {{connection: '${{file:url}}'}}\n"
        )
        (tmp_path / "url").write_text(first.url())
        (tmp_path / "state").mkdir(mode=0o700)
        log = EmbeddedLog(tmp_path / "state" / "log.db", PARTITIONS)
        label = f"mongodb://{second.address}/samples"

        def pushed(*numbers):
            for number in numbers:
                push(log, samples(number))

        flow = Flow(tmp_path, port)
        try:
            pushed(*range(10))
            until(lambda: count(one) == count(there) == 10 * EACH)

            # The second one goes. What the first one takes meanwhile comes again afterwards, and is known.
            second.kill()
            pushed(*range(10, 20))
            flow.ready(away(label))
            flow.end(signal.SIGKILL)
            flow = Flow(tmp_path, port)
            flow.ready(away(label))
            second.start()
            until(lambda: count(one) == count(there) == 20 * EACH)

            # Now the first one: nothing goes past it.
            first.kill()
            pushed(*range(20, 30))
            flow.ready(away("store"))
            assert by_id(there.each_sample()) == by_id(everything(range(20)))
            first.start()
            until(lambda: count(one) == count(there) == 30 * EACH)
            assert flow.end(signal.SIGTERM) < 15
            assert flow.process.returncode == 0
        finally:
            flow.end(signal.SIGKILL)
            log.close()

        assert by_id(one.each_sample()) == by_id(there.each_sample()) == by_id(everything(range(30)))
