"""YAML documents read strictly, every value with its line, and every problem of a file told in one go.

No tags beyond YAML's plain ones, no duplicate keys, keys are text, one document, at most 1 MB. Anchors and aliases are fine while the document
stays small when they are written out: a bomb or a loop is refused before it is built.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from pathlib import Path

from nephoscope.errors import ConfigError, Problem, nearest
from nephoscope.yaml_nodes import Node, Refused, compose, join, kind

MAX_BYTES = 1 << 20

__all__ = ["MAX_BYTES", "Checker", "Node", "join", "kind", "load", "parse", "read"]


class Checker:
    """Collects the problems of one file. Each method takes a Node and its path, and gives the value, or None where it told a problem."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.problems: list[Problem] = []
        self.warnings: list[Problem] = []

    def wrong(self, message: str, line: int = 0, path: str = "", hint: str = "") -> None:
        """Something is wrong."""
        self.problems.append(Problem(message, self.file, line, path, hint))

    def warn(self, message: str, line: int = 0, path: str = "", hint: str = "") -> None:
        """Something loads, but can hardly be meant."""
        self.warnings.append(Problem(message, self.file, line, path, hint))

    def raise_problems(self) -> None:
        """Raise a ConfigError where anything is wrong."""
        if self.problems:
            raise ConfigError(sorted(dict.fromkeys(self.problems), key=lambda problem: problem.line))

    def mapping(self, node: Node, path: str, known: Collection[str]) -> dict[str, Node] | None:
        """A mapping with these keys at most."""
        if not isinstance(node.value, dict):
            self.wrong(f"must be a mapping, not {kind(node.value)}", node.line, path)
            return None
        for key in node.value:
            if key not in known:
                self.wrong(f"{key!r} is not known here", node.key_lines.get(key, node.line), path, nearest(key, known))
        return {key: child for key, child in node.value.items() if key in known}

    def items(self, node: Node, path: str) -> list[Node] | None:
        """A list."""
        if isinstance(node.value, list):
            return node.value
        self.wrong(f"must be a list, not {kind(node.value)}", node.line, path)
        return None

    def text(self, node: Node, path: str) -> str | None:
        """Text; a whole number is taken as it is written."""
        if isinstance(node.value, int) and not isinstance(node.value, bool):
            return str(node.value)
        if isinstance(node.value, str):
            return node.value
        self.wrong(
            f"must be text, not {kind(node.value)}",
            node.line,
            path,
            "put it in quotes" if node.value is not None else "",
        )
        return None

    def texts(self, node: Node, path: str) -> tuple[str, ...] | None:
        """A list of non-empty texts."""
        items = self.items(node, path)
        if items is None:
            return None
        texts = []
        for i, item in enumerate(items):
            text = self.text(item, f"{path}[{i}]")
            if text == "":
                self.wrong("is empty", item.line, f"{path}[{i}]")
            elif text is not None:
                texts.append(text)
        return tuple(texts)

    def number(self, node: Node, path: str) -> float | int | None:
        """A finite number; text that reads as one counts, as it did in Ceilometer."""
        value = node.value
        if isinstance(value, str):
            try:
                value = int(value)
            except ValueError:
                try:
                    value = float(value)
                except ValueError:
                    self.wrong(f"must be a number, not {value[:40]!r}", node.line, path)
                    return None
        if isinstance(value, bool) or not isinstance(value, int | float):
            self.wrong(f"must be a number, not {kind(value)}", node.line, path)
            return None
        if not abs(value) <= 2**63 or not math.isfinite(value):
            self.wrong("must be a number of reasonable size", node.line, path)
            return None
        return value

    def flag(self, node: Node, path: str) -> bool | None:
        """A boolean; 1 and 0 count."""
        if isinstance(node.value, bool) or node.value in (0, 1):
            return bool(node.value)
        self.wrong(f"must be true or false, not {kind(node.value)}", node.line, path)
        return None


def load(path: str | Path, *, last_counts: bool = False) -> Node:
    """The document of a file, as `read` gives it. Raises ConfigError."""
    checker = Checker(str(path))
    node = read(path, checker, last_counts=last_counts)
    checker.raise_problems()
    assert node is not None
    return node


def read(path: str | Path, checker: Checker, *, last_counts: bool = False) -> Node | None:
    """The document of a file; None where the checker was told that it cannot be read. Other problems of the YAML are told as well.

    last_counts: a key that is there twice is a warning, not a problem.
    """
    try:
        with Path(path).open("rb") as stream:
            raw = stream.read(MAX_BYTES + 1)
    except OSError as error:
        checker.wrong(f"cannot be read: {error.strerror or error}")
        return None
    return parse(raw, checker, last_counts=last_counts)


def parse(raw: bytes | str, checker: Checker, *, last_counts: bool = False) -> Node | None:
    """As read, of a text."""
    if len(raw) > MAX_BYTES:
        checker.wrong(f"is larger than {MAX_BYTES >> 20} MB")
        return None
    try:
        text = raw.decode("utf-8-sig") if isinstance(raw, bytes) else raw
        text.encode()  # libyaml would, and PyYAML without it would not
        twice = (lambda message, line, hint: checker.warn(message, line, hint=hint)) if last_counts else None
        return compose(text, lambda message, line, hint: checker.wrong(message, line, hint=hint), twice)
    except UnicodeDecodeError as error:
        checker.wrong(f"is not UTF-8 (byte {error.start})")
    except UnicodeEncodeError:
        checker.wrong("holds half a character")
    except Refused as refused:
        checker.wrong(str(refused), refused.line)
    return None
