"""Notifications from RabbitMQ (AMQP 0-9-1, by pika).

Guarantee: as the listener's; a message is acknowledged once its samples and events are on the topics, and goes to another consumer otherwise.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Sequence
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import pika
import pika.exceptions

from nephoscope.errors import ConfigError, Problem, Unavailable, nearest
from sources.notifications.listener import Delivery, Feed
from sources.notifications.source import FeedKind, Wanted

_log = logging.getLogger(__name__)
# What it warns of (a queue that is not there yet, a broker that is away) the listener tells, once and without the connection's parameters.
logging.getLogger("pika").setLevel(logging.CRITICAL)
_IDLE = 1.0
"""Seconds that `fetch` waits for a first message."""
_LOOK_AGAIN = 30.0
"""Seconds between looks for queues that were not there."""
_OPTIONS = ("heartbeat", "ssl", "ssl_ca_file", "ssl_cert_file", "ssl_key_file", "ssl_verify", "connection_timeout")
_AWAY = (pika.exceptions.AMQPError, OSError)


def open_feed(url: str, wanted: Wanted) -> Feed:
    """The feed of a URL ``rabbit://USER:PASSWORD@HOST:PORT/VHOST``, ``rabbits://`` with TLS.

    Several hosts (``rabbit://u:p@h1:5672,u:p@h2:5672/vhost``) are tried in turn. Raises ConfigError, Unavailable.
    """
    return RabbitFeed(_parameters(url), wanted)


def check_url(url: str) -> None:
    """ConfigError for a URL that cannot be meant. No connection is made."""
    _parameters(url)


class RabbitFeed:
    """A connection, and a consumer for each queue that is there."""

    def __init__(self, parameters: list[pika.ConnectionParameters], wanted: Wanted) -> None:
        self._wanted = wanted
        self._arrived: list[Delivery] = []
        self._consumed: set[str] = set()
        self._lost = False
        try:
            self._connection: Any = pika.BlockingConnection(parameters)
            self._channel: Any = self._connection.channel()
            self._channel.basic_qos(prefetch_count=wanted.prefetch)
            self._channel.add_on_cancel_callback(self._cancelled)
            self._look_for_queues()
        except _AWAY as error:
            raise _unavailable(error) from None

    def fetch(self, limit: int, wait: float) -> list[Delivery]:
        """As Feed.fetch. At most about half of what the broker sends ahead: the other half is on its way while this one is worked on."""
        limit = min(limit, max(1, self._wanted.prefetch // 2))
        try:
            if len(self._consumed) < len(self._wanted.queues) and time.monotonic() >= self._next_look:
                self._look_for_queues()
            self._connection.process_data_events(time_limit=0 if self._arrived else _IDLE)
            end = time.monotonic() + wait
            while self._arrived and len(self._arrived) < limit and (left := end - time.monotonic()) > 0:
                before = len(self._arrived)
                self._connection.process_data_events(time_limit=left)
                if len(self._arrived) == before:
                    break
        except _AWAY as error:
            raise _unavailable(error) from None
        if self._lost and not self._arrived:
            raise Unavailable("the broker took a queue away")
        # All of them: an acknowledgement is for everything up to a tag.
        arrived, self._arrived = self._arrived, []
        return arrived

    def keep_up(self) -> None:
        """As Feed.keep_up. What lies between broker and client holds a hundred messages: more are not sent before these are read."""
        try:
            before = -1
            while len(self._arrived) > before:
                before = len(self._arrived)
                self._connection.process_data_events(time_limit=0)
        except _AWAY as error:
            raise _unavailable(error) from None

    def acknowledge(self, deliveries: Sequence[Delivery]) -> None:
        """As Feed.acknowledge."""
        try:
            self._channel.basic_ack(delivery_tag=deliveries[-1].token, multiple=True)
        except _AWAY as error:
            raise _unavailable(error) from None

    def close(self) -> None:
        """As Feed.close."""
        with contextlib.suppress(*_AWAY):
            self._connection.close()

    def _look_for_queues(self) -> None:
        """Consume from each queue that is there, or that may be made."""
        self._next_look = time.monotonic() + _LOOK_AGAIN
        for name in self._wanted.queues:
            if name not in self._consumed and self._is_there(name):
                self._channel.basic_consume(name, self._arrive)
                self._consumed.add(name)

    def _is_there(self, name: str) -> bool:
        # A queue that is not there closes the channel that asks.
        try:
            asking = self._connection.channel()
            asking.queue_declare(name, passive=True)
            asking.close()
        except pika.exceptions.ChannelClosedByBroker as error:
            if error.reply_code != 404:
                raise
        else:
            return True
        if not self._wanted.create_queues:
            _log.info("there is no queue %s yet", name)
            return False
        making = self._connection.channel()
        kind = {"x-queue-type": "quorum"} if self._wanted.queue_type == "quorum" else None
        making.queue_declare(name, durable=self._wanted.queue_type == "quorum" or self._wanted.durable, arguments=kind)
        making.close()
        for exchange in self._wanted.exchanges:
            self._bind(name, exchange)
        return True

    def _bind(self, queue: str, exchange: str) -> None:
        """Bind a queue to a service's exchange, which is made where there is none, as oslo.messaging would make it."""
        try:
            channel = self._connection.channel()
            try:
                channel.exchange_declare(exchange, passive=True)
            except pika.exceptions.ChannelClosedByBroker as error:
                if error.reply_code != 404:
                    raise
                channel = self._connection.channel()
                channel.exchange_declare(exchange, exchange_type="topic", durable=self._wanted.durable)
            channel.queue_bind(queue, exchange, routing_key=queue)
            channel.close()
        except pika.exceptions.ChannelClosedByBroker as error:
            _log.warning("the queue %s cannot be bound to the exchange %s: %s", queue, exchange, error.reply_text)

    def _arrive(self, _channel: Any, method: Any, _properties: Any, body: bytes) -> None:
        origin = f"{method.exchange or 'default exchange'}/{method.routing_key}"
        self._arrived.append(Delivery(body, origin, method.delivery_tag))

    def _cancelled(self, _frame: Any) -> None:
        """A queue was deleted, or its node is gone: a new connection finds it again, or makes it."""
        self._lost = True


def _unavailable(error: BaseException) -> Unavailable:
    # pika's errors hold no URL and no password.
    words = str(error) or repr(error)
    return Unavailable(f"RabbitMQ cannot be used: {type(error).__name__}: {words}")


def _parameters(url: str) -> list[pika.ConnectionParameters]:
    scheme, _, rest = url.partition("://")
    hosts, slash, tail = rest.partition("/")
    out = []
    query = dict(parse_qsl(tail.partition("?")[2]))
    problems = [f"{n!r} is no option of it ({nearest(n, _OPTIONS)})" for n in query if n not in _OPTIONS]
    for host in hosts.split(","):
        try:
            out.append(_one_host(f"{scheme}://{host}{slash}{tail}", query))
        except (ValueError, OSError) as error:
            problems.append(str(error))
    if problems:
        raise ConfigError([Problem(f"a {scheme}:// URL: {p}", field="notifications.urls") for p in problems])
    return out


def _one_host(url: str, query: dict[str, str]) -> pika.ConnectionParameters:
    parts = urlsplit(url)
    if not parts.hostname:
        raise ValueError("has no host")
    try:
        port = parts.port
    except ValueError:
        raise ValueError("the port is no number from 1 to 65535") from None
    tls = parts.scheme in ("rabbits", "amqps") or _flag(query.get("ssl", "false"), "ssl")
    return pika.ConnectionParameters(
        host=parts.hostname,
        port=port or (5671 if tls else 5672),
        virtual_host=unquote(parts.path[1:]) or "/",
        credentials=pika.PlainCredentials(unquote(parts.username or "guest"), unquote(parts.password or "guest")),
        heartbeat=_whole(query.get("heartbeat", "60"), "heartbeat"),
        blocked_connection_timeout=60,
        connection_attempts=1,
        socket_timeout=_whole(query.get("connection_timeout", "10"), "connection_timeout"),
        ssl_options=pika.SSLOptions(_tls(query), parts.hostname) if tls else None,
        client_properties={"connection_name": "nephoscope notifications"},
    )


def _tls(query: dict[str, str]) -> Any:
    import ssl

    context = ssl.create_default_context(cafile=query.get("ssl_ca_file"))
    if "ssl_cert_file" in query:
        context.load_cert_chain(query["ssl_cert_file"], query.get("ssl_key_file"))
    if not _flag(query.get("ssl_verify", "true"), "ssl_verify"):
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _flag(text: str, name: str) -> bool:
    if text.lower() in ("1", "true", "yes"):
        return True
    if text.lower() in ("0", "false", "no"):
        return False
    raise ValueError(f"{name} must be true or false")


def _whole(text: str, name: str) -> int:
    if not text.isdecimal():
        raise ValueError(f"{name} must be a whole number")
    return int(text)


FEED = FeedKind(open_feed, check_url)
