"""A changed pipeline.yaml, taken up while the flow runs.

The flow runs on a copy of the files, in `state_dir/pipeline`. What changes is looked at every second: once it lies still it is checked, and
where it is right, the workers are stopped at a snapshot, the copy is replaced and they are started again. What is wrong is told, and
the copy stays: a crash or another start of a worker in the meantime takes what was taken before.

Guarantee: the workers change only at a snapshot that all of them finished. Where one did not, they go on with the old files and it is tried again.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import msgspec

from nephoscope.cli.supervisor import Child, Supervisor
from nephoscope.errors import ConfigError, NephoscopeError, Problem
from nephoscope.settings import Settings
from nephoscope.times import now

FOLDER = "pipeline"
REFUSED = "refused.json"
_LOOK = 1.0
_AGAIN = 60.0
"""Seconds after which a change that could not be made is tried again."""
_NAMES = ("pipeline_cfg_file", "polling_cfg_file")

Stamp = tuple[int, int, int]


class Reload:
    """Watches the files that the settings name. Where they name none there is nothing to watch."""

    def __init__(self, settings: Settings, say: Callable[[str], None]) -> None:
        self._settings, self._say = settings, say
        self._folder = settings.state_dir / FOLDER
        self._files: dict[str, Path] = {n: getattr(settings, n) for n in _NAMES if getattr(settings, n) is not None}
        self._seen = self._last = {n: _stamp(p) for n, p in self._files.items()}
        self._ready: dict[str, bytes] | None = None
        self._next = 0.0
        self._taken = {name: path.read_bytes() for name, path in self._files.items()}
        if self._files:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._take(self._taken)

    @property
    def arguments(self) -> list[str]:
        """What a worker is told in addition: to read the copies."""
        return [word for name in self._files for word in ("--set", f"{name}={self._copy(name)}")]

    def look(self, supervisor: Supervisor, workers: Sequence[Child]) -> None:
        """Called often. Takes a change up, where there is one, with the workers that this supervisor has."""
        if not self._files or time.monotonic() < self._next:
            return
        self._next = time.monotonic() + _LOOK
        stamps = {n: _stamp(p) for n, p in self._files.items()}
        still, self._last = stamps == self._last, stamps
        if stamps != self._seen and still:
            # Whoever writes it has finished, or so it seems; if not, it changes again, and is looked at again.
            self._seen = stamps
            self._ready = self._checked()
        if self._ready is not None and all(w.process is not None for w in workers):
            self._change(supervisor, workers, self._ready)

    def _checked(self) -> dict[str, bytes] | None:
        """The new files' content, where it is right and other than what runs."""
        drafts = {n: self._folder / f"new-{p.name}" for n, p in self._files.items()}
        try:
            texts = {n: p.read_bytes() for n, p in self._files.items()}
            if texts == self._taken:
                self._forget_refusal()
                return None
            for name, path in drafts.items():
                path.write_bytes(texts[name])
            from flows.pipeline import try_out

            try_out(self._settings.model_copy(update=dict(drafts)))
        except ConfigError as error:
            named = {str(drafts[n]): str(p) for n, p in self._files.items()}
            self._refuse([replace(p, file=named.get(p.file, p.file)) for p in error.problems])
        except NephoscopeError as error:
            self._refuse([Problem(str(error))])
        except OSError as error:
            self._refuse([Problem(f"cannot be read: {error.strerror or error}", str(error.filename or ""))])
        except Exception as error:  # noqa: BLE001 - whatever is wrong with it: the flow that runs must go on
            self._refuse([Problem(f"cannot be loaded: {type(error).__name__}: {error}")])
        else:
            return texts
        finally:
            for path in drafts.values():
                path.unlink(missing_ok=True)
        return None

    def _change(self, supervisor: Supervisor, workers: Sequence[Child], texts: dict[str, bytes]) -> None:
        self._say(f"{self._named()} changed: stopping at a snapshot")
        if supervisor.pause(workers):
            self._take(texts)
            self._ready = None
            self._say(f"{self._named()} is taken up")
        else:
            # The next start repeats what came after the last snapshot: with the old files, or it would be computed in two ways.
            self._next = time.monotonic() + _AGAIN
            self._say(f"the flow could not stop at a snapshot: it goes on as before, and tries again in {_AGAIN:g} s")
        supervisor.resume(workers)

    def _take(self, texts: dict[str, bytes]) -> None:
        for name, text in texts.items():
            _replace(self._copy(name), text)
        self._taken = texts
        self._forget_refusal()

    def _refuse(self, problems: Sequence[Problem]) -> None:
        self._ready = None
        self._say(f"{self._named()} changed, but is wrong; the flow goes on as before:")
        for problem in problems:
            self._say(str(problem))
        told = {"since": now(), "problems": [str(p) for p in problems]}
        with contextlib.suppress(OSError):
            _replace(self._folder / REFUSED, msgspec.json.encode(told))

    def _forget_refusal(self) -> None:
        (self._folder / REFUSED).unlink(missing_ok=True)

    def _copy(self, name: str) -> Path:
        return copy_of(self._settings, name)

    def _named(self) -> str:
        return " and ".join(str(p) for p in self._files.values())


def copy_of(settings: Settings, name: str) -> Path:
    """Where the flow of these settings keeps its copy of the file that this setting names."""
    return settings.state_dir / FOLDER / f"{name.partition('_')[0]}.yaml"


def _stamp(path: Path) -> Stamp:
    """What changes with a file: its time, its size, which file it is. Zeros where there is none."""
    try:
        found = path.stat()
    except OSError:
        return 0, 0, 0
    return found.st_mtime_ns, found.st_size, found.st_ino


def _replace(path: Path, text: bytes) -> None:
    """Write a file whole or not at all."""
    draft = path.with_name(f".{path.name}")
    with draft.open("wb") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
