"""Octavia's load balancers, listeners, pools, members and health monitors, under the names that Ceilometer gave those of Neutron.

The volume is the operating status as a number (STATUS, Ceilometer's of LBaaS v2); an entry of another status gives none. What has a status
of its own with Ceilometer's newest names, `loadbalancer.operating` and `loadbalancer.provisioning`, is given as well.

Members and statistics are asked for one parent at a time: Octavia has no list of them. One that fails leaves the others as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any, Final

import msgspec

from nephoscope.errors import NephoscopeError
from nephoscope.sample import CUMULATIVE, GAUGE
from sources.openstack.cloud import Deadline, Service
from sources.openstack.failures import check_status
from sources.openstack.listing import Listing, Volume, decoded, one
from sources.pollster import Meter, Reading

STATUS: Final = {
    "offline": 0,
    "online": 1,
    "draining": 2,
    "no_monitor": 3,
    "error": 4,
    "degraded": 5,
    "disabled": 6,
}
"""Ceilometer's numbers; it had none for DRAINING, and gave no sample then."""
OPERATING: Final = {"online": 1, "draining": 2, "offline": 3, "degraded": 4, "error": 5, "no_monitor": 6}
PROVISIONING: Final = {
    "active": 1,
    "deleted": 2,
    "error": 3,
    "pending_create": 4,
    "pending_update": 5,
    "pending_delete": 6,
}
"""The numbers of `loadbalancer.operating` and `loadbalancer.provisioning`."""


def _status(field: str, numbers: dict[str, int]) -> Volume:
    def volume(entry: Any) -> float | None:
        return numbers.get(str(getattr(entry, field)).lower())

    return volume


_STATE: Final = _status("operating_status", STATUS)


def _listing(
    name: str,
    meters: tuple[tuple[Meter, Volume], ...],
    fields: tuple[str, ...],
    *,
    path: str = "",
    key: str = "",
    extra: tuple[str, ...] = ("operating_status",),
) -> Listing:
    return Listing(
        name=f"openstack.{name}",
        service="load-balancer",
        path=path or f"/lbaas/{name}",
        key=key or name,
        meters=meters,
        metadata={field: field for field in fields},
        extra=extra,
    )


def _meter(what: str, description: str) -> Meter:
    return Meter(f"network.services.lb.{what}", GAUGE, what, f"{what} ID", description)


LOAD_BALANCERS: Final = _listing(
    "loadbalancers",
    (
        (_meter("loadbalancer", "Operating status of the load balancer, as a number"), _STATE),
        (
            Meter(
                "loadbalancer.operating",
                GAUGE,
                "status",
                "loadbalancer ID",
                "Operating status of the load balancer, as Ceilometer numbers it from 2026 on",
            ),
            _status("operating_status", OPERATING),
        ),
        (
            Meter(
                "loadbalancer.provisioning",
                GAUGE,
                "status",
                "loadbalancer ID",
                "Provisioning status of the load balancer, as a number",
            ),
            _status("provisioning_status", PROVISIONING),
        ),
    ),
    (
        "name", "description", "admin_state_up", "operating_status", "provisioning_status", "provider", "flavor_id",
        "availability_zone", "vip_address", "vip_port_id", "vip_subnet_id", "created_at",
    ),
)  # fmt: skip
LISTENERS: Final = _listing(
    "listeners",
    ((_meter("listener", "Operating status of the load balancer's listener, as a number"), _STATE),),
    (
        "name", "description", "admin_state_up", "operating_status", "protocol", "protocol_port", "connection_limit",
        "default_pool_id", "loadbalancers",
    ),
)  # fmt: skip
POOLS: Final = _listing(
    "pools",
    ((_meter("pool", "Operating status of the load balancer's pool, as a number"), _STATE),),
    (
        "name", "description", "admin_state_up", "operating_status", "protocol", "lb_algorithm", "loadbalancers",
        "listeners", "healthmonitor_id",
    ),
)  # fmt: skip
HEALTH_MONITORS: Final = _listing(
    "healthmonitors",
    (
        (
            Meter(
                "network.services.lb.health_monitor",
                GAUGE,
                "health_monitor",
                "health monitor ID",
                "Existence of the health monitor of a load balancer's pool",
            ),
            one,
        ),
    ),
    ("name", "type", "admin_state_up", "operating_status", "delay", "timeout", "max_retries", "pools"),
)
LISTINGS: Final = (LOAD_BALANCERS, LISTENERS, POOLS, HEALTH_MONITORS)

_WITH_MEMBERS: Final = _listing("pools", (), ("name", "id"), extra=("members",))
_MEMBERS: Final = _listing(
    "members",
    ((_meter("member", "Operating status of a member of the load balancer's pool, as a number"), _STATE),),
    ("name", "address", "protocol_port", "weight", "admin_state_up", "operating_status", "subnet_id"),
    path="/lbaas/pools/{}/members",
)
MEMBER_METERS: Final = tuple(meter for meter, _ in _MEMBERS.meters)

_STATISTICS: Final = {
    "active_connections": Meter(
        "network.services.lb.active.connections",
        GAUGE,
        "connection",
        "loadbalancer ID",
        "Connections that the load balancer has open",
    ),
    "total_connections": Meter(
        "network.services.lb.total.connections",
        CUMULATIVE,
        "connection",
        "loadbalancer ID",
        "Connections that the load balancer has taken",
    ),
    "bytes_in": Meter(
        "network.services.lb.incoming.bytes", CUMULATIVE, "B", "loadbalancer ID", "Received by the load balancer"
    ),
    "bytes_out": Meter(
        "network.services.lb.outgoing.bytes", CUMULATIVE, "B", "loadbalancer ID", "Sent by the load balancer"
    ),
}
STATISTICS_METERS: Final = tuple(_STATISTICS.values())


class _Answer(msgspec.Struct):
    stats: dict[str, int]


_decode_statistics = msgspec.json.Decoder(_Answer).decode


def read_members(service: Service, meters: Collection[str], deadline: Deadline) -> Iterator[Reading]:
    """Octavia's members of load balancers' pools: their operating status."""
    wanted = [(meter, volume) for meter, volume in _MEMBERS.meters if meter.name in meters]

    def of(pool: Any) -> Iterator[Reading]:
        for member in _MEMBERS.entries(service, deadline, _MEMBERS.path.format(pool.id)):
            for reading in _MEMBERS.readings(member, wanted):
                reading.metadata["pool_id"] = pool.id  # type: ignore[index]
                yield reading

    pools = (pool for pool in _WITH_MEMBERS.entries(service, deadline) if pool.members)
    return _each(pools, of, "pools")


def read_statistics(service: Service, meters: Collection[str], deadline: Deadline) -> Iterator[Reading]:
    """Octavia's statistics of each load balancer: connections and bytes."""

    def of(balancer: Any) -> Iterator[Reading]:
        path = f"/lbaas/loadbalancers/{balancer.id}/stats"
        response = service.get(path, deadline=deadline)
        if response.status_code == 404:
            return  # Deleted since the list was read.
        check_status(response, service.where, path)
        found = decoded(_decode_statistics, response.content, service, path).stats
        about = LOAD_BALANCERS.about(balancer)
        for field, meter in _STATISTICS.items():
            if field in found and meter.name in meters:
                yield Reading(meter, found[field], balancer.id, about, project_id=balancer.project_id or "")

    return _each(LOAD_BALANCERS.entries(service, deadline), of, "load balancers")


def _each(parents: Iterable[Any], read: Callable[[Any], Iterator[Reading]], what: str) -> Iterator[Reading]:
    """What is read of each parent; the first error is told at the end, with how many there were."""
    failed: list[NephoscopeError] = []
    count = 0
    for parent in parents:
        count += 1
        try:
            yield from read(parent)
        except NephoscopeError as error:
            failed.append(error)
    if failed:
        raise type(failed[0])(f"{failed[0]} ({len(failed)} of {count} {what})")
