"""Groups of agents in virtual time: each (resource, meter, period) is stored once, whatever comes, goes, stops and lags.

`python -m tests.simulator --seed N` runs ten thousand periods of fifty members, and one of these again.
"""

import logging

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sources import agent, membership
from sources.membership import Share
from tests.simulator.processes import Ceilometer
from tests.simulator.runs import TROUBLES, Run


@pytest.fixture(autouse=True)
def _as_before(monkeypatch):
    monkeypatch.setattr(agent, "Counts", agent.Counts)
    monkeypatch.setattr(agent, "_TICK", agent._TICK)
    monkeypatch.setattr(membership, "owners", membership.owners)
    told = logging.getLogger("sources")
    level = told.level
    yield
    told.setLevel(level)


def shifts_are_small(result):
    assert result.moved <= 0.05
    assert result.load <= 1.0


@pytest.mark.parametrize("seed,members,periods", [(1, 12, 40), (2, 5, 100), (3, 2, 150)])
def test_where_the_interval_is_twice_the_lease_nothing_is_missing_and_nothing_twice(seed, members, periods):
    result = Run(seed, periods=periods, members=members, targets=20)()

    assert (result.missing, result.doubled, result.disordered) == (0, 0, 0), result
    assert result.repeated < result.expected / 20
    shifts_are_small(result)


@pytest.mark.parametrize("seed", [4, 5])
def test_whatever_is_missing_is_counted(seed):
    """Troubles all at once, a server that forgets, and an interval shorter than twice the lease."""
    harsh = Run(seed, periods=60, members=6, targets=20, harsh=True)()
    short = Run(seed, periods=60, members=6, targets=20, interval=6)()

    for result in (harsh, short):
        assert result.doubled == 0
        assert result.missing <= result.counted, result
        shifts_are_small(result)


def test_a_seed_gives_the_same_run_again():
    assert Run(7, periods=40, members=4, targets=10)() == Run(7, periods=40, members=4, targets=10)()


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(st.floats(0, 90), st.sampled_from(sorted({*TROUBLES})), st.integers(0, 2**32)), min_size=1, max_size=8
    ),
    st.integers(1, 5),
)
def test_any_troubles_double_nothing_and_lose_nothing_uncounted(troubles, members):
    result = Run(1, periods=15, members=members, targets=8, troubles=troubles)()

    assert result.doubled == 0
    assert result.missing <= result.counted, result


def test_it_sees_what_goes_wrong(monkeypatch):
    """Ceilometer's agents, and slots that nobody takes, are found out."""
    assert Run(1, periods=150, members=5, targets=20, kind=Ceilometer)().doubled > 0

    monkeypatch.setattr(Share, "owned", lambda _share, _members: frozenset(range(512)))
    assert Run(1, periods=20, members=5, targets=20)().missing > 0
