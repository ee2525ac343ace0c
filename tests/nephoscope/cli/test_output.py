"""Numbers, spark lines and rows, as they are printed."""

import pytest

from nephoscope.cli import output


@pytest.mark.parametrize(
    "value,text",
    [
        (0, "0"),
        (3.0, "3"),
        (3.14159265, "3.1416"),
        (0.00012345678, "0.00012346"),
        (123456.789, "123457"),
        (2.5e9, "2500000000"),
    ],
)
def test_a_number_reads_as_people_write_it(value, text):
    assert output.number(value) == text


def test_a_spark_line_spans_least_to_greatest():
    assert output.spark([0, 1, 2, 3, 4, 5, 6, 7]) == "▁▂▃▄▅▆▇█"


def test_a_spark_line_shows_the_last_values():
    assert output.spark([9, 9, 0, 7], width=2) == "▁█"


@pytest.mark.parametrize("values,line", [([], ""), ([0, 0], "▁▁"), ([5], "▄")])
def test_a_spark_line_of_little(values, line):
    assert output.spark(values) == line


def test_rows_elsewhere_than_on_a_terminal(capsys):
    count = output.rows(("a", "b"), [{"a": "x\ty", "b": 1.5}, {"a": None, "b": True}], as_json=False)

    assert count == 2
    assert capsys.readouterr().out == "a\tb\nx\N{REPLACEMENT CHARACTER}y\t1.5\n\tyes\n"


def test_rows_as_json(capsys):
    output.rows(("a",), [{"a": "ü", "b": [1]}], as_json=True)

    assert capsys.readouterr().out == '{"a":"ü","b":[1]}\n'


def test_a_table_fits_the_terminal(capsys, monkeypatch):
    monkeypatch.setattr(output, "is_terminal", lambda: True)
    monkeypatch.setenv("COLUMNS", "40")

    output.rows(("name", "volume"), [{"name": "long " * 20, "volume": 1}], as_json=False)

    assert all(len(line) <= 40 for line in capsys.readouterr().out.splitlines())


def test_a_long_column_takes_nothing_from_those_that_are_to_be_whole(capsys, monkeypatch):
    monkeypatch.setattr(output, "is_terminal", lambda: True)
    monkeypatch.setenv("COLUMNS", "80")
    line = {"name": "volume.backup.size", "unit": "GB", "source": "polled", "what": "of a list " * 50}

    output.rows(("name", "unit", "source", "what"), [line], as_json=False, whole=("name", "unit"))

    heading, shown = capsys.readouterr().out.splitlines()
    assert heading.split() == ["name", "unit", "source", "what"]
    assert shown.startswith("volume.backup.size  GB    polled  of a list of")
    assert len(shown) <= 80


def test_what_a_name_holds_cannot_steer_the_terminal(capsys):
    output.rows(("name",), [{"name": "\x1b[2Jgone"}], as_json=False)

    assert "\x1b" not in capsys.readouterr().out
