"""Kills a server (second argument) when the test run (first argument) is gone, however it went."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path


def state(process: Path) -> str:
    """The letter that the kernel has for the state of a process or thread, by its folder in /proc; X where it is gone."""
    try:
        return (process / "stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "X"


def running(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    return state(Path(f"/proc/{pid}")) not in "ZX"


if __name__ == "__main__":
    watched, server = map(int, sys.argv[1:3])
    while running(server):
        if not running(watched):
            os.kill(server, signal.SIGKILL)
        time.sleep(0.5)
