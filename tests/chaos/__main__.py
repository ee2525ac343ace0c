"""The command: ``python -m tests.chaos [--quick] [STORY…]``, ``python -m tests.chaos soak [--for SECONDS]``, and
``python -m tests.chaos agents [--quick] [--on zookeeper|redis|memcached]``.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from _pytest.outcomes import OutcomeException
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from tests import disk
from tests.chaos import agents, noise, soak, story
from tests.chaos.flow import Trouble
from tests.servers.kafka import Kafka, running

STORIES = ("crashes", "starved", "hostile")


def main() -> int:
    """0: nothing is missing, double or different; 1: something is; 2: it could not be tried."""
    if sys.argv[1:2] == ["agents"]:
        return agents.main(sys.argv[2:])
    arguments = _arguments()
    folder = Path(tempfile.mkdtemp(prefix="nephoscope-chaos-"))
    console = Console(highlight=False, stderr=True)
    wrong = True
    try:
        (folder / "kafka").mkdir()
        with running(folder / "kafka") as broker:
            if "soak" in arguments.stories:
                wrong = _soak(folder, broker, arguments.seconds, console)
            else:
                done = [_tell(name, folder, broker, console, quick=arguments.quick) for name in arguments.stories]
                wrong = any(done)
    except OutcomeException as error:
        console.print(f"a server is missing: {error}", markup=False)
        return 2
    except Trouble as error:
        console.print(str(error), markup=False)
    except KeyboardInterrupt:
        return 130
    finally:
        if wrong and not arguments.throw_away:
            console.print(f"what is left of it: {folder}", markup=False)
        else:
            shutil.rmtree(folder, ignore_errors=True)
    return int(wrong)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument(
        "stories", nargs="*", metavar="STORY", help=f"of {', '.join(STORIES)}; or soak. By default the first three"
    )
    parser.add_argument("--quick", action="store_true", help="a tenth of the samples, and shorter pauses")
    parser.add_argument("--for", dest="seconds", type=float, default=600.0, help="how long a soak lasts")
    parser.add_argument("--throw-away", action="store_true", help="keep no files, whatever is wrong")
    arguments = parser.parse_args()
    arguments.stories = arguments.stories or list(STORIES)
    unknown = set(arguments.stories) - {*STORIES, "soak"}
    if unknown:
        parser.error(f"there is no story {', '.join(sorted(unknown))}: {', '.join(STORIES)}, soak")
    return arguments


@contextmanager
def _display(name: str, console: Console) -> Iterator[story.Told]:
    """A line that tells what happens; where nobody watches, a line for each thing that happens."""
    began = time.monotonic()
    last = [""]
    if not console.is_terminal:

        def plainly(what: str, done: float = 0.0) -> None:
            if what != last[0]:
                last[0] = what
                console.print(f"{name}: {time.monotonic() - began:6.1f} s  {what}", markup=False)

        yield plainly
        return
    looks = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.percentage:3.0f} %"),
        TimeElapsedColumn(),
    )
    with Progress(*looks, console=console) as bars:
        task = bars.add_task(name, total=1.0)

        def told(what: str, done: float = 0.0) -> None:
            bars.update(task, description=f"{name}: {what}", completed=done)
            if what != last[0]:
                last[0] = what
                bars.console.print(f"{time.monotonic() - began:6.1f} s  {what}", markup=False)

        yield told


def _tell(name: str, folder: Path, broker: Kafka, console: Console, *, quick: bool) -> bool:
    """Whether anything is wrong."""
    if name == "starved" and disk.why_not():
        console.print(f"starved: skipped: {disk.why_not()}", markup=False)
        return False
    own = folder / name
    own.mkdir()
    with _display(name, console) as told:
        if name == "hostile":
            stage = story.Stage(own, broker.address, story.QUICK, told)
            with story.nothing_left(stage):
                heard = noise.drown(stage, 10_000 if quick else 100_000)
            print(f"hostile: {heard}", flush=True)
            return bool(heard)
        forms: dict[str, tuple[story.Form, Callable[[story.Stage], None]]] = {
            "crashes": (story.QUICK if quick else story.FULL, lambda stage: story.crashes(stage, broker)),
            "starved": (story.STARVED_QUICK if quick else story.STARVED, story.starved),
        }
        form, what = forms[name]
        _, found = story.play(own, broker, form, what, told)
    print(f"{name}: {found}", flush=True)
    return bool(found)


def _soak(folder: Path, broker: Kafka, seconds: float, console: Console) -> bool:
    own = folder / "soak"
    own.mkdir()
    with _display("soak", console) as told:
        stage = story.Stage(own, broker.address, soak.FORM, told)
        with story.nothing_left(stage):
            capacity, rate, lines = soak.soak(stage, seconds)
    table = Table(box=None, pad_edge=False)
    for column in ("", "level", "rise in the second half", "", "over time"):
        table.add_column(
            column, justify="right" if column in {"level", "rise in the second half"} else "left", no_wrap=True
        )
    for line in lines:
        table.add_row(*line.row())
    print(f"capacity {capacity:,.0f} samples/s; {rate:,.0f} samples/s for {seconds:g} s, 2 workers")
    Console(highlight=False, width=120).print(table)
    rises = [line.name for line in lines if not line.flat]
    print(f"not flat: {', '.join(rises)}" if rises else "memory and lag are flat")
    return bool(rises)


if __name__ == "__main__":
    sys.exit(main())
