"""The signals that ask a process to stop in order."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from types import FrameType


def on_stop(ask: Callable[[], object]) -> Callable[[], None]:
    """Have SIGINT, SIGTERM and SIGHUP call `ask`, and interrupt nothing; what is returned puts back what was before.

    SIGHUP says that the terminal is gone. Where it is ignored, by nohup or by what follows, it stays so.
    """

    def asked(_number: int, _frame: FrameType | None) -> None:
        ask()

    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    before = {number: signal.signal(number, asked) for number in numbers}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    return restore


def reload_is_harmless() -> None:
    """For what looks at its files by itself: without a terminal, SIGHUP is an operator's "read your files again", and must not end it."""
    if not sys.stdin or not sys.stdin.isatty():
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
