"""Agents as real processes over a real Kafka into a store, in trouble: the quick form; `python -m tests.chaos agents` does it on each server."""

import pytest

from tests.chaos.agents import QUICK, chaos


@pytest.mark.slow
def test_each_sample_is_stored_once_whatever_happens_to_agents_and_their_server(kafka, tmp_path):
    counts = chaos("redis", QUICK, kafka, tmp_path)

    assert counts.double == 0, counts
    # On a machine that leaves them no time agents miss periods, and say so: nothing else is missing.
    assert counts.missing <= counts.counted, counts
    assert counts.expected >= 3600
    assert counts.stored > 0.5 * counts.expected
    assert counts.late > 0
