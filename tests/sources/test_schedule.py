"""The schedule: aligned, in order, each period once or counted. All of it with a made-up clock."""

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from nephoscope.pipeline import PollingSource
from nephoscope.times import SECOND
from sources.polling import Target, intervals_of
from sources.pollster import Pollster
from sources.schedule import Schedule

START = 1_500_000_000 * SECOND  # A multiple of 10 and 60 s.
POLLSTER = Pollster("p", (), lambda _r, _m: [])


def target(name="t", *seconds, slot=0):
    sources = tuple(PollingSource(f"s{s}", s, ("*",)) for s in seconds or (10,))
    return Target(POLLSTER, name, sources, intervals_of(sources), f"p\0{name}", slot)


def schedule_of(*targets, at=START, done=None, spread=0.0, seconds=(10,)):
    schedule = Schedule(seconds, spread=spread)
    schedule.retarget(targets, at, lambda t: (done or {}).get(t.slot))
    return schedule


def dues(polls):
    return [(p.due - START) // SECOND for p in polls]


def finish(schedule, polls, at):
    for poll in polls:
        schedule.finished(poll, at)
        schedule.lost(poll)


def at(seconds):
    return START + round(seconds * SECOND)


def test_a_target_is_polled_at_once_and_then_at_each_period():
    schedule = schedule_of(target(), at=at(3))
    seen = []
    for tenth in range(30, 400):
        polls = schedule.start(at(tenth / 10))
        finish(schedule, polls, at(tenth / 10))
        seen += [(tenth / 10, *dues([p]), p.late) for p in polls]

    assert seen == [(3.0, 0, True), (10.0, 10, False), (20.0, 20, False), (30.0, 30, False)]
    assert schedule.counts == Counter({"late": 1})


def test_polls_wait_for_their_jitter():
    schedule = schedule_of(target(), spread=0.5)
    jitter = target().jitter(0.5, 30 * SECOND)
    assert jitter > 0

    assert schedule.next_start() == START + jitter
    assert schedule.start(START + jitter - 1) == []
    (poll,) = schedule.start(START + jitter)
    assert (poll.due, poll.expires, poll.late) == (START, at(10), False)


def test_nothing_is_started_while_a_poll_runs_and_the_overrun_is_counted():
    schedule = schedule_of(target())
    (poll,) = schedule.start(at(0))
    assert schedule.start(at(12)) == []

    finish(schedule, [poll], at(13))
    polls = schedule.start(at(13))
    assert dues(polls) == [10]
    assert schedule.counts == Counter({"overruns": 1, "late": 1})


def test_periods_that_a_slow_poll_swallowed_are_missed():
    schedule = schedule_of(target())
    (poll,) = schedule.start(at(0))
    finish(schedule, [poll], at(45))

    assert dues(schedule.start(at(45))) == [40]
    assert schedule.counts["missed"] == 3


def test_a_pause_of_the_whole_process_is_caught_up_for_the_running_period_only():
    schedule = schedule_of(target())
    finish(schedule, schedule.start(at(0)), at(0))
    polls = schedule.start(at(57))

    assert dues(polls) == [50]
    assert polls[0].late
    assert schedule.counts["missed"] == 4


def test_a_restart_takes_up_the_first_period_that_is_not_done():
    done = {0: at(20)}

    assert dues(schedule_of(target(), at=at(25), done=done).start(at(25))) == [20]
    later = schedule_of(target(), at=at(47), done=done)
    assert dues(later.start(at(47))) == [40]
    assert later.counts["missed"] == 2
    soon = schedule_of(target(), at=at(19), done=done)
    assert soon.start(at(19)) == []
    assert dues(soon.start(at(20))) == [20]
    assert soon.counts == Counter()


def test_a_note_from_a_clock_that_went_ahead_stops_nobody():
    schedule = schedule_of(target(), at=at(5), done={0: at(10_000_000)})

    assert dues(schedule.start(at(5))) == [0]
    assert schedule.counts["clock"] == 1


def test_a_clock_that_is_set_back_stops_nobody():
    idle, busy = target("idle"), target("busy")
    schedule = schedule_of(idle, busy)
    polls = schedule.start(at(0))
    finish(schedule, polls, at(0))
    polls = schedule.start(at(5000))
    finish(schedule, [p for p in polls if p.target is idle], at(5000))
    (running,) = (p for p in polls if p.target is busy)

    first = schedule.start(at(101))
    finish(schedule, [running], at(101))
    second = schedule.start(at(101))
    assert sorted(dues(first) + dues(second)) == [100, 100]


def test_due_together_is_one_poll():
    schedule = schedule_of(target("t", 10, 30), seconds=(10, 30))
    seen = []
    for second in range(61):
        polls = schedule.start(at(second))
        finish(schedule, polls, at(second))
        seen += dues(polls)

    assert seen == [0, 10, 20, 30, 40, 50, 60]


def test_a_stuck_call_is_not_doubled_and_its_periods_are_counted():
    schedule = schedule_of(target())
    (poll,) = schedule.start(at(0))
    schedule.finished(poll, at(8), stuck=True)
    schedule.lost(poll)
    for second in range(8, 36):
        assert schedule.start(at(second)) == []
    assert schedule.counts["missed"] == 3

    schedule.released(poll.target)
    assert dues(schedule.start(at(40))) == [40]


def test_a_silenced_target_is_tried_again():
    schedule = schedule_of(target())
    (poll,) = schedule.start(at(0))
    schedule.finished(poll, at(1), silence=25 * SECOND)
    schedule.lost(poll)
    assert [dues(schedule.start(at(s))) for s in (10, 20, 30)] == [[], [], [30]]
    assert schedule.counts["silenced"] == 2


def test_what_is_not_started_in_its_period_is_missed():
    """The log is full: nothing is started for a while."""
    schedule = schedule_of(target("a"), target("b"))
    assert len(schedule.start(at(0), limit=1)) == 1

    assert dues(schedule.start(at(12))) == [10]
    assert schedule.counts["missed"] == 1


def test_progress_is_the_oldest_period_that_is_not_in_the_log():
    a, b, c = target("a", slot=1), target("b", slot=1), target("c", slot=2)
    schedule = schedule_of(a, b, c)
    polls = {p.target.resource: p for p in schedule.start(at(0))}
    assert schedule.progress() == {1: at(0), 2: at(0)}
    for poll in polls.values():
        schedule.finished(poll, at(1))
        schedule.read(poll)

    schedule.logged(polls["a"])
    schedule.logged(polls["c"])
    assert schedule.progress() == {1: at(0), 2: at(10)}
    schedule.logged(polls["b"])
    assert schedule.progress() == {1: at(10), 2: at(10)}


def test_a_mark_waits_for_all_that_its_period_has():
    schedule = schedule_of(target("a"), target("b"))
    assert schedule.mark(at(0)) is None
    a, b = schedule.start(at(0))
    schedule.finished(a, at(1))
    schedule.read(a)
    assert schedule.mark(at(1)) is None
    schedule.finished(b, at(2))
    schedule.read(b)

    assert schedule.mark(at(2)) == at(0)
    assert schedule.mark(at(3)) is None
    assert schedule.mark(at(10)) is None


def test_marks_go_on_where_polls_always_overrun():
    schedule = schedule_of(target())
    marks = []
    poll = None
    for second in range(100):
        if poll and second % 15 == 14:
            finish(schedule, [poll], at(second))
            poll = None
        poll = poll or next(iter(schedule.start(at(second))), None)
        marks.append(schedule.mark(at(second)))

    assert [(m - START) // SECOND for m in marks if m is not None][:3] == [0, 10, 30]


def test_marks_go_on_without_targets():
    schedule = schedule_of()

    assert [schedule.mark(at(s)) for s in (0, 5, 10, 37)] == [at(0), None, at(10), at(30)]


def test_targets_come_and_go():
    a, b = target("a"), target("b")
    schedule = schedule_of(a)
    polls = schedule.start(at(0))
    schedule.retarget([b], at(4))
    assert len(schedule) == 1
    finish(schedule, polls, at(5))

    assert [p.target.resource for p in schedule.start(at(5))] == ["b"]
    schedule.retarget([a, b], at(6))
    assert [p.target.resource for p in schedule.start(at(6))] == ["a"], "new again, so polled for the running period"
    schedule.retarget([], at(7))
    assert schedule.progress() == {0: at(0)}, "what runs is still open"


def test_a_target_that_comes_back_while_its_poll_runs_is_not_polled_twice():
    a = target("a")
    schedule = schedule_of(a)
    (poll,) = schedule.start(at(0))
    schedule.retarget([], at(1))
    schedule.retarget([a], at(2))
    assert schedule.start(at(3)) == []

    finish(schedule, [poll], at(4))
    assert schedule.start(at(4)) == []
    assert dues(schedule.start(at(10))) == [10]
    assert schedule.counts == Counter()


def test_a_target_whose_sources_change_loses_no_period():
    schedule = schedule_of(target("t", 10), seconds=(10, 20))
    finish(schedule, schedule.start(at(0)), at(0))
    schedule.retarget([target("t", 10, 20)], at(5))

    (new,) = schedule.start(at(5))
    assert (new.due, new.intervals) == (START, (20 * SECOND,)), "the new source's period runs"
    finish(schedule, [new], at(6))
    assert dues(schedule.start(at(10))) == [10]
    assert schedule.counts["missed"] == 0


def test_a_long_period_is_caught_up_while_it_runs_though_short_ones_have_passed():
    """At 65 s: the period of 60 s runs, that of 600 s too; the one of 60 s that began with it is over."""
    schedule = schedule_of(target("t", 60, 600), seconds=(60, 600), at=at(65), done={0: START})
    (first,) = schedule.start(at(65))
    assert (first.due, first.intervals, first.late) == (START, (600 * SECOND,), True)
    assert first.expires == at(600)
    finish(schedule, [first], at(66))
    (second,) = schedule.start(at(66))
    assert (second.due, second.intervals) == (at(60), (60 * SECOND,))
    finish(schedule, [second], at(67))

    assert schedule.counts["missed"] == 1
    assert schedule.next_start() == at(120)


def test_a_poll_that_waited_too_long_is_asked_for_the_periods_that_still_run():
    schedule = schedule_of(target("t", 10, 60), seconds=(10, 60))
    (poll,) = schedule.start(at(0))
    assert poll.intervals == (10 * SECOND, 60 * SECOND)
    schedule.finished(poll, at(12), missed=True)
    schedule.lost(poll)

    (again,) = schedule.start(at(12))
    assert (again.due, again.intervals) == (START, (60 * SECOND,))
    assert schedule.counts["missed"] == 1


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_every_period_is_polled_once_or_counted(data):
    """Whatever the durations, pauses and refusals: in order, never twice, and the sum is right."""
    targets = [target(f"t{i}", *data.draw(st.sampled_from([(10,), (10, 60), (15, 10)])), slot=i % 2) for i in range(3)]
    schedule = schedule_of(*targets, spread=0.5, seconds=(10, 15, 60))
    now = START
    running = []
    polled = {(t.resource, i): [] for t in targets for i in t.intervals}
    order = {t.resource: [] for t in targets}

    def end(poll, *, missed=False):
        schedule.finished(poll, now, missed=missed)
        schedule.lost(poll)
        if not missed:
            order[poll.target.resource].append(poll.due)
            for interval in poll.intervals:
                polled[poll.target.resource, interval].append(poll.due)

    for _ in range(40):
        now += data.draw(st.integers(1, 25 * SECOND))
        for poll in [p for p in running if data.draw(st.booleans())]:
            running.remove(poll)
            end(poll, missed=now >= poll.expires and data.draw(st.booleans()))
        for poll in schedule.start(now, data.draw(st.integers(0, 3))):
            assert poll.due <= now < poll.expires
            running.append(poll)
    for poll in running:
        end(poll)
    for poll in schedule.start(now):
        end(poll)

    for seen in order.values():
        assert seen == sorted(set(seen))
    settled = 0
    for t in targets:
        for interval in t.intervals:
            seen = polled[t.resource, interval]
            assert seen == sorted(set(seen))
            assert all(due % interval == 0 for due in seen)
            newest = schedule._states[t.key].settled[interval]
            assert newest >= now - 2 * interval
            settled += (newest - START) // interval + 1
    assert sum(map(len, polled.values())) + schedule.counts["missed"] == settled
