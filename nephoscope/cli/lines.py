"""JSON lines of samples, read from a file or stdin; what is no sample is reported by line and counted."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from nephoscope.cli.output import complain
from nephoscope.errors import NephoscopeError, SampleError
from nephoscope.sample import Sample, sample_from_json

LONGEST_LINE = 64 << 20
"""Bytes; a longer line is no sample, and is not read into memory as a whole."""


class SampleLines:
    """The samples of a file (`-`: stdin). `bad` counts, by reason, the lines that are none; each is told on stderr."""

    def __init__(self, file: Path, limit: int | None = None) -> None:
        self.file = file
        self.limit = limit
        self.bad: Counter[str] = Counter()
        self.read = 0

    def __iter__(self) -> Iterator[Sample]:
        """Each sample in order."""
        for line, raw in self._lines():
            self.read += 1
            try:
                if self.limit is not None and len(raw) > self.limit:
                    raise SampleError("size", f"longer than {self.limit} bytes")
                yield sample_from_json(raw)
            except SampleError as error:
                self.bad[error.reason] += 1
                shown = "stdin" if str(self.file) == "-" else self.file
                complain(f"{shown}:{line}: {error.reason}: {error}")

    def _lines(self) -> Iterator[tuple[int, bytes]]:
        """The lines that are not empty, numbered from 1."""
        try:
            source = sys.stdin.buffer if str(self.file) == "-" else self.file.open("rb")
        except OSError as error:
            raise NephoscopeError(f"cannot read {self.file}: {error.strerror}") from None
        with source:
            number = 0
            while raw := source.readline(LONGEST_LINE):
                number += 1
                whole = raw
                while not whole.endswith(b"\n") and (whole := source.readline(LONGEST_LINE)):
                    pass
                if raw.strip():
                    yield number, raw
