"""One PostgreSQL server from Debian's package, on a free port of the loopback, its data in a temporary folder."""

from __future__ import annotations

import contextlib
import itertools
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import psycopg
import pytest

from tests.servers import Server, free_port, missing, shared
from tests.servers.guard import running as running_process

USER, PASSWORD = "nephoscope", "pass/w@rd"
_SETTINGS = """\
listen_addresses = '127.0.0.1'
unix_socket_directories = ''
max_connections = 60
shared_buffers = 64MB
# What is tested is kill -9, not a loss of power.
fsync = off
full_page_writes = off
log_min_messages = warning
"""
_databases = itertools.count()


def program(name: str) -> str:
    """The path of one of PostgreSQL's programs; skips where there is none."""
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda p: int(p.parts[4]))
    if not found and not shutil.which(name):
        missing("there is no PostgreSQL: apt-get install postgresql")
    return str(found[-1]) if found else str(shutil.which(name))


def as_user() -> list[str]:
    """How a command is run as somebody who is not root, which PostgreSQL's programs refuse."""
    if os.geteuid() != 0:
        return []
    if not shutil.which("setpriv"):
        missing("PostgreSQL does not run as root, and there is no setpriv")
    user = pwd.getpwnam("nobody")
    return ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]


def own_folder(name: str) -> Path:
    """A folder for somebody who is not root: pytest's own are shut to all others. What dead servers left goes first."""
    for old in Path(tempfile.gettempdir()).glob(f"nephoscope-{name}-*"):
        with contextlib.suppress(OSError, ValueError):
            # Written by `owned_by`; without it, somebody is just making it.
            if not running_process(int((old / "owner").read_text())):
                shutil.rmtree(old, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=f"nephoscope-{name}-"))
    if os.geteuid() == 0:
        user = pwd.getpwnam("nobody")
        os.chown(folder, user.pw_uid, user.pw_gid)
    return folder


class PostgreSQL:
    """A server, which can be killed and started again on its data."""

    def __init__(self, folder: Path, settings: str = "") -> None:
        self.port = free_port()
        self.folder = own_folder("postgresql")
        data = self.folder / "data"
        secret = self.folder / "password"
        secret.write_text(PASSWORD)
        secret.chmod(0o644)
        command = [
            *as_user(),
            program("initdb"),
            "-D",
            str(data),
            "-U",
            USER,
            f"--pwfile={secret}",
            "-A",
            "scram-sha-256",
        ]
        command += ["-E", "UTF8", "--locale=C", "--no-sync"]
        done = subprocess.run(command, cwd="/", check=False, capture_output=True, text=True)
        if done.returncode:
            pytest.fail(f"initdb failed:\n{done.stdout}{done.stderr}")
        (data / "postgresql.conf").write_text(_SETTINGS + f"port = {self.port}\n{settings}")
        self._pid_file = data / "postmaster.pid"
        self._server = Server(folder, [*as_user(), program("postgres"), "-D", str(data)])

    def url(self, database: str = "postgres") -> str:
        """The URL of a database, for a store."""
        from urllib.parse import quote

        return f"postgresql://{USER}:{quote(PASSWORD, safe='')}@127.0.0.1:{self.port}/{database}"

    def start(self) -> None:
        """Start it, or start it again, until it answers."""
        self._server.start(lambda: psycopg.connect(self.url(), connect_timeout=2).close())
        (self.folder / "owner").write_text(str(self._server.pid))

    def disown(self) -> int:
        """Leave it to others to end it; its process's number."""
        return self._server.disown()

    def kill(self) -> None:
        """SIGKILL: its children notice and end. Until they have, the next one finds the shared memory in use."""
        children: list[psutil.Process] = []
        with contextlib.suppress(psutil.NoSuchProcess):
            children = psutil.Process(self._server.pid).children()
        self._server.kill()
        psutil.wait_procs(children, timeout=60)
        # What it leaves is what a crash leaves; only its number must not keep the next one from starting.
        self._pid_file.unlink(missing_ok=True)


@contextmanager
def running(folder: Path, settings: str = "") -> Iterator[PostgreSQL]:
    """A server of one's own, to be killed. `settings`: lines of its postgresql.conf, which take the place of the tests' own."""
    server = PostgreSQL(folder, settings)
    server.start()
    try:
        yield server
    finally:
        server.kill()
        shutil.rmtree(server.folder, ignore_errors=True)


@contextmanager
def for_all(base: Path) -> Iterator[str]:
    """The URL of the server that a test run shares."""

    def start(folder: Path) -> tuple[int, dict[str, str]]:
        server = PostgreSQL(folder)
        server.start()
        return server.disown(), {"url": server.url()}

    with shared(base, "postgresql", start) as facts:
        yield facts["url"]


@contextmanager
def database(url: str) -> Iterator[str]:
    """A new database on a server; its URL."""
    name = f"test_{os.getpid()}_{next(_databases)}"
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE template0")
    try:
        yield url.rpartition("/")[0] + "/" + name
    finally:
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
