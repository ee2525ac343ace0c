"""One tree of errors.

::

    NephoscopeError
    ├── ConfigError          a file or setting is wrong: carries every Problem found
    ├── SampleError          a sample cannot be read: carries the reason that counters and dead letters use
    ├── BatchError           a message on a topic is no valid batch
    ├── ExpressionError      an expression does not compile
    ├── TopicError           a topic cannot be used as asked
    ├── StoreError           a store cannot do what is asked; Unavailable: try again later
    │   └── Unavailable
    └── MissingExtra         an optional dependency is not installed
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

EX_CONFIG = 78
"""Exit status for a bad configuration (sysexits.h)."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong in a file, where, and what would be right."""

    message: str
    file: str = ""
    line: int = 0
    field: str = ""
    hint: str = ""

    def __str__(self) -> str:
        place = self.file + (f":{self.line}" if self.line else "")
        parts = [p for p in (place, self.field, self.message) if p]
        return ": ".join(parts) + (f" ({self.hint})" if self.hint else "")


class NephoscopeError(Exception):
    """Base of all errors that are meant for the user's eyes."""


class ConfigError(NephoscopeError):
    """The configuration is wrong; `problems` lists everything that was found, in the order of the file."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(p) for p in self.problems))


class SampleError(NephoscopeError):
    """A sample that cannot be read. `reason` is a short constant word for counters."""

    def __init__(self, reason: str, message: str) -> None:
        self.reason = reason
        super().__init__(message)


class BatchError(NephoscopeError):
    """Bytes on a topic that are no valid batch."""


class ExpressionError(NephoscopeError):
    """An expression that does not compile."""


class TopicError(NephoscopeError):
    """A topic that cannot be used as asked (another partition count, no such topic)."""


class StoreError(NephoscopeError):
    """A store cannot do what is asked."""


class Unavailable(StoreError):
    """The store (or broker) is away: the same call may succeed later. `after`: seconds that it asked to be left alone for."""

    after = 0.0


class MissingExtra(NephoscopeError):
    """An optional dependency is not installed."""

    def __init__(self, what: str, extra: str, also: str = "") -> None:
        super().__init__(
            f"{what} needs the extra [{extra}]: pip install 'nephoscope[{extra}]'{also and ', and ' + also}"
        )


_LISTED = 40
"""Words that a hint lists, at most."""


def nearest(word: str, known: Iterable[str]) -> str:
    """A hint that names the nearest of the known words, or lists them, the first of many, where none is near."""
    words = sorted(known)
    close = difflib.get_close_matches(word, words, n=1, cutoff=0.6)
    if close:
        return f"did you mean {close[0]!r}?"
    if len(words) > _LISTED:
        return f"known: {', '.join(words[:_LISTED])} and {len(words) - _LISTED} more"
    return f"known: {', '.join(words)}" if words else ""
