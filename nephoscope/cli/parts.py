"""Where the rooms are joined: the parts that the settings name, found through the registry and opened."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import cast

from nephoscope import publishers, registry
from nephoscope.errors import ConfigError, Problem, TopicError
from nephoscope.lifetimes import Lifetimes
from nephoscope.pipeline import Pipeline, Polling, load_pipeline, load_polling, polling_of
from nephoscope.settings import Settings, shipped
from nephoscope.store import OpenStore, Store
from nephoscope.topics import Log


def prepare_state(settings: Settings) -> None:
    """Make the state folder, for us alone, where there is none."""
    try:
        settings.state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise TopicError(f"cannot make state_dir {settings.state_dir}: {error.strerror}") from None


def known_schemes() -> set[str]:
    """The schemes of publishers that a pipeline may name."""
    return publishers.schemes()


@contextmanager
def open_store(settings: Settings, lifetimes: Lifetimes | None = None) -> Iterator[Store]:
    """The store of samples, closed in the end. `lifetimes`: what it is to take up; who only asks changes nothing."""
    prepare_state(settings)
    opened: OpenStore = registry.load_for(registry.STORE, settings.store_url)
    store = opened(settings.store_url, lifetimes)
    try:
        yield store
    finally:
        store.close()


@contextmanager
def open_log(settings: Settings) -> Iterator[Log]:
    """The log that samples travel on, closed in the end. TopicError where it has another partition count."""
    prepare_state(settings)
    log = cast("Log", registry.load_for(registry.LOG, settings.log.url)(settings))
    try:
        yield log
    finally:
        log.close()


def load_polling_and_pipeline(settings: Settings, namespaces: Collection[str] = ()) -> tuple[Pipeline, Polling]:
    """The pipeline that the settings name, and the polling: that of a polling.yaml, else the pipeline's own, else what ships.

    What ships for `namespaces` is what a cloud would poll; without any, this host. Raises ConfigError with the problems of both files.
    """
    problems: list[Problem] = []
    polling = None
    if settings.polling_cfg_file is not None:
        try:
            polling = load_polling(settings.polling_cfg_file)
        except ConfigError as error:
            problems += error.problems
    try:
        pipeline = load_pipeline(settings.pipeline_file(), publisher_schemes=known_schemes(), polling=polling)
    except ConfigError as error:
        raise ConfigError([*problems, *error.problems]) from None
    if problems:
        raise ConfigError(problems)
    if polling is None:
        polling = polling_of(pipeline) if pipeline.polling_from_pipeline else _shipped_polling(namespaces)
    return pipeline, polling


def _shipped_polling(namespaces: Collection[str]) -> Polling:
    files = [file for n in sorted(namespaces) if (file := shipped(f"polling-{n}.yaml")).is_file()]
    if not files:
        return load_polling(shipped("polling.yaml"))
    found = [load_polling(file) for file in files]
    return Polling(tuple(s for p in found for s in p.sources), found[0].file)
