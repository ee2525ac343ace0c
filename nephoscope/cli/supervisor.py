"""Child processes that live and die together: started, restarted after a fault, stopped in order."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

_GRACE = 10.0
"""Seconds that a child gets to stop by itself."""
_STEADY = 30.0
"""A child that ran for so long starts its back-off anew."""
_LONGEST_PAUSE = 30.0

Say = Callable[[str], None]


@dataclass
class Child:
    """A part that runs in a process of its own."""

    name: str
    command: Sequence[str]
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    failures: int = 0
    again_at: float = 0.0
    given_up: int | None = None


@dataclass
class Supervisor:
    """Keeps children running until `stop`.

    They stay in this process group, so that a terminal's Ctrl-C reaches all, and are killed by the kernel if this process
    dies without a word (Linux). `fatal` are exit statuses after which a restart is of no use.
    """

    children: list[Child]
    say: Say
    fatal: frozenset[int] = frozenset({2, 78})
    _stopping: bool = field(default=False, init=False)

    def start(self) -> None:
        """Start every child."""
        for child in self.children:
            self._spawn(child)

    def watch(self) -> int | None:
        """Restart what ended, after a pause that doubles. The exit status where a restart is of no use, else None."""
        now = time.monotonic()
        for child in self.children:
            if child.process is None:
                if now >= child.again_at:
                    self._spawn(child)
                continue
            status = child.process.poll()
            if status is None:
                continue
            if status in self.fatal:
                return status
            child.failures = 1 if now - child.started > _STEADY else child.failures + 1
            pause = min(_LONGEST_PAUSE, 0.5 * 2 ** (child.failures - 1))
            child.process, child.again_at = None, now + pause
            self.say(f"{child.name} ended ({_outcome(status)}); starting it again in {pause:g} s")
        return None

    def stop(self) -> None:
        """Ask the children to stop, in order, each when the one before has ended; kill what does not."""
        for child in self.children:
            process = child.process
            if process is None or process.poll() is not None:
                continue
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(_GRACE)
            except subprocess.TimeoutExpired:
                self.say(f"{child.name} did not stop within {_GRACE:g} s: killed")
                process.kill()
                process.wait()

    def _spawn(self, child: Child) -> None:
        child.started = time.monotonic()
        child.process = subprocess.Popen(  # noqa: S603 - our own interpreter and arguments
            child.command,
            stdin=subprocess.DEVNULL,
            preexec_fn=_die_with(os.getpid()) if sys.platform == "linux" else None,  # noqa: PLW1509 - no threads yet
        )


def _die_with(parent: int) -> Callable[[], None]:
    """A function for the child that asks the kernel for SIGKILL when its parent is gone."""
    libc = ctypes.CDLL(None)

    def ask() -> None:
        libc.prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if os.getppid() != parent:
            os._exit(1)

    return ask


def _outcome(status: int) -> str:
    if status < 0:
        return f"killed by {signal.Signals(-status).name}"
    return f"exit status {status}"
