"""What the tests of listeners share: who sends, and what has come to the topics."""

import json
import uuid
from contextlib import closing

import pika

from nephoscope.batch import decode
from nephoscope.event_messages import decode_events
from nephoscope.identity import format_id
from nephoscope.topics import EVENTS, SAMPLES
from tests.sources.notifications.made import RECORDED, enveloped, shipped_meters, unwrap


def messages(count):
    """So many notifications of the recorded kinds, each with a message_id of its own."""
    return [RECORDED[i % len(RECORDED)] | {"message_id": str(uuid.UUID(int=i + 1))} for i in range(count)]


def expected_ids(sent):
    """The ids of all samples that they make."""
    meters = shipped_meters()
    return {format_id(s.id) for m in sent for s in meters.samples(unwrap(enveloped(m))).samples}


def connected(port, host="/"):
    return pika.BlockingConnection(
        pika.ConnectionParameters("127.0.0.1", port, virtual_host=host, heartbeat=0, socket_timeout=10)
    )


def send(port, exchange, bodies, *, durable=False, key="notifications.info"):
    """Publish, each confirmed by the broker."""
    with closing(connected(port)) as connection:
        channel = connection.channel()
        channel.exchange_declare(exchange, exchange_type="topic", durable=durable)
        channel.confirm_delivery()
        properties = pika.BasicProperties(delivery_mode=2 if durable else 1)
        for body in bodies:
            channel.basic_publish(exchange, key, body, properties, mandatory=True)


def content(log):
    """The ids of the samples on the topic, with repeats, and the message_ids of the events."""
    samples, events = [], []
    for topic, found in ((SAMPLES, samples), (EVENTS, events)):
        with closing(log.consumer(topic, dict(enumerate(log.begin(topic))))) as consumer:
            left = sum(log.end(topic)) - sum(log.begin(topic))
            while left > 0:
                got = consumer.poll(10_000, timeout=5)
                left -= len(got)
                for message in got:
                    if topic == SAMPLES:
                        found += [format_id(s.id) for s in decode(message.value).samples()]
                    else:
                        found += [event.message_id for event in decode_events(message.value)]
    return samples, events


def body(message):
    return enveloped(json.loads(json.dumps(message)))
