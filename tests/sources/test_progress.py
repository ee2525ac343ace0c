"""What is done, kept over restarts."""

import pytest

from sources.progress import FileProgress


def test_it_is_there_again(tmp_path):
    FileProgress(tmp_path / "agent.json").save({3: 60_000_000, 1023: 0})

    assert FileProgress(tmp_path / "agent.json").load() == {3: 60_000_000, 1023: 0}
    assert [p.name for p in tmp_path.iterdir()] == ["agent.json"]


def test_nothing_kept_is_nothing_done(tmp_path):
    assert FileProgress(tmp_path / "agent.json").load() == {}


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'{"version":1,"slots":{"a":1}}', b'{"version":2,"slots":{"1":1}}', b"\xff"]
)
def test_what_cannot_be_read_is_nothing_done(tmp_path, content, caplog):
    (tmp_path / "agent.json").write_bytes(content)

    assert FileProgress(tmp_path / "agent.json").load() == {}


def test_a_folder_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(OSError):
        FileProgress(tmp_path / "away" / "agent.json").save({})
