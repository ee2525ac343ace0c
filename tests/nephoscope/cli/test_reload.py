"""A pipeline.yaml that changes while the flow runs, with real processes: taken up where it is right, told of where it is wrong."""

import itertools
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest

from nephoscope.filters import Compare
from nephoscope.push import push
from nephoscope.sample import Sample
from nephoscope.times import SECOND
from nephoscope.topics.embedded import EmbeddedLog
from sinks.sql import SQLStore
from tests.servers import free_port

START = 1_700_000_040
RAW = "  - {name: raw, publishers: ['store://']}\n"
GROWTH = "  - {name: growth, transformers: [{name: delta, parameters: {target: {name: growth}}}], publishers: ['store://']}\n"
SUMS = (
    "  - name: sums\n    publishers: ['store://']\n"
    "    transformers: [{{name: aggregator, parameters: {{retention_time: {span}, target: {{name: {name}}}}}}}]\n"
)
SERIES = 20


def pipeline(span, name="sums", extra=""):
    sources = "sources:\n  - {name: all, meters: [volume.size], sinks: [raw, growth, sums]}\n"
    return sources + "sinks:\n" + RAW + GROWTH + SUMS.format(span=span, name=name) + extra


def samples(moment):
    """One of each series: a delta whose volume tells which it is."""
    return [
        Sample(
            name="volume.size", type="delta", unit="GB", volume=float(2 ** (moment % 40)), resource_id=f"volume-{n}",
            timestamp=(START + 10 * moment) * SECOND, id=f"{n:08d}{moment:08d}".encode(),
        )
        for n in range(SERIES)
    ]  # fmt: skip


def stored(folder):
    if not (folder / "state" / "samples.db").exists():
        return []
    store = SQLStore(f"sqlite:///{folder}/state/samples.db")
    try:
        return list(store.each_sample(Compare("timestamp", ">", 0)))
    finally:
        store.close()


class Flow:
    """A flow in a folder, and what it says."""

    def __init__(self, folder, workers):
        self.folder, self.port = folder, free_port()
        (folder / "nephoscope.yaml").write_text(
            "pipeline_cfg_file: pipeline.yaml\nstate_dir: state\nepoch_interval: 1\npartitions: 8\nlateness: 0\n"
            f"metrics: {{listen: '127.0.0.1:{self.port}'}}\n"
        )
        environment = {k: v for k, v in os.environ.items() if not k.startswith("NEPHOSCOPE_")}
        command = [sys.executable, "-m", "nephoscope.cli", "flow", "--workers", str(workers)]
        with (folder / "told").open("wb") as told:
            self.process = subprocess.Popen(
                command,
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=told,
                stderr=told,
                start_new_session=True,
            )

    def told(self):
        return (self.folder / "told").read_text()

    def until(self, done, timeout=40):
        deadline = time.monotonic() + timeout
        while not done():
            assert self.process.poll() is None, self.told()
            assert time.monotonic() < deadline, self.told()
            time.sleep(0.1)

    def asks(self, path):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/{path}", timeout=5) as answer:
                return answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.read().decode()

    def end(self):
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_a_change_is_taken_up_at_a_snapshot_and_a_mistake_is_not(tmp_path, workers):
    (tmp_path / "pipeline.yaml").write_text(pipeline(60))
    log = EmbeddedLog(tmp_path / "state" / "log.db", 8)
    flow = Flow(tmp_path, workers)
    moments = itertools.count()
    pushed = []

    def feed():
        """A little more, so that samples flow all the time."""
        pushed.append(next(moments))
        push(log, samples(pushed[-1]))

    def have(count):
        feed()
        return len([s for s in stored(tmp_path) if s.name == "volume.size"]) >= count * SERIES

    try:
        flow.until(lambda: have(8))

        (tmp_path / "pipeline.yaml").write_text(pipeline(60).replace("retention_time", "retentoin_time"))
        wrong = re.compile(r"goes on as before:\n.*pipeline.yaml:\d+: .*retentoin_time.*retention_time")
        flow.until(lambda: feed() or wrong.search(flow.told()))
        flow.until(lambda: "nephoscope_flow_pipeline_refused 1.0" in flow.asks("metrics"))
        part = json.loads(flow.asks("ready"))["parts"]["pipeline"]
        assert "retentoin_time" in part["detail"]
        assert part["ready"] is True
        flow.until(lambda: have(14))

        # What an operator sends to have files read again; they are looked at anyway.
        os.killpg(flow.process.pid, signal.SIGHUP)
        (tmp_path / "pipeline.yaml").write_text(pipeline(90, "wide"))
        flow.until(lambda: feed() or "is taken up" in flow.told())
        # Everything up to here closes: nothing is left in a window.
        for _ in range(20):
            feed()
        end = [Sample(**{**vars_of(s), "timestamp": s.timestamp + 3600 * SECOND, "volume": 0.0, "id": b"end-" + s.id[:12]}) for s in samples(next(moments))]  # fmt: skip
        push(log, end)
        flow.until(lambda: len([s for s in stored(tmp_path) if s.name == "volume.size"]) == (len(pushed) + 1) * SERIES)
        flow.until(lambda: json.loads(flow.asks("ready"))["parts"]["log"].get("lag_messages") == 0)
        assert "pipeline_refused 0.0" in flow.asks("metrics")
    finally:
        flow.end()
    log.close()

    found = stored(tmp_path)
    raw = {(s.resource_id, s.timestamp): s.volume for s in found if s.name == "volume.size"}
    growth = {(s.resource_id, s.timestamp): s.volume for s in found if s.name == "growth"}
    for resource in {r for r, _ in raw}:
        times = sorted(t for r, t in raw if r == resource)
        want = {b: raw[resource, b] - raw[resource, a] for a, b in itertools.pairwise(times)}
        assert {t: v for (r, t), v in growth.items() if r == resource} == want, "an unchanged step noticed the change"
    windows = [s for s in found if s.name in {"sums", "wide"}]
    assert {s.name for s in windows} == {"sums", "wide"}
    assert sum(s.volume for s in windows) == sum(raw.values()), flow.told()


def vars_of(sample):
    return {
        name: getattr(sample, name) for name in ("name", "type", "unit", "volume", "resource_id", "timestamp", "id")
    }
