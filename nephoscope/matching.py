"""Which meters a source takes.

Patterns are shell wildcards, upper and lower case told apart: `*`, `cpu`, `disk.*`, `*.bytes`; with `!` before it a pattern excludes. What is
excluded is out, whatever else matches; with only exclusions all the rest is in.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Sequence

MAX_REMEMBERED = 10_000


class MeterFilter:
    """The patterns of a source, compiled."""

    __slots__ = ("_denied", "_known", "_taken", "patterns")

    def __init__(self, patterns: Sequence[str]) -> None:
        self.patterns = tuple(patterns)
        wanted = [p for p in self.patterns if not p.startswith("!")]
        self._taken = _compile(wanted) if wanted else None
        self._denied = _compile([p[1:] for p in self.patterns if p.startswith("!")])
        self._known: dict[str, bool] = {}

    def matches(self, name: str) -> bool:
        """Whether a sample of this meter is taken."""
        found = self._known.get(name)
        if found is None:
            found = not self._denied.match(name) and (self._taken is None or self._taken.match(name) is not None)
            if len(self._known) >= MAX_REMEMBERED:
                self._known.clear()
            self._known[name] = found
        return found

    def __repr__(self) -> str:
        """The patterns."""
        return f"MeterFilter({list(self.patterns)})"


def problems(patterns: Sequence[str]) -> list[str]:
    """What Ceilometer refuses in a list of patterns, and so do we: combinations whose meaning nobody can guess.

    A pattern that begins with `*` is neither an inclusion nor an exclusion by this rule, so it goes with either.
    """
    if not patterns:
        return ["no meter is given"]
    if "" in patterns:
        return ["a meter is empty"]
    included = [p for p in patterns if p[0] not in "!*"]
    excluded = [p for p in patterns if p[0] == "!"]
    out = []
    if included and excluded:
        out.append(f"meters are both included ({included[0]}) and excluded ({excluded[0]})")
    if included and "*" in patterns:
        out.append(f"{included[0]} is included beside *, which takes all")
    return out


def _compile(patterns: Sequence[str]) -> re.Pattern[str]:
    return re.compile("|".join(map(fnmatch.translate, patterns)) or r"(?!)")
