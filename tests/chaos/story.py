"""What happens when: samples are written while the flow is killed, paused, rescaled and starved; then what it stored is compared."""

from __future__ import annotations

import multiprocessing
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import msgspec
import numpy as np

from flows.pipeline import options_of, plan_of
from nephoscope import times
from nephoscope.dead_letters import Origin
from nephoscope.errors import Unavailable
from nephoscope.pipeline import load_pipeline
from nephoscope.sample import sample_from_json
from nephoscope.settings import load_settings
from nephoscope.times import SECOND
from nephoscope.topics import DEAD_LETTERS, SAMPLES, Record
from nephoscope.topics.kafka import KafkaLog, Options
from sinks.sql import SQLStore
from tests.chaos import rows, unsteady
from tests.chaos.cloud import PIPELINE, Cloud
from tests.chaos.flow import Flow, Trouble, free_ports
from tests.disk import small_disk
from tests.reference import Options as ReferenceOptions

PARTITIONS = 64
_PARTS = 8
"""In which the reference computes, two at once."""
SETTINGS = """\
state_dir: state
pipeline_cfg_file: pipeline.yaml
partitions: {partitions}
epoch_interval: {epoch}
log: {{url: 'kafka://{address}', kafka: {{topic_prefix: '{prefix}', timeout: 5}}}}
metrics: {{listen: '127.0.0.1:{port}'}}
database: {{connection: '{scheme}:///{folder}/samples.db?synchronous=normal'}}
"""


class Broker(Protocol):
    """A Kafka broker that can be harmed."""

    address: str

    def kill(self) -> None:
        """SIGKILL."""

    def start(self, timeout: float) -> None:
        """Start it on its data."""


class Told(Protocol):
    """Told what is going on."""

    def __call__(self, what: str, done: float = 0.0) -> None:
        """`done`: from 0 to 1, of all the samples that are to be written."""


def quietly(what: str, done: float = 0.0) -> None:
    """Tell nobody."""


@dataclass(frozen=True)
class Form:
    """How large it is.

    `pause`: seconds of SIGSTOP; `together`: rounds in a message; `unsteady`: how many of the store's calls fail; `row_by_row`: partitions for the slow
    reference; `epoch`: seconds; `settings`: further lines of nephoscope.yaml.
    """

    samples: int = 3_000_000
    series: int = 20_000
    together: int = 6
    pause: float = 30.0
    away: float = 3.0
    unsteady: float = 0.0
    row_by_row: int = 1
    epoch: int = 1
    settings: str = ""


FULL = Form()
QUICK = Form(samples=300_000, together=2, pause=5.0, away=1.0, row_by_row=3)
STARVED = Form(samples=200_000, together=2, unsteady=0.1, row_by_row=0)
STARVED_QUICK = Form(samples=60_000, series=4_000, together=2, unsteady=0.15, row_by_row=0)


@dataclass
class Found:
    """What came of it."""

    samples: int
    stored: rows.Difference
    filed: rows.Difference
    row_by_row: rows.Difference
    dead_missing: int
    dead_wrong: int
    dead: int
    log: list[tuple[str, float]]

    def __bool__(self) -> bool:
        """Whether anything is wrong."""
        return bool(self.stored or self.filed or self.row_by_row or self.dead_missing or self.dead_wrong)

    def __str__(self) -> str:
        """The counts."""
        slow = f"\n  row by row  {self.row_by_row}"
        return (
            f"{self.samples} samples in\n"
            f"  store       {self.stored}\n"
            f"  file        {self.filed}\n"
            f"  dead        {self.dead} letters: {self.dead_missing} missing, {self.dead_wrong} wrong"
            f"{slow if self.row_by_row.rows else ''}"
        )


class Stage:
    """The folder, the log and the flow of a story."""

    def __init__(self, folder: Path, address: str, form: Form, told: Told = quietly) -> None:
        self.folder, self.form, self.told = folder, form, told
        self.prefix = f"{uuid.uuid4()}."
        self.events: list[tuple[str, float]] = []
        self._since = time.monotonic()
        file = folder / "derived.jsonl"
        port = free_ports(4)
        (folder / "pipeline.yaml").write_text(PIPELINE.replace("FILE", f"file://{file}"))
        (folder / "nephoscope.yaml").write_text(
            SETTINGS.format(
                partitions=PARTITIONS, address=address, prefix=self.prefix, port=port, folder=folder, scheme="unsteady" if form.unsteady else "sqlite",
                epoch=form.epoch,
            )
            + form.settings
        )  # fmt: skip
        extra = unsteady.install(folder / "theirs", form.unsteady) if form.unsteady else None
        self.settings = load_settings(folder / "nephoscope.yaml")
        self.plan = plan_of(self.settings)
        self.address = address
        self.flow = Flow(folder, port, PARTITIONS, {"PYTHONPATH": str(extra)} if extra else None)
        self.cloud = Cloud(form.series, form.samples, times.now() - 60 * SECOND, PARTITIONS, form.together)
        self.writer = Writer(self)

    def log(self, timeout: float = 5.0) -> KafkaLog:
        """The topics. `timeout`: seconds after which an append has failed."""
        return KafkaLog(self.address, PARTITIONS, Options(prefix=self.prefix, timeout=timeout))

    def event(self, what: str) -> None:
        """Something happens now."""
        self.events.append((what, time.monotonic() - self._since))
        self.told(what, self.writer.share)

    def goes_on(self, share: float) -> None:
        """Have the samples up to this share written, and wait until the flow publishes."""
        self.writer.allow(share)
        self.event("goes on")
        least = self.form.samples / 100
        self.flow.until("it publishes", lambda: self._looked() and self.flow.sent() > least)

    def _looked(self) -> bool:
        self.writer.check()
        self.told(self.events[-1][0], self.writer.share)
        return True


class Writer(threading.Thread):
    """Writes the samples, up to the share that is allowed; each again until it is acknowledged. Now and then something that is no batch."""

    def __init__(self, stage: Stage) -> None:
        super().__init__(daemon=True)
        self._stage = stage
        self._allowed = 0.0
        self._moved = threading.Condition()
        self._error: BaseException | None = None
        self.samples = self.again = 0
        self._ended = False

    @property
    def share(self) -> float:
        """What is written, from 0 to 1."""
        return 1.0 if self._ended else min(1.0, self.samples / self._stage.form.samples)

    def allow(self, share: float) -> None:
        """Write up to here."""
        with self._moved:
            self._allowed = share
            self._moved.notify()

    def check(self) -> None:
        """Raise what went wrong."""
        if self._error is not None:
            raise self._error

    def wait(self) -> None:
        """Until all is written."""
        self.allow(2.0)
        self.join()
        self.check()

    def run(self) -> None:
        """Write."""
        try:
            log = self._stage.log()
            chance = np.random.default_rng(7)
            for records, count in self._stage.cloud.records():
                with self._moved:
                    while self.share >= self._allowed:
                        self._moved.wait()
                noise = Record(int(chance.integers(PARTITIONS)), chance.bytes(int(chance.integers(0, 200))))
                self._append(log, [*records, noise])
                self.samples += count
            log.close()
        except BaseException as error:  # noqa: BLE001 - told by check()
            self._error = error
        self._ended = True

    def _append(self, log: KafkaLog, records: Sequence[Record]) -> None:
        while True:
            try:
                log.append(SAMPLES, records)
            except Unavailable:
                # Some of them may be there: then they are there twice, and are doubles.
                self.again += 1
                time.sleep(0.2)
            else:
                return


def crashes(stage: Stage, broker: Broker) -> None:
    """1 worker → kill -9 → 3 workers → kill -9 of one → SIGSTOP of one → broker kill -9 and restart → 2 workers → end."""
    flow, form = stage.flow, stage.form
    stage.writer.start()
    stage.writer.allow(0.1)
    stage.event("1 worker")
    flow.start(1)
    stage.goes_on(0.2)
    flow.kill()
    stage.event("kill -9 of everything; 3 workers")
    flow.start(3)
    stage.goes_on(0.4)
    stage.event("kill -9 of one")
    victim = flow.kill_worker(1)
    flow.until("all are started again", lambda: victim not in [p.pid for p in flow.all_there()])
    stage.goes_on(0.6)
    stage.event(f"SIGSTOP of one for {form.pause:g} s")
    go_on = flow.pause_worker(2)
    stage.writer.allow(0.7)
    time.sleep(form.pause)
    go_on()
    before = flow.sent()
    flow.until("it publishes again", lambda: flow.sent() > before)
    stage.goes_on(0.8)
    stage.event("kill -9 of the broker")
    broker.kill()
    stage.writer.allow(0.85)
    time.sleep(form.away)
    stage.event("the broker again")
    # After a kill it looks through all its partitions, on what the flow leaves it of the machine.
    broker.start(240)
    stage.goes_on(0.9)
    stage.event("SIGTERM; 2 workers")
    flow.stop()
    flow.start(2)
    end(stage)


def starved(stage: Stage) -> None:
    """A store that fails at random all the time; a recovery store whose disk is full for a while, and a worker killed on top of it."""
    flow = stage.flow
    recovery = stage.folder / "state" / "recovery"
    with small_disk(recovery, 98_304) as disk:
        stage.writer.start()
        stage.writer.allow(0.2)
        stage.event("2 workers on an unsteady store")
        flow.start(2)
        stage.goes_on(0.4)
        stage.event("the disk of the recovery store is full")
        ballast = disk.fill()
        stage.writer.allow(0.7)
        told, tried = flow.heard("No space left on device"), flow.heard("; starting")
        flow.until("it says so", lambda: flow.heard("No space left on device") > told)
        flow.until("it tries again, in vain", lambda: flow.heard("; starting") >= tried + 2)
        stage.event("there is room again")
        ballast.unlink()
        stage.goes_on(0.8)
        stage.event("kill -9 of everything; 1 worker")
        flow.kill()
        flow.start(1)
        end(stage)
    if not flow.heard("lost the connection"):
        raise Trouble("the store never failed")


def end(stage: Stage) -> None:
    """Write what is left, wait until all is read, and stop in order."""
    stage.writer.wait()
    stage.event("all is written")
    flow = stage.flow
    flow.drained("all is read", 600)
    stage.event("all is read; SIGTERM")
    flow.stop()


def examine(stage: Stage) -> Found:
    """Compare what was stored, published to the file and refused with what one process makes of the log in peace."""
    form = stage.form
    log = stage.log()
    stage.event("the reference computes, and the store is read")
    peace, stored = in_peace(stage)
    expected = peace.stored
    stage.event("comparing")
    lines = (stage.folder / "derived.jsonl").read_bytes().splitlines()
    filed = rows.brief(sample_from_json(line) for line in lines)
    some = list(range(form.row_by_row))
    slow = rows.Difference(0, 0, 0, 0)
    if some:
        stage.event("the slow reference, row by row")
        pipeline = load_pipeline(stage.settings.pipeline_file(), publisher_schemes=("file",))
        given = options_of(stage.settings)
        names = ("lateness", "max_ahead", "max_future", "dedupe_horizon", "series_ttl")
        options = ReferenceOptions(**{n: round(getattr(given, n) * SECOND) for n in names})
        slowly = rows.row_by_row(log, pipeline, options, some)
        slow = rows.compare(rows.flat({p: peace.store[p] for p in some}), rows.once(rows.flat(slowly)))
    dead = {(o.partition, o.offset) for o in buried(log)}
    log.close()
    stage.event("done")
    return Found(
        samples=peace.samples,
        stored=rows.compare(stored, expected),
        filed=rows.compare(filed, peace.filed),
        row_by_row=slow,
        dead_missing=len(peace.dead - dead),
        dead_wrong=len(dead - peace.dead),
        dead=len(peace.dead),
        log=stage.events,
    )


def in_peace(stage: Stage) -> tuple[rows.Peace, rows.Rows]:
    """What one process makes of the log in peace, each partition by itself and two at once; and what is in the store."""
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as both:
        reading = both.submit(_read, str(stage.folder / "samples.db"))
        parts = [
            both.submit(_compute, stage.folder, stage.address, stage.prefix, range(first, PARTITIONS, _PARTS))
            for first in range(_PARTS)
        ]
        for done, _ in enumerate(as_completed(parts), 1):
            stage.told(stage.events[-1][0], done / _PARTS)
        return rows.together(part.result() for part in parts), reading.result()


def _read(path: str) -> rows.Rows:
    """All that is in a store."""
    store = SQLStore(f"sqlite:///{path}")
    try:
        return rows.of_samples(store.each_sample())
    finally:
        store.close()


def _compute(folder: Path, address: str, prefix: str, only: Sequence[int]) -> rows.Peace:
    """What some partitions come to, in a process of its own."""
    with closing(KafkaLog(address, PARTITIONS, Options(prefix=prefix))) as log:
        return rows.in_peace(log, plan_of(load_settings(folder / "nephoscope.yaml")), only=only)


def buried(log: KafkaLog) -> Iterator[Origin]:
    """Where the dead letters come from."""
    ends = log.end(DEAD_LETTERS)
    consumer = log.consumer(DEAD_LETTERS, dict.fromkeys(range(len(ends)), 0))
    left = sum(ends)
    decode = msgspec.json.Decoder(dict[str, Any]).decode
    while left:
        for message in consumer.poll(10_000, 1.0):
            left -= 1
            yield msgspec.convert(decode(message.value)["origin"], Origin)
    consumer.close()


def play(
    folder: Path, broker: Broker, form: Form, story: Callable[[Stage], None], told: Told = quietly
) -> tuple[Stage, Found]:
    """A story from its beginning to the counts."""
    stage = Stage(folder, broker.address, form, told)
    with nothing_left(stage):
        story(stage)
        return stage, examine(stage)


@contextmanager
def nothing_left(stage: Stage) -> Iterator[None]:
    """No process is left running."""
    try:
        yield
    finally:
        if stage.flow.running:
            stage.flow.kill()
