"""A store that fails now and then, as a third party's distribution: a module and its entry point in a folder on PYTHONPATH."""

from __future__ import annotations

from pathlib import Path

_CODE = '''\
"""sqlite, but now and then a call fails: before it was done, or after, so that nobody knows."""

import os
import random

from nephoscope.errors import Unavailable
from sinks.sql import SQLStore


class UnsteadyStore(SQLStore):
    guarantee = "once, if you insist"
    _had = set()

    def __init__(self, url, *more):
        self._chance = random.Random(os.urandom(8))
        self._fail("opening")
        super().__init__(url.replace("unsteady:", "sqlite:", 1), *more)

    def write(self, rows):
        self._fail("before the write")
        written = super().write(rows)
        self._fail("after the write")
        return written

    def _fail(self, when):
        # Each kind at least once in a process: a flow that catches up writes much at once, and seldom.
        if when not in self._had or self._chance.random() < SHARE:
            self._had.add(when)
            raise Unavailable(f"lost the connection {when}")
'''
_METADATA = "Metadata-Version: 2.1\nName: unsteady\nVersion: 1.0\n"
_POINTS = "[nephoscope.store]\nunsteady = unsteady_store:UnsteadyStore\n"


def install(folder: Path, share: float) -> Path:
    """Make the distribution; the folder is for PYTHONPATH. `share` of the calls fail, twice asked in a write; the first ones always."""
    about = folder / "unsteady-1.0.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text(_METADATA)
    (about / "entry_points.txt").write_text(_POINTS)
    (folder / "unsteady_store.py").write_text(_CODE.replace("SHARE", repr(share)))
    return folder
