"""The flow over Kafka and on several workers: real brokers, real processes, 100,480 series in 64 partitions.

kafka-pipeline           Kafka → the pipeline that ships → Kafka as Arrow, one worker: samples in per CPU-second of its process
kafka-against-bare       the same rate against a loop that consumes and produces the same messages and does nothing else; `breakdown` says
                         in CPU-microseconds a sample where the rest goes
two-workers              wall time of one worker over that of two, from the embedded log, the output encoded and thrown away
two-workers-kafka        CPU a sample of two workers over that of one, Kafka to Kafka
restart-100k-series      seconds from the start after a kill -9 to the first message out, under a tenth of the load that one worker can take
p99-latency              seconds from before a sample is produced to when the broker has what was made of it, at half of that load

CPU-seconds are those of the workers alone, from a point where they have seen every series; the broker and whoever fills the topic are in
none. Wall times want a machine with nothing else to do. `crowding` says what two busy processes of plain Python and numpy cost each other on this
one: its two cores may be threads of one, and then neither two workers nor anything else is twice as fast.
"""

from __future__ import annotations

import io
import tempfile
import threading
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from bench._cloud import START
from bench._cluster import INSTANCES, PARTITIONS, Flow, cloud, crowding, fill, percentile, records
from flows.plan import compile_plan
from flows.stage import Output, process
from flows.state import State
from nephoscope.batch import SCHEMA, decode
from nephoscope.pipeline import load_pipeline
from nephoscope.settings import shipped
from nephoscope.topics import SAMPLES
from nephoscope.topics.embedded import EmbeddedLog
from nephoscope.topics.kafka import KafkaLog, Options
from tests.servers import free_port
from tests.servers.kafka import running

CASES = ("kafka-pipeline", "two-workers", "restart-100k-series", "p99-latency")
"""What --case takes; a case that another one measures on its way comes with it."""
WARM = 2
"""Periods after which every series has its predecessor, and nothing is made for the first time."""
EPOCH = 10.0


def cases(*, quick: bool = False, only: Sequence[str] = ()) -> Iterator[dict[str, Any]]:
    """All cases, or those named. `quick`: a tenth of the samples; the figures are rough then."""
    with tempfile.TemporaryDirectory(prefix="bench-cluster") as folder:
        bench = _Bench(Path(folder), 1 if quick else 10)
        wanted = only or CASES
        if "two-workers" in wanted:
            yield bench.two_workers()
        if set(wanted) - {"two-workers"} or "two-workers" in wanted:
            broker = Path(folder) / "broker"
            broker.mkdir()
            with running(broker) as kafka:
                bench.address = kafka.address
                if "kafka-pipeline" in wanted:
                    yield _case("kafka-pipeline", bench.one.rate, "samples/CPU-s", 1_000_000)
                    yield bench.against_bare()
                if "two-workers" in wanted:
                    yield bench.two_workers_kafka()
                if "restart-100k-series" in wanted:
                    yield bench.restart()
                if "p99-latency" in wanted:
                    yield bench.latency()


class _Run:
    """A flow from Kafka to Kafka over topics of its own."""

    def __init__(self, bench: _Bench, workers: int = 1, epoch: float = EPOCH) -> None:
        self.prefix = f"{uuid.uuid4().hex[:8]}."
        self.out = f"{self.prefix}out"
        self.address = bench.address
        self.log = KafkaLog(bench.address, PARTITIONS, Options(prefix=self.prefix))
        _make_topic(bench.address, self.out)
        self.port = free_port()
        self.flow = Flow(
            bench.folder / self.prefix,
            {
                "log.url": f"kafka://{bench.address}",
                "log.kafka.topic_prefix": self.prefix,
                "metrics.listen": f"127.0.0.1:{self.port}",
                "pipeline_cfg_file": "pipeline.yaml",
                "state_dir": "state",
                "epoch_interval": f"{epoch:g}",
            },
            workers,
        )
        self.flow.prepare(pipeline(f"kafka://{bench.address}/{self.out}?format=arrow&key=partition&policy=wait"))

    def sent(self) -> int:
        """Samples published so far, by all workers."""
        return self._asked("nephoscope_flow_sent_total")

    def _asked(self, name: str) -> int:
        total = 0.0
        for worker in range(self.flow.workers):
            place = self.port + (worker + 1 if worker else 0)
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{place}/metrics", timeout=5) as answer:
                    text = answer.read().decode()
            except OSError:
                return 0
            total += sum(float(line.split()[1]) for line in text.splitlines() if line.startswith(f"{name} "))
        return round(total)

    def reads(self) -> bool:
        """Whether every partition is read."""
        return self._asked("nephoscope_flow_partitions_read") == PARTITIONS

    def until(self, periods: int) -> None:
        """Wait until so many periods of the cloud are published."""
        self.flow.until(lambda: self.sent() >= expected(periods), 0.25)

    def measure(self, bench: _Bench, periods: int) -> tuple[float, float]:
        """(CPU-seconds, wall seconds) of so many periods, after those that warm up."""
        fill(self.log, records(bench.cloud, range(WARM)))
        with self.flow.running():
            self.until(WARM)
            with self.flow.paused():
                fill(self.log, records(bench.cloud, range(WARM, WARM + periods)))
                used = self.flow.cpu()
            began = time.monotonic()
            self.until(WARM + periods)
            wall = time.monotonic() - began
            return self.flow.cpu() - used, wall


class _Figures:
    """What one run of measure gave."""

    def __init__(self, samples: int, cpu: float, wall: float) -> None:
        self.samples, self.cpu, self.wall = samples, cpu, wall

    @property
    def rate(self) -> float:
        """Samples in per CPU-second."""
        return self.samples / self.cpu


class _Bench:
    def __init__(self, folder: Path, size: int) -> None:
        self.folder, self.size = folder, size
        self.address = ""

    @cached_property
    def cloud(self) -> Any:
        """The samples."""
        return cloud()

    @cached_property
    def crowding(self) -> float:
        """What two busy processes cost each other here, whatever they do."""
        return crowding()

    def figures(self, workers: int) -> _Figures:
        """Kafka to Kafka."""
        periods = 4 * self.size
        run = _Run(self, workers)
        cpu, wall = run.measure(self, periods)
        if workers == 1:
            self.topics = run
        return _Figures(periods * self.cloud.rows, cpu, wall)

    @cached_property
    def one(self) -> _Figures:
        """One worker."""
        return self.figures(1)

    @cached_property
    def capacity(self) -> float:
        """Samples a second that one worker takes while nobody fills the topic."""
        return self.one.samples / self.one.wall

    def against_bare(self) -> dict[str, Any]:
        """The same messages, consumed and produced by nothing but the client."""
        one = self.one
        source = self.topics
        periods = one.samples // self.cloud.rows
        _make_topic(self.address, f"{source.prefix}bare")
        # From the same place as the flow; in its own time, so that only what follows the first message counts.
        bare = one.samples / _bare(self.address, f"{source.prefix}{SAMPLES}", f"{source.prefix}bare", periods)
        case = _case("kafka-against-bare", one.rate, "samples/CPU-s", bare)
        case["breakdown"] = self.breakdown(one)
        return case

    def breakdown(self, one: _Figures) -> dict[str, float]:
        """CPU-microseconds a sample: what each part costs by itself, in this process; the rest is the engine's."""
        plan = compile_plan(load_pipeline(shipped("pipeline.yaml"), publisher_schemes=()))
        states = [State(plan) for _ in range(PARTITIONS)]
        # As many as in the run: what a client needs to begin with is in them once.
        periods = one.samples // self.cloud.rows
        some = min(periods, 8)
        messages = [list(self.cloud.messages(period)) for period in range(WARM + some)]
        for period in messages[:WARM]:
            for state, message in zip(states, period, strict=True):
                process(plan, state, [message])
        seconds: dict[str, float] = {}

        def timed(name: str, work: Callable[[], Any]) -> Any:
            began = time.process_time()
            done = work()
            seconds[name] = time.process_time() - began
            return done

        flat = [(state, message) for period in messages[WARM:] for state, message in zip(states, period, strict=True)]
        source = self.topics
        consumed = _bare(self.address, f"{source.prefix}{SAMPLES}", None, periods)
        timed("decode", lambda: [decode(m.value, nulls=True) for _, m in flat])
        outputs: list[Output] = timed("stage", lambda: [process(plan, s, [m]) for s, m in flat])
        seconds["stage"] -= seconds["decode"]
        produced = timed(
            "encode", lambda: [(m.partition, v) for (_, m), o in zip(flat, outputs, strict=True) for v in _encoded(o)]
        )
        _make_topic(self.address, f"{source.prefix}again")
        timed("produce", lambda: _produce(self.address, f"{source.prefix}again", produced))
        seconds["consume"] = consumed * some / periods
        out = {name: round(1e6 * spent / (some * self.cloud.rows), 3) for name, spent in seconds.items()}
        out["engine"] = round(1e6 / one.rate - sum(out.values()), 3)
        return out

    def two_workers(self) -> dict[str, Any]:
        """From the embedded log."""
        periods = 3 * self.size + WARM
        path = self.folder / "log.db"
        log = EmbeddedLog(path)
        fill(log, records(self.cloud, range(periods)))
        log.close()
        settings = {
            "log.url": f"embedded://{path}",
            "metrics.listen": "",
            "pipeline_cfg_file": "pipeline.yaml",
            "state_dir": "state",
        }
        walls = []
        for workers in (1, 2):
            flow = Flow(self.folder / f"embedded-{workers}", settings, workers)
            flow.prepare(pipeline("discard://"))
            with flow.running():
                flow.until(lambda f=flow: sum(n for _, n in f.notes()) >= expected(periods))
            walls.append(_wall(flow.notes(), expected(WARM)))
        path.unlink()
        return _case("two-workers", walls[0] / walls[1], "x faster", 1.6) | {"crowding": round(self.crowding, 2)}

    def two_workers_kafka(self) -> dict[str, Any]:
        """CPU a sample."""
        two = self.figures(2)
        case = _case("two-workers-kafka", self.one.rate / two.rate, "x the CPU of one", 1.2)
        return case | {"crowding": round(self.crowding, 2)}

    def restart(self) -> dict[str, Any]:
        """Kill -9 under load, and start again."""
        run = _Run(self)
        with _fed(self, run, self.capacity / 10) as feed, run.flow.running():
            run.until(WARM)
            saved = run.flow.folder / "state" / "recovery"
            # The first snapshot that has all the series, and half an epoch more.
            began = time.time()
            run.flow.until(lambda: any(f.stat().st_mtime > began + 1 for f in saved.glob("part-*.sqlite3*")))
            time.sleep(EPOCH / 2)
            run.flow.kill()
            time.sleep(0.5)
            with _watching(run.address, run.out) as seen:
                began = time.monotonic()
                run.flow.start()
                while not seen():
                    run.flow.alive()
                took = time.monotonic() - began
            feed.check()
        return _case("restart-100k-series", took, "s", 5.0)

    def latency(self) -> dict[str, Any]:
        """From before produce() is called to the broker's own time of the output."""
        run = _Run(self)
        seconds = 2.0 * self.size
        with ExitStack() as stack:
            stack.enter_context(run.flow.running())
            # What arrives while it starts would have to be caught up: that is the case before.
            run.flow.until(run.reads)
            feed = stack.enter_context(_fed(self, run, self.capacity / 2))
            run.until(WARM)
            # Or it never will, and the figure says so.
            patient = time.monotonic() + 20
            run.flow.until(lambda: run.sent() >= expected(feed.periods - 3) or time.monotonic() > patient)
            feed.mark()
            time.sleep(seconds)
            feed.stop()
            last = feed.periods
            run.until(last)
        waits = []
        for partition, at, value in _read(run.address, run.out):
            for period, count in _periods_of(value):
                sent = feed.sent.get((partition, period))
                if sent is not None:
                    waits.append((at - sent, count))
        case = _case("p99-latency", percentile(waits, 0.99), "s", 1.0)
        case["median"] = round(percentile(waits, 0.5), 3)
        case["load"] = round(self.capacity / 2)
        return case


class _Feed(threading.Thread):
    """Sends the cloud's periods at an even rate, a message after the other."""

    def __init__(self, bench: _Bench, run: _Run, rate: float) -> None:
        super().__init__(daemon=True)
        self._bench, self._run, self._rate = bench, run, rate
        self._stop_asked = threading.Event()
        self._noting = False
        self._error: Exception | None = None
        self.periods = 0
        self.sent: dict[tuple[int, int], float] = {}
        """When the message of (partition, period) was produced, since 1970."""

    def run(self) -> None:
        """Until asked to stop; whole periods."""
        try:
            producer = _producer(self._run.address)
            topic = f"{self._run.prefix}{SAMPLES}"
            each = INSTANCES * 10 / self._rate
            due = time.monotonic()
            while not self._stop_asked.is_set():
                for record in records(self._bench.cloud, range(self.periods, self.periods + 1)):
                    time.sleep(max(0.0, due - time.monotonic()))
                    due = max(due + each, time.monotonic() - 0.1)
                    if self._noting:
                        self.sent[record.partition, self.periods] = time.time()
                    producer.produce(topic, record.value, None, record.partition)
                    producer.poll(0)
                self.periods += 1
            producer.flush(30)
        except Exception as error:  # noqa: BLE001 - told to whoever waits for this thread
            self._error = error

    def mark(self) -> None:
        """From here on, when each message was sent is noted."""
        self._noting = True

    def check(self) -> None:
        """RuntimeError where it could not go on."""
        if self._error is not None:
            raise RuntimeError("the topic could not be filled") from self._error

    def stop(self) -> None:
        """End at a period's end."""
        self._stop_asked.set()
        self.join(60)
        self.check()


@contextmanager
def _fed(bench: _Bench, run: _Run, rate: float) -> Iterator[_Feed]:
    feed = _Feed(bench, run, rate)
    feed.start()
    try:
        yield feed
    finally:
        feed.stop()


def pipeline(publisher: str) -> str:
    """The pipeline that ships, with another publisher."""
    return shipped("pipeline.yaml").read_text().replace("store://", publisher)


def expected(periods: int) -> int:
    """Samples that it publishes of the first so many periods: each as it came, and one of each counter (two of cpu) from the second on."""
    instances = PARTITIONS * INSTANCES
    return instances * (10 * periods + 10 * (periods - 1))


def _wall(notes: list[tuple[float, int]], skip: int) -> float:
    """Seconds from when `skip` samples were out to when all were."""
    seen = 0
    for at, count in notes:
        seen += count
        if seen >= skip:
            return notes[-1][0] - at
    raise ValueError("too few")


def _make_topic(address: str, name: str) -> None:
    admin = AdminClient({"bootstrap.servers": address})
    config = {"message.timestamp.type": "LogAppendTime"}
    for future in admin.create_topics([NewTopic(name, PARTITIONS, 1, config=config)]).values():
        future.result()


def _producer(address: str) -> Producer:
    return Producer(
        {
            "bootstrap.servers": address,
            "compression.type": "lz4",
            "enable.idempotence": "true",
            "acks": "all",
            "message.max.bytes": "10000000",
            "queue.buffering.max.kbytes": "1048576",
        }
    )


def _consumer(address: str, topic: str, begins: Sequence[int]) -> Consumer:
    client = Consumer(
        {
            "bootstrap.servers": address,
            "group.id": "bench",
            "enable.auto.commit": "false",
            "auto.offset.reset": "error",
            "queued.max.messages.kbytes": "32768",
        }
    )
    client.assign([TopicPartition(topic, p, offset) for p, offset in enumerate(begins)])
    return client


def _bare(address: str, source: str, target: str | None, periods: int) -> float:
    """CPU-seconds of consuming so many periods and producing the same bytes (None: consuming alone)."""
    consumer = _consumer(address, source, [WARM] * PARTITIONS)
    producer = None if target is None else _producer(address)
    if producer is not None and target is not None:
        producer.produce(target, b"first", None, 0)
        producer.flush()
    left = periods * PARTITIONS
    began = time.process_time()
    while left > 0:
        for message in consumer.consume(min(left, 256), 0.1):
            if message.error() is not None:
                raise RuntimeError(str(message.error()))
            left -= 1
            if producer is None or target is None:
                continue
            while True:
                try:
                    producer.produce(target, message.value(), None, message.partition())
                    break
                except BufferError:
                    producer.poll(0.05)
        if producer is not None:
            producer.poll(0)
    if producer is not None:
        producer.flush()
    used = time.process_time() - began
    consumer.close()
    return used


def _produce(address: str, topic: str, many: Sequence[tuple[int, bytes]]) -> None:
    producer = _producer(address)
    for partition, value in many:
        producer.produce(topic, value, None, partition)
        producer.poll(0)
    producer.flush()


def _encoded(output: Output) -> list[bytes]:
    out = []
    for batches in output.published.values():
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, SCHEMA) as writer:
            for batch in batches:
                writer.write_batch(batch)
        out.append(sink.getvalue().to_pybytes())
    return out


@contextmanager
def _watching(address: str, topic: str) -> Iterator[Callable[[], bool]]:
    """Says whether a message has been added since; waits for it for a moment."""
    probe = _consumer(address, topic, [0] * PARTITIONS)
    ends = [probe.get_watermark_offsets(TopicPartition(topic, p), timeout=10)[1] for p in range(PARTITIONS)]
    probe.close()
    client = _consumer(address, topic, ends)
    try:
        yield lambda: client.poll(0.01) is not None
    finally:
        client.close()


def _read(address: str, topic: str) -> Iterator[tuple[int, float, bytes]]:
    """(partition, the broker's time, value) of all messages of a topic."""
    client = _consumer(address, topic, [0] * PARTITIONS)
    ends = [client.get_watermark_offsets(TopicPartition(topic, p), timeout=10)[1] for p in range(PARTITIONS)]
    left = sum(ends)
    while left > 0:
        for message in client.consume(500, 0.2):
            if message.error() is not None:
                raise RuntimeError(str(message.error()))
            left -= 1
            yield message.partition(), message.timestamp()[1] / 1000, message.value()
    client.close()


def _periods_of(value: bytes) -> Iterator[tuple[int, int]]:
    """(period, samples) of a message of the output."""
    with pa.ipc.open_stream(io.BytesIO(value)) as reader:
        for batch in reader:
            times = batch.column("timestamp").cast(pa.int64()).value_counts()
            for one in times.to_pylist():
                yield (one["values"] - START) // 60_000_000, one["counts"]


def _case(name: str, value: float, unit: str, against: float) -> dict[str, Any]:
    return {
        "case": name,
        "value": round(value) if value > 100 else round(value, 3),
        "unit": unit,
        "against": round(against) if against > 100 else against,
        "ratio": round(value / against, 3),
    }


__all__ = ["CASES", "cases"]
