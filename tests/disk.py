"""A disk of few bytes, for those who want to see it full."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def why_not() -> str:
    """Why there can be no small disk here; '': there can."""
    if sys.platform != "linux":
        return "small disks are made by Linux's tmpfs"
    if os.geteuid() != 0:
        return "only root mounts a small disk"
    return ""


class SmallDisk:
    """A file system of so many kilobytes, mounted on a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def resize(self, kilobytes: int) -> None:
        """Make room, or take it away."""
        _mount("-o", f"remount,size={kilobytes}k", str(self.folder))

    def fill(self) -> Path:
        """Write a file until no byte goes in any more; remove it to make room."""
        path = self.folder / "ballast"
        with path.open("wb", buffering=0) as file:
            for size in (65536, 4096, 1):
                try:
                    while file.write(b"\1" * size):
                        pass
                except OSError:
                    continue
        return path


@contextmanager
def small_disk(folder: Path, kilobytes: int) -> Iterator[SmallDisk]:
    """Mount one, and take it away in the end. OSError where this machine does not let us."""
    folder.mkdir(parents=True, exist_ok=True)
    _mount("-t", "tmpfs", "-o", f"size={kilobytes}k,mode=0700", "tmpfs", str(folder))
    try:
        yield SmallDisk(folder)
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=False)


def _mount(*arguments: str) -> None:
    done = subprocess.run(["mount", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"mount: {done.stderr.strip()}")
