"""Meter filters: Ceilometer's, exclusion first."""

import pytest

from nephoscope.matching import MAX_REMEMBERED, MeterFilter, problems

METERS = [
    "cpu",
    "CPU",
    "cpu_util",
    "disk",
    "disk.read.bytes",
    "disk.write.bytes",
    "disk.read.requests",
    "memory",
    "instance:m1.tiny",
]


@pytest.mark.parametrize(
    "patterns, taken",
    [
        (["*"], METERS),
        (["cpu"], ["cpu"]),
        (["cpu*"], ["cpu", "cpu_util"]),
        (["disk.*"], ["disk.read.bytes", "disk.write.bytes", "disk.read.requests"]),
        (["*.bytes", "cpu"], ["cpu", "disk.read.bytes", "disk.write.bytes"]),
        (["*.bytes", "!disk.read.*"], ["disk.write.bytes"]),
        (["*", "!disk.*", "!memory"], ["cpu", "CPU", "cpu_util", "disk", "instance:m1.tiny"]),
        (["!disk*"], ["cpu", "CPU", "cpu_util", "memory", "instance:m1.tiny"]),
        (["*", "!*"], []),
        (["!"], METERS),
        (["instance:*"], ["instance:m1.tiny"]),
        (["instance:m1.tiny"], ["instance:m1.tiny"]),
        (["[cm]*"], ["cpu", "cpu_util", "memory"]),
        (["cp?"], ["cpu"]),
        (["c.u"], []),
    ],
)
def test_patterns(patterns, taken):
    takes = MeterFilter(patterns)
    assert problems(patterns) == []
    for _ in range(2):  # the second answer is remembered
        assert [m for m in METERS if takes.matches(m)] == taken


@pytest.mark.parametrize(
    "patterns, said",
    [
        ([], "no meter"),
        ([""], "empty"),
        (["cpu", "!disk"], "included (cpu) and excluded (!disk)"),
        (["disk.*", "!disk.write.*"], "included (disk.*) and excluded (!disk.write.*)"),
        (["*", "cpu"], "cpu is included beside *"),
    ],
)
def test_combinations_that_ceilometer_refused(patterns, said):
    assert said in "; ".join(problems(patterns))


def test_two_things_wrong_are_two_problems():
    assert len(problems(["*", "cpu", "!disk"])) == 2


def test_what_is_remembered_is_bounded():
    takes = MeterFilter(["*.5"])
    assert (
        sum(takes.matches(f"meter.{i % 10}{i}.{i % 10}") for i in range(MAX_REMEMBERED + 100))
        == (MAX_REMEMBERED + 100) // 10
    )
    assert len(takes._known) <= MAX_REMEMBERED
