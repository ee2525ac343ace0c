"""The flow through any crash, in its quick form; the command `python -m tests.chaos` plays the whole."""

import pytest

from tests.chaos import story
from tests.servers.kafka import running


@pytest.mark.slow
def test_killed_paused_rescaled_and_without_a_broker_the_store_is_that_of_one_process_in_peace(tmp_path):
    (tmp_path / "kafka").mkdir()
    (tmp_path / "flow").mkdir()
    with running(tmp_path / "kafka") as broker:
        _, found = story.play(tmp_path / "flow", broker, story.QUICK, lambda stage: story.crashes(stage, broker))

    assert not found, found
    assert found.samples > 290_000
    assert found.dead > 0
    assert min(found.filed.rows, found.row_by_row.rows) > 0
    assert found.stored.rows > 300_000
