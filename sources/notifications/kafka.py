"""Notifications from Kafka, where oslo.messaging's Kafka driver put them.

Guarantee: as the listener's; a consumer group's offsets are committed once the samples and events are on the topics. Listeners of one group
share the partitions.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from nephoscope.errors import ConfigError, Problem, Unavailable
from sources.notifications.listener import Delivery, Feed
from sources.notifications.source import FeedKind, Wanted

_log = logging.getLogger(__name__)
_IDLE = 1.0
_WAIT = 10.0
_MISSING = (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC, KafkaError._UNKNOWN_PARTITION)  # noqa: SLF001 -- librdkafka's own errors have no other name
_AWAY = (KafkaError._ALL_BROKERS_DOWN, KafkaError._TRANSPORT, KafkaError._RESOLVE, KafkaError._TIMED_OUT)  # noqa: SLF001 -- as above


def open_feed(url: str, wanted: Wanted) -> Feed:
    """The feed of a URL ``kafka://[USER:PASSWORD@]HOST:PORT[,HOST:PORT…]/[VHOST]?option=value``; options are librdkafka's.

    A virtual host ends the topics' names, as in oslo.messaging: ``notifications.info.VHOST``. Raises ConfigError, Unavailable.
    """
    return KafkaFeed(_options(url), _topics(url, wanted), wanted)


def check_url(url: str) -> None:
    """ConfigError for a URL that cannot be meant. No connection is made."""
    _made(_options(url) | {"group.id": "check"}).close()


class KafkaFeed:
    """A consumer of a group."""

    def __init__(self, options: dict[str, Any], topics: list[str], wanted: Wanted) -> None:
        self._consumer = _made(
            options
            | {
                "group.id": wanted.group,
                "enable.auto.commit": False,
                "enable.auto.offset.store": False,
                # A listener that is new to a queue takes what waits there.
                "auto.offset.reset": "earliest",
                "allow.auto.create.topics": False,
                "topic.metadata.refresh.interval.ms": 10_000,
                "queued.max.messages.kbytes": 65_536,
            }
        )
        self._places: dict[tuple[str, int], int] = {}
        try:
            self._consumer.list_topics(timeout=_WAIT)
            self._consumer.subscribe(topics, on_revoke=self._revoked, on_lost=self._revoked)
        except KafkaException as error:
            self.close()
            raise _unavailable(error) from None

    def fetch(self, limit: int, wait: float) -> list[Delivery]:
        """As Feed.fetch."""
        out: list[Delivery] = []
        end = time.monotonic() + _IDLE
        self._places = {}
        while len(out) < limit and (left := end - time.monotonic()) > 0:
            try:
                messages = self._consumer.consume(limit - len(out), left if not out else min(left, wait))
            except KafkaException as error:
                raise _unavailable(error) from None
            if out and not messages:
                break
            if messages and not out:
                end = time.monotonic() + wait
            for message in messages:
                wrong = message.error()
                if wrong is not None:
                    self._failed(wrong)
                    continue
                place = (str(message.topic()), int(message.partition() or 0))
                offset = int(message.offset() or 0)
                self._places[place] = offset + 1
                origin = f"{place[0]}[{place[1]}]@{offset}"
                out.append(Delivery(message.value() or b"", origin, None))
        return out

    def keep_up(self) -> None:
        """As Feed.keep_up: the client has a thread for that."""

    def acknowledge(self, deliveries: Sequence[Delivery]) -> None:
        """As Feed.acknowledge."""
        offsets = [TopicPartition(topic, number, offset) for (topic, number), offset in self._places.items()]
        try:
            if offsets:
                self._consumer.commit(offsets=offsets, asynchronous=False)
        except KafkaException as error:
            # The group has changed: who has the partitions now reads it again, and makes the same ids.
            raise _unavailable(error) from None

    def close(self) -> None:
        """As Feed.close."""
        self._consumer.close()

    def _revoked(self, _consumer: Any, partitions: list[Any]) -> None:
        for gone in partitions:
            self._places.pop((gone.topic, gone.partition), None)

    def _failed(self, error: Any) -> None:
        if error.code() in _MISSING:
            _log.info("a topic is not there yet: %s", error.str())
        elif error.code() in _AWAY or error.retriable():
            raise Unavailable(f"Kafka cannot be used: {error.str()}")
        else:
            raise Unavailable(f"Kafka: {error.name()}: {error.str()}")


def _unavailable(error: KafkaException) -> Unavailable:
    return Unavailable(f"Kafka cannot be used: {error.args[0].str()}")


def _made(options: dict[str, Any]) -> Consumer:
    try:
        return Consumer(options, logger=_log)
    except KafkaException as error:
        said = error.args[0].str()
        raise ConfigError([Problem(f"a kafka:// URL: {said}", field="notifications.urls")]) from None


def _options(url: str) -> dict[str, Any]:
    parts = urlsplit(url)
    people, at, hosts = parts.netloc.rpartition("@")
    if not hosts:
        raise ConfigError([Problem("a kafka:// URL: has no host", field="notifications.urls")])
    options: dict[str, Any] = {"bootstrap.servers": hosts}
    if at:
        user, _, password = people.partition(":")
        options |= {
            "security.protocol": "SASL_PLAINTEXT",
            "sasl.mechanism": "PLAIN",
            "sasl.username": unquote(user),
            "sasl.password": unquote(password),
        }
    return options | dict(parse_qsl(parts.query))


def _topics(url: str, wanted: Wanted) -> list[str]:
    host = unquote(urlsplit(url).path.strip("/"))
    return [f"{queue}.{host}" if host else queue for queue in wanted.queues]


FEED = FeedKind(open_feed, check_url)
