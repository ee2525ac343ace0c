"""What a member may do, given what the back end said and when; and what is its own."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nephoscope.partition import owners
from sources.coordination import Mark, View, latest
from sources.membership import Membership, Share, State

LEASE, BEAT = 6.0, 2.0
US = View(1, ("a", "me"))


def member(now=0.0):
    """One that has joined and had its first heartbeat."""
    m = Membership("me", LEASE, BEAT)
    m.look(now)
    m.heard(US, now, now)
    m.heard(US, now, now)
    return m


def test_it_polls_from_its_first_heartbeat_on():
    m = Membership("me", LEASE, BEAT)
    assert (m.state, m.wants, m.due(0), m.active) == (State.JOINING, "join", 0, False)

    m.heard(US, 0.0, 0.1)
    assert (m.state, m.wants, m.due(0.1), m.active) == (State.MEMBER, "heartbeat", BEAT - 0.1, False)

    m.heard(View(2, ("a", "b", "me")), 2.0, 2.1)
    assert m.active
    assert m.view.members == ("a", "b", "me")
    assert m.least == 3


def test_while_the_back_end_is_away_it_goes_on():
    m = member()
    for t in range(1, 100):
        m.look(float(t))
        if t % 2 == 0:
            m.unreachable(float(t), "refused")
    assert (m.state, m.active, m.detail) == (State.UNREACHABLE, True, "refused")
    assert m.counts == {"joined": 1, "unreachable": 1}

    m.heard(US, 100.0, 100.1)
    assert (m.state, m.active) == (State.MEMBER, True)


def test_a_pause_past_the_lease_stops_it_until_the_back_end_has_answered():
    m = member()
    m.look(5.9)
    assert m.active
    m.look(6.0)
    assert (m.state, m.active, m.wants, m.due(6.0)) == (State.PAUSED, False, "heartbeat", 0)
    m.unreachable(6.5, "refused")
    assert not m.active

    m.heard(US, 8.0, 8.1)
    assert (m.state, m.active) == (State.MEMBER, True)
    assert m.counts["lost"] == 1


def test_a_pause_while_the_back_end_is_away_stops_it_too():
    m = member()
    m.unreachable(2.0, "refused")
    m.look(7.9)
    assert m.active
    m.look(7.9 + LEASE)
    assert (m.state, m.active) == (State.PAUSED, False)


def test_gone_it_rejoins_at_once_above_every_generation_it_has_seen():
    m = member()
    m.heard(View(41, ("me",)), 2.0, 2.0)
    m.gone(4.0, "nobody knows us")
    assert (m.state, m.active, m.wants, m.due(4.0), m.least) == (State.GONE, False, "join", 0, 42)

    m.heard(View(42, ("me",)), 4.0, 4.0)
    assert not m.active
    m.heard(View(42, ("me",)), 6.0, 6.0)
    assert m.active


def test_replaced_it_leaves_the_name_to_the_other():
    m = member()
    m.gone(2.0, "another me", replaced=True)
    assert (m.wants, m.take, m.due(2.0)) == ("join", False, LEASE)
    m.gone(8.0, "another me", replaced=True)
    assert m.counts["replaced"] == 1

    m.heard(US, 14.0, 14.0)
    assert m.take


def test_an_answer_that_came_after_the_lease_had_ended_counts_for_nothing():
    m = member()
    m.heard(View(9, ("me",)), 1.0, 7.5)
    assert (m.state, m.active, m.due(7.5)) == (State.PAUSED, False, 0)


def test_a_view_without_us_is_no_membership():
    m = member()
    m.heard(View(2, ("a",)), 2.0, 2.0)
    assert (m.state, m.wants) == (State.GONE, "join")


def test_the_lease_that_the_back_end_grants_counts():
    m = Membership("me", LEASE, BEAT)
    m.heard(US, 0.0, 0.0, lease=3.0)
    m.heard(US, 0.0, 0.0, lease=3.0)
    m.look(2.9)
    assert m.active
    m.look(3.0)
    assert not m.active


def test_what_left_does_nothing_more():
    m = member()
    m.left(1.0)
    m.heard(US, 1.0, 1.0)
    m.gone(1.0, "?")
    m.unreachable(1.0, "?")
    assert (m.state, m.wants, m.active) == (State.LEFT, "", False)


EVENTS = st.lists(
    st.tuples(st.sampled_from(["look", "heard", "unreachable", "gone"]), st.floats(0, 9), st.floats(0, 9)), max_size=40
)


@given(EVENTS)
def test_without_an_answer_within_the_lease_it_never_polls_unless_the_back_end_was_away(events):
    m = Membership("me", LEASE, BEAT)
    now, granted, away = 0.0, None, False
    for what, gap, took in events:
        asked = now + gap
        now = asked + (took if what == "heard" else 0.0)
        if what == "look":
            m.look(now)
        elif what == "unreachable":
            m.unreachable(now, "away")
            away = away or m.state is State.UNREACHABLE
        elif what == "gone":
            m.gone(now, "gone")
            granted = None
        else:
            m.heard(US, asked, now)
            granted, away = asked, False
        if m.active:
            assert granted is not None
            assert now < granted + LEASE or away
            assert m.state is not State.GONE


def test_a_share_is_that_of_the_rendezvous_and_asks_for_the_marks_of_what_is_new():
    share = Share("me")
    mine = {s for s, m in owners(("a", "me")).items() if m == "me"}
    assert share.gained(US) == mine

    marks = {s: Mark(1, 10 * s) for s in range(1024)}
    first = share.take(US, marks)
    assert first.slots == mine
    assert first.done == {s: 10 * s for s in mine}

    alone = View(2, ("me",))
    assert share.gained(alone) == set(range(1024)) - mine
    second = share.take(alone, {})
    assert (second.slots, second.done, second.generation) == (set(range(1024)), {}, 2)
    assert second.version != first.version
    assert share.take(alone, {}) is second


def test_stopped_it_has_nothing_and_takes_up_all_again():
    share = Share("me")
    had = share.take(US, {})
    assert share.stop().slots == frozenset()
    assert share.gained(US) == had.slots
    assert share.take(US, {}).slots == had.slots


def test_marks_are_written_when_they_move_and_kept_for_the_next_owner():
    share = Share("me")
    share.keep({5: Mark(3, 500)})
    mine = share.take(View(7, ("me",)), {}).slots
    assert mine == set(range(1024))

    assert share.mark({1: 100, 2: 100}) == {5: Mark(3, 500), 1: Mark(7, 100), 2: Mark(7, 100)}
    share.unwritten = False
    assert share.mark({1: 100, 2: 100}) is None
    share.take(View(8, ("a", "me")), {})
    lost = next(s for s in range(6, 1024) if s not in share.assignment.slots)
    kept = next(s for s in range(6, 1024) if s in share.assignment.slots)
    assert share.mark({lost: 900, kept: 200})[kept] == Mark(8, 200)
    assert lost not in share.mark({lost: 900, kept: 300})


def test_of_several_marks_the_newest_generations_counts():
    assert latest([{1: Mark(1, 90), 2: Mark(2, 5)}, {1: Mark(2, 10), 2: Mark(2, 6)}]) == {1: Mark(2, 10), 2: Mark(2, 6)}


@pytest.mark.parametrize("state", [State.PAUSED, State.GONE])
def test_what_stopped_it_is_counted_as_a_lost_lease_once(state):
    m = member()
    if state is State.GONE:
        m.gone(2.0, "x")
        m.gone(3.0, "x")
    else:
        m.look(10.0)
        m.look(20.0)
    assert m.counts["lost"] == 1


def test_what_we_did_but_could_not_tell_is_known_and_told_when_we_are_back():
    share = Share("a", 8)
    share.take(View(1, ("a",)), {})
    share.know({3: 500})
    share.stop()

    assert share.mark({3: 500}) == {3: Mark(1, 500)}
    share.unwritten = False
    assert share.take(View(2, ("a",)), {3: Mark(1, 100), 4: Mark(1, 200)}).done == {3: 500, 4: 200}

    share.stop()
    share.take(View(3, ("b",)), {})
    assert share.mark({3: 600}) is None
