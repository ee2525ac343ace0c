"""Listings: what one list of a service is asked for, and the readings of its entries.

A list is read page by page (limit and marker), of each entry only the fields that a reading needs, straight from the bytes of the answer.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any, Final

import msgspec

from sources.openstack.cloud import Deadline, Service
from sources.openstack.failures import CloudError, check_status
from sources.pollster import Meter, Reading

_STEPS_BACK: Final = 3
"""How often a marker that is not known (it was deleted meanwhile) is replaced by the entry before it."""
Volume = Callable[[Any], float | None]
"""The volume of a meter, given an entry; None: there is nothing to measure."""


def one(_entry: Any) -> float:
    """The volume of a meter that says that something is there."""
    return 1.0


@dataclass(eq=False)
class Listing:
    """One list of a service.

    Args:
        name: of its pollster.
        service: its official type.
        path, key: where the list is asked for, and the member of the answer that it stands in.
        meters: what an entry gives.
        metadata: the names of an entry's metadata, two at least, and the fields that they are.
        more: what else of an entry stands in its metadata; it may change what is there.
        extra: further fields that volumes and `more` need.
        identity, owner, user: the fields that are resource, project and user; of several the first that is there.
        params: of the request.
        paged: whether the service takes limit and marker.
        selects: whether it can be told which fields to give.
        extension: what is missing where the path is not known; '': that is an error.
        microversion: the newest to use.

    """

    name: str
    service: str
    path: str
    key: str
    meters: tuple[tuple[Meter, Volume], ...]
    metadata: Mapping[str, str]
    more: Callable[[Any, dict[str, Any]], None] | None = None
    extra: tuple[str, ...] = ()
    identity: str = "id"
    owner: tuple[str, ...] = ("project_id", "tenant_id")
    user: tuple[str, ...] = ()
    params: Mapping[str, Any] = field(default_factory=dict)
    paged: bool = True
    selects: bool = False
    extension: str = ""
    microversion: str = ""

    def __post_init__(self) -> None:
        """Make the type that an answer is decoded into: what is not needed of it becomes no object."""
        others = dict.fromkeys((*self.owner, *self.user, *self.metadata.values(), *self.extra))
        others.pop(self.identity, None)
        self.fields = (self.identity, *others)
        entry = msgspec.defstruct(
            "Entry",
            [(attribute(self.identity), str), *((attribute(f), Any, None) for f in others)],
            rename={attribute(f): f for f in self.fields},
        )
        page = msgspec.defstruct(
            "Page",
            [("entries", list[entry]), ("links", list[Any], []), ("next", Any, None)],  # type: ignore[valid-type]
            rename={"entries": self.key, "links": f"{self.key}_links"},
        )
        self._decode = msgspec.json.Decoder(page).decode
        self._identity = attrgetter(attribute(self.identity))
        self._values = attrgetter(*map(attribute, self.metadata.values()))

    def read(self, service: Service, meters: Collection[str], deadline: Deadline) -> Iterator[Reading]:
        """The readings of all entries, as far as it gets: it raises CloudError or PermanentError after what it could read."""
        wanted = [(meter, volume) for meter, volume in self.meters if meter.name in meters]
        for entry in self.entries(service, deadline):
            yield from self.readings(entry, wanted)

    def readings(self, entry: Any, wanted: Iterable[tuple[Meter, Volume]]) -> Iterator[Reading]:
        """Those of one entry. They share one metadata object."""
        about, identity = self.about(entry), self._identity(entry)
        owner, user = first(entry, self.owner), first(entry, self.user)
        for meter, volume in wanted:
            value = volume(entry)
            if value is not None:
                yield Reading(meter, value, identity, about, user, owner)

    def about(self, entry: Any) -> dict[str, Any]:
        """The metadata of an entry, without what is null."""
        about = {
            name: value for name, value in zip(self.metadata, self._values(entry), strict=True) if value is not None
        }
        if self.more is not None:
            self.more(entry, about)
        return about

    def entries(self, service: Service, deadline: Deadline, path: str = "") -> Iterator[Any]:
        """All entries of the list (of another path, if one is given), page by page."""
        limit = service.page_size
        before: list[str] = []
        marker = ""
        while True:
            response = self._ask(service, deadline, limit, marker, path)
            status = response.status_code
            if status in {400, 404} and before:
                # The last entry of the page before is gone: go on after the one before it.
                marker = before.pop()
                continue
            if status == 404 and self.extension:
                service.left_out(self.extension)
                return
            if status == 404 and path:
                return  # What it is the list of was deleted.
            page = self._page(service, response)
            yield from page.entries
            last = self._identity(page.entries[-1]) if page.entries else ""
            more = page.links or page.next or len(page.entries) == limit
            if not self.paged or not last or not more:
                return
            if last == marker:
                raise CloudError(f"{service.where}: {self.path} gives one page again and again")
            before = [self._identity(e) for e in page.entries[-1 - _STEPS_BACK : -1]]
            marker = last

    def try_out(self, service: Service, deadline: Deadline) -> None:
        """Ask for one entry. Raises as `read` does."""
        response = self._ask(service, deadline, 1, "", "")
        if response.status_code == 404 and self.extension:
            service.left_out(self.extension)
        else:
            self._page(service, response)

    def _ask(self, service: Service, deadline: Deadline, limit: int, marker: str, path: str) -> Any:
        params: dict[str, Any] = dict(self.params)
        if self.selects:
            params["fields"] = list(self.fields)
        if self.paged:
            params["limit"] = limit
        if marker:
            params["marker"] = marker
        return service.get(path or self.path, params, deadline=deadline, microversion=self.microversion)

    def _page(self, service: Service, response: Any) -> Any:
        check_status(response, service.where, self.path)
        return decoded(self._decode, response.content, service, self.path)


def attribute(name: str) -> str:
    """The attribute that a field of an answer becomes: ``os-vol-host-attr:host`` is os_vol_host_attr_host."""
    return re.sub(r"\W", "_", name)


def first(entry: Any, fields: Iterable[str]) -> str:
    """The first of these fields that says something."""
    for name in fields:
        value = getattr(entry, attribute(name))
        if value:
            return str(value)
    return ""


def decoded(decode: Callable[[bytes], Any], content: bytes, service: Service, what: str) -> Any:
    """An answer's body; CloudError where it is not what it should be."""
    try:
        return decode(content)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise CloudError(f"{service.where}: the answer to {what} is not what is documented: {error}") from None
