"""`flow` and `agent` as processes: /ready follows a store that goes and comes back, and nothing is lost or counted twice."""

import json
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from nephoscope.filters import Compare
from nephoscope.push import push
from nephoscope.sample import sample_from_dict
from nephoscope.topics import SAMPLES, Record
from nephoscope.topics.embedded import EmbeddedLog
from sinks.sql import SQLStore

PATIENCE = 60
PIPELINE = """
sources: [{name: all, meters: ["*"], sinks: [raw, rates]}]
sinks:
  - {name: raw, transformers: [], publishers: ["database://"]}
  - {name: rates, transformers: [{name: rate_of_change, parameters: {target: {name: cpu.rate}}}], publishers: ["database://"]}
"""


@pytest.fixture
def port():
    """A port that nobody uses now, nor the one after it."""
    while True:
        with socket.socket() as one, socket.socket() as other:
            one.bind(("127.0.0.1", 0))
            number = one.getsockname()[1]
            try:
                other.bind(("127.0.0.1", number + 1))
            except OSError:
                continue
            return number


@pytest.fixture
def start(tmp_path, port):
    """Start a part in an empty folder."""
    (tmp_path / "pipeline.yaml").write_text(PIPELINE)
    (tmp_path / "polling.yaml").write_text("sources: [{name: host, interval: 1, meters: [hardware.cpu.load.1min]}]\n")
    (tmp_path / "nephoscope.yaml").write_text(
        "pipeline_cfg_file: pipeline.yaml\npolling_cfg_file: polling.yaml\nstate_dir: state\npartitions: 4\n"
        f"epoch_interval: 0.5\nmetrics: {{listen: '127.0.0.1:{port}'}}\n"
    )
    (tmp_path / "state").mkdir(mode=0o700)
    environment = {k: v for k, v in os.environ.items() if not k.startswith("NEPHOSCOPE_")}
    made = []

    def begin(*command):
        process = subprocess.Popen(
            [sys.executable, "-m", *command], cwd=tmp_path, env=environment, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        made.append(process)
        return process

    yield begin
    for process in made:
        if process.poll() is None:
            process.kill()
        process.wait()
        process.stdout.close()


def asked(port, path="/ready"):
    """(status, body); (0, b"") while nobody answers."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()
    except OSError:
        return 0, b""


def ready(port, process, holds):
    """The first report that fits."""
    report = None
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end and process.poll() is None:
        _, body = asked(port)
        report = json.loads(body) if body else None
        if report is not None and holds(report):
            return report
        time.sleep(0.1)
    process.kill()
    pytest.fail(f"last report: {report}\n{process.stdout.read()}")


def counted(port):
    """What /metrics says: {name with labels: value}."""
    lines = asked(port, "/metrics")[1].decode().splitlines()
    return {name: float(value) for name, _, value in (li.rpartition(" ") for li in lines if not li.startswith("#"))}


def undocumented(port):
    """Names on /metrics that docs/metrics.md does not have; those of the process itself are Prometheus' own."""
    text = (Path(__file__).parents[3] / "docs" / "metrics.md").read_text()
    names = {name.partition("{")[0] for name in counted(port) if name.startswith("nephoscope_")}
    return {n for n in names if n not in text and not re.search(r"_(received|sent|dropped|errors)_total$", n)}


def pushed(tmp_path, seconds):
    """Push a sample of each of 8 resources for each of these seconds."""
    log = EmbeddedLog(tmp_path / "state" / "log.db", 4)
    now = int(time.time())
    for second in seconds:
        at = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now - 100 + second))
        about = {"name": "cpu", "type": "cumulative", "unit": "ns", "volume": second, "timestamp": at}
        push(log, [sample_from_dict({**about, "resource_id": f"vm-{n}", "id": f"{n} {second}"}) for n in range(8)])
    log.close()


def away(report):
    return not report["ready"] and not report["parts"]["store"]["ready"]


def caught_up(report):
    return report["ready"] and report["parts"]["log"]["lag_messages"] == 0


def test_a_store_that_is_away_is_told_and_nothing_is_lost(start, tmp_path, port):
    # A folder in the store's place: it cannot be opened.
    samples = tmp_path / "state" / "samples.db"
    samples.mkdir()
    pushed(tmp_path, range(5))
    log = EmbeddedLog(tmp_path / "state" / "log.db", 4)
    log.append(SAMPLES, [Record(1, b"rubbish")])
    flow = start("nephoscope.cli", "flow")

    report = ready(port, flow, lambda r: away(r) and r["parts"]["log"]["lag_messages"] > 0)
    assert asked(port)[0] == 503
    assert "unable to open" in report["parts"]["store"]["detail"]
    later = ready(port, flow, lambda r: r["parts"]["store"].get("seconds", 0) > 1)
    assert later["parts"]["store"]["since"] == report["parts"]["store"]["since"]
    assert counted(port)['nephoscope_flow_errors_total{reason="store"}'] >= 2

    samples.rmdir()
    ready(port, flow, caught_up)
    assert asked(port)[0] == 200

    # It goes while it is in use: a table is gone.
    other = sqlite3.connect(samples, isolation_level=None)
    (table,) = other.execute("SELECT name FROM sqlite_master WHERE type = 'table' AND name LIKE '%record%'").fetchone()
    other.execute(f"ALTER TABLE {table} RENAME TO gone")
    pushed(tmp_path, range(10, 15))
    # The lag is looked up once a second: by now with what was pushed.
    report = ready(port, flow, lambda r: away(r) and r["parts"]["log"]["lag_messages"] > 0)
    assert table in report["parts"]["store"]["detail"]
    other.execute(f"ALTER TABLE gone RENAME TO {table}")
    other.close()
    ready(port, flow, caught_up)

    numbers = counted(port)
    assert numbers["nephoscope_flow_received_total"] == 80
    assert numbers["nephoscope_flow_sent_total"] == 80 + 72
    assert numbers['nephoscope_flow_dropped_total{reason="first",step="rate_of_change"}'] == 8
    assert numbers['nephoscope_flow_dropped_total{reason="undecodable",step=""}'] == 1
    assert numbers["nephoscope_dead_letters_sent_total"] == 1
    assert numbers["nephoscope_flow_lag_messages"] == numbers["nephoscope_flow_lag_seconds"] == 0
    assert numbers["nephoscope_flow_partitions"] == 4
    assert undocumented(port) == set()
    flow.send_signal(signal.SIGTERM)
    assert flow.wait(PATIENCE) == 0
    said = flow.stdout.read()
    assert said.count("the store is away") == said.count("the store is there again") == 2
    store = SQLStore(f"sqlite:///{samples}")
    found = [s.id for s in store.each_sample(Compare("timestamp", ">", 0))]
    store.close()
    assert len(found) == len(set(found)) == 152


def test_it_is_there_under_bytewax_run_as_well(start, port):
    flow = start("bytewax.run", "flows.pipeline:flow")

    ready(port, flow, caught_up)

    flow.send_signal(signal.SIGTERM)
    assert flow.wait(PATIENCE) == 0


def test_an_agent_answers_on_the_next_port(start, tmp_path, port):
    agent = start("nephoscope.cli", "agent")
    ready(port + 1, agent, lambda r: r["ready"] and r["component"] == "agent" and r["parts"]["targets"]["targets"] == 1)

    other = sqlite3.connect(tmp_path / "state" / "log.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    report = ready(port + 1, agent, lambda r: not r["parts"]["log"]["ready"])
    assert "locked" in report["parts"]["log"]["detail"]
    other.execute("ROLLBACK")
    other.close()

    ready(port + 1, agent, lambda r: r["ready"] and r["parts"]["log"]["backlog"] == 0)
    numbers = counted(port + 1)
    assert undocumented(port + 1) == set()
    assert numbers["nephoscope_agent_sent_total"] > 0
    assert numbers['nephoscope_agent_errors_total{reason="log"}'] > 0
    agent.send_signal(signal.SIGTERM)
    assert agent.wait(PATIENCE) == 0
