"""What each component counts, under one naming scheme, for Prometheus.

==========================================  ============================================================
nephoscope_<component>_received_total       samples (messages, requests …) that came in
nephoscope_<component>_sent_total           samples that went out and were acknowledged
nephoscope_<component>_dropped_total        lost or refused, by `reason`; nothing vanishes without being counted here
nephoscope_<component>_errors_total         what failed, by `reason`; it may be re-tried
==========================================  ============================================================

More that a component has to tell: `nephoscope_<component>_<what>_total`, or a gauge `nephoscope_<component>_<what>`. Reasons are short constant words, never data.
"""

from __future__ import annotations

import threading
from functools import cache
from typing import Any, TypeVar

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)

REGISTRY = CollectorRegistry(auto_describe=True)
"""All of this process's counters."""
ProcessCollector(registry=REGISTRY)
# A gauge for each counter that says when it was made: twice the lines, and nobody reads them.
disable_created_metrics()  # type: ignore[no-untyped-call]
_Metric = TypeVar("_Metric", Counter, Gauge)


_made: dict[str, Any] = {}
_making = threading.Lock()


def _one(kind: type[_Metric], component: str, what: str, text: str, labels: tuple[str, ...] = ()) -> _Metric:
    """The metric of this name: the first who asks makes it."""
    name = f"nephoscope_{component}_{what}"
    with _making:
        if name not in _made:
            _made[name] = kind(name, text or what, labels, registry=REGISTRY)
        metric: _Metric = _made[name]
        return metric


def _counter(component: str, what: str, text: str, labels: tuple[str, ...]) -> Counter:
    return _one(Counter, component, what, text, labels)


@cache
def _others(_component: str) -> set[str]:
    """What a component counts beside the four."""
    return set()


class Counts:
    """The counters of one component. Cheap to make: the same component's share their numbers. Safe for several threads.

    `component` is a word of lower case letters and underscores: agent, push, log, flow, store_sql. `labels` are what its
    drops say beside their reason: the same words wherever this component's counters are made.
    """

    def __init__(self, component: str, labels: tuple[str, ...] = ()) -> None:
        self.component = component
        self._received = _counter(component, "received", "Came in.", ())
        self._sent = _counter(component, "sent", "Went out and was acknowledged.", ())
        self._dropped = _counter(component, "dropped", "Lost, refused or left out on purpose.", ("reason", *labels))
        self._errors = _counter(component, "errors", "Failed; may be tried again.", ("reason",))
        self._more = _others(component)

    def received(self, count: int = 1) -> None:
        """`count` came in."""
        self._received.inc(count)

    def sent(self, count: int = 1) -> None:
        """`count` went out."""
        self._sent.inc(count)

    def dropped(self, count: int, reason: str, *labels: str) -> None:
        """`count` were lost, refused or left out; `labels`: the values of the component's own labels."""
        self._dropped.labels(reason, *labels).inc(count)

    def failed(self, reason: str, count: int = 1) -> None:
        """`count` attempts failed."""
        self._errors.labels(reason).inc(count)

    def counted(self, what: str, count: float = 1, text: str = "") -> None:
        """Count something of the component's own."""
        _counter(self.component, what, text, ()).inc(count)
        self._more.add(what)

    def gauge(self, what: str, value: float, text: str = "") -> None:
        """Tell a present value."""
        _one(Gauge, self.component, what, text).set(value)

    def values(self) -> dict[str, float]:
        """The numbers now: received, sent, dropped.<reason>, errors.<reason>, and its own."""
        out: dict[str, float] = {}
        counters = [
            ("received", self._received),
            ("sent", self._sent),
            ("dropped", self._dropped),
            ("errors", self._errors),
            *((what, _counter(self.component, what, "", ())) for what in sorted(self._more)),
        ]
        for what, counter in counters:
            for metric in counter.collect():
                for sample in metric.samples:
                    if sample.name.endswith("_total"):
                        reason = sample.labels.get("reason")
                        name = f"{what}.{reason}" if reason else what
                        out[name] = out.get(name, 0.0) + sample.value
        return out


def exposition() -> bytes:
    """All counters in Prometheus' text format, for /metrics."""
    return generate_latest(REGISTRY)
