"""One Kafka broker in KRaft mode, from Maven's jars."""

from __future__ import annotations

import base64
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient

from tests.servers import JAVA_FLAGS, Server, free_port, jars, java, shared

USER, PASSWORD = "nephoscope", "correct-horse"
"""Who may use the listener with SASL/PLAIN."""
_JARS = ("org.apache.kafka:kafka_2.13:4.3.1", "org.apache.logging.log4j:log4j-slf4j-impl:2.25.4")
_PROPERTIES = """\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
listeners=PLAINTEXT://127.0.0.1:{port},SASL_PLAINTEXT://127.0.0.1:{sasl},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{port},SASL_PLAINTEXT://127.0.0.1:{sasl}
sasl.enabled.mechanisms=PLAIN
listener.name.sasl_plaintext.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required user_{user}="{password}";
controller.listener.names=CONTROLLER
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,SASL_PLAINTEXT:SASL_PLAINTEXT,CONTROLLER:PLAINTEXT
log.dirs={folder}/data
num.partitions=1
auto.create.topics.enable=true
offsets.topic.num.partitions=1
offsets.topic.replication.factor=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
broker.session.timeout.ms=6000
broker.heartbeat.interval.ms=500
group.initial.rebalance.delay.ms=0
log.cleaner.backoff.ms=1000
log.retention.check.interval.ms=500
log.initial.task.delay.ms=500
"""


class Kafka:
    """A broker at `address`, which can be killed and started again on its data."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.address = f"127.0.0.1:{self.port}"
        sasl = free_port()
        self.sasl_address = f"127.0.0.1:{sasl}"
        program, lib = java(), jars("kafka-4.3.1", *_JARS)
        environment = {"CLASSPATH": f"{lib}/*"}
        properties = folder / "server.properties"
        properties.write_text(
            _PROPERTIES.format(
                port=self.port, sasl=sasl, controller=free_port(), folder=folder, user=USER, password=PASSWORD
            )
        )
        # Not with a hyphen at its beginning, which the tool would take for an option.
        cluster = base64.urlsafe_b64encode(b"\0" + os.urandom(15)).decode().rstrip("=")
        flags = [program, *JAVA_FLAGS, "-Xmx256m", f"-Dlog4j2.configurationFile={_logging(folder)}"]
        formatted = subprocess.run(
            [*flags, "kafka.tools.StorageTool", "format", "--ignore-formatted", "-t", cluster, "-c", str(properties)],
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            check=False,
        )
        if formatted.returncode:
            pytest.fail(f"Kafka's storage could not be made:\n{formatted.stdout}{formatted.stderr}")
        self._server = Server(folder, [*flags, "kafka.Kafka", str(properties)], environment)

    @property
    def pid(self) -> int:
        """The broker's process."""
        return self._server.pid

    def start(self, timeout: float = 60.0) -> None:
        """Start it, or start it again, until it answers."""
        client = AdminClient({"bootstrap.servers": self.address, "log_level": 0, "reconnect.backoff.max.ms": 200})
        self._server.start(lambda: client.list_topics(timeout=1), timeout)

    def disown(self) -> int:
        """Leave it to others to end it; its process's number."""
        return self._server.disown()

    def kill(self) -> None:
        """SIGKILL."""
        self._server.kill()

    def stop(self) -> None:
        """An orderly end."""
        self._server.stop()


def _logging(folder: Path) -> Path:
    path = folder / "log4j2.properties"
    path.write_text(
        "rootLogger.level=WARN\nrootLogger.appenderRef.out.ref=out\nappender.out.type=Console\nappender.out.name=out\n"
        "appender.out.layout.type=PatternLayout\nappender.out.layout.pattern=%d %p %c: %m%n\n"
    )
    return path


@contextmanager
def running(folder: Path) -> Iterator[Kafka]:
    """A broker of one's own, to be killed."""
    kafka = Kafka(folder)
    kafka.start()
    try:
        yield kafka
    finally:
        kafka.kill()


@contextmanager
def for_all(base: Path) -> Iterator[tuple[str, str]]:
    """The addresses of the broker that a test run shares: for everybody, and for those with a password."""

    def start(folder: Path) -> tuple[int, dict[str, str]]:
        kafka = Kafka(folder)
        kafka.start()
        return kafka.disown(), {"address": kafka.address, "sasl_address": kafka.sasl_address}

    with shared(base, "kafka", start) as facts:
        yield facts["address"], facts["sasl_address"]
