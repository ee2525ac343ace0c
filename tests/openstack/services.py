"""Placeholder."""

import pytest

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::PendingDeprecationWarning")


def test_up(cloud):
    c = cloud.connect()
    assert list(c.identity.projects())
