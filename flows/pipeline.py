"""The flow as bytewax runs it: ``python -m bytewax.run flows.pipeline:flow -r FOLDER -s 10 -b 0``.

``'flows.pipeline:flow("my.yaml")'`` takes a settings file, or a pipeline.yaml to run with the settings that apply. `run` does the same as
`nephoscope flow`: with recovery in the state folder, until SIGINT or SIGTERM.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from threading import current_thread, main_thread

from bytewax.dataflow import Dataflow

from flows import engine, events
from flows.monitor import Monitor
from flows.outlet import PARTS, Outlets, Stopped
from flows.plan import Options, Plan, compile_plan
from flows.recovery import beginning, explained, hold, see_whole
from nephoscope import documents, publishers, registry
from nephoscope.errors import Unavailable
from nephoscope.health import Health, serve
from nephoscope.pipeline import STORE, load_pipeline, load_polling, resolve_publisher
from nephoscope.settings import Settings, load_settings
from nephoscope.stopping import on_stop
from nephoscope.times import SECOND
from nephoscope.topics import SAMPLES, Log

_log = logging.getLogger(__name__)
_open = ExitStack()


def flow(config: str | None = None) -> Dataflow:
    """The dataflow of a settings file or a pipeline.yaml; by default of the settings that apply. ConfigError if it is wrong."""
    file, pipeline = _what_is(config)
    settings = load_settings(file, flags={"pipeline_cfg_file": str(pipeline)} if pipeline else None)
    ours = Path(sys.argv[0]).parts[-2:] == ("bytewax", "run.py")
    given = _command_line(sys.argv[1:] if ours else [], os.environ)
    place = given.process_id or 0
    if given.recovery_directory:
        see_whole(Path(given.recovery_directory), settings.partitions)
        hold(Path(given.recovery_directory), given.addresses or _alone(), place)
    stop_on_signals()
    health = Health("flow", *PARTS)
    # The engine runs in this process until it ends, and the server with it.
    _open.enter_context(serve(health, settings.metrics.listen, _port(place)))
    monitor = monitor_of(settings, health, alone=given.process_id is None)
    folder = Path(given.recovery_directory) if given.recovery_directory else None
    return dataflow(settings, monitor, _share(given), folder)


def run(settings: Settings, process_id: int | None = None, addresses: Sequence[str] | None = None) -> bool:
    """Run the flow in this process, with recovery, until SIGINT or SIGTERM. `addresses`: of all processes of a cluster.

    Whether it stopped at a snapshot: it does not where a sink is away, and goes on from the one before.
    """
    stop_on_signals()
    folder = settings.recovery_dir
    see_whole(folder, settings.partitions)
    hold(folder, ";".join(addresses or ()) or _alone(), process_id or 0, lambda: engine.recovery(folder))
    health = Health("flow", *PARTS)
    monitor = monitor_of(settings, health, alone=not addresses)
    if not process_id:
        # One process of a cluster is enough for what comes rarely; another cluster that shares the folder waits for its lock.
        _open.enter_context(events.in_background(settings, lambda: log_of(settings), health))
    with serve(health, settings.metrics.listen, _port(process_id or 0)), explained(folder, together=bool(addresses)):
        try:
            engine.run(
                dataflow(settings, monitor, engine.Share(process_id or 0, 1, len(addresses or ("",))), folder),
                recovery_config=engine.recovery(folder),
                epoch_interval=settings.epoch_interval,
                process_id=process_id,
                addresses=addresses,
            )
        except Stopped as error:
            _log.warning("%s; it goes on from the last snapshot", error)
            return False
        finally:
            _open.close()
    return True


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
        refused=settings.state_dir / "pipeline" / "refused.json",
    )


def dataflow(
    settings: Settings,
    monitor: Monitor | None = None,
    share: engine.Share | None = None,
    folder: Path | None = None,
) -> Dataflow:
    """The dataflow that the settings describe; `share`: the part of it that is this process's; `folder`: the recovery store."""
    plan = try_out(settings)
    monitor = monitor or monitor_of(settings, Health("flow", *PARTS))

    def make_log() -> Log:
        return log_of(settings)

    named = sorted({u for sink in plan.sinks for u in sink.publishers if resolve_publisher(u) != STORE})
    begin = partial(beginning, folder) if folder else None
    in_place = [url for url in named if publishers.is_positioned(url)]
    others = [url for url in named if url not in in_place]
    return engine.build(
        plan,
        engine.LogSource(make_log, SAMPLES, monitor, share),
        engine.OutletSink(lambda: Outlets(settings, make_log(), engine.stopping, monitor, others)),
        engine.PositionedSink(in_place, publishers.open_publisher, begin) if in_place else None,
        monitor,
        frozenset(url for url in others if publishers.delivery_of(url)[1].policy == publishers.QUEUE),
        paced=share is not None and share.workers > 1,
    )


def try_out(settings: Settings) -> Plan:
    """The plan of the pipeline that the settings name, if it can run here.

    ConfigError or MissingExtra where it cannot: it is wrong, or a publisher's secrets are not there, or its client is not installed.
    """
    plan = plan_of(settings)
    for url in sorted({u for sink in plan.sinks for u in sink.publishers}):
        if resolve_publisher(url) != STORE and not publishers.is_positioned(url):
            with suppress(Unavailable):
                secret = settings.telemetry_secret.get_secret_value()
                publishers.open_publisher(url, secret, settings.database.lifetimes).close()
    return plan


def plan_of(settings: Settings) -> Plan:
    """The plan of the pipeline that the settings name. ConfigError with every problem."""
    polling = load_polling(settings.polling_cfg_file) if settings.polling_cfg_file else None
    pipeline = load_pipeline(settings.pipeline_file(), publisher_schemes=publishers.schemes(), polling=polling)
    return compile_plan(pipeline, options_of(settings))


def options_of(settings: Settings) -> Options:
    """The settings that decide what a flow computes."""
    return Options(**{name: getattr(settings, name) for name in Options.__dataclass_fields__})


def stop_on_signals() -> None:
    """Signals end the input; the flow finishes its epoch, snapshots it and returns."""
    if current_thread() is main_thread():
        on_stop(engine.stopping.set)


def _what_is(config: str | None) -> tuple[Path | None, Path | None]:
    """(settings file, pipeline file) of an argument that may be either."""
    if config is None:
        return None, None
    path = Path(config)
    node = documents.load(path)
    if (isinstance(node.value, dict) and {"sources", "sinks"} & node.value.keys()) or isinstance(node.value, list):
        return None, path.absolute()
    return path, None


def _alone() -> str:
    """What names an execution that is one process."""
    return f"process {os.getpid()} of {time.time_ns()}"


def _command_line(arguments: Sequence[str], environment: Mapping[str, str]) -> argparse.Namespace:
    """What bytewax.run was told that concerns the recovery store and the workers. It takes the same from the environment."""
    known = argparse.ArgumentParser(add_help=False, exit_on_error=False)
    known.add_argument("-r", "--recovery-directory", default=environment.get("BYTEWAX_RECOVERY_DIRECTORY"))
    known.add_argument("-a", "--addresses", default=environment.get("BYTEWAX_ADDRESSES"))
    known.add_argument("-i", "--process-id", type=int, default=environment.get("BYTEWAX_PROCESS_ID"))
    known.add_argument("-w", "--workers-per-process", type=int, default=environment.get("BYTEWAX_WORKERS_PER_PROCESS"))
    # Named for their abbreviations: these must not be taken for one of the above.
    known.add_argument("-s", "--snapshot-interval")
    known.add_argument("-b", "--backup-interval")
    given, _ = known.parse_known_args(arguments)
    pod, its_set = environment.get("BYTEWAX_POD_NAME"), environment.get("BYTEWAX_STATEFULSET_NAME")
    if given.process_id is None and pod and its_set:
        given.process_id = int(pod.replace(f"{its_set}-", ""))
    if given.process_id is not None and given.addresses is None and "BYTEWAX_HOSTFILE_PATH" in environment:
        given.addresses = ";".join(Path(environment["BYTEWAX_HOSTFILE_PATH"]).read_text(encoding="utf-8").split())
    return given


def _share(given: argparse.Namespace) -> engine.Share:
    """This process's share; all, where it is not told both its place and who else there is: then the engine deals."""
    if given.process_id is None or not given.addresses:
        return engine.Share()
    each = given.workers_per_process or 1
    return engine.Share(given.process_id * each, each, each * len(given.addresses.split(";")))


def _port(process_id: int) -> int:
    """The place of a process's port after the one that the settings name; the next is an agent's."""
    return process_id + 1 if process_id else 0
