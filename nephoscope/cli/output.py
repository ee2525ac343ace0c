"""What commands print: tables that fit a terminal, plain lines elsewhere, JSON lines where asked for."""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import msgspec

_BARS = "▁▂▃▄▅▆▇█"


def complain(message: str) -> None:
    """A line on stderr."""
    print(message, file=sys.stderr, flush=True)


def is_terminal() -> bool:
    """Whether a person watches stdout."""
    return sys.stdout.isatty()


def number(value: float) -> str:
    """A number as people write it: no exponent where none is needed, five digits that count."""
    if value == int(value) and abs(value) < 1e15:
        return str(int(value))
    return f"{value:.5g}" if abs(value) < 100_000 else f"{value:.0f}"


def spark(values: Sequence[float], width: int = 16) -> str:
    """The last `width` values as a line of bars between their least and greatest."""
    shown = list(values)[-width:]
    if not shown:
        return ""
    low, high = min(shown), max(shown)
    if high == low:
        return _BARS[0 if high == 0 else 3] * len(shown)
    return "".join(_BARS[min(7, int((v - low) / (high - low) * 8))] for v in shown)


def rows(
    columns: Sequence[str], lines: Iterable[Mapping[str, Any]], *, as_json: bool, whole: Collection[str] = ()
) -> int:
    """Print rows: JSON lines if asked, a table on a terminal, else a heading and lines separated by tabs.

    Returns how many there were. Values are printed as they are; numbers by `number`. `whole`: columns that a narrow terminal does not cut short
    as long as others can be.
    """
    count = 0
    if as_json:
        for line in lines:
            sys.stdout.write(msgspec.json.encode(line).decode() + "\n")
            count += 1
    elif is_terminal():
        from rich.console import Console
        from rich.table import Table

        console = Console(highlight=False, markup=False)
        widths: dict[str, int] = {}
        if whole:
            lines = list(lines)
            widths = _widths(columns, lines, whole, console.width)
        table = Table(box=None, header_style="bold", pad_edge=False)
        for column in columns:
            numeric = column in {"volume", "min", "max", "avg", "sum", "count", "partition", "samples", "size"}
            table.add_column(
                column,
                justify="right" if numeric else "left",
                overflow="ellipsis",
                no_wrap=True,
                # What is typed into the next command is shown as a whole.
                min_width={"letter": 9, "time": 19, "size": 7}.get(column),
                width=widths.get(column),
            )
        for line in lines:
            table.add_row(*(_plain(line.get(c)) for c in columns))
            count += 1
        console.print(table)
    else:
        sys.stdout.write("\t".join(columns) + "\n")
        for line in lines:
            sys.stdout.write("\t".join(_plain(line.get(c)).replace("\t", " ") for c in columns) + "\n")
            count += 1
    sys.stdout.flush()
    return count


def _widths(
    columns: Sequence[str], lines: Sequence[Mapping[str, Any]], whole: Collection[str], room: int
) -> dict[str, int]:
    """How wide each column is, so that all fit into the room: those that are to be whole first, the others from what is left."""
    need = {c: max([len(c), *(len(_plain(line.get(c))) for line in lines)]) for c in columns}
    out = {c: min(need[c], max(8, room // 3)) for c in columns if c in whole}
    left = room - sum(out.values()) - 2 * (len(columns) - 1)
    others = [c for c in columns if c not in out]
    for i, column in enumerate(others):
        out[column] = min(need[column], max(4, left // (len(others) - i)))
        left -= out[column]
    return out


def _plain(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        return number(value)
    if isinstance(value, dict | list):
        return msgspec.json.encode(value).decode()
    # A control character in a resource's name must not reach the terminal.
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in str(value))


class Progress(Protocol):
    """Told how far long work has come."""

    def __call__(self, done: int, total: int | None = None, /) -> None:
        """`done` so far, of `total` where that is known."""
        ...


@contextmanager
def progress(what: str) -> Iterator[Progress]:
    """A progress bar on stderr where that is a terminal; nothing elsewhere."""
    if not sys.stderr.isatty():
        yield lambda *_: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bars

    looks = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Bars(*looks, console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task(what, total=None)
        yield lambda done, total=None: bars.update(task, completed=done, total=total)
