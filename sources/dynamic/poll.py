"""One request, with all its pages, for all the definitions that read its answer."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from typing import Final

from nephoscope.errors import MissingExtra, NephoscopeError
from nephoscope.metrics import Counts
from sources.dynamic.entries import Enrich, Measure, Tally, Viewed
from sources.dynamic.extra import Extras, Headers
from sources.dynamic.model import Definition, Extra, Request
from sources.dynamic.secrets import hide, is_referenced, is_telling, resolve, shown, values_of
from sources.dynamic.web import AskError, Deadline, Door, NothingThere, OpenDoor, pages
from sources.pollster import PermanentError, Reading

_PAGES: Final = 10
"""An answer of several pages, or one that needs other requests, may take so many times the timeout of one."""
_ACCEPT: Final = {"json": "application/json", "xml": "application/xml", "text": "text/plain"}


class Poll:
    """Entries of an API's answer, by a definition of one's own."""

    def __init__(self, definitions: Sequence[Definition], open_door: OpenDoor) -> None:
        self.definitions = tuple(definitions)
        self.request = definitions[0].request
        self._open_door = open_door
        self._views: list[Viewed] = []
        for definition in definitions:
            measure = Measure(definition)
            same = next((v for v in self._views if v.view == definition.view), None)
            if same is None:
                self._views.append(Viewed(definition.view, [measure]))
            else:
                same.measures += (measure,)
        self._extras = [Extras(v.view.extra) if v.view.extra else None for v in self._views]
        self._keys = _keys_of(self.definitions)
        several = self.request.next_url is not None or any(e is not None for e in self._extras)
        self.seconds = self.request.timeout * (_PAGES if several else 1)
        """Within these a poll is over."""
        self.place = shown(self.request.url_path)
        """The target where there is but one: the URL without what must not be told."""
        self._counts = Counts("dynamic")

    def __call__(self, resource: str, meters: Collection[str]) -> Iterator[Reading]:
        """Ask, and read each page's entries. What is wrong with some of them is raised when the others were given."""
        tally = Tally()
        secrets: list[str] = []
        try:
            yield from self._read(resource, meters, tally, secrets)
        except NothingThere:
            return
        except NephoscopeError as error:
            said = hide(str(error), secrets)
            raise (PermanentError if isinstance(error, PermanentError | MissingExtra) else AskError)(said) from None
        finally:
            self._counts.received(tally.entries)
            if tally.no_volume:
                self._counts.dropped(tally.no_volume, "no_volume")
            for reason, count in tally.bad.items():
                self._counts.dropped(count, reason)
        if tally.bad:
            raise AskError(hide(tally.words(), secrets))

    def try_out(self, resource: str) -> None:
        """Ask for the first page. Raises as a poll does."""
        secrets: list[str] = []
        try:
            with ExitStack() as doors:
                url, headers = _resolved(self.request, secrets)
                door = doors.enter_context(self._open_door(self.request, url, resource))
                next(pages(door, self.request, url, dict(headers), Deadline(self.request.timeout)))
        except NothingThere:
            return
        except NephoscopeError as error:
            raise AskError(hide(str(error), secrets)) from None

    def _read(self, resource: str, meters: Collection[str], tally: Tally, secrets: list[str]) -> Iterator[Reading]:
        request = self.request
        deadline = Deadline(self.seconds)
        with ExitStack() as doors:
            url, headers = _resolved(request, secrets)
            door = doors.enter_context(self._open_door(request, url, resource))
            chosen = []
            for viewed, extras in zip(self._views, self._extras, strict=True):
                asked = viewed.of(meters)
                if asked is not None:
                    enrich = None
                    if extras is not None:
                        enrich = self._enrich(extras, doors, resource, door, deadline, tally, secrets)
                    chosen.append((asked, enrich))
            for entries in pages(door, request, url, dict(headers), deadline, self._keys):
                tally.entries += len(entries)
                for asked, enrich in chosen:
                    yield from asked.readings(entries, tally, enrich)

    def _enrich(
        self,
        extras: Extras,
        doors: ExitStack,
        resource: str,
        door: Door,
        deadline: Deadline,
        tally: Tally,
        secrets: list[str],
    ) -> Enrich:
        opened: dict[str, Door] = {self.request.endpoint_type: door}
        resolved: dict[int, Headers] = {}

        def door_of(extra: Extra) -> tuple[Door, Headers]:
            kind = extra.request.endpoint_type
            if kind not in opened:
                opened[kind] = doors.enter_context(self._open_door(extra.request, extra.request.url_path, resource))
            if id(extra) not in resolved:
                resolved[id(extra)] = _resolved(extra.request, secrets)[1]
            return opened[kind], resolved[id(extra)]

        return extras.for_poll(door_of, deadline, tally)


def _keys_of(definitions: Sequence[Definition]) -> frozenset[str] | None:
    """The members of an entry that some definitions read; None where that may be any."""
    read = []
    for definition in definitions:
        view = definition.view
        value = definition.value if definition.items is None else definition.items
        read += [value, view.user, view.project, view.resource, *(attribute for _, attribute in view.metadata.fields)]
        if view.extra or (definition.by and definition.items is None):
            return None
    return frozenset(a.keys[0] for a in read) if all(a.keys for a in read) else None


def _resolved(request: Request, secrets: list[str]) -> tuple[str, Headers]:
    """URL and headers with their references replaced; what must not be told is added to the secrets."""
    headers = {"Accept": _ACCEPT[request.handlers[0]]} | {k: resolve(v) for k, v in request.headers}
    for text in (request.url_path, *(v for _, v in request.headers), *request.parameters):
        secrets += values_of(text)
    for parameter in request.parameters:
        secrets += [part.strip() for part in resolve(parameter).split(",")] if is_referenced(parameter) else [parameter]
    secrets += [v for k, v in headers.items() if is_telling(k)]
    return resolve(request.url_path), tuple(headers.items())


def open_web(request: Request, url: str, _resource: str) -> AbstractContextManager[Door]:
    """The door of a whole URL."""
    try:
        from sources.dynamic.door import WebDoor
    except ModuleNotFoundError:
        raise MissingExtra("a dynamic pollster", "http") from None
    parameters = [resolve(p) for p in request.parameters]
    if len(parameters) == 1 and is_referenced(request.parameters[0]):
        parameters = [p.strip() for p in parameters[0].split(",")]
    return WebDoor(url, request.authentication, parameters)
