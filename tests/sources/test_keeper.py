"""Who keeps a membership: over a store in memory, with made-up clocks."""

import logging

import pytest

from nephoscope.metrics import Counts
from sources.coordination import Mark, Status, Unreachable
from sources.coordination.keeper import Keeper
from sources.coordination.keyvalue import KeyValueBackend
from sources.membership import State

LEASE, BEAT = 6.0, 2.0


class Store:
    """Keys and values in memory; `away` makes every call fail."""

    def __init__(self):
        self.kept = {}
        self.away = False

    def _there(self):
        if self.away:
            raise Unreachable("store://here cannot be reached")

    def get(self, keys):
        self._there()
        return {k: self.kept[k] for k in keys if k in self.kept}

    def put(self, key, value, seconds):
        self._there()
        self.kept[key] = value

    def swap(self, key, old, new):
        self._there()
        if self.kept.get(key) != old:
            return False
        self.kept[key] = new
        return True

    def drop(self, key):
        self._there()
        self.kept.pop(key, None)

    def close(self):
        pass


class World:
    def __init__(self):
        self.now = 100.0
        self.store = Store()
        self.keepers = {}
        self.paused = set()

    def start(self, name, **more):
        back_end = KeyValueBackend(self.store, "g", name, LEASE, clock=lambda: self.now)
        counts = Counts("group_test")
        keeper = Keeper("g", name, back_end, heartbeat=BEAT, counts=counts, clock=lambda: self.now, **more)
        self.keepers[name] = keeper
        return keeper

    def run(self, seconds, step=0.5):
        until = self.now + seconds
        while self.now < until - 1e-9:
            self.now += step
            for name, keeper in list(self.keepers.items()):
                if name not in self.paused:
                    keeper.step()


@pytest.fixture
def world():
    return World()


def owned(*keepers):
    return [set(k.assignment.slots) for k in keepers]


def test_together_they_own_every_slot_once(world):
    a, b, c = (world.start(n) for n in "abc")
    world.run(2 * BEAT + 1)

    slots = owned(a, b, c)
    assert sum(map(len, slots)) == 1024
    assert set.union(*slots) == set(range(1024))
    assert len({k.assignment.generation for k in (a, b, c)}) == 1
    ready, said = a.part()
    assert ready
    assert (said["state"], said["members"], said["slots"]) == ("member", ["a", "b", "c"], len(slots[0]))


def test_what_died_is_taken_over_within_the_lease_and_a_heartbeat_where_it_stopped(world):
    a, b = world.start("a"), world.start("b")
    world.run(2 * BEAT + 1)
    a.note(dict.fromkeys(a.assignment.slots, 777))
    world.run(BEAT)
    had = set(a.assignment.slots)

    world.paused.add("a")
    world.run(LEASE + BEAT + 0.5)
    assert set(b.assignment.slots) == set(range(1024))
    assert set(b.assignment.done) == had
    assert set(b.assignment.done.values()) == {777}


def test_paused_past_the_lease_it_has_nothing_before_it_has_asked(world):
    a, b = world.start("a"), world.start("b")
    world.run(2 * BEAT + 1)
    world.paused.add("a")
    world.run(LEASE + 2 * BEAT)

    assert a.assignment.slots == frozenset()
    assert not a.may_write
    assert a.state is State.PAUSED
    world.paused.clear()
    world.run(3 * BEAT)
    assert a.state is State.MEMBER
    assert a.may_write
    assert sum(map(len, owned(a, b))) == 1024


def test_without_the_back_end_both_go_on_with_what_they_had(world, caplog):
    a, b = world.start("a"), world.start("b")
    world.run(2 * BEAT + 1)
    had = owned(a, b)
    world.store.away = True
    world.run(10 * LEASE)

    assert owned(a, b) == had
    assert a.may_write
    ready, said = a.part()
    assert not ready
    assert (said["state"], said["detail"]) == ("unreachable", "store://here cannot be reached")
    assert caplog.text.count("polling what was assigned among 2 members") == 2, "said once each"

    world.store.away = False
    world.run(2 * BEAT)
    assert owned(a, b) == had, "nobody is given up for an outage"
    assert a.part()[0]


def test_a_back_end_that_lost_everything_is_filled_again_and_generations_go_on(world):
    a, b = world.start("a"), world.start("b")
    world.run(2 * BEAT + 1)
    before = a.assignment.generation
    world.store.kept.clear()
    world.run(4 * BEAT)

    assert sum(map(len, owned(a, b))) == 1024
    assert a.assignment.generation == b.assignment.generation > before


def test_before_it_can_join_nothing_is_its(world, caplog):
    world.store.away = True
    a = world.start("a")
    world.run(20)
    assert a.assignment.slots == frozenset()
    assert a.part()[0] is False
    assert caplog.text.count("nothing is polled before: store://here cannot be reached") == 1


def test_two_of_one_name_do_not_take_turns(world, caplog):
    first = world.start("a")
    world.run(2 * BEAT)
    world.keepers["first"] = first
    second = world.start("a")
    world.run(20 * LEASE)

    assert set(second.assignment.slots) == set(range(1024))
    assert first.assignment.slots == frozenset()
    assert "another process has joined under our name 'a'" in caplog.text
    second.leave()
    del world.keepers["a"]
    world.run(LEASE + 2 * BEAT)
    assert set(first.assignment.slots) == set(range(1024))


def test_what_leaves_tells_its_marks_and_is_gone_at_once(world):
    a, b = world.start("a"), world.start("b")
    world.run(2 * BEAT + 1)
    had = set(a.assignment.slots)
    a.note(dict.fromkeys(had, 5))
    a.stop()
    del world.keepers["a"]
    world.run(BEAT)

    assert set(b.assignment.slots) == set(range(1024))
    assert b.assignment.done == dict.fromkeys(had, 5)
    assert a.assignment.slots == frozenset()
    assert a.step() >= 0, "and says nothing more"


def test_a_restart_within_the_lease_changes_nobodys_slots(world):
    a, b = world.start("a"), world.start("b")
    world.run(2 * BEAT + 1)
    had = owned(a, b)
    world.keepers["dead"] = a
    world.paused.add("dead")
    again = world.start("a")
    for _ in range(12):
        world.run(0.5)
        assert set(b.assignment.slots) == had[1]
    assert set(again.assignment.slots) == had[0]


def test_marks_of_before_a_restart_are_not_forgotten(world):
    a = world.start("a")
    world.run(2 * BEAT)
    a.note({1: 10, 2: 20})
    world.run(BEAT)
    world.keepers.clear()
    again = world.start("a")
    world.run(2 * BEAT)
    assert again.assignment.done == {1: 10, 2: 20}
    again.note({1: 30})
    world.run(BEAT)
    marks = KeyValueBackend(world.store, "g", "x", LEASE).marks()
    assert (marks[1].first, marks[2].first) == (30, 20)
    assert marks[1] > Mark(0, 0)


def test_marks_that_could_not_be_written_or_were_lost_are_written_again(world):
    a = world.start("a")
    look = KeyValueBackend(world.store, "g", "x", LEASE)
    world.run(2 * BEAT)
    world.store.away = True
    a.note({1: 10})
    world.run(BEAT)
    world.store.away = False
    world.run(2 * BEAT)
    assert look.marks()[1].first == 10

    world.store.kept.clear()
    world.run(4 * BEAT)
    assert look.marks()[1].first == 10


def test_members_that_poll_something_else_are_told_of(world, caplog):
    caplog.set_level(logging.WARNING)
    a = world.start("a", status=Status(definition="one").encode)
    world.start("b", status=Status(definition="two").encode)
    world.run(3 * BEAT)
    assert a.part()[1]["other_definition"] == ["b"]
    assert caplog.text.count("b poll by another definition") == 1


def test_an_error_of_the_client_library_ends_no_heartbeat(world, caplog):
    a = world.start("a")
    a._backend._store.get = None  # A TypeError where it is called.
    a._run_once()
    assert "unexpected error" in caplog.text
    assert a.state is State.JOINING
