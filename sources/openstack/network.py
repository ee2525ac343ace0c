"""Neutron's networks, subnets, ports, routers and floating IPs; VPNaaS and FWaaS where Neutron has them.

Names and types are Ceilometer's. The volume of what it knew from notifications alone is 1, as there. Of VPN services and firewalls it is the
status as a number (STATUS), as there: -1 for one that it does not know.
"""

from __future__ import annotations

from typing import Any, Final

from nephoscope.sample import GAUGE
from sources.openstack.listing import Listing, Volume, one
from sources.pollster import Meter

STATUS: Final = {
    "inactive": 0,
    "active": 1,
    "pending_create": 2,
    "down": 3,
    "created": 4,
    "pending_update": 5,
    "pending_delete": 6,
    "error": 7,
}
"""Ceilometer's numbers for the states of network services."""


def status(entry: Any) -> float:
    """The state of a network service as a number."""
    return STATUS.get(str(entry.status).lower(), -1)


def _listing(
    name: str,
    meter: Meter,
    fields: tuple[str, ...],
    *,
    volume: Volume = one,
    path: str = "",
    key: str = "",
    extension: str = "",
) -> Listing:
    return Listing(
        name=f"openstack.{name}",
        service="network",
        path=path or f"/{name}",
        key=key or name,
        meters=((meter, volume),),
        metadata={field: field for field in fields},
        selects=True,
        extension=extension,
    )


LISTINGS: Final = (
    _listing(
        "networks",
        Meter("network", GAUGE, "network", "network ID", "Existence of the network"),
        (
            "name", "status", "admin_state_up", "shared", "router:external", "provider:network_type",
            "provider:physical_network", "provider:segmentation_id", "mtu", "created_at",
        ),
    ),
    _listing(
        "subnets",
        Meter("subnet", GAUGE, "subnet", "subnet ID", "Existence of the subnet"),
        ("name", "network_id", "cidr", "ip_version", "gateway_ip", "enable_dhcp", "subnetpool_id", "created_at"),
    ),
    _listing(
        "ports",
        Meter("port", GAUGE, "port", "port ID", "Existence of the port"),
        (
            "name", "status", "admin_state_up", "network_id", "mac_address", "fixed_ips", "device_id", "device_owner",
            "binding:host_id", "created_at",
        ),
    ),
    _listing(
        "routers",
        Meter("router", GAUGE, "router", "router ID", "Existence of the router"),
        ("name", "status", "admin_state_up", "external_gateway_info", "distributed", "ha", "created_at"),
    ),
    _listing(
        "floating_ips",
        Meter("ip.floating", GAUGE, "ip", "floating IP ID", "Existence of the floating IP"),
        (
            "status", "router_id", "floating_network_id", "floating_ip_address", "fixed_ip_address", "port_id", "created_at",
        ),
        path="/floatingips",
        key="floatingips",
    ),
    _listing(
        "vpn_services",
        Meter("network.services.vpn", GAUGE, "vpnservice", "VPN service ID", "State of the VPN service, as a number"),
        (
            "name", "description", "status", "admin_state_up", "subnet_id", "router_id", "flavor_id", "external_v4_ip",
            "external_v6_ip",
        ),
        volume=status,
        path="/vpn/vpnservices",
        key="vpnservices",
        extension="VPNaaS",
    ),
    _listing(
        "ipsec_connections",
        Meter(
            "network.services.vpn.connections",
            GAUGE,
            "ipsec_site_connection",
            "IPsec connection ID",
            "Existence of the VPN's IPsec connection",
        ),
        # Ceilometer's has the pre-shared key as well: it stays where it is.
        (
            "name", "description", "status", "admin_state_up", "peer_address", "peer_id", "peer_cidrs",
            "peer_ep_group_id", "initiator", "ikepolicy_id", "ipsecpolicy_id", "vpnservice_id", "mtu", "dpd",
        ),
        path="/vpn/ipsec-site-connections",
        key="ipsec_site_connections",
        extension="VPNaaS",
    ),
    _listing(
        "firewalls",
        Meter(
            "network.services.firewall", GAUGE, "firewall", "firewall group ID", "State of the firewall, as a number"
        ),
        (
            "name", "description", "status", "admin_state_up", "ingress_firewall_policy_id", "egress_firewall_policy_id",
        ),
        volume=status,
        path="/fwaas/firewall_groups",
        key="firewall_groups",
        extension="FWaaS",
    ),
    _listing(
        "firewall_policies",
        Meter(
            "network.services.firewall.policy",
            GAUGE,
            "firewall_policy",
            "firewall policy ID",
            "Existence of the firewall's policy",
        ),
        ("name", "description", "firewall_rules", "shared", "audited"),
        path="/fwaas/firewall_policies",
        key="firewall_policies",
        extension="FWaaS",
    ),
)  # fmt: skip
