"""OpenStack's APIs: images, volumes, networks, load balancers, VPNs, firewalls, object storage, servers; projects and regions as discoveries.

A target is one list of a service in a region, ``openstack://REGION``; for Swift one project, by its id. Ceilometer's names of discoveries
stand for the regions, so that its polling.yaml works; `tenant`, or `project`, finds the projects.

Guarantee: reads only, and changes nothing. What the credentials may not see is missing, and said; entries that come or go while a long list is
read may be in it or not.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Collection, Iterable, Iterator
from functools import partial
from typing import Final
from urllib.parse import quote, unquote

import msgspec

from nephoscope.errors import MissingExtra, NephoscopeError, Problem
from nephoscope.settings import Settings
from sources.openstack import compute, load_balancer, network, object_storage, storage
from sources.openstack.cloud import IDENTITY, Cloud, Deadline, Service
from sources.openstack.failures import NotConfigured, check_status
from sources.openstack.listing import Listing, decoded
from sources.pollster import Meter, Pollster, Reading, System

_log = logging.getLogger(__name__)
_SCHEME: Final = "openstack://"
_PROJECT: Final = re.compile(r"[0-9a-f]{32}|[0-9a-f]{64}")
"""Keystone's ids: of its own projects, and of those of another directory."""
_GRACE: Final = 5.0
LISTINGS: Final[tuple[Listing, ...]] = (
    *storage.LISTINGS, *network.LISTINGS, *load_balancer.LISTINGS, *compute.LISTINGS,
)  # fmt: skip
_PROBES: Final = (
    *((frozenset(m.name for m, _ in listing.meters), listing) for listing in LISTINGS),
    (frozenset(m.name for m in load_balancer.MEMBER_METERS), load_balancer.POOLS),
    (frozenset(m.name for m in load_balancer.STATISTICS_METERS), load_balancer.LOAD_BALANCERS),
)
"""The meters of a list, and what `check` asks for them."""
REGIONS: Final = (
    "openstack_regions",
    # Ceilometer's, of all its times.
    "endpoint", "images", "volumes", "volume_snapshots", "volume_backups", "volume_pools", "fip_services", "vpn_services",
    "ipsec_connections", "fw_services", "fw_policy", "lb_services", "lb_loadbalancers", "lb_listeners", "lb_pools",
    "lb_members", "lb_health_probes", "lb_vips",
)  # fmt: skip
"""The names of the discovery of regions."""
PROJECTS: Final = ("tenant", "project")
"""The names of the discovery of projects."""
Read = Callable[[Service, Collection[str], Deadline], Iterator[Reading]]


def openstack(settings: Settings) -> System:
    """The APIs of the cloud that the settings name."""
    return _OpenStack(settings).system()


def target_of(region: str) -> str:
    """The target that stands for a region."""
    return _SCHEME + quote(region, safe="")


def is_region(resource: str) -> bool:
    """Whether a resource that a source names is a region."""
    return resource.startswith(_SCHEME)


def is_project(resource: str) -> bool:
    """Whether a resource that a source names is a project's id."""
    return _PROJECT.fullmatch(resource) is not None


class _Projects(msgspec.Struct):
    """An answer of Keystone's. `truncated`: it gives no more than its list_limit."""

    class Project(msgspec.Struct):
        id: str

    class Links(msgspec.Struct):
        next: str | None = None

    projects: list[Project]
    links: Links = msgspec.field(default_factory=Links)
    truncated: bool = False


class _OpenStack:
    def __init__(self, settings: Settings) -> None:
        self._settings = settings.openstack
        self._cloud = Cloud(settings.openstack)
        self._decode = msgspec.json.Decoder(_Projects).decode
        self._told: set[str] = set()

    def system(self) -> System:
        pollsters = [
            self._pollster(listing.name, listing.service, tuple(m for m, _ in listing.meters), listing.read)
            for listing in LISTINGS
        ]
        balancer = "load-balancer"
        pollsters += [
            self._pollster("openstack.members", balancer, load_balancer.MEMBER_METERS, load_balancer.read_members),
            self._pollster(
                "openstack.loadbalancer_statistics",
                balancer,
                load_balancer.STATISTICS_METERS,
                load_balancer.read_statistics,
            ),
            Pollster(
                "openstack.accounts",
                object_storage.METERS,
                self._read_account,
                discovery=PROJECTS[0],
                takes=is_project,
                timeout=self._settings.listing_timeout + _GRACE,
            ),
        ]
        discoveries = dict.fromkeys(REGIONS, self._find_regions) | dict.fromkeys(PROJECTS, self._find_projects)
        return System(tuple(pollsters), discoveries, self._check, self._cloud.close)

    def _pollster(self, name: str, kind: str, meters: tuple[Meter, ...], read: Read) -> Pollster:
        def poll(resource: str, meters: Collection[str]) -> Iterable[Reading]:
            service = self._cloud.service(unquote(resource.removeprefix(_SCHEME)), kind)
            return () if service is None else read(service, meters, Deadline(self._settings.listing_timeout))

        poll.__doc__ = f"OpenStack's {name.partition('.')[2].replace('_', ' ')}, by the API of the service {kind}."
        return Pollster(
            name,
            meters,
            poll,
            discovery=REGIONS[0],
            takes=is_region,
            timeout=self._settings.listing_timeout + _GRACE,
        )

    def _read_account(self, project: str, meters: Collection[str]) -> Iterator[Reading]:
        """OpenStack's object storage, a project at a time, by Swift's API."""
        deadline = Deadline(self._settings.listing_timeout)
        failed: list[NephoscopeError] = []
        endpoints: set[str] = set()
        for number, region in enumerate(self._cloud.regions()):
            try:
                service = self._cloud.service(region, "object-store")
                if service is None:
                    continue
                if service.endpoint in endpoints:
                    continue  # One Swift for several regions.
                endpoints.add(service.endpoint)
                suffix = f"@{region}" if number else ""
                prefix = self._settings.reseller_prefix
                yield from object_storage.read_account(service, project, meters, deadline, prefix=prefix, suffix=suffix)
            except NephoscopeError as error:
                failed.append(error)
        if failed:
            raise failed[0]

    def _find_regions(self, _parameter: str) -> Iterable[str]:
        """The regions of the cloud."""
        return [target_of(region) for region in self._found(self._cloud.regions)]

    def _find_projects(self, domain: str) -> Iterable[str]:
        """The projects of the cloud, or of the domain whose id is the parameter."""
        return self._found(partial(self._projects, domain))

    def _found(self, find: Callable[[], list[str]]) -> list[str]:
        """What is found; nothing where there is no cloud, which is said once."""
        try:
            return find()
        except (MissingExtra, NotConfigured) as error:
            if str(error) not in self._told:
                self._told.add(str(error))
                _log.warning("nothing is polled of OpenStack: %s", error)
            return []

    def _projects(self, domain: str) -> list[str]:
        region = self._cloud.regions()[0]
        service = self._cloud.service(region, IDENTITY)
        if service is None:
            return []
        deadline = Deadline(self._settings.listing_timeout)
        url, params = "/projects", {"domain_id": domain} if domain else {}
        found: list[str] = []
        while True:
            response = service.get(url, params, deadline=deadline)
            check_status(response, service.where, "/projects")
            page = decoded(self._decode, response.content, service, "/projects")
            found += [p.id for p in page.projects]
            if page.truncated and not page.links.next:
                self._cloud.left_out(
                    region, f"more projects than the {len(found)} that Keystone's list_limit lets it tell"
                )
            if not page.links.next or not page.projects:
                return list(dict.fromkeys(found))
            params["marker"] = page.projects[-1].id

    def _check(self, meters: Collection[str]) -> Iterator[Problem]:
        """Authenticate, and ask for one entry of each list that is wanted, and for one account."""
        wanted = set(meters)
        try:
            regions = self._cloud.regions()
            if wanted.intersection(m.name for m in object_storage.METERS):
                for project in self._projects("")[:1]:
                    list(self._read_account(project, {object_storage.METERS[0].name}))
        except NephoscopeError as error:
            yield Problem(str(error), field="openstack")
            return
        for region in regions:
            for names, listing in _PROBES:
                if wanted.isdisjoint(names):
                    continue
                try:
                    service = self._cloud.service(region, listing.service)
                    if service is not None:
                        listing.try_out(service, Deadline(self._settings.timeout))
                except NephoscopeError as error:
                    yield Problem(str(error), field="openstack")
