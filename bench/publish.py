"""What publishing to Kafka costs: messages per CPU-second of the JSON alone, and of `publish` with the client's work on top.

`against` is the plain way in the same run: a dict for each sample, encoded by msgspec; for the client, the same values produced by a bare loop. The broker's
part is left out: the producer is made for an address where nobody listens, and its queue is thrown away, so that no figure depends on a server.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa
from confluent_kafka import Producer

from bench._cloud import Periods, instances
from nephoscope.batch import Batch
from nephoscope.forms import FORMS, ids, lines
from nephoscope.sample import sample_to_ceilometer, sample_to_dict, to_json

PARTITIONS, INSTANCES, PERIODS = 2, 157, 6


def cases() -> Iterator[dict[str, Any]]:
    """A case a form, and one for the client."""
    cloud = Periods([instances(p, INSTANCES) for p in range(PARTITIONS)])
    some = [cloud.batch(partition, period).rows for period in range(PERIODS) for partition in range(PARTITIONS)]
    for form in FORMS:
        plain = _plain_event if form == "cloudevents" else _plain_ceilometer if form == "ceilometer" else _plain
        yield _case(f"publish-{form}", _rate(some, lambda r, form=form: lines(r, form)), _rate(some[:2], plain))
    yield _case("publish-kafka", _rate(some, _producing(with_lines=True)), _rate(some, _producing(with_lines=False)))


def _plain(rows: pa.RecordBatch) -> Any:
    return [to_json(sample_to_dict(sample)) for sample in Batch(rows).samples()]


def _plain_ceilometer(rows: pa.RecordBatch) -> Any:
    return [to_json(sample_to_ceilometer(sample)) for sample in Batch(rows).samples()]


def _plain_event(rows: pa.RecordBatch) -> Any:
    out = []
    for sample in Batch(rows).samples():
        data = sample_to_dict(sample)
        about = {"specversion": "1.0", "id": data["id"], "source": f"/{sample.source}", "type": "nephoscope.sample.v1"}
        where = {"subject": sample.resource_id, "time": data["timestamp"] + "Z", "partitionkey": sample.resource_id}
        out.append(to_json({**about, **where, "datacontenttype": "application/json", "data": data}))
    return out


def _producing(*, with_lines: bool) -> Callable[[pa.RecordBatch], Any]:
    """`publish` as sinks.kafka does it, without a broker; or the produce calls alone."""
    producer = Producer({"bootstrap.servers": "127.0.0.1:1", "log_level": 0, "delivery.report.only.error": True})
    kept: list[tuple[bytes, bytes]] = []

    def produce(rows: pa.RecordBatch) -> None:
        if with_lines or not kept:
            kept[:] = zip(lines(rows), ids(rows), strict=True)
        for value, name in kept:
            producer.produce("t", value, b"key", -1, headers=[("id", name), ("content-type", b"application/json")])
        producer.purge()
        producer.poll(0)

    return produce


def _rate(some: list[pa.RecordBatch], call: Callable[[pa.RecordBatch], Any]) -> float:
    """Rows per CPU-second: the best of three rounds."""
    call(some[0])
    best = 0.0
    for _ in range(3):
        began = time.process_time()
        for rows in some:
            call(rows)
        best = max(best, sum(r.num_rows for r in some) / (time.process_time() - began))
    return best


def _case(name: str, value: float, against: float) -> dict[str, Any]:
    return {
        "case": name,
        "value": round(value),
        "unit": "messages/CPU-s",
        "against": round(against),
        "ratio": round(value / against, 2),
    }
