"""One RabbitMQ broker, from Debian's package, with a port mapper of its own."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pika

from tests.servers import Server, free_port, missing, shared

_SCRIPT = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")


class RabbitMQ:
    """A broker at `url` (user guest), which can be killed and started again on its data."""

    def __init__(self, folder: Path) -> None:
        epmd = shutil.which("epmd")
        if not _SCRIPT.exists() or not epmd:
            missing("there is no RabbitMQ (Debian: apt install rabbitmq-server)")
        self.port = free_port()
        self.url = f"rabbit://guest:guest@127.0.0.1:{self.port}/"
        self._mapper_port = free_port()
        config = folder / "rabbitmq.conf"
        # Killed in mid-write and asked at once, it must not wait for a quorum of one.
        config.write_text(
            f"listeners.tcp.1 = 127.0.0.1:{self.port}\nloopback_users = none\nlog.console.level = warning\n"
        )
        plugins = folder / "enabled_plugins"
        plugins.write_text("[].\n")
        environment = {
            "HOME": str(folder),
            "RUNNING_UNDER_SYSTEMD": "1",  # The script then becomes the broker instead of keeping it as a child.
            "ERL_EPMD_PORT": str(self._mapper_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": f"rabbit{self.port}@localhost",
            "RABBITMQ_DIST_PORT": str(free_port()),
            "RABBITMQ_CONFIG_FILE": str(config),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(plugins),
            "RABBITMQ_MNESIA_BASE": str(folder / "mnesia"),
            "RABBITMQ_LOG_BASE": str(folder / "logs"),
            "RABBITMQ_LOGS": "-",
            "RABBITMQ_CONF_ENV_FILE": str(folder / "none"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+S 1:1 +sbwt none",
        }
        (folder / "mapper").mkdir()
        self._mapper = Server(folder / "mapper", [epmd, "-port", str(self._mapper_port), "-address", "127.0.0.1"])
        self._server = Server(folder, ["/bin/sh", str(_SCRIPT)], environment)
        self._mapped = False

    @property
    def pid(self) -> int:
        """The broker's process."""
        return self._server.pid

    def start(self) -> None:
        """Start it, or start it again, until it answers."""
        if not self._mapped:
            self._mapper.start(lambda: socket.create_connection(("127.0.0.1", self._mapper_port), 1).close())
            self._mapped = True
        self._server.start(lambda: pika.BlockingConnection(self.parameters()).close(), timeout=120)

    def parameters(self) -> pika.ConnectionParameters:
        """For a client of the tests."""
        return pika.ConnectionParameters("127.0.0.1", self.port, heartbeat=0, connection_attempts=1, socket_timeout=5)

    def kill(self) -> None:
        """SIGKILL."""
        self._server.kill()

    def close(self) -> None:
        """SIGKILL, of the port mapper too."""
        self._server.kill()
        if self._mapped:
            self._mapper.kill()

    def disown(self) -> int:
        """Leave it to others to end it; its process's number. The port mapper ends with the test run."""
        self._mapper.disown()
        return self._server.disown()


@contextmanager
def running(folder: Path) -> Iterator[RabbitMQ]:
    """A broker of one's own, to be killed."""
    broker = RabbitMQ(folder)
    try:
        broker.start()
        yield broker
    finally:
        broker.close()


@contextmanager
def for_all(base: Path) -> Iterator[int]:
    """The port of the broker that a test run shares."""

    def start(folder: Path) -> tuple[int, dict[str, int]]:
        broker = RabbitMQ(folder)
        broker.start()
        return broker.disown(), {"port": broker.port}

    with shared(base, "rabbitmq", start) as facts:
        yield facts["port"]
