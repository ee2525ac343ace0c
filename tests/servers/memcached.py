"""One memcached, from Debian's package."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pymemcache.client.base import Client

from tests.servers import Server, free_port, missing, shared


class Memcached:
    """A server at `url`, which can be killed and started again, empty."""

    def __init__(self, folder: Path) -> None:
        program = shutil.which("memcached") or missing("there is no memcached (Debian: apt install memcached)")
        self.port = free_port()
        self.url = f"memcached://127.0.0.1:{self.port}"
        command = [program, "-p", str(self.port), "-U", "0", "-l", "127.0.0.1", "-m", "16", "-t", "1"]
        if os.geteuid() == 0:
            command += ["-u", "root"]  # It refuses root without being told who to be.
        self._server = Server(folder, command)

    @property
    def pid(self) -> int:
        """The server's process."""
        return self._server.pid

    def start(self) -> None:
        """Start it, or start it again, until it answers."""
        client = Client(("127.0.0.1", self.port), connect_timeout=1, timeout=1)
        try:
            self._server.start(client.version)
        finally:
            client.close()

    def disown(self) -> int:
        """Leave it to others to end it; its process's number."""
        return self._server.disown()

    def kill(self) -> None:
        """SIGKILL."""
        self._server.kill()


@contextmanager
def running(folder: Path) -> Iterator[Memcached]:
    """A server of one's own, to be killed."""
    server = Memcached(folder)
    server.start()
    try:
        yield server
    finally:
        server.kill()


@contextmanager
def for_all(base: Path) -> Iterator[str]:
    """The URL of the server that a test run shares."""

    def start(folder: Path) -> tuple[int, dict[str, str]]:
        server = Memcached(folder)
        server.start()
        return server.disown(), {"url": server.url}

    with shared(base, "memcached", start) as facts:
        yield facts["url"]
