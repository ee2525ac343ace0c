"""How topics on Kafka are read, and what a client's errors and log lines become."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from confluent_kafka import TIMESTAMP_LOG_APPEND_TIME, Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka import Message as Received

from nephoscope.errors import TopicError, Unavailable
from nephoscope.metrics import Counts
from nephoscope.topics import Message

logger = logging.getLogger("nephoscope.topics.kafka")
client_logger = logger.getChild("client")
"""What librdkafka has to say of itself: each kind of it once a minute."""

_FIRST_LOOK = 5.0
"""Seconds that a poll may wait for the brokers to say whether there is anything, even where it is to wait for no message."""
_AWAY_PAUSE = 0.1
_PATIENCE = 3.0
"""Seconds without any broker after which a poll says so."""


class _Seldom(logging.Filter):
    """Lets a line pass if none began with the same word for a minute: a broker that is away is tried many times a second."""

    def __init__(self) -> None:
        super().__init__()
        self._last: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the line is told."""
        word, now = str(record.msg).partition(" ")[0], time.monotonic()
        if now - self._last.get(word, float("-inf")) < 60.0:
            return False
        self._last[word] = now
        return True


client_logger.addFilter(_Seldom())

_REFUSED = {
    KafkaError.MSG_SIZE_TOO_LARGE,
    KafkaError.RECORD_LIST_TOO_LARGE,
    KafkaError.INVALID_RECORD,
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError.CLUSTER_AUTHORIZATION_FAILED,
    KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
    KafkaError.INVALID_REPLICATION_FACTOR,
    KafkaError.INVALID_PARTITIONS,
    KafkaError.INVALID_CONFIG,
    KafkaError.TOPIC_EXCEPTION,
    KafkaError.POLICY_VIOLATION,
    KafkaError.UNSUPPORTED_VERSION,
    KafkaError._INVALID_ARG,  # noqa: SLF001 - the names of librdkafka's own errors begin so
}
"""Where trying again is of no use."""
_NO_ANSWER = {KafkaError._TIMED_OUT, KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN}  # noqa: SLF001
_EXPIRED = {KafkaError.OFFSET_OUT_OF_RANGE, KafkaError._AUTO_OFFSET_RESET}  # noqa: SLF001


def ours(error: KafkaError, what: str) -> TopicError | Unavailable:
    """A client's error as one of ours: Unavailable where the same call may succeed later."""
    kind = TopicError if error.code() in _REFUSED else Unavailable
    return kind(f"{what}: {error.str()}")


@contextmanager
def translated(what: str, last: Callable[[], str] = str) -> Iterator[None]:
    """A client's exceptions as ours. `last`: what it said to its error callback, which often says more."""
    try:
        yield
    except KafkaException as error:
        found = ours(error.args[0], what)
        said = last() if error.args[0].code() in _NO_ANSWER else ""
        raise type(found)(f"{found}{f' ({said})' if said else ''}") from None


class KafkaConsumer:
    """Reads some partitions of a topic with one client, whose prefetch is bounded. Not safe for several threads.

    `offsets`: the next offset of each partition. `missed`: how many messages retention had removed before they were read.

    Guarantee: in each partition's order, none left out but those that are gone, which are logged with their range and counted.
    """

    def __init__(
        self, configuration: Mapping[str, Any], topic: str, offsets: dict[int, int], begin: Callable[[], list[int]]
    ) -> None:
        self.offsets = offsets
        self.missed = 0
        self._topic = topic
        self._begin = begin
        self._away_since: float | None = None
        self._warned = False
        self._places = {p: TopicPartition(topic, p) for p in offsets}
        self._unread = set(offsets)
        with translated("no consumer"):
            self._client = Consumer({**configuration, "error_cb": self._on_error}, logger=client_logger)
            if offsets:
                self._client.assign([TopicPartition(topic, p, o) for p, o in offsets.items()])

    def _on_error(self, error: KafkaError) -> None:
        if error.code() == KafkaError._ALL_BROKERS_DOWN and self._away_since is None:  # noqa: SLF001
            self._away_since = time.monotonic()
        self._fault(error)

    def _fault(self, error: KafkaError) -> None:
        Counts("log").failed("kafka")
        client_logger.warning("READ %s: %s", self._topic, error.str())

    def poll(self, limit: int = 1000, timeout: float = 0.0) -> list[Message]:
        """Up to `limit` messages of those that were fetched ahead; waits up to `timeout` seconds for the first.

        What the brokers have, but have not sent yet, is waited for, for a few seconds at most and only while they can be reached.
        Unavailable where they cannot for longer than a moment; they are not given up, but a new consumer knows sooner that they are back.
        """
        started = time.monotonic()
        if not self.offsets:
            time.sleep(timeout)
            return []
        while True:
            # A batch call would wait until it has as many as it may: only what is here already.
            messages = self._accepted(self._client.consume(limit, 0))
            if messages:
                return messages
            now = time.monotonic()
            if self._away_since is not None and now - self._away_since > _PATIENCE:
                raise Unavailable(f"no broker to read {self._topic} from")
            wait = timeout if self._away_since is not None or not self._behind() else max(timeout, _FIRST_LOOK)
            left = started + wait - now
            if left <= 0:
                return []
            one = self._client.poll(min(left, _AWAY_PAUSE))
            messages = self._accepted([one]) if one is not None else []
            if messages:
                return messages + (self._accepted(self._client.consume(limit - 1, 0)) if limit > 1 else [])

    def _end(self, partition: int) -> int:
        """The partition's end as the last answer to a fetch told it; negative: none has."""
        _, end = self._client.get_watermark_offsets(self._places[partition], cached=True)
        return int(end)

    def _behind(self) -> bool:
        """Whether any partition may have more than was read."""
        done = []
        for p in self._unread:
            end = self._end(p)
            if end < 0 or end > self.offsets[p]:
                break
            done.append(p)
        self._unread.difference_update(done)
        return bool(self._unread)

    def _accepted(self, received: list[Received]) -> list[Message]:
        messages = []
        offsets = self.offsets
        for one in received:
            error = one.error()
            if error is not None:
                self._faulty(one, error)
                continue
            partition, offset = one.partition(), one.offset()
            assert partition is not None
            assert offset is not None
            kind, moment = one.timestamp()
            if kind != TIMESTAMP_LOG_APPEND_TIME and not self._warned:
                self._warned = True
                logger.warning(
                    "topic %s has the writers' times, not its own: set message.timestamp.type=LogAppendTime",
                    self._topic,
                )
            value, key = one.value(), one.key()
            # What another program wrote without a value is for the reader to refuse.
            messages.append(Message(partition, offset, max(moment, 0) * 1000, value or b"", key or b""))
            offsets[partition] = offset + 1
            self._unread.add(partition)
        if messages:
            self._away_since = None
        return messages

    def _faulty(self, one: Received, error: KafkaError) -> None:
        if error.code() in _EXPIRED and one.partition() in self.offsets:
            self._resume(one.partition())  # type: ignore[arg-type]
        elif error.code() in _REFUSED or error.fatal():
            raise TopicError(f"reading {self._topic}: {error.str()}")
        else:
            self._fault(error)

    def _resume(self, partition: int) -> None:
        """Go on at the oldest message kept, and say what is missing."""
        wanted, oldest = self.offsets[partition], self._begin()[partition]
        if oldest < wanted:
            raise TopicError(
                f"partition {partition} of {self._topic} was read up to {wanted}, which it does not have: the log is another one, or lost its end"
            )
        if oldest > wanted:
            self.missed += oldest - wanted
            Counts("log").dropped(oldest - wanted, "expired")
            logger.error(
                "%s: messages %d to %d of partition %d were removed before they were read", self._topic, wanted, oldest - 1, partition
            )  # fmt: skip
        self.offsets[partition] = oldest
        # A seek is refused while the partition is at fault.
        with translated(f"reading {self._topic}"):
            self._client.incremental_unassign([TopicPartition(self._topic, partition)])
            self._client.incremental_assign([TopicPartition(self._topic, partition, oldest)])

    def close(self) -> None:
        """Give the connections back."""
        self._client.close()
