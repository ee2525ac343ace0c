"""The flow over a real broker, as processes that are killed: what is stored is there once, all of it."""

import os
import signal
import subprocess
import sys
import time
import uuid

import pytest

from nephoscope.filters import Compare
from nephoscope.push import push
from nephoscope.sample import Sample
from nephoscope.times import SECOND
from nephoscope.topics.kafka import KafkaLog, Options
from sinks.sql import SQLStore

PIPELINE = """
sources:
  - {name: all, meters: [volume.size], sinks: [raw, growth]}
sinks:
  - {name: raw, publishers: ["store://"]}
  - name: growth
    transformers: [{name: delta, parameters: {target: {name: volume.growth}}}]
    publishers: ["store://"]
"""
SERIES, ROUNDS, START = 300, 40, 1_700_000_000


def samples(number):
    """A round: a sample of each series, three higher than the last."""
    for series in range(SERIES):
        yield Sample(
            name="volume.size",
            type="gauge",
            unit="GB",
            volume=float(3 * number + series),
            resource_id=f"volume-{series}",
            timestamp=(START + 10 * number) * SECOND,
            id=uuid.uuid5(uuid.NAMESPACE_OID, f"{series}/{number}").bytes,
        )


def stored(path):
    store = SQLStore(f"sqlite:///{path}")
    found = [(s.name, s.resource_id, s.timestamp // SECOND, s.volume) for s in store.each_sample(Compare("timestamp", ">", 0))]  # fmt: skip
    store.close()
    return found


@pytest.mark.slow
def test_killed_workers_lose_and_double_nothing(kafka, tmp_path):
    prefix = f"{uuid.uuid4()}."
    (tmp_path / "pipeline.yaml").write_text(PIPELINE)
    (tmp_path / "nephoscope.yaml").write_text(
        "pipeline_cfg_file: pipeline.yaml\nstate_dir: state\nepoch_interval: 1\npartitions: 16\n"
        f"log: {{url: 'kafka://{kafka}', kafka: {{topic_prefix: '{prefix}'}}}}\n"
    )
    expected = {
        ("volume.size", f"volume-{s}", START + 10 * n, 3.0 * n + s) for n in range(ROUNDS) for s in range(SERIES)
    }
    expected |= {("volume.growth", f"volume-{s}", START + 10 * n, 3.0) for n in range(1, ROUNDS) for s in range(SERIES)}
    log = KafkaLog(kafka, 16, Options(prefix=prefix))
    environment = {k: v for k, v in os.environ.items() if not k.startswith("NEPHOSCOPE_")}
    rounds = iter(range(ROUNDS))
    found = []

    for workers in (1, 2, 1):
        command = [sys.executable, "-m", "nephoscope.cli", "flow", "--workers", str(workers)]
        with (tmp_path / "errors").open("ab") as errors:
            flow = subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=errors, start_new_session=True)
        try:
            before, deadline = len(found), time.monotonic() + 30
            last = workers == 1 and before > 0
            while (len(found) < len(expected)) if last else (len(found) <= before + 1000):
                assert flow.poll() is None, (tmp_path / "errors").read_text()
                assert time.monotonic() < deadline
                for number in list(zip(range(ROUNDS // 10), rounds, strict=False)):
                    # Each twice: the second time is no news.
                    for _ in range(2):
                        push(log, samples(number[1]))
                time.sleep(0.2)
                if (tmp_path / "state" / "samples.db").exists():
                    found = stored(tmp_path / "state" / "samples.db")
        finally:
            os.killpg(flow.pid, signal.SIGKILL)
            flow.wait()

    assert len(found) == len(expected)
    assert set(found) == expected
    log.close()
