"""Kills a server (second argument) when the test run (first argument) is gone, however it went."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path


def running(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


if __name__ == "__main__":
    watched, server = map(int, sys.argv[1:3])
    while running(server):
        if not running(watched):
            os.kill(server, signal.SIGKILL)
        time.sleep(0.5)
