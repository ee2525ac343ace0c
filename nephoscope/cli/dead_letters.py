"""`dead-letters`: what could not be decoded, used or stored; shown, and sent again."""

from __future__ import annotations

import heapq
import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Annotated, Any

import msgspec
import typer

from nephoscope.batch import batch_of
from nephoscope.cli.options import Config, Json, Set, settings_of
from nephoscope.cli.output import complain, rows
from nephoscope.cli.parts import open_log, open_store
from nephoscope.dead_letters import Buried, letters
from nephoscope.errors import NephoscopeError
from nephoscope.replay import Revived, records, revive
from nephoscope.settings import Settings
from nephoscope.topics import SAMPLES, Log

Reason = Annotated[
    str | None,
    typer.Option("--reason", "-r", metavar="REASON", help="Only those with this reason.", show_default=False),
]
Names = Annotated[
    list[str] | None,
    typer.Argument(metavar="[LETTER]...", help="PARTITION:OFFSET, as `list` shows them.", show_default=False),
]
_NAME = re.compile(r"\d+:\d+")
_AT_ONCE = 200


def register(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(help="List, show and replay what could not be used.", no_args_is_help=True)
    group.command("list")(list_letters)
    group.command("show")(show)
    group.command("replay")(replay)
    app.add_typer(group, name="dead-letters")


def list_letters(
    reason: Reason = None,
    limit: Annotated[int, typer.Option("--limit", "-l", min=1, help="Only the newest so many.")] = 100,
    config: Config = None,
    overrides: Set = None,
    json: Json = False,
) -> None:
    """List dead letters, the newest last: where, when, why, how large, where it came from.

    The log keeps them as long as everything else (log.retention).

    Example: nephoscope dead-letters list --reason undecodable
    """
    settings = settings_of(config, overrides)
    reasons: Counter[str] = Counter()

    def found(log: Log) -> Iterator[Buried]:
        for letter in letters(log):
            if reason is None or letter.reason == reason:
                reasons[letter.reason] += 1
                yield letter

    with open_log(settings) as log:
        newest = heapq.nlargest(limit, found(log), key=lambda letter: (letter.time, letter.partition, letter.offset))
    rows(
        ("letter", "time", "reason", "size", "origin", "detail"),
        (
            {
                "letter": one.name,
                "time": one.time if json else one.time[:19],
                "reason": one.reason,
                "size": one.size,
                "origin": f"{one.origin.topic}[{one.origin.partition}]@{one.origin.offset}" if one.origin else "",
                "detail": one.detail,
            }
            for one in reversed(newest)
        ),
        as_json=json,
    )
    total = sum(reasons.values())
    parts = ", ".join(f"{count} {word}" for word, count in reasons.most_common())
    complain(
        f"{total} dead letters{f' ({parts})' if total else ''}{f', the newest {limit} are shown' if total > limit else ''}"
    )


def show(
    names: Annotated[
        list[str],
        typer.Argument(metavar="LETTER...", help="PARTITION:OFFSET, as `list` shows them.", show_default=False),
    ],
    config: Config = None,
    overrides: Set = None,
    json: Json = False,
) -> None:
    """Show dead letters as a whole: what is kept of the bytes, and whether they could be replayed.

    Example: nephoscope dead-letters show 12:0
    """
    settings = settings_of(config, overrides)
    with open_log(settings) as log:
        for letter in _named(log, names):
            if json:
                print(msgspec.json.encode(_plain(letter)).decode())
                continue
            for key, value in _plain(letter).items():
                if key != "data" and value is not None:
                    print(f"{key:<10} {value}")
            judged = _judged(letter, settings)
            print(f"{'replay':<10} {judged.problem or f'possible: {judged.samples} samples'}")
            print()
            print(_readable(letter.data))
            if letter.truncated:
                print(f"… {letter.size - len(letter.data)} more bytes were not kept")
    sys.stdout.flush()


def replay(
    names: Names = None,
    reason: Reason = None,
    limit: Annotated[
        int | None, typer.Option("--limit", "-l", min=1, help="At most so many letters.", show_default=False)
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    config: Config = None,
    overrides: Set = None,
) -> None:
    """Put what is a sample or a batch by now onto telemetry.samples again; what the store refused, into the store.

    What cannot be replayed is told, and stays. The letters stay where they are: replaying one twice changes nothing, since
    the samples keep their ids. Exits with 1 where nothing could be replayed of what was found.

    Example: nephoscope dead-letters replay --reason timestamp --yes
    """
    settings = settings_of(config, overrides)
    with open_log(settings) as log:
        chosen = [a for a in (_named(log, names) if names else letters(log)) if reason is None or a.reason == reason]
        judged = [_judged(letter, settings) for letter in chosen[:limit]]
        good = [one for one in judged if not one.problem]
        for one in judged:
            if one.problem:
                complain(f"{one.letter.name}: {one.letter.reason}: {one.problem}")
        stored = sum(one.samples for one in good if one.for_store)
        sent = sum(one.samples for one in good) - stored
        plan = f"{len(good)} of {len(judged)} dead letters: {sent} samples onto {SAMPLES}, {stored} into the store"
        if good and not yes:
            if not sys.stdin.isatty():
                raise NephoscopeError(f"{plan}; nothing was done: say --yes")
            if not typer.confirm(f"Replay {plan}?"):
                raise typer.Exit(1)
        _send(log, settings, good)
    complain(f"replayed {plan}" if good else f"nothing to replay in {len(judged)} dead letters")
    if judged and not good:
        raise typer.Exit(1)


def _send(log: Log, settings: Settings, good: Sequence[Revived]) -> None:
    partitions = log.partitions(SAMPLES)
    messages = [record for one in good if not one.for_store for record in records(one, partitions)]
    for start in range(0, len(messages), _AT_ONCE):
        log.append(SAMPLES, messages[start : start + _AT_ONCE])
    refused = [one for one in good if one.for_store]
    if refused:
        with open_store(settings) as store:
            for one in refused:
                store.write([one.batch.rows if one.batch is not None else batch_of([one.sample]).rows])  # type: ignore[list-item]


def _judged(letter: Buried, settings: Settings) -> Revived:
    return revive(letter, max_sample_bytes=settings.max_sample_bytes, max_future=settings.max_future)


def _named(log: Log, names: Sequence[str]) -> list[Buried]:
    """The letters of these names, in their order. NephoscopeError for one that there is not."""
    for name in names:
        if not _NAME.fullmatch(name):
            raise NephoscopeError(
                f"a dead letter's name is PARTITION:OFFSET, not {name!r}: see `nephoscope dead-letters list`"
            )
    found = {letter.name: letter for letter in letters(log) if letter.name in names}
    missing = [name for name in names if name not in found]
    if missing:
        raise NephoscopeError(f"there is no dead letter {', '.join(missing)} (any more)")
    return [found[name] for name in names]


def _plain(letter: Buried) -> dict[str, Any]:
    origin = letter.origin
    return {
        "letter": letter.name,
        "time": letter.time,
        "reason": letter.reason,
        "detail": letter.detail,
        "size": letter.size,
        "origin": f"{origin.topic}[{origin.partition}]@{origin.offset}" if origin else None,
        "truncated": letter.truncated,
        "data": letter.data,
    }


def _readable(data: bytes) -> str:
    """Text as it is, without control characters; other bytes as a dump of their beginning."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        text = ""
    if text and sum(not c.isprintable() and not c.isspace() for c in text) <= len(text) // 20:
        return "".join(c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in text)
    lines = []
    for start in range(0, min(len(data), 256), 16):
        line = data[start : start + 16]
        shown = "".join(chr(b) if 32 <= b < 127 else "." for b in line)
        lines.append(f"{start:06x}  {line.hex(' '):<47}  {shown}")
    return "\n".join(lines) + ("\n…" if len(data) > 256 else "")
