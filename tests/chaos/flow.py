"""`nephoscope flow` as an operator starts it, and everything that can happen to its processes."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path

import psutil

PATIENCE = 240.0
KILLED = "did not stop within"
"""What a supervisor says of a process that it killed."""


class Trouble(AssertionError):
    """Something that should have happened has not; carries the end of what the flow said."""


class Flow:
    """One flow at a time in `folder`, which holds its nephoscope.yaml. What it says is kept in `said`."""

    def __init__(self, folder: Path, port: int, partitions: int, environment: Mapping[str, str] | None = None) -> None:
        self.said = folder / "flow.log"
        self.starts = 0
        self._folder, self._port, self._partitions = folder, port, partitions
        self._environment = {k: v for k, v in os.environ.items() if not k.startswith("NEPHOSCOPE_")}
        self._environment |= environment or {}
        self._process: subprocess.Popen[bytes] | None = None
        self._workers = 0

    def start(self, workers: int) -> None:
        """Start it; it is not waited for."""
        command = [sys.executable, "-m", "nephoscope.cli", "flow", "--workers", str(workers)]
        with self.said.open("ab") as out:
            self._process = subprocess.Popen(
                command, cwd=self._folder, env=self._environment, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True
            )  # fmt: skip
        self._workers = workers
        self.starts += 1

    @property
    def running(self) -> bool:
        """Whether the supervisor is there."""
        return self._process is not None and self._process.poll() is None

    def processes(self) -> list[psutil.Process]:
        """The workers' processes, in the order of their numbers; fewer while some are not there."""
        assert self._process is not None
        found = {}
        for child in psutil.Process(self._process.pid).children():
            try:
                command = child.cmdline()
                if "--process-id" in command and child.status() != psutil.STATUS_ZOMBIE:
                    found[int(command[command.index("--process-id") + 1])] = child
            except psutil.Error:
                continue
        return [found[n] for n in sorted(found)]

    def kill(self) -> None:
        """SIGKILL for all of it."""
        assert self._process is not None
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def kill_worker(self, number: int) -> int:
        """SIGKILL for one worker; its process's number."""
        victim = self.all_there()[number]
        victim.kill()
        return victim.pid

    def pause_worker(self, number: int) -> Callable[[], None]:
        """SIGSTOP for one worker; returns what lets it go on."""
        victim = self.all_there()[number]
        victim.suspend()
        return victim.resume

    def stop(self) -> None:
        """SIGTERM; Trouble unless it ends in order."""
        assert self._process is not None
        killed = self.heard(KILLED)
        self._process.send_signal(signal.SIGTERM)
        try:
            status = self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            raise Trouble(f"the flow does not stop\n{self.tail()}") from None
        if status:
            raise Trouble(f"the flow ended with {status}\n{self.tail()}")
        if self.heard(KILLED) > killed:
            raise Trouble(f"the flow did not stop by itself\n{self.tail()}")

    def all_there(self) -> list[psutil.Process]:
        """All workers' processes, once all are there."""
        self.until("all workers run", lambda: len(self.processes()) == self._workers)
        return self.processes()

    def until(self, what: str, condition: Callable[[], bool], patience: float = PATIENCE) -> None:
        """Wait; Trouble where it does not happen or the flow ends."""
        deadline = time.monotonic() + patience
        while not condition():
            if not self.running:
                raise Trouble(f"the flow ended while waiting until {what}\n{self.tail()}")
            if time.monotonic() > deadline:
                raise Trouble(f"not within {patience:g} s: {what}\n{self.tail()}")
            time.sleep(0.2)

    def asked(self) -> list[dict[str, float]]:
        """The metrics of each worker that answers."""
        out = []
        for number in range(self._workers):
            port = self._port + (number + 1 if number else 0)
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
                    text = answer.read().decode()
            except (OSError, urllib.error.URLError):
                continue
            out.append(
                {m[1]: float(m[2]) for m in re.finditer(r"^(nephoscope_\w+(?:{[^}]*})?) (\S+)$", text, re.MULTILINE)}
            )
        return out

    def sent(self) -> float:
        """Samples that its present processes have published."""
        return sum(m.get("nephoscope_flow_sent_total", 0.0) for m in self.asked())

    def lag(self) -> float:
        """Messages that it has not read yet; infinite while some partitions are read by nobody."""
        asked = self.asked()
        read, behind = (
            sum(m.get(f"nephoscope_flow_{n}", 0.0) for m in asked) for n in ("partitions_read", "lag_messages")
        )
        return behind if read == self._partitions else float("inf")

    def drained(self, what: str, patience: float = PATIENCE) -> None:
        """Wait until all is read that is in the log now. What a worker says of its lag may be a second old, and not know of it."""
        time.sleep(1.5)
        self.until(what, lambda: self.lag() == 0, patience)

    def heard(self, words: str) -> int:
        """How often it has said that."""
        return self.said.read_text(errors="replace").count(words) if self.said.exists() else 0

    def tail(self, lines: int = 40) -> str:
        """The end of what it said."""
        return "\n".join(self.said.read_text(errors="replace").splitlines()[-lines:])


def free_ports(count: int) -> int:
    """The first of so many neighbouring ports that nobody uses now."""
    while True:
        with ExitStack() as stack:
            first = stack.enter_context(socket.socket())
            first.bind(("127.0.0.1", 0))
            number = int(first.getsockname()[1])
            try:
                for i in range(1, count):
                    stack.enter_context(socket.socket()).bind(("127.0.0.1", number + i))
            except (OSError, OverflowError):
                continue
            return number
