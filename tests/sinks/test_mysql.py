"""What is MySQL's own: which servers are too old."""

import pytest

from sinks.sql.mysql import too_old


@pytest.mark.parametrize("version", ["8.0.36", "8.4.0-debug", "10.11.6-MariaDB-0+deb12u1-log", "5.5.5-10.11.6-MariaDB"])
def test_a_server_that_is_new_enough(version):
    assert too_old(version) == []


@pytest.mark.parametrize("version", ["5.7.44-log", "10.4.32-MariaDB", "5.5.5-10.1.48-MariaDB", "unknown"])
def test_a_server_that_is_too_old_is_named(version):
    (problem,) = too_old(version)

    assert version in problem.message
    assert "or newer" in problem.hint
