"""What a publisher that is away, slow or refusing does to a flow: nothing but what is written down for its policy."""

import logging
import threading
import time

import pytest

from flows import queue
from flows.engine import PartitionStage
from flows.monitor import Monitor
from flows.outlet import Outlets
from flows.plan import compile_plan
from flows.queue import Queue
from flows.snapshot import restore
from flows.state import State
from flows.tickets import Ticket
from nephoscope import publishers
from nephoscope.batch import Batch, batch_of, encode
from nephoscope.dead_letters import letters
from nephoscope.errors import StoreError, Unavailable
from nephoscope.health import Health
from nephoscope.metrics import Counts
from nephoscope.pipeline import parse_pipeline
from nephoscope.publishers import Delivery
from nephoscope.settings import load_settings
from nephoscope.store import Refused, batches
from nephoscope.times import SECOND
from nephoscope.topics import Message
from nephoscope.topics.embedded import EmbeddedLog
from tests.flows.made import sample

URL = "made://receiver"


def rows(first, count=10):
    made = [sample(timestamp=(1_700_000_000 + i) * SECOND, volume=float(i)) for i in range(first, first + count)]
    return batch_of(made).rows


class Made:
    """A publisher whose receiver does what a test says."""

    guarantee = "as the test says"

    def __init__(self, url=""):
        self.held, self.got, self.published, self.flushed = [], [], 0, 0
        self.fault = None
        self.gate = threading.Event()
        self.gate.set()

    def publish(self, some):
        self.published += 1
        self.held += batches(some)

    def flush(self):
        self.flushed += 1
        self.gate.wait()
        if self.fault is not None:
            raise self.fault
        self.got += [int(v) for b in self.held for v in b.column("volume").to_pylist()]
        self.held.clear()

    def discard(self):
        count = sum(b.num_rows for b in self.held)
        self.held.clear()
        return count

    def close(self):
        pass


@pytest.fixture
def made(monkeypatch):
    """The publisher behind made://, for the registry as well."""
    one = Made()
    known = publishers.class_of
    monkeypatch.setattr(
        publishers, "class_of", lambda url: (lambda _url: one) if url.startswith("made") else known(url)
    )
    yield one
    one.gate.set()


@pytest.fixture
def started(made):
    """A queue over it, and the health it tells of."""
    opened = []

    def start(**delivery):
        health = Health("flow")
        opened.append(Queue(URL, lambda: made, Delivery(**delivery), Monitor(health)))
        return opened[-1], health

    yield start
    made.gate.set()
    for one in opened:
        one.close(time.monotonic() + 5)


@pytest.fixture
def grown():
    """What has been added to the publishers' counters since the test began."""
    counts = Counts("publisher", ("publisher",))
    before = counts.values()
    return lambda: {k: v - before.get(k, 0) for k, v in counts.values().items() if v != before.get(k, 0)}


def until(what, seconds=20.0):
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def put(queue, *some):
    tickets = [Ticket(URL, r) for r in some]
    queue.put(tickets)
    return tickets


def test_all_goes_out_in_order_and_tickets_say_so(made, started, grown):
    queue, _ = started()

    tickets = put(queue, rows(0), rows(10)) + put(queue, rows(20))
    until(lambda: not any(t.left for t in tickets))

    assert made.got == list(range(30))
    assert grown() == {"received": 30, "sent": 30}


def test_one_that_is_away_holds_nothing_up_and_loses_its_oldest(made, started, grown, caplog, monkeypatch):
    caplog.set_level(logging.WARNING)
    monkeypatch.setattr(queue, "PATIENCE", 60)
    made.fault = Unavailable("no route")
    one, health = started(max_queue_length=100)
    put(one, rows(0))
    until(lambda: not health.report()["parts"][URL]["ready"])

    before = time.monotonic()
    for first in range(10, 1010, 10):
        put(one, rows(first))
    assert time.monotonic() - before < 30

    part = health.report()["parts"][URL]
    assert (part["ready"], part["needed"], part["detail"]) == (False, False, "no route")
    assert part["queued"] == 110  # what waits, and what is on its way
    assert health.report()["ready"] is True
    assert grown()["dropped.queue_full"] == 1010 - 110
    # Each drop is counted, few are told of.
    assert sum("dropped" in r.message for r in caplog.records) == 1

    made.fault = None
    until(lambda: len(made.got) == 110)
    assert made.got == [*range(10), *range(910, 1010)]
    assert health.report()["parts"][URL] == {"ready": True, "needed": False, "queued": 0}


def test_what_was_published_is_only_flushed_again(made, started):
    made.fault = Unavailable("not now")
    queue, _ = started()
    (ticket,) = put(queue, rows(0))
    until(lambda: made.flushed >= 2)
    made.fault = None
    until(lambda: not ticket.left)

    assert made.published == 1
    assert made.got == list(range(10))


def test_a_slow_one_is_waited_for_once(made, started, monkeypatch, grown):
    monkeypatch.setattr(queue, "PATIENCE", 0.2)
    slow, _ = started(max_queue_length=20)
    made.gate.clear()
    put(slow, rows(0))
    until(lambda: made.flushed)
    put(slow, rows(10), rows(20))

    began = time.monotonic()
    put(slow, rows(30))
    once = time.monotonic() - began
    for first in range(40, 240, 10):
        put(slow, rows(first))

    assert once > 0.15
    assert time.monotonic() - began < once + 3
    assert grown()["dropped.queue_full"] == 210


def test_one_that_makes_room_in_time_loses_nothing(made, started, grown):
    queue, _ = started(max_queue_length=20)

    for first in range(0, 2000, 50):
        put(queue, rows(first, 50))
    until(lambda: len(made.got) == 2000)

    assert made.got == list(range(2000))
    assert not any(name.startswith("dropped") for name in grown())


@pytest.mark.parametrize(
    "delivery,tries", [({"policy": "drop"}, 1), ({"max_retries": 2}, 3), ({"policy": "drop", "max_retries": 5}, 1)]
)
def test_what_is_given_up_is_counted(made, started, grown, delivery, tries):
    made.fault = Unavailable("not now")
    queue, _ = started(**delivery)
    (ticket,) = put(queue, rows(0))
    until(lambda: not ticket.left)

    assert grown() == {"received": 10, "dropped.given_up": 10, "errors.unavailable": tries}
    made.fault = None
    put(queue, rows(10))
    until(lambda: made.got)
    assert made.got == list(range(10, 20))


@pytest.mark.parametrize(
    "fault,sent", [(Refused("three of them", [rows(0, 3)]), 7), (StoreError("never"), 0)], ids=["some", "all"]
)
def test_what_is_refused_for_good_is_counted(made, started, grown, fault, sent):
    made.fault = fault
    queue, _ = started()
    (ticket,) = put(queue, rows(0))
    until(lambda: not ticket.left)

    assert grown() == {"received": 10, "dropped.refused": 10 - sent} | ({"sent": sent} if sent else {})


def test_a_bug_in_a_publisher_is_no_end_of_it(made, started, grown):
    made.fault = ZeroDivisionError("bug")
    queue, health = started()
    (ticket,) = put(queue, rows(0))
    until(lambda: not health.report()["parts"][URL]["ready"])
    made.fault = None
    until(lambda: not ticket.left)

    assert grown()["errors.bug"] >= 1


@pytest.mark.parametrize("policy,counted", [("queue", {}), ("drop", {"dropped.stopped": 20})])
def test_the_end_waits_for_a_hanging_one_no_longer_than_said(made, started, grown, policy, counted, caplog):
    made.gate.clear()
    queue, _ = started(policy=policy)
    put(queue, rows(0))
    until(lambda: made.flushed)
    put(queue, rows(10))

    began = time.monotonic()
    queue.close(began + 0.3)

    assert time.monotonic() - began < 10
    assert {k: v for k, v in grown().items() if k.startswith("dropped")} == counted
    assert "20 samples were not delivered" in caplog.text


def test_the_end_waits_for_what_goes_out_and_not_for_what_fails(made, started):
    queue, _ = started()
    put(queue, rows(0, 500))
    queue.close(time.monotonic() + 5)
    assert len(made.got) == 500

    made.fault = Unavailable("not now")
    queue, _ = started()
    put(queue, rows(0))
    until(lambda: made.flushed > 1)
    began = time.monotonic()
    queue.close(began + 30)
    assert time.monotonic() - began < 15


PIPELINE = f"""
sources: [{{name: all, meters: ["*"], sinks: [out]}}]
sinks: [{{name: out, publishers: ["{URL}"]}}]
"""


def staged(plan, state=None, **more):
    return PartitionStage(plan, state or State(plan), queued=frozenset([URL]), **more)


def test_a_snapshot_has_what_is_not_acknowledged_and_it_goes_out_first():
    plan = compile_plan(parse_pipeline(PIPELINE, publisher_schemes=["made"]))
    stage = staged(plan)

    def message(offset, first):
        now = (1_700_000_000 + 1000) * SECOND
        return Message(0, offset, now, encode(Batch(rows(first))))

    (out,), _ = stage.on_batch([message(0, 0)])
    (later,), _ = stage.on_batch([message(1, 10)])
    assert stage.notify_at() is None
    out.tickets[0].left = 0

    raw = stage.snapshot()
    # It looks again, so that a quiet partition does not keep for ever what has gone out.
    assert stage.notify_at() is not None
    again = staged(plan, restore(plan, raw))
    (resent,), _ = again.on_notify()
    assert [t.rows.column("volume").to_pylist() for t in resent.tickets] == [[float(i) for i in range(10, 20)]]
    assert again.on_notify()[0] == []

    # Without a moment of peace, before the first new ones.
    once_more = staged(plan, restore(plan, raw))
    first, second = once_more.on_batch([message(2, 20)])[0]
    assert first.tickets[0].rows.column("volume").to_pylist()[0] == 10
    assert second.tickets[0].rows.column("volume").to_pylist()[0] == 20

    later.tickets[0].left = 0
    assert restore(plan, stage.snapshot()).waiting == []


@pytest.fixture
def outlets(tmp_path, made):
    log = EmbeddedLog(tmp_path / "log.db", 1)
    settings = load_settings(environment={}, flags={"state_dir": str(tmp_path)})
    stop = threading.Event()

    def opened(*urls):
        health = Health("flow", "store", "log")
        return Outlets(settings, log, stop, Monitor(health), urls), health, stop, log

    yield opened
    log.close()


def test_one_that_is_to_be_waited_for_stops_the_flow_and_is_needed(made, outlets, grown):
    from flows.outlet import Stopped
    from flows.stage import Output

    outlet, health, stop, _ = outlets(f"{URL}?policy=wait")
    made.fault = Unavailable("no route")
    out = Output(published={f"{URL}?policy=wait": [rows(0)]})

    def take():
        with pytest.raises(Stopped):
            outlet.take([out])

    taking = threading.Thread(target=take)
    taking.start()
    until(lambda: made.flushed >= 2 and not health.report()["ready"])
    assert made.published == 1
    stop.set()
    taking.join(5)
    assert not taking.is_alive()

    made.fault = None
    stop.clear()
    outlet.take([Output(published={f"{URL}?policy=wait": [rows(10)]})])
    assert health.report()["ready"] is True
    outlet.close()


def test_what_is_waited_for_and_refused_is_a_dead_letter(made, outlets, grown):
    from flows.stage import Output

    outlet, _, _, log = outlets(f"{URL}?policy=wait")
    made.fault = Refused("no such", [rows(3, 2)])

    outlet.take([Output(published={f"{URL}?policy=wait": [rows(0)]})])

    assert [(b.reason, b.detail) for b in letters(log)] == [("publisher_refused", "no such")] * 2
    assert grown() == {"received": 10, "sent": 8, "dropped.refused": 2}
    outlet.close()


def test_what_waits_for_a_publisher_that_is_gone_is_counted(outlets, grown):
    from flows.stage import Output

    outlet, _, _, _ = outlets()
    (ticket,) = [Ticket("made://gone", rows(0))]

    outlet.take([Output(tickets=[ticket])])

    assert grown() == {"dropped.gone": 10}
    assert ticket.left == 0
    outlet.close()


def test_two_of_one_place_have_names_of_their_own(made, outlets):
    outlet, health, _, _ = outlets(f"{URL}?policy=queue", f"{URL}?policy=drop")

    # A reload tells of a part of its own.
    assert health.report()["parts"].keys() - {"pipeline"} == {"store", "log", URL, f"{URL} (2)"}
    outlet.close()
