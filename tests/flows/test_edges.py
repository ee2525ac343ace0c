"""Where docs/semantics.md draws a line: a microsecond before it, on it, after it. The stage and the reference say the same."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from msgspec.structs import replace

from nephoscope import identity
from nephoscope.sample import CUMULATIVE, DELTA, GAUGE, Sample
from nephoscope.times import NEVER, SECOND, TOO_LATE
from tests.flows.bridge import run_reference, run_stage
from tests.reference import Message, Options
from tests.strategies import START, pipeline_text

MINUTE = 60 * SECOND
KINDS = {"c": CUMULATIVE, "d": DELTA}
OPTIONS = Options(lateness=MINUTE, dedupe_horizon=10 * MINUTE, series_ttl=20 * MINUTE)


def sample(name: str, time: int, volume: float = 1.0, *, measured: int = NEVER, key: int = 0) -> Sample:
    """A sample of one resource, `time` after the start; `key`: its id, else one of its own for each time and meter."""
    raw = key.to_bytes(16, "little") if key else identity.polled_id("s", name, "r", time)
    return Sample(
        name=name,
        type=KINDS.get(name[0], GAUGE),
        unit="u",
        volume=volume,
        resource_id="r",
        timestamp=START + time,
        measured_at=measured if measured == NEVER else START + measured,
        id=raw,
    )


def pushed(*samples: Sample, at: int | None = None) -> Message:
    """Pushed samples; `at`: when they were appended, after the start."""
    return Message(None if at is None else START + at, samples)


def polled(*samples: Sample, interval: int = 60) -> Message:
    """Polled samples."""
    return Message(samples=samples, interval=interval, polling=("s",))


def mark(moment: int) -> Message:
    """A mark."""
    return Message(mark=START + moment)


@dataclass(frozen=True)
class Edge:
    """A log that depends on a shift of -1, 0 or 1 microsecond, and how many samples are published for each."""

    about: str
    steps: list[dict[str, Any]]
    log: Callable[[int], list[Message]]
    published: tuple[int, int, int]
    end: bool = False


def step(name: str, **parameters: Any) -> dict[str, Any]:
    """A transformer."""
    return {"name": name, "parameters": parameters}


WINDOW = step("aggregator", retention_time=60)
SUM = step("arithmetic", target={"expr": "$(a) + $(b)"})
HELD = step("arithmetic", hold=120, target={"expr": "$(a) + $(b)"})

EDGES = [
    Edge(
        "a timestamp as far ahead as max_future is the last one taken",
        [],
        lambda e: [pushed(sample("a", OPTIONS.max_future + e), at=0)],
        (1, 1, 0),
    ),
    Edge("1970 begins", [], lambda e: [pushed(sample("a", e - START))], (0, 1, 1)),
    Edge("2200 is over", [], lambda e: [pushed(sample("a", TOO_LATE - START + e))], (1, 0, 0)),
    Edge(
        "a timestamp as far ahead as max_ahead moves the watermark, one beyond does not",
        [WINDOW],
        lambda e: [pushed(sample("d", 0), at=0), pushed(sample("d", 5 * MINUTE + e), at=0)],
        (1, 1, 0),
    ),
    Edge(
        "a mark as far ahead as max_ahead moves the watermark, one beyond does not",
        [WINDOW],
        lambda e: [pushed(sample("d", 0), at=0), Message(START, mark=START + 5 * MINUTE + e)],
        (1, 1, 0),
    ),
    Edge(
        "a window closes when the watermark reaches its end",
        [WINDOW],
        lambda e: [pushed(sample("d", 0)), mark(2 * MINUTE + e)],
        (0, 1, 1),
    ),
    Edge(
        "a sample at a window's end is of the next",
        [WINDOW],
        lambda e: [pushed(sample("d", 0, key=1), sample("d", MINUTE + e, key=2)), mark(2 * MINUTE)],
        (1, 1, 1),
    ),
    Edge(
        "a sample of a window that has just closed makes a late part",
        [WINDOW],
        lambda e: [pushed(sample("d", 0, key=1)), mark(2 * MINUTE + e), pushed(sample("d", 30 * SECOND))],
        (1, 2, 2),
        end=True,
    ),
    Edge(
        "a late part closes at the next multiple of the window's length",
        [WINDOW],
        lambda e: [mark(10 * MINUTE + SECOND), pushed(sample("d", 0)), mark(11 * MINUTE + e)],
        (0, 1, 1),
    ),
    Edge(
        "an unfinished group leaves when the watermark is series_ttl past its opening",
        [step("aggregator", size=3)],
        lambda e: [pushed(sample("d", 0)), mark(20 * MINUTE + e)],
        (0, 1, 1),
    ),
    Edge(
        "an accumulator's group leaves when the watermark is max_hold past its opening",
        [step("accumulator", size=3, max_hold=30)],
        lambda e: [pushed(sample("a", 0)), mark(30 * SECOND + e)],
        (0, 1, 1),
    ),
    Edge(
        "an accumulator passes on a watermark that lies max_hold behind",
        [step("accumulator", size=1, max_hold=30), WINDOW],
        lambda e: [pushed(sample("d", 0)), mark(2 * MINUTE + 30 * SECOND + e)],
        (0, 1, 1),
    ),
    Edge(
        "an aggregator passes on a watermark that lies a window behind its open one",
        [WINDOW, WINDOW],
        lambda e: [pushed(sample("d", 0)), mark(3 * MINUTE + e)],
        (0, 1, 1),
    ),
    Edge(
        "an arithmetic passes on a watermark that lies lateness behind, at a full interval",
        [SUM, WINDOW],
        lambda e: [pushed(sample("a", 0), sample("b", 0)), mark(3 * MINUTE + e)],
        (0, 1, 1),
    ),
    Edge(
        "two samples make a rate if the second is later",
        [step("rate_of_change")],
        lambda e: [pushed(sample("c", SECOND, key=1), sample("c", SECOND + e, key=2))],
        (0, 0, 1),
    ),
    Edge(
        "two samples make a delta if the second is not earlier",
        [step("delta")],
        lambda e: [pushed(sample("c", SECOND, key=1), sample("c", SECOND + e, key=2))],
        (0, 1, 1),
    ),
    Edge(
        "a series is forgotten when the watermark is more than series_ttl past its newest sample",
        [step("rate_of_change")],
        lambda e: [pushed(sample("c", 0)), mark(21 * MINUTE + e), pushed(sample("c", MINUTE))],
        (1, 1, 0),
    ),
    Edge(
        "a pushed and an earlier sample meet in the minute that both lie in",
        [SUM],
        lambda e: [pushed(sample("a", MINUTE), sample("b", MINUTE + e))],
        (0, 1, 1),
    ),
    Edge(
        "polled samples meet on the same timestamp",
        [SUM],
        lambda e: [polled(sample("a", MINUTE), sample("b", MINUTE + e))],
        (0, 1, 0),
    ),
    Edge(
        "a set waits as long as lateness from its opening",
        [SUM],
        lambda e: [mark(10 * MINUTE), pushed(sample("a", 0)), mark(11 * MINUTE + e), pushed(sample("b", 0))],
        (1, 0, 0),
    ),
    Edge(
        "or until the next whole quarter of lateness after its period",
        [SUM],
        lambda e: [
            mark(10 * MINUTE + 1),
            pushed(sample("a", 0)),
            mark(11 * MINUTE + 15 * SECOND + e),
            pushed(sample("b", 0)),
        ],
        (1, 0, 0),
    ),
    Edge(
        "which of its neighbours' sets opened before it and when they expire is nothing to it",
        [SUM],
        lambda e: [
            mark(10 * MINUTE),
            pushed(replace(sample("a", 0, key=77), resource_id="neighbour")),
            mark(10 * MINUTE + 30 * SECOND),
            pushed(sample("a", 0), replace(sample("b", 0, key=78), resource_id="neighbour")),
            mark(11 * MINUTE + 30 * SECOND + e),
            pushed(sample("b", 0)),
        ],
        (2, 1, 1),
    ),
    Edge(
        "polled and pushed samples of a period may be of one set, whose end is that of the first",
        [SUM],
        lambda e: [polled(sample("a", 0)), mark(MINUTE + e), pushed(sample("b", 30 * SECOND))],
        (1, 1, 0),
    ),
    Edge(
        "hold reaches back less than its length from the period's start",
        [HELD],
        lambda e: [pushed(sample("b", e), sample("a", 2 * MINUTE)), mark(20 * MINUTE)],
        (0, 0, 1),
    ),
    Edge(
        "hold does not reach past the end of the period",
        [step("arithmetic", hold=60, target={"expr": "$(a) + $(b)"})],
        lambda e: [pushed(sample("a", 0), sample("b", MINUTE + e)), mark(4 * MINUTE)],
        (1, 0, 0),
    ),
    Edge(
        "hold takes what is no older than hold, lateness and interval together when the set expires",
        [HELD],
        lambda e: [
            pushed(sample("b", 0)),
            mark(4 * MINUTE + e),  # W = 3 min: the set below expires at 4 min = hold + lateness + interval after b.
            pushed(sample("a", MINUTE)),
            mark(20 * MINUTE),
        ],
        (1, 1, 0),
    ),
    Edge(
        "an id is forgotten with the ninth bucket after its own",
        [],
        lambda e: [
            mark(MINUTE),
            pushed(sample("a", 0, key=9)),
            mark(MINUTE + 9 * 75 * SECOND + e),
            pushed(sample("a", 0, key=9)),
        ],
        (1, 2, 2),
    ),
    Edge(
        "a polled sample of a series is known for dedupe_horizon, after that by its id alone",
        [],
        lambda e: [
            polled(sample("a", 0), interval=1),
            polled(sample("a", 10 * MINUTE + e * SECOND), interval=1),
            polled(sample("a", 0), interval=1),
        ],
        (2, 2, 3),
    ),
]


@pytest.mark.parametrize("calls", [1, 100], ids=["one-by-one", "at-once"])
@pytest.mark.parametrize("shift", [-1, 0, 1])
@pytest.mark.parametrize("edge", EDGES, ids=lambda edge: edge.about)
def test_edge(edge: Edge, shift: int, calls: int) -> None:
    """As many samples as the line says, whether the log comes in one call or in many."""
    sink = {"name": "k", "publishers": ["test://"], "transformers": edge.steps}
    text = pipeline_text({"sources": [{"name": "s", "meters": ["*"], "sinks": ["k"]}], "sinks": [sink]})
    log = edge.log(shift)

    want = run_reference(text, OPTIONS, log, end=edge.end).published
    assert len(want) == edge.published[shift + 1]
    assert run_stage(text, OPTIONS, log, [calls], end=edge.end).published == want


@pytest.mark.parametrize(
    "measured, rate",
    [(0, 1.0), (1, 60e6), (30 * SECOND, 2.0), (120 * SECOND, 0.5), (120 * SECOND + 1, 1.0), (-SECOND, 1.0)],
)
def test_the_time_between_two_measurements_counts_where_it_is_sensible(measured: int, rate: float) -> None:
    """More than none, at most twice that between the timestamps."""
    sink = {"name": "k", "publishers": ["test://"], "transformers": [step("rate_of_change")]}
    text = pipeline_text({"sources": [{"name": "s", "meters": ["*"], "sinks": ["k"]}], "sinks": [sink]})
    log = [pushed(sample("c", 0, 0.0, measured=5 * SECOND), sample("c", MINUTE, 60.0, measured=5 * SECOND + measured))]

    for published in (run_reference(text, OPTIONS, log), run_stage(text, OPTIONS, log)):
        assert [p.sample.volume for p in published.published] == [pytest.approx(rate)]
