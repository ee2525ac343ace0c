"""The topics on Kafka.

Whoever appends names the partition; librdkafka's partitioner is never asked. A topic that is not there is made, with times of the
broker's (LogAppendTime); one with another partition count is refused.

Guarantee: what `append` returned for is acknowledged by all replicas in sync, once (acks=all, idempotent). What it failed for may be
there: who appends it again may append it twice, and its ids say so.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

from confluent_kafka import KafkaError, KafkaException, Producer, TopicCollection, TopicPartition
from confluent_kafka import Message as Delivered
from confluent_kafka.admin import AdminClient, NewPartitions, NewTopic, OffsetSpec

from nephoscope.errors import ConfigError, NephoscopeError, Problem, TopicError, Unavailable, nearest
from nephoscope.metrics import Counts
from nephoscope.partition import PARTITIONS
from nephoscope.settings import KafkaSettings, Settings
from nephoscope.topics import TOPICS, Record
from nephoscope.topics.kafka_reader import KafkaConsumer, client_logger, ours, translated

_T = TypeVar("_T")
_OURS = {
    "acks",
    "auto.offset.reset",
    "bootstrap.servers",
    "enable.auto.commit",
    "enable.idempotence",
    "enable.partition.eof",
    "metadata.broker.list",
    "request.required.acks",
    "transactional.id",
}
"""What the guarantees rest on, and log.url."""
_MOVING = {
    KafkaError.FENCED_LEADER_EPOCH,
    KafkaError.LEADER_NOT_AVAILABLE,
    KafkaError.NOT_LEADER_FOR_PARTITION,
    KafkaError.UNKNOWN_LEADER_EPOCH,
    KafkaError.UNKNOWN_TOPIC_OR_PART,
    KafkaError._TIMED_OUT,  # noqa: SLF001 - the names of librdkafka's own errors begin so
}
"""A partition that was just made, or whose leader is changing: ask again."""
_QUEUE_KBYTES = 65_536
_GRACE = 5.0
_LOOK = 10.0
"""Seconds for a question; whoever asks has other things to do."""


@dataclass(frozen=True)
class Options:
    """How topics are made and read. `retention` in seconds, `retention_bytes` of a topic (0: no limit), `replication` -1: as the brokers have it."""

    client: Mapping[str, str] = field(default_factory=dict, repr=False)
    prefix: str = ""
    replication: int = -1
    retention: float = 86_400.0
    retention_bytes: int = 0
    prefetch_bytes: int = 32 << 20
    timeout: float = 30.0


def open_log(settings: Settings, also: int = 0) -> KafkaLog:
    """The log that the settings describe. `also`: another partition count that is right, while it grows."""
    kafka = settings.log.kafka
    options = Options(
        client_options(kafka),
        kafka.topic_prefix,
        kafka.replication,
        settings.log.retention,
        settings.log.retention_bytes,
        kafka.prefetch_bytes,
        kafka.timeout,
    )
    return KafkaLog(servers_of(settings.log.url), settings.partitions, options, also)


def servers_of(url: str) -> str:
    """The brokers of kafka://HOST[:PORT][,HOST[:PORT]…]. ConfigError where it is more or less than that."""
    servers = url.partition("://")[2].rstrip("/")
    if not servers or set(servers) & set("/@?# "):
        hint = "passwords belong into log.kafka.sasl_password" if "@" in servers else ""
        raise ConfigError([Problem("must be kafka://HOST:PORT[,HOST:PORT…]", field="log.url", hint=hint)])
    return servers


def client_options(kafka: KafkaSettings) -> dict[str, str]:
    """The settings as librdkafka's properties, secrets included: not for logs. ConfigError for those that are not the user's to set."""
    taken = sorted(_OURS & kafka.options.keys())
    if taken:
        raise ConfigError([Problem(f"{name} is not yours to set", field=f"log.kafka.options.{name}") for name in taken])
    plain = {
        "security.protocol": kafka.security_protocol,
        "sasl.mechanism": kafka.sasl_mechanism,
        "sasl.username": kafka.sasl_username,
        "sasl.password": kafka.sasl_password.get_secret_value(),
        "ssl.ca.location": kafka.ssl_ca_location,
        "ssl.certificate.location": kafka.ssl_certificate_location,
        "ssl.key.location": kafka.ssl_key_location,
        "ssl.key.password": kafka.ssl_key_password.get_secret_value(),
    }
    return {name: value for name, value in plain.items() if value} | kafka.options


class KafkaLog:
    """The topics of one Kafka cluster. Safe for several threads and processes; not to be used across a fork."""

    def __init__(
        self, servers: str, partitions: int = PARTITIONS, options: Options | None = None, also: int = 0
    ) -> None:
        self.servers = servers
        self._options = options or Options()
        self._count, self._also = partitions, also
        self._said = ""
        self._sending = threading.Lock()
        self._producer: Producer | None = None
        self._base: dict[str, Any] = {
            "client.id": "nephoscope",
            "reconnect.backoff.max.ms": "2000",
            "socket.keepalive.enable": "true",
            **self._options.client,
            "bootstrap.servers": servers,
        }
        if partitions < 1:
            raise TopicError(f"a topic has at least 1 partition, not {partitions}")
        with translated("log.kafka"):
            callbacks: dict[str, Any] = {"error_cb": self._on_error}
            self._admin = AdminClient({**self._base, **callbacks}, logger=client_logger)
        self._prepare()

    def _on_error(self, error: KafkaError) -> None:
        self._said = error.str()

    def _asked(self, futures: Mapping[Any, Any]) -> dict[Any, Any]:
        """The results of an administrative request; KafkaExceptions stand in place of results."""
        deadline = time.monotonic() + self._options.timeout + _GRACE
        out: dict[Any, Any] = {}
        for key, future in futures.items():
            try:
                out[key] = future.result(max(0.0, deadline - time.monotonic()))
            except KafkaException as error:
                out[key] = error
            except TimeoutError:
                raise Unavailable(f"Kafka at {self.servers} does not answer") from None
        self._admin.poll(0)
        return out

    def _good(self, result: _T | KafkaException) -> _T:
        if isinstance(result, KafkaException):
            with translated(f"Kafka at {self.servers}", lambda: self._said):
                raise result
        return result

    def _prepare(self) -> None:
        """Make the topics that are not there; refuse those with another partition count."""
        counts = self._counts()
        absent = [t for t in TOPICS if t not in counts]
        if absent:
            new = [
                NewTopic(self._options.prefix + t, self._count, self._options.replication, config=self._topic_options())
                for t in absent
            ]
            made = self._asked(self._admin.create_topics(new, request_timeout=self._options.timeout))
            for result in made.values():
                # Another process may have been quicker; which count it took is seen below.
                quicker = isinstance(result, KafkaException) and (
                    result.args[0].code() == KafkaError.TOPIC_ALREADY_EXISTS
                )
                if not quicker:
                    self._good(result)
            deadline = time.monotonic() + self._options.timeout
            while not set(TOPICS) <= counts.keys():
                # The broker that is asked may not have heard of them yet.
                if time.monotonic() > deadline:
                    raise Unavailable(f"Kafka at {self.servers}: the topics were made, but do not appear")
                time.sleep(0.05)
                counts = self._counts()
        for topic, count in counts.items():
            if count not in (self._count, self._also):
                raise TopicError(
                    f"Kafka at {self.servers}: topic {self._options.prefix}{topic} has {count} partitions, not {self._count}"
                )

    def grow(self, partitions: int) -> None:
        """Give every topic so many partitions; those that have them are left alone. What is there stays where it is."""
        counts = self._counts()
        wanted = [NewPartitions(self._options.prefix + t, partitions) for t, n in counts.items() if n < partitions]
        if wanted:
            made = self._asked(self._admin.create_partitions(wanted, request_timeout=self._options.timeout))
            for result in made.values():
                self._good(result)
        deadline = time.monotonic() + self._options.timeout
        while any(n < partitions for n in self._counts().values()):
            if time.monotonic() > deadline:
                raise Unavailable(f"Kafka at {self.servers}: the partitions were made, but do not appear")
            time.sleep(0.05)
        self._count = partitions

    def _topic_options(self) -> dict[str, str]:
        given = self._options
        size = given.retention_bytes
        out = {
            "cleanup.policy": "delete",
            "message.timestamp.type": "LogAppendTime",
            "retention.ms": str(int(given.retention * 1000)),
            "retention.bytes": str(max(1, size // self._count) if size else -1),
        }
        if given.replication > 1:
            out["min.insync.replicas"] = str(given.replication - 1)
        return out

    def _counts(self) -> dict[str, int]:
        """The partition count of each topic that is there."""
        wanted = TopicCollection([self._options.prefix + t for t in TOPICS])
        found = self._asked(self._admin.describe_topics(wanted, request_timeout=self._options.timeout))
        out = {}
        for topic in TOPICS:
            result = found[self._options.prefix + topic]
            absent = isinstance(result, KafkaException) and (result.args[0].code() == KafkaError.UNKNOWN_TOPIC_OR_PART)
            if not absent:
                out[topic] = len(self._good(result).partitions)
        return out

    def _topic(self, topic: str) -> str:
        if topic not in TOPICS:
            raise TopicError(f"there is no topic {topic!r}: {nearest(topic, TOPICS)}")
        return self._options.prefix + topic

    def _check(self, topic: str, partition: int) -> None:
        if not 0 <= partition < self._count:
            raise TopicError(f"topic {topic} has {self._count} partitions: there is no {partition}")

    def partitions(self, topic: str) -> int:
        """The topic's partition count. TopicError if there is no such topic."""
        self._topic(topic)
        return self._count

    def append(self, topic: str, records: Sequence[Record]) -> list[int]:
        """Append in order; each record's offset once all are acknowledged (-1: it is there, but the broker does not say where).

        Unavailable: any of it may be there, try again. TopicError: it will never be taken.
        """
        name = self._topic(topic)
        for record in records:
            self._check(topic, record.partition)
        if not records:
            return []
        offsets = [-1] * len(records)
        errors: list[KafkaError] = []

        def arrived(place: int, error: KafkaError | None, message: Delivered) -> None:
            if error is not None:
                errors.append(error)
            else:
                offset = message.offset()
                offsets[place] = -1 if offset is None or offset < 0 else offset

        with self._sending:
            producer = self._producer or self._new_producer()
            deadline = time.monotonic() + self._options.timeout + _GRACE
            try:
                for place, (partition, value, key) in enumerate(records):
                    report = partial(arrived, place)
                    while True:
                        try:
                            producer.produce(name, value, key or None, partition, report)
                            break
                        except BufferError:
                            if time.monotonic() > deadline:
                                raise Unavailable(f"Kafka at {self.servers} takes no more") from None
                            producer.poll(0.1)
                    producer.poll(0)
                left = producer.flush(max(0.1, deadline - time.monotonic()))
            except (KafkaException, NephoscopeError) as error:
                self._abandon(producer)
                if not isinstance(error, KafkaException):
                    raise
                errors.append(error.args[0])
                left = 0
            if left:
                self._abandon(producer)
                raise Unavailable(f"Kafka at {self.servers} does not acknowledge")
            if errors:
                Counts("log").failed("kafka", len(errors))
                if any(e.fatal() for e in errors):
                    self._abandon(producer)
                worst = next((e for e in errors if isinstance(ours(e, ""), TopicError)), errors[0])
                raise ours(worst, f"Kafka at {self.servers}: {len(errors)} of {len(records)} messages for {name}")
        return offsets

    def _new_producer(self) -> Producer:
        with translated("log.kafka"):
            self._producer = Producer(
                {
                    "compression.type": "lz4",
                    "queue.buffering.max.kbytes": str(_QUEUE_KBYTES),
                    # A call is flushed at its end: this only keeps its small messages together.
                    "linger.ms": "50",
                    **self._base,
                    "acks": "all",
                    "enable.idempotence": "true",
                    "message.timeout.ms": str(int(self._options.timeout * 1000)),
                    "error_cb": self._on_error,
                },
                logger=client_logger,
            )
            return self._producer

    def _abandon(self, producer: Producer) -> None:
        """What is still queued is not to arrive after its caller was told that it failed."""
        self._producer = None
        producer.purge()
        producer.flush(0.1)

    def consumer(self, topic: str, offsets: Mapping[int, int]) -> KafkaConsumer:
        """A consumer of these partitions, each from the offset given (the next to read).

        TopicError where an offset lies behind the partition's end: that log is not the one that was read before.
        """
        name = self._topic(topic)
        for partition in offsets:
            self._check(topic, partition)
        ends = self.end(topic)
        for partition, offset in offsets.items():
            if offset > ends[partition]:
                raise TopicError(
                    f"Kafka at {self.servers}: partition {partition} of {name} ends at {ends[partition]}, so {offset} was never read from it:"
                    " the log is another one, or lost its end"
                )
        configuration = {
            "fetch.wait.max.ms": "100",
            "fetch.error.backoff.ms": "100",
            # A full queue is looked at again after so long; the default, a second, would starve a small one.
            "fetch.queue.backoff.ms": "10",
            "queued.max.messages.kbytes": str(max(1, self._options.prefetch_bytes >> 10)),
            "fetch.max.bytes": str(max(1 << 20, self._options.prefetch_bytes // 2)),
            **self._base,
            # Named because the client insists; nothing is ever committed: positions are part of the flow's snapshot.
            "group.id": "nephoscope",
            "enable.auto.commit": "false",
            "enable.auto.offset.store": "false",
            "auto.offset.reset": "error",
        }
        return KafkaConsumer(configuration, name, dict(offsets), lambda: self.begin(topic))

    def begin(self, topic: str) -> list[int]:
        """The oldest offset kept, of each partition (where nothing is kept: the end)."""
        return self._edges(topic, OffsetSpec.earliest())

    def end(self, topic: str) -> list[int]:
        """The offset that the next record of each partition will get."""
        return self._edges(topic, OffsetSpec.latest())

    def _edges(self, topic: str, which: OffsetSpec) -> list[int]:
        name = self._topic(topic)
        wanted = {TopicPartition(name, p): which for p in range(self._count)}
        wait = min(_LOOK, self._options.timeout)
        deadline = time.monotonic() + wait
        while True:
            found = self._asked(self._admin.list_offsets(wanted, request_timeout=wait))
            moving = any(isinstance(r, KafkaException) and r.args[0].code() in _MOVING for r in found.values())
            if not moving or time.monotonic() > deadline:
                return [int(self._good(found[place]).offset) for place in wanted]
            time.sleep(0.05)
            # Nothing else makes this client forget who led a partition before.
            with translated(f"Kafka at {self.servers}", lambda: self._said):
                self._admin.list_topics(timeout=wait)

    def close(self) -> None:
        """Close the connections of those who append. Consumers are closed by themselves."""
        with self._sending:
            if self._producer is not None:
                self._producer.flush(_GRACE)
                self._producer = None
