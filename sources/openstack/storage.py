"""Glance's images; Cinder's volumes, snapshots, backups and pools.

Names, types and units are Ceilometer's. Sizes are in GB as it called them (Cinder's are GiB). What has no size yet gives none, instead of 0.
"""

from __future__ import annotations

import math
from typing import Any, Final

from nephoscope.sample import GAUGE
from sources.openstack.listing import Listing, Volume, one
from sources.pollster import Meter

IMAGES: Final = Listing(
    name="openstack.images",
    service="image",
    path="/images",
    key="images",
    meters=(
        (Meter("image", GAUGE, "image", "image ID", "Existence of the image"), one),
        (Meter("image.size", GAUGE, "B", "image ID", "Size of the image"), lambda i: i.size),
    ),
    metadata={
        name: name
        for name in (
            "name", "status", "visibility", "container_format", "disk_format", "min_disk", "min_ram", "protected",
            "checksum", "size", "virtual_size", "tags", "created_at", "updated_at",
        )
    },
    owner=("owner",),
)  # fmt: skip


def _volume(volume: Any, about: dict[str, Any]) -> None:
    """The image it was made of and the instance it is attached to, as Ceilometer."""
    about["display_name"] = volume.name or ""
    image = volume.volume_image_metadata
    if isinstance(image, dict) and image.get("image_id"):
        about["image_id"] = image["image_id"]
    if volume.attachments:
        about["instance_id"] = volume.attachments[0].get("server_id")


_VOLUME_MICROVERSION: Final = "3.64"
"""Ceilometer's: with 3.18 backups tell their project, with 3.41 snapshots and 3.56 backups their user, with 3.63 volumes the id of their type."""
VOLUMES: Final = Listing(
    name="openstack.volumes",
    service="block-storage",
    path="/volumes/detail",
    key="volumes",
    meters=(
        (Meter("volume", GAUGE, "volume", "volume ID", "Existence of the volume"), one),
        (Meter("volume.size", GAUGE, "GB", "volume ID", "Size of the volume"), lambda v: v.size),
    ),
    metadata={
        name: name
        for name in (
            "name", "status", "volume_type", "volume_type_id", "availability_zone", "os-vol-host-attr:host",
            "migration_status", "attachments", "snapshot_id", "source_volid", "bootable", "created_at",
        )
    },
    more=_volume,
    extra=("size", "volume_image_metadata"),
    owner=("os-vol-tenant-attr:tenant_id",),
    user=("user_id",),
    params={"all_tenants": "1"},
    microversion=_VOLUME_MICROVERSION,
)  # fmt: skip


def _snapshot(snapshot: Any, about: dict[str, Any]) -> None:
    about["display_name"] = snapshot.name or ""


SNAPSHOTS: Final = Listing(
    name="openstack.volume_snapshots",
    service="block-storage",
    path="/snapshots/detail",
    key="snapshots",
    meters=(
        (Meter("snapshot", GAUGE, "snapshot", "snapshot ID", "Existence of the volume's snapshot"), one),
        (
            Meter("volume.snapshot.size", GAUGE, "GB", "snapshot ID", "Size of the volume that the snapshot is of"),
            lambda s: s.size,
        ),
    ),
    metadata={
        name: name
        for name in (
            "name", "volume_id", "status", "description", "metadata", "os-extended-snapshot-attributes:progress", "created_at",
        )
    },
    more=_snapshot,
    extra=("size",),
    owner=("os-extended-snapshot-attributes:project_id",),
    user=("user_id",),
    params={"all_tenants": "1"},
    microversion=_VOLUME_MICROVERSION,
)  # fmt: skip


def _backup(backup: Any, about: dict[str, Any]) -> None:
    about["display_name"] = backup.name or ""


BACKUPS: Final = Listing(
    name="openstack.volume_backups",
    service="block-storage",
    path="/backups/detail",
    key="backups",
    meters=((Meter("volume.backup.size", GAUGE, "GB", "backup ID", "Size of the volume's backup"), lambda b: b.size),),
    metadata={
        name: name
        for name in (
            "name", "volume_id", "status", "description", "container", "object_count", "is_incremental", "created_at",
        )
    },
    more=_backup,
    extra=("size",),
    owner=("os-backup-project-attr:project_id",),
    user=("user_id",),
    params={"all_tenants": "1"},
    microversion=_VOLUME_MICROVERSION,
)  # fmt: skip


def _number(value: Any) -> float | None:
    """A capacity; drivers that know none say "unknown", "infinite" or "auto"."""
    if isinstance(value, bool):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def _capacity(name: str) -> Volume:
    def volume(pool: Any) -> float | None:
        return _number((pool.capabilities or {}).get(name))

    return volume


def _virtual_free(pool: Any) -> float | None:
    """What can still be provisioned: the total without its reserve, times the over-subscription where the pool is thin, less what is."""
    said = pool.capabilities or {}
    total, provisioned = _number(said.get("total_capacity_gb")), _number(said.get("provisioned_capacity_gb"))
    ratio = _number(said.get("max_over_subscription_ratio")) if _is_true(said.get("thin_provisioning_support")) else 1.0
    if total is None or provisioned is None or ratio is None:
        return None
    reserved = math.floor((_number(said.get("reserved_percentage")) or 0.0) / 100 * total)
    return ratio * (total - reserved) - provisioned


def _is_true(value: Any) -> bool:
    return str(value).lower() == "true"


def _pool(pool: Any, about: dict[str, Any]) -> None:
    said = pool.capabilities or {}
    about.pop("capabilities", None)
    about["provider"] = pool.name.partition("#")[0]
    about |= {k: said[k] for k in ("pool_name", "volume_backend_name") if said.get(k) is not None}


def _capacity_meter(what: str, description: str) -> Meter:
    return Meter(f"volume.provider.pool.capacity.{what}", GAUGE, "GB", "host@backend#pool", description)


POOLS: Final = Listing(
    name="openstack.volume_pools",
    service="block-storage",
    path="/scheduler-stats/get_pools",
    key="pools",
    meters=(
        (_capacity_meter("total", "Size of the back end's pool"), _capacity("total_capacity_gb")),
        (_capacity_meter("free", "Free part of the pool"), _capacity("free_capacity_gb")),
        (
            _capacity_meter("allocated", "What Cinder's volumes take of the pool"),
            _capacity("allocated_capacity_gb"),
        ),
        (
            _capacity_meter("provisioned", "Sum of what is promised from the pool, also by others than Cinder"),
            _capacity("provisioned_capacity_gb"),
        ),
        (
            _capacity_meter("virtual_free", "What can still be promised from the pool, over-subscription included"),
            _virtual_free,
        ),
    ),
    metadata={"name": "name", "capabilities": "capabilities"},
    more=_pool,
    identity="name",
    owner=(),
    params={"detail": "true"},
    paged=False,
)
LISTINGS: Final = (IMAGES, VOLUMES, SNAPSHOTS, BACKUPS, POOLS)
