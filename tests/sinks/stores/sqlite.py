"""SQLite: a file of its own for each store."""

import itertools
import tempfile
from contextlib import contextmanager
from pathlib import Path

import pytest
import sqlalchemy as sa

from sinks.sql import expire
from sinks.sql.schema import record
from sinks.sql.statements import Statement
from tests.sinks.stores import Kind


@contextmanager
def _place(_run_folder):
    numbers = itertools.count()
    with tempfile.TemporaryDirectory() as folder:

        @contextmanager
        def empty():
            path = Path(folder) / f"{next(numbers)}.db"
            try:
                # Nothing here outlives the machine: without waiting for the disk, ten times the examples.
                yield f"sqlite:///{path}?synchronous=off"
            finally:
                for file in Path(folder).glob(f"{path.name}*"):
                    file.unlink()

        yield empty


@contextmanager
def _small_steps(records, *, pauses=False):
    with pytest.MonkeyPatch.context() as patch:
        if not pauses:
            patch.setattr(expire, "_LEAST_PAUSE", 0.0)
            patch.setattr(expire, "_PAUSE", 0.0)
        patch.setattr(
            expire,
            "_step_end",
            Statement(
                sa.select(*expire._key)
                .where(expire._from_begin, record.c.span <= sa.bindparam("last"))
                .order_by(*expire._key)
                .limit(1)
                .offset(records)
            ),
        )
        yield


KIND = Kind("sqlite", _place, examples=25, small_steps=_small_steps)
