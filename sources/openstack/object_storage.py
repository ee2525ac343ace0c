"""Swift's accounts and containers, a project at a time: one HEAD, or one GET a page where containers are asked for.

Names, types and units are Ceilometer's; resources are the project, and project/container.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any, Final

import msgspec

from nephoscope.sample import GAUGE
from sources.openstack.cloud import Deadline, Service
from sources.openstack.failures import CloudError, check_status
from sources.openstack.listing import decoded
from sources.pollster import Meter, Reading

_ACCOUNT: Final = {
    "X-Account-Object-Count": Meter("storage.objects", GAUGE, "object", "project ID", "Objects of the project"),
    "X-Account-Bytes-Used": Meter("storage.objects.size", GAUGE, "B", "project ID", "Size of the project's objects"),
    "X-Account-Container-Count": Meter(
        "storage.objects.containers", GAUGE, "container", "project ID", "Containers of the project"
    ),
}
_OBJECTS: Final = Meter(
    "storage.containers.objects", GAUGE, "object", "project ID/container", "Objects in the container"
)
_SIZE: Final = Meter(
    "storage.containers.objects.size", GAUGE, "B", "project ID/container", "Size of the container's objects"
)
METERS: Final = (*_ACCOUNT.values(), _OBJECTS, _SIZE)
_PAGE: Final = 10_000
"""Swift's own limit, unless it is configured lower."""


class _Container(msgspec.Struct):
    name: str
    count: int
    bytes: int
    storage_policy: str | None = None


_decode = msgspec.json.Decoder(list[_Container]).decode


def account_url(endpoint: str, prefix: str, project: str) -> str:
    """The account of a project, whatever project the end point in the catalogue is of: Ceilometer's rule."""
    return f"{endpoint.partition('/v1')[0].rstrip('/')}/v1/{prefix}{project}"


def read_account(
    service: Service, project: str, meters: Collection[str], deadline: Deadline, *, prefix: str, suffix: str = ""
) -> Iterator[Reading]:
    """The readings of a project's account. `suffix` sets its resources apart from those of the same project elsewhere."""
    url = account_url(service.endpoint, prefix, project)
    resource = project + suffix
    listing = _OBJECTS.name in meters or _SIZE.name in meters
    marker = ""
    while True:
        params: dict[str, Any] = {"format": "json", "limit": _PAGE} if listing else {}
        if marker:
            params["marker"] = marker
        response = service.get(url, params, deadline=deadline, method="GET" if listing else "HEAD")
        if response.status_code == 404:
            return  # A project that has never stored anything has no account.
        check_status(response, service.where, f"the account of project {project}")
        if not marker:
            yield from _account(response, service, project, resource, meters)
        containers = (
            decoded(_decode, response.content, service, f"the account of project {project}")
            if listing and response.status_code != 204
            else []
        )
        for container in containers:
            about = {"storage_policy": container.storage_policy} if container.storage_policy else {}
            where = f"{resource}/{container.name}"
            if _OBJECTS.name in meters:
                yield Reading(_OBJECTS, container.count, where, about, project_id=project)
            if _SIZE.name in meters:
                yield Reading(_SIZE, container.bytes, where, about, project_id=project)
        if not containers:
            return
        if containers[-1].name == marker:
            raise CloudError(f"{service.where}: the account of project {project} gives one page again and again")
        marker = containers[-1].name


def _account(
    response: Any, service: Service, project: str, resource: str, meters: Collection[str]
) -> Iterator[Reading]:
    about: dict[str, Any] = {}
    for header, meter in _ACCOUNT.items():
        if meter.name not in meters:
            continue
        try:
            volume = int(response.headers[header])
        except (KeyError, ValueError):
            raise CloudError(f"{service.where}: the account of project {project} tells no {header}") from None
        yield Reading(meter, volume, resource, about, project_id=project)
