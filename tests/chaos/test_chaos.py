"""The flow through any crash, in its quick form; the command `python -m tests.chaos` plays the whole."""

import pytest

from tests.chaos import noise, story
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


@pytest.mark.slow
def test_hostile_messages_are_stored_or_buried_and_nothing_ends_or_grows(kafka, tmp_path):
    stage = story.Stage(tmp_path, kafka, story.QUICK)
    with story.nothing_left(stage):
        heard = noise.drown(stage, 3_000)

    assert not heard, heard
    assert min(heard.broken, heard.stored, heard.buried_rows, heard.marks) > 0
