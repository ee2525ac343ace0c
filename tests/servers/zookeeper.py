"""One ZooKeeper, from Maven's jars."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.servers import JAVA_FLAGS, Server, free_port, jars, java, shared

_JARS = (
    "org.apache.zookeeper:zookeeper:3.9.5",
    # Its own pom leaves these out.
    "io.dropwizard.metrics:metrics-core:4.1.12.1",
    "org.xerial.snappy:snappy-java:1.1.10.7",
)
_CONFIGURATION = """\
clientPort={port}
clientPortAddress=127.0.0.1
dataDir={data}
tickTime=250
minSessionTimeout=500
maxSessionTimeout=20000
admin.enableServer=false
4lw.commands.whitelist=srvr
maxClientCnxns=0
forceSync=no
"""


class ZooKeeper:
    """A server at `url`, which can be killed and started again, on its data or without."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.url = f"zookeeper://127.0.0.1:{self.port}"
        self._data = folder / "data"
        program, lib = java(), jars("zookeeper-3.9.5", *_JARS)
        configuration = folder / "zoo.cfg"
        configuration.write_text(_CONFIGURATION.format(port=self.port, data=self._data))
        logging = folder / "logback.xml"
        logging.write_text('<configuration><root level="OFF"/></configuration>\n')
        flags = [
            *JAVA_FLAGS,
            "-Xmx128m",
            f"-Dlogback.configurationFile={logging}",
            "-Dzookeeper.4lw.commands.whitelist=srvr",
        ]
        main = "org.apache.zookeeper.server.ZooKeeperServerMain"
        self._server = Server(folder, [program, *flags, main, str(configuration)], {"CLASSPATH": f"{lib}/*"})

    @property
    def pid(self) -> int:
        """The server's process."""
        return self._server.pid

    def start(self) -> None:
        """Start it, or start it again, until it answers."""
        self._server.start(self._ask)

    def _ask(self) -> None:
        with socket.create_connection(("127.0.0.1", self.port), 1) as one:
            one.sendall(b"srvr")
            if b"Mode:" not in one.recv(4096):
                raise OSError("it does not serve yet")

    def disown(self) -> int:
        """Leave it to others to end it; its process's number."""
        return self._server.disown()

    def kill(self) -> None:
        """SIGKILL."""
        self._server.kill()

    def forget(self) -> None:
        """Remove its data, while it is not running."""
        shutil.rmtree(self._data)


@contextmanager
def running(folder: Path) -> Iterator[ZooKeeper]:
    """A server of one's own, to be killed."""
    server = ZooKeeper(folder)
    server.start()
    try:
        yield server
    finally:
        server.kill()


@contextmanager
def for_all(base: Path) -> Iterator[str]:
    """The URL of the server that a test run shares."""

    def start(folder: Path) -> tuple[int, dict[str, str]]:
        server = ZooKeeper(folder)
        server.start()
        return server.disown(), {"url": server.url}

    with shared(base, "zookeeper", start) as facts:
        yield facts["url"]
