"""The file publisher: JSON lines, rotation as Ceilometer's, and going back to a position."""

import json
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nephoscope.batch import batch_of
from nephoscope.errors import ConfigError, StoreError, Unavailable
from nephoscope.sample import sample_from_json, sample_to_dict
from nephoscope.store import Positioned
from sinks.console import ConsolePublisher
from sinks.file import FilePublisher
from sinks.test import MemoryPublisher, published
from tests.sinks.made import polled, rows
from tests.sinks.strategies import EXAMPLES, samples


def lines(path):
    return path.read_bytes().splitlines(keepends=True) if path.exists() else []


def volumes(path):
    return [json.loads(line)["volume"] for line in lines(path)]


def one(volume):
    return rows(polled(at=60 * volume, volume=float(volume)))


@EXAMPLES
@given(st.lists(samples(), max_size=5))
def test_a_line_is_the_sample_in_its_own_form(tmp_path_factory, some):
    path = tmp_path_factory.mktemp("lines") / "out.jsonl"
    publisher = FilePublisher(f"file://{path}")
    publisher.publish([batch_of(some).rows])
    publisher.close()

    assert [json.loads(line) for line in lines(path)] == [json.loads(json.dumps(sample_to_dict(s))) for s in some]
    for line, sample in zip(lines(path), some, strict=True):
        read = sample_from_json(line)
        assert (read.id, read.volume, read.timestamp) == (sample.id, sample.volume, sample.timestamp)


def test_what_is_published_is_there_once_flush_has_returned_and_appended_to(tmp_path):
    path = tmp_path / "out.jsonl"
    for volume in (1, 2):
        publisher = FilePublisher(f"file://{path}")
        publisher.publish(one(volume))
        publisher.flush()
        assert volumes(path)[-1] == volume
        publisher.close()

    assert volumes(path) == [1, 2]


def test_it_rotates_before_a_file_reaches_max_bytes_and_keeps_backup_count(tmp_path):
    path = tmp_path / "out.jsonl"
    size = len(lines_of(1))
    publisher = FilePublisher(f"file://{path}?max_bytes={2 * size + size // 2}&backup_count=2")
    for volume in range(10, 20):
        publisher.publish(one(volume))
    publisher.close()

    assert volumes(path) == [18, 19]
    assert volumes(tmp_path / "out.jsonl.1") == [16, 17]
    assert volumes(tmp_path / "out.jsonl.2") == [14, 15]
    assert not (tmp_path / "out.jsonl.3").exists()


def lines_of(volume):
    from sinks.lines import json_lines

    return json_lines(one(10 + volume))[0]


def test_a_line_longer_than_a_file_has_a_file_of_its_own(tmp_path):
    path = tmp_path / "out.jsonl"
    publisher = FilePublisher(f"file://{path}?max_bytes=10&backup_count=9")
    publisher.publish(rows(polled(volume=1.0), polled(at=60, volume=2.0)))
    publisher.close()

    assert (volumes(path), volumes(tmp_path / "out.jsonl.1")) == ([2], [1])


@pytest.mark.parametrize("options", ["", "?max_bytes=10", "?backup_count=3", "?max_bytes=0&backup_count=3"])
def test_without_both_options_it_only_grows(tmp_path, options):
    path = tmp_path / "out.jsonl"
    publisher = FilePublisher(f"file://{path}{options}")
    for volume in range(5):
        publisher.publish(one(volume))
    publisher.close()

    assert volumes(path) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    "url",
    [
        "file://",
        "file:///",
        "file:///tmp/",
        "file://tmp/out",
        "file:///tmp/x?max_bytes=many",
        "file:///tmp/x?max_bytes=-1&backup_count=1",
        "file:///tmp/x?size=3",
        "file:///no/such/folder/out",
    ],
)
def test_a_url_that_cannot_be_used_is_refused(url):
    with pytest.raises(ConfigError):
        FilePublisher(url)


@given(st.lists(st.integers(0, 3), min_size=1, max_size=8), st.integers(0, 7), st.integers(0, 6))
@EXAMPLES
def test_going_back_leaves_what_was_there_at_the_position(tmp_path_factory, bursts, at, more):
    """Whatever was rotated since, as long as the file of the position is still kept."""
    folder = tmp_path_factory.mktemp("back")
    path = folder / "out.jsonl"
    url = f"file://{path}?max_bytes={len(lines_of(1)) * 2 + 5}&backup_count=40"
    publisher = FilePublisher(url)
    volume = 10
    position, then = publisher.position(), everything(folder)
    for number, burst in enumerate(bursts):
        for _ in range(burst):
            publisher.publish(one(volume))
            volume += 1
        if number <= at:
            position, then = publisher.position(), everything(folder)
    for _ in range(more):
        publisher.publish(one(volume))
        volume += 1
    publisher.flush()
    # As after a crash: a new process, with some of it unwritten.
    publisher = FilePublisher(url)

    publisher.truncate(position)

    assert everything(folder) == then
    publisher.publish(one(99))
    publisher.close()
    assert everything(folder) == [*then, 99]


def everything(folder):
    """The volumes of all files, oldest first."""
    out = []
    for number in range(50, -1, -1):
        out += volumes(folder / (f"out.jsonl.{number}" if number else "out.jsonl"))
    return out


def test_where_the_file_of_the_position_is_gone_nothing_is_removed(tmp_path, caplog):
    path = tmp_path / "out.jsonl"
    publisher = FilePublisher(f"file://{path}")
    publisher.publish(one(1))
    position = publisher.position()
    publisher.close()
    path.unlink()
    publisher = FilePublisher(f"file://{path}")
    publisher.publish(one(2))
    publisher.flush()

    publisher.truncate(position)

    assert volumes(path) == [2]
    assert "twice" in caplog.text
    publisher.close()


def test_a_position_of_something_else_is_refused(tmp_path):
    publisher = FilePublisher(f"file://{tmp_path}/out.jsonl")
    with pytest.raises(StoreError):
        publisher.truncate("17")
    publisher.close()
    assert isinstance(publisher, Positioned)
    assert not isinstance(ConsolePublisher(), Positioned)


def test_a_full_disk_leaves_no_half_line_and_loses_nothing(tmp_path, monkeypatch):
    path = tmp_path / "out.jsonl"
    publisher = FilePublisher(f"file://{path}")
    publisher.publish(one(1))
    publisher.flush()
    whole = os.write

    def half(descriptor, data):
        if len(data) > 20:
            return whole(descriptor, bytes(data)[:20])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", half)
        publisher.publish(one(2))
        with pytest.raises(Unavailable, match="No space"):
            publisher.flush()
    assert volumes(path) == [1]

    publisher.close()
    assert volumes(path) == [1, 2]


def test_the_console_prints_lines(capsysbinary):
    publisher = ConsolePublisher("stdout://")
    publisher.publish([one(1), one(2)])
    publisher.flush()
    publisher.close()

    assert [json.loads(line)["volume"] for line in capsysbinary.readouterr().out.splitlines()] == [1, 2]
    with pytest.raises(ConfigError):
        ConsolePublisher("stdout://somewhere")


def test_a_console_that_nobody_reads_is_away():
    class Closed:
        def writelines(self, _):
            raise BrokenPipeError

    with pytest.raises(Unavailable):
        ConsolePublisher(stream=Closed()).publish(one(1))


def test_the_memory_keeps_samples_by_name():
    published("here").clear()
    sample = polled()
    MemoryPublisher("test://here").publish(rows(sample))
    MemoryPublisher("test://there").publish(rows(sample))

    assert published("here") == [sample]
