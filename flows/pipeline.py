"""The flow as bytewax runs it: ``python -m bytewax.run flows.pipeline:flow -r FOLDER -s 10 -b 0``.

``'flows.pipeline:flow("my.yaml")'`` takes a settings file, or a pipeline.yaml to run with the settings that apply. `run` does the same as
`nephoscope flow`: with recovery in the state folder, until SIGINT or SIGTERM.
"""

from __future__ import annotations

import fcntl
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from threading import current_thread, main_thread
from typing import Any

from bytewax.dataflow import Dataflow

from flows import engine
from flows.monitor import Monitor
from flows.outlet import PARTS, Outlets, is_positioned, open_publisher
from flows.plan import Options, Plan, compile_plan
from nephoscope import documents, registry
from nephoscope.errors import NephoscopeError
from nephoscope.health import Health, serve
from nephoscope.pipeline import load_pipeline, load_polling
from nephoscope.settings import Settings, load_settings
from nephoscope.times import SECOND
from nephoscope.topics import SAMPLES, Log

_open = ExitStack()
_locks: list[Any] = []
"""Open lock files: held until the process ends."""


def flow(config: str | None = None) -> Dataflow:
    """The dataflow of a settings file or a pipeline.yaml; by default of the settings that apply. ConfigError if it is wrong."""
    file, pipeline = _what_is(config)
    settings = load_settings(file, flags={"pipeline_cfg_file": str(pipeline)} if pipeline else None)
    folder = _argument(sys.argv, "-r", "--recovery-directory")
    if folder is not None:
        lock(Path(folder))
    stop_on_signals()
    place = int(_argument(sys.argv, "-i", "--process-id") or 0)
    health = Health("flow", *PARTS)
    # The engine runs in this process until it ends, and the server with it.
    _open.enter_context(serve(health, settings.metrics.listen, _port(place)))
    return dataflow(settings, monitor_of(settings, health, alone=not _argument(sys.argv, "-i", "--process-id")))


def run(settings: Settings, process_id: int | None = None, addresses: Sequence[str] | None = None) -> None:
    """Run the flow in this process, with recovery, until SIGINT or SIGTERM. `addresses`: of all processes of a cluster."""
    stop_on_signals()
    recovery = engine.recovery(settings.recovery_dir)
    lock(settings.recovery_dir, process_id or 0)
    health = Health("flow", *PARTS)
    monitor = monitor_of(settings, health, alone=not addresses)
    with serve(health, settings.metrics.listen, _port(process_id or 0)):
        engine.run(
            dataflow(settings, monitor),
            recovery_config=recovery,
            epoch_interval=settings.epoch_interval,
            process_id=process_id,
            addresses=addresses,
        )


def log_of(settings: Settings) -> Log:
    """The log that the settings name."""
    log: Log = registry.load_for(registry.LOG, settings.log.url)(settings)
    return log


def monitor_of(settings: Settings, health: Health, *, alone: bool = True) -> Monitor:
    """The monitor of a flow; `alone`: whether it runs in one process."""
    return Monitor(
        health,
        lambda: log_of(settings),
        lateness=round(settings.lateness * SECOND),
        ready_lag=settings.metrics.ready_lag,
        alone=alone,
    )


def dataflow(settings: Settings, monitor: Monitor | None = None) -> Dataflow:
    """The dataflow that the settings describe."""
    plan = plan_of(settings)
    monitor = monitor or monitor_of(settings, Health("flow", *PARTS))

    def make_log() -> Log:
        return log_of(settings)

    urls = sorted({url for sink in plan.sinks for url in sink.publishers if is_positioned(url)})
    return engine.build(
        plan,
        engine.LogSource(make_log, SAMPLES, monitor),
        engine.OutletSink(lambda: Outlets(settings, make_log(), engine.stopping, monitor)),
        engine.PositionedSink(urls, open_publisher) if urls else None,
        monitor,
    )


def plan_of(settings: Settings) -> Plan:
    """The plan of the pipeline that the settings name. ConfigError with every problem."""
    polling = load_polling(settings.polling_cfg_file) if settings.polling_cfg_file else None
    pipeline = load_pipeline(
        settings.pipeline_file(), publisher_schemes=registry.names(registry.PUBLISHER), polling=polling
    )
    return compile_plan(pipeline, options_of(settings))


def options_of(settings: Settings) -> Options:
    """The settings that decide what a flow computes."""
    return Options(**{name: getattr(settings, name) for name in Options.__dataclass_fields__})


def lock(folder: Path, process_id: int = 0) -> None:
    """Take a recovery store for this execution: two would overwrite each other's snapshots. NephoscopeError where another has it."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    file = (folder / f"lock-{process_id}").open("a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.seek(0)
        holder = file.read().strip()
        file.close()
        raise NephoscopeError(
            f"another flow{f' (process {holder})' if holder else ''} runs on the recovery store {folder}: stop it first"
        ) from None
    file.truncate(0)
    file.write(str(os.getpid()))
    file.flush()
    _locks.append(file)


def stop_on_signals() -> None:
    """SIGINT and SIGTERM end the input; the flow finishes its epoch, snapshots it and returns."""
    if current_thread() is main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: engine.stopping.set())


def _what_is(config: str | None) -> tuple[Path | None, Path | None]:
    """(settings file, pipeline file) of an argument that may be either."""
    if config is None:
        return None, None
    path = Path(config)
    node = documents.load(path)
    if (isinstance(node.value, dict) and {"sources", "sinks"} & node.value.keys()) or isinstance(node.value, list):
        return None, path.absolute()
    return path, None


def _argument(arguments: Sequence[str], short: str, long: str) -> str | None:
    """The value of an option on bytewax's command line."""
    for i, argument in enumerate(arguments):
        if argument in (short, long) and i + 1 < len(arguments):
            return arguments[i + 1]
        if argument.startswith(f"{long}="):
            return argument.partition("=")[2]
    return None


def _port(process_id: int) -> int:
    """The place of a process's port after the one that the settings name; the next is an agent's."""
    return process_id + 1 if process_id else 0
