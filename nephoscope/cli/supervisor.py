"""Child processes that live and die together: started, restarted after a fault, stopped in order."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import IO

from nephoscope.stopping import on_stop

_GRACE = 30.0
"""Seconds that a child gets to stop by itself: a flow finishes what it has read."""
_STEADY = 30.0
"""A child that ran for so long starts its back-off anew."""
_LONGEST_PAUSE = 30.0
_LAST_WORDS = 2.0
"""Seconds that a child gets to find out that another one has ended, and to say what it knows of it."""
_PARENT = "_NEPHOSCOPE_PARENT"
"""Tells a child its supervisor's process number."""
EX_FINAL = 70
"""A child's exit status: what went wrong will go wrong again."""
EX_UNSAVED = 75
"""A child's exit status: it stopped as it was asked to, but not at a snapshot."""

Say = Callable[[str], None]


@dataclass
class Child:
    """A part that runs in a process of its own."""

    name: str
    command: Sequence[str]
    process: subprocess.Popen[bytes] | None = None
    reader: threading.Thread | None = None
    started: float = 0.0
    failures: int = 0
    again_at: float = 0.0

    def ask(self) -> None:
        """Ask it to stop. Asking twice does no harm: it only sets a flag there."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)


@dataclass
class Supervisor:
    """Keeps children running until `stop`.

    They stay in this process group, so that a terminal's Ctrl-C reaches all, and are killed by the kernel if this process
    dies without a word (those that call `die_with_parent`). `fatal` are exit statuses after which a restart is of no use;
    `one_for_all`: where one ends, the others are ended too, and all are started again together. `renew` is called before
    children are started again: their commands may need to change.
    """

    children: list[Child]
    say: Say
    fatal: frozenset[int] = frozenset({2, EX_FINAL, 78})
    one_for_all: bool = False
    renew: Callable[[], None] | None = None

    def start(self) -> None:
        """Start every child."""
        for child in self.children:
            self._spawn(child)

    def watch(self) -> int | None:
        """Restart what ended, after a pause that doubles. The exit status where a restart is of no use, else None."""
        now = time.monotonic()
        due = [c for c in self.children if c.process is None and now >= c.again_at]
        if due and self.renew is not None:
            self.renew()
        for child in due:
            self._spawn(child)
        ended = [c for c in self.children if c.process is not None and c.process.poll() is not None]
        if ended and self.one_for_all:
            ended += self._end_the_others()
        statuses = [self._status(c) for c in ended]
        fatal = [s for s in statuses if s in self.fatal]
        if fatal:
            return fatal[0]
        if ended and self.one_for_all:
            self._again(ended, f"all {len(ended)}" if len(ended) > 1 else "it")
        else:
            for child in ended:
                self._again([child], "it")
        return None

    def _end_the_others(self) -> list[Child]:
        """They cannot go on by themselves; what they have to say of it is waited for, for a moment."""
        others = [c for c in self.children if c.process is not None and c.process.poll() is None]
        deadline = time.monotonic() + _LAST_WORDS
        for child in others:
            assert child.process is not None
            try:
                child.process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                child.process.kill()
                child.process.wait()
        return others

    def _status(self, child: Child) -> int:
        assert child.process is not None
        if child.reader is not None:
            child.reader.join(1)
        return child.process.wait()

    def _again(self, some: Sequence[Child], what: str) -> None:
        """Start these again after a pause. The first is the cause."""
        now = time.monotonic()
        steady = all(now - c.started > _STEADY for c in some)
        failures = 1 if steady else max(c.failures for c in some) + 1
        pause = min(_LONGEST_PAUSE, 0.5 * 2 ** (failures - 1))
        cause = some[0]
        assert cause.process is not None
        self.say(f"{cause.name} ended ({_outcome(cause.process.returncode)}); starting {what} again in {pause:g} s")
        for child in some:
            child.failures, child.process, child.again_at = failures, None, now + pause

    def pause(self, some: Sequence[Child]) -> bool:
        """Ask these to stop, all at once. Whether each ended as one that was asked to: what it had to keep is kept."""
        for child in some:
            child.ask()
        for child in some:
            if child.process is not None:
                self._wait(child)
        ended = [c.process.returncode if c.process is not None else 1 for c in some]
        return not any(ended)

    def resume(self, some: Sequence[Child]) -> None:
        """Start these again at once, and count nothing against them."""
        if self.renew is not None:
            self.renew()
        for child in some:
            self._spawn(child)

    def stop(self, *, together: bool = False) -> None:
        """Ask the children to stop, each when the one before has ended, or all at once; kill what does not."""
        running = [c for c in self.children if c.process is not None and c.process.poll() is None]
        if together:
            for child in running:
                child.ask()
        for child in running:
            child.ask()
            self._wait(child)

    def _wait(self, child: Child) -> None:
        assert child.process is not None
        try:
            child.process.wait(_GRACE)
        except subprocess.TimeoutExpired:
            self.say(f"{child.name} did not stop within {_GRACE:g} s: killed")
            child.process.kill()
            child.process.wait()
        if child.reader is not None:
            child.reader.join(1)

    def _spawn(self, child: Child) -> None:
        child.started = time.monotonic()
        child.process = subprocess.Popen(  # noqa: S603 - our own interpreter and arguments
            child.command,
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            # What a panic of the engine's has to say is in its first line.
            env={"RUST_BACKTRACE": "0", **os.environ, _PARENT: str(os.getpid())},
        )
        child.reader = threading.Thread(target=self._pass_on, args=(child.name, child.process.stderr), daemon=True)
        child.reader.start()

    def _pass_on(self, name: str, stderr: IO[bytes]) -> None:
        """Say what a child says: a live table would be torn if it wrote to the terminal itself."""
        with stderr:
            for line in stderr:
                self.say(f"{name}: {line.decode(errors='replace').rstrip()}")


def supervise(supervisor: Supervisor, look: Callable[[], None] = lambda: None) -> int | None:
    """Run the children until a signal asks to stop, `look` now and then; the exit status where a restart of them is of no use, else None."""
    stop = threading.Event()
    on_stop(stop.set)
    supervisor.start()
    status = None
    try:
        while status is None and not stop.wait(0.1):
            status = supervisor.watch()
            look()
    finally:
        supervisor.stop(together=True)
    return status


def die_with_parent() -> None:
    """Called in a child: has the kernel kill it when the supervisor is gone without a word (Linux). What SIGHUP means is the supervisor's business."""
    parent = os.environ.pop(_PARENT, "")
    if parent:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
    if parent and sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if os.getppid() != int(parent):
            os._exit(1)


def _outcome(status: int) -> str:
    if status < 0:
        return f"killed by {signal.Signals(-status).name}"
    return f"exit status {status}"
