"""The long stories of the flow run when they are asked for: NEPHOSCOPE_CHAOS=1, or `./justw chaos --quick`."""

import os

import pytest


def pytest_collection_modifyitems(items):
    if os.environ.get("NEPHOSCOPE_CHAOS"):
        return
    for item in items:
        if item.path.parts[-2:] == ("chaos", "test_chaos.py") and item.get_closest_marker("slow"):
            item.add_marker(pytest.mark.skip(reason="takes a quiet machine: NEPHOSCOPE_CHAOS=1"))
