"""One Redis, from Debian's redis-server. It keeps nothing on disk unless told to."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from redis import Redis as Client

from tests.servers import Server, free_port, missing, shared


class Redis:
    """A server at `url`, which can be killed and started again, empty."""

    def __init__(self, folder: Path, password: str = "") -> None:
        program = shutil.which("redis-server") or missing("there is no redis-server (Debian: apt install redis-server)")
        self.port = free_port()
        self.url = f"redis://{f':{password}@' if password else ''}127.0.0.1:{self.port}"
        command = [program, "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(folder), "--save", ""]
        command += ["--appendonly", "no", *(["--requirepass", password] if password else [])]
        self._password = password
        self._server = Server(folder, command)

    @property
    def pid(self) -> int:
        """The server's process."""
        return self._server.pid

    def start(self) -> None:
        """Start it, or start it again, until it answers."""
        with Client(port=self.port, password=self._password or None, socket_timeout=1) as client:
            self._server.start(client.ping)

    def disown(self) -> int:
        """Leave it to others to end it; its process's number."""
        return self._server.disown()

    def kill(self) -> None:
        """SIGKILL."""
        self._server.kill()


@contextmanager
def running(folder: Path, password: str = "") -> Iterator[Redis]:
    """A server of one's own, to be killed."""
    server = Redis(folder, password)
    server.start()
    try:
        yield server
    finally:
        server.kill()


@contextmanager
def for_all(base: Path) -> Iterator[str]:
    """The URL of the server that a test run shares."""

    def start(folder: Path) -> tuple[int, dict[str, str]]:
        server = Redis(folder)
        server.start()
        return server.disown(), {"url": server.url}

    with shared(base, "redis", start) as facts:
        yield facts["url"]
