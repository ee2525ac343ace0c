"""The command line: one file a group of commands. `main` is the console script.

Exit status: 0 done, 1 it failed, 2 wrong usage, 78 the configuration is wrong (every problem is listed), 130 interrupted.
"""

from __future__ import annotations

from nephoscope.cli.app import main

__all__ = ["main"]
