"""All settings in one model, and the files that ship as their defaults."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import Field, SecretStr, field_validator

from nephoscope.settings.sections import (
    ComputeSettings,
    CoordinationSettings,
    DatabaseSettings,
    HardwareSettings,
    LogSettings,
    MetricsSettings,
    NotificationsSettings,
    OpenStackSettings,
    PollingSettings,
    PushSettings,
    Section,
    split,
)


class Settings(Section):
    """All settings. Times are in seconds; paths are absolute, or None where Nephoscope's own file is meant."""

    state_dir: Path
    partitions: int = Field(ge=1, le=65536)
    pipeline_cfg_file: Path | None
    polling_cfg_file: Path | None
    event_pipeline_cfg_file: Path | None
    pollsters_definitions_dirs: tuple[Path, ...]
    sample_source: str = Field(min_length=1)
    telemetry_secret: SecretStr
    max_sample_bytes: int = Field(ge=1024)
    log: LogSettings
    lateness: float = Field(ge=0)
    max_ahead: float = Field(ge=0)
    max_future: float = Field(ge=0)
    dedupe_horizon: float = Field(gt=0)
    series_ttl: float = Field(gt=0)
    flow_workers: int = Field(ge=1, le=64)
    epoch_interval: float = Field(gt=0)
    polling: PollingSettings
    coordination: CoordinationSettings
    compute: ComputeSettings
    hardware: HardwareSettings
    metrics: MetricsSettings
    notifications: NotificationsSettings
    push: PushSettings
    openstack: OpenStackSettings
    database: DatabaseSettings

    @field_validator("pollsters_definitions_dirs", mode="before")
    @classmethod
    def _several(cls, value: Any) -> Any:
        """A variable or flag gives them as text: a,b."""
        return split(value)

    @property
    def store_url(self) -> str:
        """The URL of the store, passwords included: not for logs."""
        return self.database.connection.get_secret_value() or f"sqlite:///{self.state_dir / 'samples.db'}"

    @property
    def log_path(self) -> Path:
        """The file of the embedded log."""
        _, _, path = self.log.url.partition("://")
        return Path(path) if path else self.state_dir / "log.db"

    @property
    def recovery_dir(self) -> Path:
        """Where the flow keeps its snapshots."""
        return self.state_dir / "recovery"

    def pipeline_file(self) -> Path:
        """The pipeline to run: the user's, or the one that ships."""
        return self.pipeline_cfg_file or shipped("pipeline.yaml")


def shipped(name: str) -> Path:
    """A file of the conf package: a default that ships with Nephoscope."""
    # The distribution is installed unpacked, so a resource is a file.
    return Path(str(resources.files("conf").joinpath(name)))
