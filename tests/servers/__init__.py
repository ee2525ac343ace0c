"""Real servers for the tests: started on free ports, with their data in a temporary folder, and stopped in the end.

A module each. This one holds what they share: jars from Maven Central, a process that is waited for, and a server that the
workers of one test run share. Without root a server that cannot be had skips its tests; under CI=true it fails them.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn
from xml.sax.saxutils import escape

import pytest

from tests.servers.guard import state

JAVA_FLAGS = ("-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")
"""A JVM that starts quickly and takes little."""
_PLUGIN = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies"


def missing(reason: str) -> NoReturn:
    """A server cannot be had: skip, but fail where CI promises that all are there."""
    if os.environ.get("CI", "").lower() in {"true", "1", "yes"}:
        pytest.fail(f"CI is set, so no server may be missing: {reason}")
    pytest.skip(reason)


def free_port() -> int:
    """A port of the loopback interface that nobody uses now."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def cache() -> Path:
    """Where downloads are kept."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nephoscope-tests"


def java(least: int = 17) -> str:
    """The java to run. Skips or fails where there is none of this version."""
    found = shutil.which("java")
    if not found:
        missing(f"there is no java (Debian: apt install openjdk-{least}-jre-headless)")
    said = subprocess.run([found, "-version"], capture_output=True, text=True, check=False).stderr
    version = re.search(r'version "(\d+)', said)
    if not version or int(version[1]) < least:
        missing(f"java is {version[1] if version else 'broken'}; {least} or later is needed")
    return found


def jars(name: str, *coordinates: str) -> Path:
    """A folder with these artefacts (group:artifact:version) and what they need, from Maven Central, downloaded once."""
    folder = cache() / name
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if folder.is_dir():
            return folder
        maven = shutil.which("mvn")
        if not maven:
            missing("there is no mvn, and the jars were not downloaded before (Debian: apt install maven)")
        with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
            work = Path(scratch)
            (work / "pom.xml").write_text(_pom(coordinates))
            command = [maven, "-B", "-q", "-ntp", _PLUGIN, "-DoutputDirectory=lib", "-DincludeScope=runtime"]
            with _progress(f"downloading {', '.join(coordinates)}", work / "lib"):
                done = subprocess.run(
                    command, cwd=work, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
                )
            if done.returncode:
                missing(f"Maven could not fetch {', '.join(coordinates)}:\n{(done.stdout + done.stderr)[-2000:]}")
            (work / "lib").rename(folder)
    return folder


def _pom(coordinates: Sequence[str]) -> str:
    wanted = "".join(
        "<dependency><groupId>{}</groupId><artifactId>{}</artifactId><version>{}</version></dependency>".format(
            *map(escape, c.split(":"))
        )
        for c in coordinates
    )
    return (
        '<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion>'
        "<groupId>tests</groupId><artifactId>servers</artifactId><version>1</version>"
        f"<dependencies>{wanted}</dependencies></project>\n"
    )


@contextlib.contextmanager
def _progress(what: str, folder: Path) -> Iterator[None]:
    """Say what takes long, past pytest's capture, and how far it is where it takes really long."""
    code = (
        "import pathlib, sys, time\n"
        "what, folder = sys.argv[1], pathlib.Path(sys.argv[2])\n"
        "while True:\n"
        "    size = sum(p.stat().st_size for p in folder.glob('*')) >> 20 if folder.is_dir() else 0\n"
        "    print(f'{what}: {size} MB', file=sys.stderr, flush=True)\n"
        "    time.sleep(10)\n"
    )
    out = sys.__stderr__
    teller = subprocess.Popen([sys.executable, "-c", code, what, str(folder)], stderr=out)
    try:
        yield
    finally:
        teller.kill()
        teller.wait()


class Server:
    """A server's process. Its output goes to `log` in its folder."""

    def __init__(self, folder: Path, command: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
        self.folder = folder
        self.log = folder / "log"
        self._command = list(command)
        self._environment = {**os.environ, **(environment or {})}
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The process's number."""
        assert self._process is not None
        return self._process.pid

    def start(self, ready: Callable[[], object], timeout: float = 60.0) -> None:
        """Start it, and wait until `ready`, a real call, raises no more. Fails with the end of its log."""
        with self.log.open("ab") as out:
            self._process = subprocess.Popen(
                self._command, cwd=self.folder, env=self._environment, stdin=subprocess.DEVNULL, stdout=out, stderr=out
            )
        # Where the tests are killed, the server must not stay. The guard ends by itself, and nobody waits for it.
        guard = [sys.executable, str(Path(__file__).with_name("guard.py")), str(_run()), str(self.pid)]
        os.posix_spawn(sys.executable, guard, os.environ)
        deadline = time.monotonic() + timeout
        while True:
            if self._process.poll() is not None:
                pytest.fail(f"the server ended with {self._process.returncode}:\n{self.tail()}")
            try:
                ready()
                return
            except Exception as error:  # noqa: BLE001 - whatever a client raises while its server is not there
                if time.monotonic() > deadline:
                    self.kill()
                    pytest.fail(f"not ready after {timeout:g} s ({error}):\n{self.tail()}")
            time.sleep(0.1)

    def kill(self) -> None:
        """SIGKILL, and gone."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """Ask it to stop; SIGKILL where it does not."""
        self._end(signal.SIGTERM)

    def _end(self, number: int) -> None:
        if self._process is None:
            return
        self._process.send_signal(number)
        try:
            self._process.wait(15)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def disown(self) -> int:
        """Leave it to others to end it; its process's number."""
        pid = self.pid
        assert self._process is not None
        # Else Python would complain that nobody waited for it.
        self._process.returncode = 0
        self._process = None
        return pid

    def tail(self, lines: int = 30) -> str:
        """The end of its log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])


def suspend(pid: int) -> None:
    """SIGSTOP, and standing still. The kernel stops a process's threads one by one: just after the signal one of them may still answer."""
    os.kill(pid, signal.SIGSTOP)
    deadline = time.monotonic() + 10
    while not all(state(thread) in "TZX" for thread in Path(f"/proc/{pid}/task").iterdir()):
        if time.monotonic() > deadline:
            pytest.fail(f"process {pid} has not stopped")
        time.sleep(0.005)


def _run() -> int:
    """The process that the test run lives and dies with: xdist's controller, else this one."""
    return os.getppid() if "PYTEST_XDIST_WORKER" in os.environ else os.getpid()


@contextlib.contextmanager
def shared(base: Path, name: str, start: Callable[[Path], tuple[int, dict[str, Any]]]) -> Iterator[dict[str, Any]]:
    """A server that all workers of a test run use: the first starts it, the last stops it.

    `base` is a folder that they share; `start` gets a folder and returns the process's number and what its users need to know.
    """
    state = base / f"{name}.json"
    with _locked(state):
        known = json.loads(state.read_text()) if state.exists() else {"users": 0}
        if not known["users"]:
            known["pid"], known["facts"] = start(Path(tempfile.mkdtemp(prefix=name, dir=base)))
        known["users"] += 1
        state.write_text(json.dumps(known))
    try:
        yield known["facts"]
    finally:
        with _locked(state):
            known = json.loads(state.read_text())
            known["users"] -= 1
            state.write_text(json.dumps(known))
            if not known["users"]:
                # Its data are thrown away: no need for an orderly end.
                with contextlib.suppress(ProcessLookupError):
                    os.kill(known["pid"], signal.SIGKILL)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
