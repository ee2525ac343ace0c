"""The door of a service of OpenStack: its end point from the catalogue, and requests by the session that reads all its other lists."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final
from urllib.parse import unquote

from sources.dynamic.model import Request
from sources.dynamic.secrets import shown
from sources.dynamic.web import AskError, Door, NothingThere, OpenDoor, Reply
from sources.openstack.cloud import Cloud, Service

REGIONS: Final = "openstack_regions"
"""The discovery of the targets, a region each: sources/openstack."""
_CHUNK: Final = 1 << 14


class CloudDoor:
    """Sends requests to a service of a region. A token that is refused is renewed by the session, and the request sent again."""

    def __init__(self, service: Service) -> None:
        self.base = service.endpoint
        self._service = service

    @contextmanager
    def ask(self, url: str, headers: Mapping[str, str], wait: float) -> Iterator[Reply]:
        """Send a GET request."""
        response = self._service.open(url, headers, wait)
        try:
            names = {k.lower(): v for k, v in response.headers.items()}
            yield Reply(response.status_code, response.reason or "", names, response.iter_content(_CHUNK))
        except OSError as error:  # requests' own errors are such
            raise AskError(f"{shown(url)}: {str(error)[:200] or type(error).__name__}") from None
        finally:
            response.close()


def opener(cloud: Cloud) -> OpenDoor:
    """What opens the doors of this cloud."""

    @contextmanager
    def open_door(request: Request, _url: str, resource: str) -> Iterator[Door]:
        region = unquote(resource.partition("://")[2])
        service = cloud.service(region, request.endpoint_type)
        if service is None:
            raise NothingThere(f"{region} has no {request.endpoint_type} in its catalogue")
        yield CloudDoor(service)

    return open_door
