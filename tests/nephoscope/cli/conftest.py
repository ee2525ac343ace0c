"""The command line as a user meets it: a process's worth of arguments, output and exit status."""

import sys
from collections.abc import Callable
from typing import NamedTuple

import pytest

from nephoscope.cli import app


class Done(NamedTuple):
    """What a command left behind."""

    status: int
    out: str
    err: str


@pytest.fixture
def nephoscope(monkeypatch, capfdbinary, tmp_path) -> Callable[..., Done]:
    """Run a command in an empty folder, with its state there."""
    monkeypatch.chdir(tmp_path)
    for name in ("NEPHOSCOPE_CONFIG", "COLUMNS", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)

    def run(*arguments: object) -> Done:
        monkeypatch.setattr(sys, "argv", ["nephoscope", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            app.main()
        sys.stdout.flush()
        out, err = capfdbinary.readouterr()
        return Done(caught.value.code or 0, out.decode(), err.decode())

    return run
