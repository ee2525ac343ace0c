r"""Which notifications a definition is for.

A pattern is a shell wildcard (`volume.create.*`), as up to Liberty, or, where it holds what only a regular expression can, one of those,
matched at the beginning (`compute\\.instance\\.(?!update).*`), as from Mitaka. With `!` before it a pattern excludes; with only exclusions
all the rest is in.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Sequence

_REGEX = re.compile(r"[\\(|^$+{]|\.\*\*|\?[:!=]")


class EventTypes:
    """Patterns, compiled. Raises re.error for a regular expression that is none."""

    __slots__ = ("_denied", "_taken", "patterns")

    def __init__(self, patterns: Sequence[str]) -> None:
        self.patterns = tuple(patterns)
        self._taken = [_compiled(p) for p in patterns if not p.startswith("!")]
        self._denied = [_compiled(p[1:]) for p in patterns if p.startswith("!")]

    def matches(self, event_type: str) -> bool:
        """Whether this event type is meant."""
        if any(pattern.match(event_type) for pattern in self._denied):
            return False
        return not self._taken or any(pattern.match(event_type) for pattern in self._taken)

    def __repr__(self) -> str:
        """The patterns."""
        return f"EventTypes({list(self.patterns)})"


def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern) if _REGEX.search(pattern) else re.compile(fnmatch.translate(pattern))
