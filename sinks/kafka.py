"""kafka://HOST[:PORT][,HOST[:PORT]…]/TOPIC?format=json|cloudevents|ceilometer|arrow&key=resource|partition: for consumers of Kafka.

Events are messages likewise, one each, never of arrow; the message_id stands in the place of the resource's and the sample's.

Guarantee: at least once, in the order of the log within a partition: `flush` returns when all replicas in sync have acknowledged (acks=all, idempotent).
What failed goes out again from the first message that did; consumers know a repeated sample by its id.

format
    json         a message a sample, Nephoscope's own form (the default)
    cloudevents  a message a sample, CloudEvents 1.0 in structured mode (content-type: application/cloudevents+json)
    ceilometer   a message a sample, Ceilometer's metering message, signed with telemetry_secret
    arrow        a message many samples: one Arrow IPC stream
key
    resource     the resource's id is the message's key, and Java's partitioner (murmur2) chooses the partition
    partition    no key; the partition is the one that telemetry.samples has for the resource, if the topic has as many. The default of arrow

Headers: `id`, the sample's; `content-type`. Of arrow: `rows` in the place of `id`. The topic is not made here: it is made by the brokers, where they are
told to, or by hand. Without a path, `?topic=` names it as in Ceilometer.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Any, ClassVar, Final, NamedTuple, TypeAlias

import numpy as np
import pyarrow as pa
import xxhash
from confluent_kafka import KafkaError, KafkaException, Message, Producer

from nephoscope.batch import MAX_MESSAGE
from nephoscope.errors import ConfigError, Problem, Unavailable
from nephoscope.event import Event
from nephoscope.event_forms import event_message
from nephoscope.forms import CEILOMETER, CLOUDEVENTS, FORMS, JSON, ids, lines
from nephoscope.natural import codes
from nephoscope.partition import partitions_of
from nephoscope.publishers import Address, Channel, Option, one_of, read_url, seconds, text
from nephoscope.store import Refused, Rows, batches
from nephoscope.topics.kafka_reader import client_logger, translated

ARROW: Final = "arrow"
RESOURCE, PARTITION = "resource", "partition"
TYPES: Final = {
    JSON: "application/json",
    CLOUDEVENTS: "application/cloudevents+json",
    CEILOMETER: "application/json",
    ARROW: "application/vnd.apache.arrow.stream",
}
"""The content-type header of each format."""
_ANY: Final = -1
"""In the place of a partition: the partitioner chooses it."""
_LOOK, _LOOK_AGAIN = 10.0, 300.0
"""Seconds for a question about the topic's partitions, and after which it is asked again."""
_QUEUE_KBYTES = 65_536
_KNOWN = 1024
"""Dictionaries whose partitions are remembered."""
_TOGETHER = 4_000
"""Samples that follow each other on a partition and become one message of Arrow."""
_GRACE = 5.0
_TOO_LARGE = {KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.INVALID_RECORD, KafkaError.RECORD_LIST_TOO_LARGE}
"""Where it is the message that is wrong. All else may be put right at the brokers."""

OPTIONS: Final = {
    "topic": Option(text, ""),
    "format": Option(one_of(*FORMS, ARROW), JSON),
    "key": Option(one_of(RESOURCE, PARTITION)),
    "timeout": Option(seconds(1, 900), 30.0),
    "compression": Option(one_of("none", "lz4", "zstd", "gzip", "snappy"), "lz4"),
    "client_id": Option(text, "nephoscope"),
    "security_protocol": Option(one_of("plaintext", "ssl", "sasl_plaintext", "sasl_ssl"), ""),
    "sasl_mechanism": Option(one_of("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER", "GSSAPI"), ""),
    "sasl_username": Option(text, ""),
    "sasl_password": Option(text, "", secret=True),
    "ssl_ca_location": Option(text, ""),
    "ssl_certificate_location": Option(text, ""),
    "ssl_key_location": Option(text, ""),
    "ssl_key_password": Option(text, "", secret=True),
}
_PROPERTIES = {name: name.replace("_", ".") for name in OPTIONS if name.startswith(("security", "sasl", "ssl"))}


class Target(NamedTuple):
    """What a URL says."""

    servers: str
    topic: str
    format: str
    key: str
    options: dict[str, Any]


_Headers: TypeAlias = list[tuple[str, str | bytes | None]]


class _Messages(NamedTuple):
    """Messages made of some rows: of each (`whole` is False), or of all of them together."""

    values: list[bytes]
    keys: list[bytes | None]
    partitions: list[int]
    headers: list[_Headers]
    rows: pa.RecordBatch | pa.Table
    whole: bool = False

    def since(self, place: int) -> _Messages:
        """Without those before a place."""
        rows = self.rows if self.whole else self.rows.slice(place)
        return _Messages(
            self.values[place:], self.keys[place:], self.partitions[place:], self.headers[place:], rows, self.whole
        )

    def samples(self, place: int) -> list[pa.RecordBatch]:
        """The samples in a message."""
        return self.rows.to_batches() if self.whole else [self.rows.slice(place, 1)]

    @property
    def size(self) -> int:
        """How many samples there are."""
        return int(self.rows.num_rows)


class _Events(NamedTuple):
    """The same of events, a message each."""

    values: list[bytes]
    keys: list[bytes | None]
    partitions: list[int]
    headers: list[_Headers]
    events: Sequence[Event]

    def since(self, place: int) -> _Events:
        """Without those before a place."""
        return _Events(
            self.values[place:], self.keys[place:], self.partitions[place:], self.headers[place:], self.events[place:]
        )

    @property
    def size(self) -> int:
        """How many there are."""
        return len(self.events)


def target_of(url: str, *, resolve: bool = True) -> Target:
    """A URL, read. ConfigError with every problem."""
    problems: list[Problem] = []
    address: Address | None = None
    try:
        address = read_url(url, OPTIONS, resolve=resolve)
    except ConfigError as error:
        problems += error.problems
    rest = url.partition("://")[2].partition("?")[0]
    servers, _, topic = rest.partition("/")
    if "@" in servers:
        problems.append(Problem("no passwords here", hint="write sasl_username=…&sasl_password=${env:NAME}"))
    elif not servers or not all(_is_server(s) for s in servers.split(",")):
        problems.append(Problem(f"{servers!r} names no brokers", hint="kafka://HOST:PORT[,HOST:PORT…]/TOPIC"))
    options = address.options if address else {}
    if topic and options.get("topic"):
        problems.append(Problem("the topic is there twice, in the path and as an option"))
    topic = topic or options.get("topic", "x")
    if not _is_topic(topic):
        problems.append(
            Problem(f"{topic!r} is no topic" if topic else "names no topic", hint="kafka://HOST:PORT/TOPIC")
        )
    if problems:
        raise ConfigError(problems)
    form = options["format"]
    key = options["key"] or (PARTITION if form == ARROW else RESOURCE)
    return Target(servers, topic, form, key, options)


def _is_server(server: str) -> bool:
    host, mark, port = server.rpartition(":") if ":" in server.rpartition("]")[2] else (server, "", "")
    return bool(host) and (not mark or (port.isdecimal() and 0 < int(port) < 65536))


def _is_topic(topic: str) -> bool:
    return (
        0 < len(topic) <= 249
        and topic not in {".", ".."}
        and all(c.isascii() and (c.isalnum() or c in "._-") for c in topic)
    )


class KafkaPublisher:
    """Raises ConfigError for a URL that cannot be used, Unavailable where the brokers do not acknowledge in time."""

    guarantee = "at least once, in the order of the log within a partition; ids tell a repeated sample"
    secrets: ClassVar = True

    def __init__(self, url: str, telemetry_secret: str = "") -> None:
        self._target = target_of(url)
        self._secret = telemetry_secret
        self._type = "content-type", TYPES[self._target.format].encode()
        self._waiting: list[_Messages | _Events] = []
        self._refused: list[pa.RecordBatch] = []
        self._refused_events: list[Event] = []
        self._why = ""
        self._known: dict[tuple[int, int, bytes], Any] = {}
        self._partitions, self._counted = 0, float("-inf")
        self._producer: Producer | None = None
        self._said = ""
        self._name = f"Kafka at {self._target.servers}, topic {self._target.topic}"
        self._make()

    @staticmethod
    def check(url: str) -> None:
        """ConfigError for a URL that cannot be used."""
        target_of(url, resolve=False)

    @staticmethod
    def check_events(url: str) -> None:
        """The same in an event pipeline."""
        if target_of(url, resolve=False).format == ARROW:
            raise ConfigError([Problem("format=arrow takes no events", hint="one of json, cloudevents, ceilometer")])

    @staticmethod
    def event_channel(url: str) -> Channel:
        """The topic with events on it, for the AsyncAPI document."""
        target = target_of(url, resolve=False)
        key = "the message_id" if target.key == RESOURCE else ""
        return Channel(
            "kafka", tuple(target.servers.split(",")), target.topic, target.format, TYPES[target.format], key
        )

    @staticmethod
    def channel(url: str) -> Channel:
        """The topic, for the AsyncAPI document."""
        target = target_of(url, resolve=False)
        key = "the resource's id" if target.key == RESOURCE else ""
        return Channel(
            "kafka", tuple(target.servers.split(",")), target.topic, target.format, TYPES[target.format], key
        )

    def publish(self, rows: Rows) -> None:
        """Make messages of the rows; flush sends them."""
        made: list[_Messages] = []
        if self._target.format == ARROW:
            made += self._of_many(batches(rows))
        else:
            made += [self._of_each(batch) for batch in batches(rows)]
        self._waiting += made

    def publish_events(self, events: Sequence[Event]) -> None:
        """Make a message of each; flush sends them."""
        target = self._target
        names = [event.message_id for event in events]
        values = [event_message(event, target.format, self._secret) for event in events]
        headers: list[_Headers] = [[("id", name.encode()), self._type] for name in names]
        keys: list[bytes | None] = [None] * len(names)
        places = [_ANY] * len(names)
        if target.key == RESOURCE:
            keys = [name.encode() for name in names]
        else:
            places = partitions_of(names, self._count())
        self._waiting.append(_Events(values, keys, places, headers, events))

    def flush(self) -> None:
        """Send what was published, and wait until it is acknowledged. Refused: what is larger than the brokers take."""
        failed: list[tuple[int, int, KafkaError]] = []
        if self._waiting:
            self._send(failed)
        if any(error.fatal() for *_, error in failed):
            self._drop_producer()
        failed.sort(key=lambda f: f[:2])
        for number, place, error in failed:
            if error.code() not in _TOO_LARGE:
                # From here on all of it goes out again, so that the order is kept.
                self._waiting = [self._waiting[number].since(place), *self._waiting[number + 1 :]]
                raise Unavailable(f"{self._name}: {error.str()}{self._hint()}")
            some = self._waiting[number]
            if isinstance(some, _Events):
                self._refused_events.append(some.events[place])
            else:
                self._refused += some.samples(place)
            self._why = error.str()
        self._waiting = []
        if self._refused or self._refused_events:
            refused, self._refused = self._refused, []
            events, self._refused_events = self._refused_events, []
            raise Refused(f"{self._name}: {self._why}", refused, events)

    def _send(self, failed: list[tuple[int, int, KafkaError]]) -> None:
        """Send all, and wait for the acknowledgements; `failed`: (number, place, why) of what got none."""
        producer = self._producer or self._make()
        topic, produce = self._target.topic, producer.produce
        deadline = time.monotonic() + self._target.options["timeout"] + _GRACE
        for number, some in enumerate(self._waiting):
            for place, (value, key, partition, headers) in enumerate(zip(*some[:4], strict=True)):
                arrived = partial(_arrived, failed, number, place)
                while True:
                    try:
                        produce(topic, value, key, partition, arrived, headers=headers)
                        break
                    except BufferError:
                        if time.monotonic() > deadline:
                            self._drop_producer()
                            raise Unavailable(f"{self._name}: it takes no more{self._hint()}") from None
                        producer.poll(0.1)
                    except KafkaException as error:
                        failed.append((number, place, error.args[0]))
                        break
            producer.poll(0)
        if producer.flush(max(0.1, deadline - time.monotonic())):
            # What is still queued must not arrive behind what comes next.
            self._drop_producer()
            raise Unavailable(f"{self._name}: it does not acknowledge{self._hint()}")

    def discard(self) -> int:
        """Forget what is not acknowledged. How many samples that were."""
        count = sum(some.size for some in self._waiting)
        self._waiting, self._refused, self._refused_events = [], [], []
        self._drop_producer()
        return count

    def close(self) -> None:
        """Flush, and give the connections back."""
        try:
            self.flush()
        finally:
            self._drop_producer()

    # -- messages

    def _of_each(self, rows: pa.RecordBatch) -> _Messages:
        values = lines(rows, self._target.format, secret=self._secret)
        headers: list[_Headers] = [[("id", i), self._type] for i in ids(rows)]
        resources, which = rows.column("resource_id").dictionary.to_pylist(), codes(rows, "resource_id").tolist()
        if self._target.key == RESOURCE:
            names = [r.encode() for r in resources]
            return _Messages(values, [names[i] for i in which], [_ANY] * len(values), headers, rows)
        partitions = partitions_of(resources, self._count())
        return _Messages(values, [None] * len(values), [partitions[i] for i in which], headers, rows)

    def _of_many(self, many: Iterable[pa.RecordBatch]) -> Iterator[_Messages]:
        """Batches that follow each other on a partition are one message: they mostly have the same words, which are in it once."""
        group: list[pa.RecordBatch] = []
        before: tuple[bytes | None, int] = None, _ANY
        for rows in many:
            for place, some in self._parts(rows):
                if group and (place != before or sum(g.num_rows for g in group) + some.num_rows > _TOGETHER):
                    yield from self._message(group, *before)
                    group = []
                group.append(_lean(some))
                before = place
        if group:
            yield from self._message(group, *before)

    def _parts(self, rows: pa.RecordBatch) -> Iterator[tuple[tuple[bytes | None, int], pa.RecordBatch]]:
        """((key, partition), the rows that go there)."""
        words, which = rows.column("resource_id").dictionary, codes(rows, "resource_id")
        if self._target.key == PARTITION:
            which = self._places(words)[which]
        groups, starts = np.unique(which[order := np.argsort(which, kind="stable")], return_index=True)
        if len(groups) > 1:
            rows = rows.take(pa.array(order))
        for group, start, end in zip(groups.tolist(), starts.tolist(), [*starts[1:].tolist(), len(which)], strict=True):
            place = (None, group) if self._target.key == PARTITION else (words[group].as_py().encode(), _ANY)
            yield place, rows.slice(start, end - start)

    def _message(self, group: list[pa.RecordBatch], key: bytes | None, partition: int) -> Iterator[_Messages]:
        """The batches as one Arrow IPC stream, or as several where it would be larger than every broker takes."""
        value = _stream(group)
        rows = sum(g.num_rows for g in group)
        if len(value) <= MAX_MESSAGE or rows == 1:
            headers: _Headers = [("rows", str(rows).encode()), self._type]
            yield _Messages([value], [key], [partition], [headers], pa.Table.from_batches(group), whole=True)
            return
        half = group[0].num_rows // 2
        pieces = (
            [[g] for g in group]
            if len(group) > 1
            else [[_lean(group[0].slice(*part))] for part in ((0, half), (half,))]
        )
        for piece in pieces:
            yield from self._message(piece, key, partition)

    def _places(self, words: pa.Array) -> Any:
        """The partition of each word of a dictionary: known for those that came before, as they do with each period."""
        count = self._count()
        key = count, words.offset, _place_key(words)
        found = self._known.get(key)
        if found is None:
            if len(self._known) >= _KNOWN:
                self._known.pop(next(iter(self._known)))
            found = self._known[key] = np.array(partitions_of(words.to_pylist(), count), np.int32)
        return found

    def _count(self) -> int:
        """The topic's partition count."""
        if time.monotonic() - self._counted > _LOOK_AGAIN:
            producer = self._producer or self._make()
            topic = self._target.topic
            with translated(self._name, lambda: self._said):
                found = producer.list_topics(topic, min(_LOOK, self._target.options["timeout"])).topics[topic]
            if found.error is not None or not found.partitions:
                raise Unavailable(f"{self._name}: {found.error.str() if found.error else 'it has no partitions'}")
            self._partitions, self._counted = len(found.partitions), time.monotonic()
        return self._partitions

    # -- the client

    def _make(self) -> Producer:
        options = self._target.options
        given = {prop: options[name] for name, prop in _PROPERTIES.items() if options[name]}
        try:
            self._producer = Producer(
                {
                    "bootstrap.servers": self._target.servers,
                    "client.id": options["client_id"],
                    "reconnect.backoff.max.ms": "2000",
                    "socket.keepalive.enable": "true",
                    "compression.type": options["compression"],
                    "partitioner": "murmur2_random",
                    # A call is flushed at its end: this only keeps its small messages together.
                    "linger.ms": "50",
                    "queue.buffering.max.kbytes": str(_QUEUE_KBYTES),
                    "delivery.report.only.error": True,
                    "acks": "all",
                    "enable.idempotence": "true",
                    "message.timeout.ms": str(int(options["timeout"] * 1000)),
                    "error_cb": self._on_error,
                    **given,
                },
                logger=client_logger,
            )
        except KafkaException as error:
            raise ConfigError([Problem(f"kafka://: {error.args[0].str()}")]) from None
        return self._producer

    def _on_error(self, error: KafkaError) -> None:
        self._said = error.str()

    def _hint(self) -> str:
        return f" ({self._said})" if self._said else ""

    def _drop_producer(self) -> None:
        if self._producer is not None:
            self._producer.purge()
            self._producer.flush(0.1)
            self._producer = None


def _arrived(
    failed: list[tuple[int, int, KafkaError]], number: int, place: int, error: KafkaError | None, _message: Message
) -> None:
    if error is not None:
        failed.append((number, place, error))


def _own_words(column: Any) -> Any:
    """A column whose dictionary is no longer than itself: one that others share may be."""
    if not pa.types.is_dictionary(column.type) or len(column.dictionary) <= len(column):
        return column
    used, codes_ = np.unique(column.indices.to_numpy(), return_inverse=True)
    dictionary = column.dictionary.take(pa.array(used))
    return pa.DictionaryArray.from_arrays(pa.array(codes_.astype(np.int32)), dictionary)


def _lean(rows: pa.RecordBatch) -> pa.RecordBatch:
    """The rows with dictionaries that are no longer than the rows."""
    return pa.RecordBatch.from_arrays([_own_words(column) for column in rows.columns], schema=rows.schema)


def _place_key(words: pa.Array) -> bytes:
    """What tells a dictionary's content from all others."""
    hasher = xxhash.xxh3_128(len(words).to_bytes(8, "little"))
    for buffer in words.buffers():
        hasher.update(buffer or b"")
    return hasher.digest()


def _stream(group: list[pa.RecordBatch]) -> bytes:
    """Batches as one Arrow IPC stream. A dictionary that is the same as the last one is not repeated."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, group[0].schema) as writer:
        for rows in group:
            writer.write_batch(rows)
    value: bytes = sink.getvalue().to_pybytes()
    return value
