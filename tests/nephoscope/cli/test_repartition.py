"""`repartition`, as processes: from 64 partitions to 128, killed in its middle and repeated; rates and windows go on."""

import os
import signal
import subprocess
import sys
import time
import uuid

import pytest

from flows.plan import Options, compile_plan
from flows.stage import process
from flows.state import State
from nephoscope.batch import PUSHED, Batch, mark
from nephoscope.filters import Compare
from nephoscope.pipeline import load_pipeline
from nephoscope.push import marks, push, records_of
from nephoscope.sample import Sample
from nephoscope.times import SECOND
from nephoscope.topics import SAMPLES, Message
from nephoscope.topics.embedded import EmbeddedLog
from nephoscope.topics.kafka import KafkaLog
from nephoscope.topics.kafka import Options as KafkaOptions
from sinks.sql import SQLStore

PIPELINE = """
sources:
  - {name: all, meters: ["*"], sinks: [raw, rates, sums]}
sinks:
  - {name: raw, publishers: ["store://"]}
  - {name: rates, publishers: ["store://"], transformers: [{name: rate_of_change, parameters: {target: {name: rate}}}]}
  - {name: sums, publishers: ["store://"], transformers: [{name: aggregator, parameters: {retention_time: 60, target: {name: mean}}}]}
"""
SERIES, START = 150, 1_700_000_040


def samples(moment):
    return [
        Sample(
            name="disk", type="cumulative", unit="B", volume=float((n + 1) * moment), resource_id=f"instance-{n}",
            timestamp=(START + 20 * moment) * SECOND, id=uuid.uuid5(uuid.NAMESPACE_OID, f"{n}/{moment}").bytes,
        )
        for n in range(SERIES)
    ]  # fmt: skip


def fill(log, moments, partitions):
    for moment in moments:
        log.append(SAMPLES, marks((START + 20 * moment) * SECOND, partitions))
        push(log, samples(moment))


def undisturbed(folder, count):
    """What one run over 64 partitions publishes."""
    plan = compile_plan(load_pipeline(folder / "pipeline.yaml", publisher_schemes=()), Options(lateness=0))
    states = [State(plan) for _ in range(64)]
    out = []
    for moment in range(count):
        given = [(p, mark((START + 20 * moment) * SECOND)) for p in range(64)]
        given += [(r.partition, r.value) for r in records_of(samples(moment), PUSHED, 64)]
        for p, value in given:
            for rows in process(plan, states[p], [Message(p, 0, 0, value)]).published.get("store://", []):
                out += Batch(rows).samples()
    return {(s.name, s.resource_id, s.timestamp, s.volume) for s in out}


def stored(folder):
    if not (folder / "state" / "samples.db").exists():
        return []
    store = SQLStore(f"sqlite:///{folder}/state/samples.db")
    try:
        return [(s.name, s.resource_id, s.timestamp, s.volume) for s in store.each_sample(Compare("timestamp", ">", 0))]
    finally:
        store.close()


def start(folder, *words):
    environment = {k: v for k, v in os.environ.items() if not k.startswith("NEPHOSCOPE_")}
    with (folder / "told").open("ab") as told:
        command = [sys.executable, "-m", "nephoscope.cli", *words]
        return subprocess.Popen(command, cwd=folder, env=environment, stdout=told, stderr=told, start_new_session=True)


def told(folder):
    return (folder / "told").read_text()


def flow_until(folder, wanted, *words):
    """Run a flow until so much is stored, and stop it in order."""
    flow = start(folder, "flow", *words)
    try:
        deadline = time.monotonic() + 60
        while len(found := stored(folder)) < len(wanted):
            assert flow.poll() is None, told(folder)
            assert time.monotonic() < deadline, (len(found), len(wanted), told(folder))
            time.sleep(0.2)
        assert {*found} == wanted
        flow.send_signal(signal.SIGTERM)
        assert flow.wait(30) == 0, told(folder)
    finally:
        if flow.poll() is None:
            os.killpg(flow.pid, signal.SIGKILL)
            flow.wait()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["embedded", "kafka"])
def test_rates_and_windows_go_on_after_the_growth(kind, tmp_path, request):
    prefix = f"{uuid.uuid4()}."
    url = f"kafka://{request.getfixturevalue('kafka')}" if kind == "kafka" else "embedded"

    def opened(partitions):
        if kind == "kafka":
            return KafkaLog(url.partition("://")[2], partitions, KafkaOptions(prefix=prefix))
        return EmbeddedLog(tmp_path / "state" / "log.db", partitions)

    (tmp_path / "pipeline.yaml").write_text(PIPELINE)
    (tmp_path / "nephoscope.yaml").write_text(
        "pipeline_cfg_file: pipeline.yaml\nstate_dir: state\nepoch_interval: 1\nlateness: 0\nmetrics: {listen: ''}\n"
        f"log: {{url: '{url}', kafka: {{topic_prefix: '{prefix}'}}}}\n"
    )
    (tmp_path / "state").mkdir()
    half, whole = undisturbed(tmp_path, 8), undisturbed(tmp_path, 16)

    log = opened(64)
    fill(log, range(8), 64)
    log.close()
    grow = ("repartition", "--partitions", "128")
    assert start(tmp_path, *grow).wait(60) == 1
    assert "messages are not computed yet" in told(tmp_path)
    flow_until(tmp_path, half)

    # Killed wherever it is by now: before, in the middle of, or after the new store and the topics.
    for wait in (3.0, 5.0):
        killed = start(tmp_path, *grow)
        try:
            killed.wait(wait)
        except subprocess.TimeoutExpired:
            os.killpg(killed.pid, signal.SIGKILL)
            killed.wait()
    if (tmp_path / "state" / "recovery.growing").exists() or not (tmp_path / "state" / "recovery-64").exists():
        assert start(tmp_path, *grow).wait(60) == 0, told(tmp_path)

    refused = start(tmp_path, "flow")
    assert refused.wait(60) != 0
    log = opened(128)
    fill(log, range(8, 16), 128)
    log.close()
    flow_until(tmp_path, whole, "--set", "partitions=128")
