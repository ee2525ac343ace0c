"""Times as text, and back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nephoscope.times import MAX_TIME, MIN_TIME, NEVER, SECOND, TOO_LATE, format_time, now, parse_time

NOON = 1_433_160_000 * SECOND


@pytest.mark.parametrize(
    "text,micros",
    [
        ("2015-06-01T12:00:00", NOON),
        ("2015-06-01 12:00:00", NOON),
        ("2015-06-01T12:00:00Z", NOON),
        ("2015-06-01T12:00:00+00:00", NOON),
        ("2015-06-01T14:00:00+02:00", NOON),
        ("2015-06-01T06:30:00-05:30", NOON),
        ("  2015-06-01T12:00:00\n", NOON),
        ("20150601T120000", NOON),
        ("2015-06-01T12:00:00.000001", NOON + 1),
        ("2015-06-01T12:00:00.5", NOON + SECOND // 2),
        ("2015-06-01", NOON - 12 * 3600 * SECOND),
        ("1970-01-01T00:00:00", 0),
        ("1969-12-31T23:59:59.999999", -1),
        ("2200-01-01T00:00:00", TOO_LATE),
        ("9999-12-31T23:59:59.999999", 253_402_300_799_999_999),
        ("0001-01-01T00:00:00", -62_135_596_800 * SECOND),
    ],
)
def test_iso_times_are_read(text, micros):
    assert parse_time(text) == micros


@pytest.mark.parametrize(
    "text", ["", "now", "12:00", "2015-13-01", "2015-02-30T00:00:00", "1433160000", "10000-01-01", "\x00"]
)
def test_anything_else_is_no_time(text):
    with pytest.raises(ValueError, match=r".+"):
        parse_time(text)


def test_a_zone_at_the_ends_of_time_is_no_other_error():
    for text in ("0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59"):
        try:
            micros = parse_time(text)
        except (ValueError, OverflowError):
            continue
        assert not 0 <= micros < TOO_LATE


@pytest.mark.parametrize(
    "micros,text",
    [
        (NOON, "2015-06-01T12:00:00"),
        (NOON + 1, "2015-06-01T12:00:00.000001"),
        (NOON + SECOND // 2, "2015-06-01T12:00:00.500000"),
        (-1, "1969-12-31T23:59:59.999999"),
    ],
)
def test_times_are_written_as_ceilometer_writes_them(micros, text):
    assert format_time(micros) == text


@given(st.integers(0, TOO_LATE))
def test_what_is_written_is_read(micros):
    assert parse_time(format_time(micros)) == micros


def test_infinity_leaves_room_for_arithmetic():
    farthest = 400 * 366 * 86400 * SECOND
    assert NEVER == -(2**63) < MIN_TIME - farthest
    assert MAX_TIME + farthest < 2**63
    assert 0 < now() < TOO_LATE < MAX_TIME
