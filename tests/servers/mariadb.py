"""One MariaDB server from Debian's package, on a free port of the loopback, its data in a temporary folder."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pymysql
import pytest

from tests.servers import Server, free_port, missing, shared

USER = "nephoscope"
_databases = itertools.count()


class MariaDB:
    """A server, which can be killed and started again on its data."""

    def __init__(self, folder: Path) -> None:
        # /usr/sbin is not on everybody's path.
        paths = os.environ.get("PATH", "") + ":/usr/sbin"
        install, program = (shutil.which(n, path=paths) for n in ("mariadb-install-db", "mariadbd"))
        if not install or not program:
            missing("there is no MariaDB: apt-get install mariadb-server")
        self.port = free_port()
        data = folder / "data"
        setup = folder / "setup.sql"
        # A statement a line, else only the first is run.
        setup.write_text(f"CREATE OR REPLACE USER {USER}@'127.0.0.1';\nGRANT ALL ON *.* TO {USER}@'127.0.0.1';\n")
        as_root = ["--user=root"] if os.geteuid() == 0 else []
        made = subprocess.run(
            [install, "--no-defaults", f"--datadir={data}", "--skip-test-db", "--auth-root-authentication-method=normal", *as_root],
            capture_output=True,
            text=True,
            check=False,
        )  # fmt: skip
        if made.returncode:
            pytest.fail(f"MariaDB's data could not be made:\n{made.stdout}{made.stderr}")
        self._server = Server(
            folder,
            [
                program, "--no-defaults", f"--datadir={data}", f"--port={self.port}", "--bind-address=127.0.0.1",
                f"--socket={folder}/s", f"--pid-file={folder}/pid", "--skip-name-resolve", f"--init-file={setup}",
                "--innodb-buffer-pool-size=64M", "--innodb-flush-log-at-trx-commit=2", "--max-allowed-packet=64M", *as_root,
            ],
        )  # fmt: skip

    def url(self, database: str = "mysql") -> str:
        """The URL of a database, for a store."""
        return f"mariadb://{USER}@127.0.0.1:{self.port}/{database}"

    def start(self) -> None:
        """Start it, or start it again, until it answers."""
        self._server.start(lambda: pymysql.connect(host="127.0.0.1", port=self.port, user=USER).close())

    def disown(self) -> int:
        """Leave it to others to end it; its process's number."""
        return self._server.disown()

    def kill(self) -> None:
        """SIGKILL."""
        self._server.kill()


@contextmanager
def running(folder: Path) -> Iterator[MariaDB]:
    """A server of one's own, to be killed."""
    server = MariaDB(folder)
    server.start()
    try:
        yield server
    finally:
        server.kill()


@contextmanager
def for_all(base: Path) -> Iterator[str]:
    """The URL of the server that a test run shares."""

    def start(folder: Path) -> tuple[int, dict[str, str]]:
        server = MariaDB(folder)
        server.start()
        return server.disown(), {"url": server.url()}

    with shared(base, "mariadb", start) as facts:
        yield facts["url"]


@contextmanager
def database(url: str) -> Iterator[str]:
    """A new database on a server; its URL."""
    name = f"test_{os.getpid()}_{next(_databases)}"
    port = int(url.rpartition(":")[2].partition("/")[0])
    with pymysql.connect(host="127.0.0.1", port=port, user=USER) as connection:
        connection.cursor().execute(f"CREATE DATABASE {name}")
    try:
        yield url.rpartition("/")[0] + "/" + name
    finally:
        with pymysql.connect(host="127.0.0.1", port=port, user=USER) as connection:
            connection.cursor().execute(f"DROP DATABASE {name}")
