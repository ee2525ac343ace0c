"""The sections of the settings: what each value may be. What every key means is said in conf/nephoscope.yaml."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import msgspec
from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator

from nephoscope import matching
from nephoscope.health import address_of
from nephoscope.lifetimes import MAX_CLASSES, LifetimeClass, Lifetimes


class Section(BaseModel):
    """A mapping of the settings file: nothing in it that is not known, nothing of it changed later."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


def split(value: Any) -> Any:
    """Several values of a setting that are given as one text; a list as it is."""
    return tuple(v.strip() for v in value.split(",") if v.strip()) if isinstance(value, str) else value


class KafkaSettings(Section):
    """How the brokers are spoken to; `log.url` says where they are."""

    topic_prefix: str = Field(pattern=r"^[A-Za-z0-9._-]{0,100}$")
    replication: int = Field(ge=-1, le=32767)
    prefetch_bytes: int = Field(ge=1 << 20, le=2 << 30)
    timeout: float = Field(ge=1, le=900)
    security_protocol: str
    sasl_mechanism: str
    sasl_username: str
    sasl_password: SecretStr
    ssl_ca_location: str
    ssl_certificate_location: str
    ssl_key_location: str
    ssl_key_password: SecretStr
    options: dict[str, str] = Field(repr=False)

    @field_validator("options", mode="before")
    @classmethod
    def _options(cls, value: Any) -> Any:
        """A variable or flag gives them as text: a=1,b=2."""
        if isinstance(value, str):
            value = dict(item.partition("=")[::2] for item in value.split(",") if item)
        if isinstance(value, dict):
            return {str(k).strip(): _as_librdkafka_writes(v) for k, v in value.items()}
        return value


def _as_librdkafka_writes(value: Any) -> Any:
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if isinstance(value, int | float | str) else value


class LogSettings(Section):
    """The log that samples travel on."""

    url: str
    retention: float = Field(gt=0)
    retention_bytes: int = Field(ge=0)
    kafka: KafkaSettings


class LifetimeClassSettings(Section):
    """Meters with a time to live of their own."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]{0,31}$")
    meters: tuple[str, ...]
    time_to_live: int = Field(ge=-1)

    @field_validator("meters", mode="before")
    @classmethod
    def _meters(cls, value: Any) -> Any:
        if isinstance(value, list) and all(isinstance(v, str) for v in value):
            for problem in matching.problems(value):
                raise ValueError(problem)
        return value


class DatabaseSettings(Section):
    """The store of samples."""

    connection: SecretStr
    metering_time_to_live: int = Field(ge=-1)
    event_time_to_live: int = Field(ge=-1)
    time_to_live_classes: tuple[LifetimeClassSettings, ...] = Field(max_length=MAX_CLASSES)

    @field_validator("time_to_live_classes", mode="before")
    @classmethod
    def _classes(cls, value: Any) -> Any:
        """A variable or flag gives them as JSON."""
        if isinstance(value, str):
            try:
                value = msgspec.json.decode(value) if value else []
            except msgspec.DecodeError:
                raise ValueError("must be a list, as JSON where it is a text") from None
        return value

    @field_validator("time_to_live_classes")
    @classmethod
    def _each_once(cls, value: tuple[LifetimeClassSettings, ...]) -> tuple[LifetimeClassSettings, ...]:
        names = [c.name for c in value]
        if len(set(names)) < len(names):
            raise ValueError("two classes have one name")
        return value

    @property
    def lifetimes(self) -> Lifetimes:
        """How long what is kept."""
        classes = tuple(LifetimeClass(c.name, c.meters, c.time_to_live) for c in self.time_to_live_classes)
        return Lifetimes(self.metering_time_to_live, self.event_time_to_live, classes)


class CoordinationSettings(Section):
    """How agents find each other."""

    backend_url: SecretStr
    member: str = Field(pattern=r"^$|^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    lease: float = Field(ge=0.5, le=600)
    heartbeat: float = Field(gt=0, le=300)
    check_watchers: float = Field(gt=0, le=300)


class ComputeSettings(Section):
    """What concerns agents of the namespace `compute`."""

    workload_partitioning: bool
    libvirt_type: Literal["kvm", "qemu", "lxc", "parallels", "uml", "xen"]
    libvirt_uri: str
    libvirt_connections: int = Field(ge=1, le=64)
    libvirt_timeout: float = Field(gt=0, le=600)


class PollingSettings(Section):
    """How an agent polls; what it polls is said in polling.yaml."""

    partitioning_group_prefix: str = Field(pattern=r"^$|^[A-Za-z0-9][A-Za-z0-9._-]{0,31}$")
    concurrency: int = Field(ge=1, le=1024)
    timeout: float = Field(gt=0, le=3600)
    spread: float = Field(ge=0, le=1)
    max_jitter: float = Field(ge=0)
    silence: float = Field(ge=0)
    spool_bytes: int = Field(ge=0)


class MetricsSettings(Section):
    """How a process tells its monitoring how it stands."""

    listen: str
    ready_lag: float = Field(gt=0)

    @field_validator("listen")
    @classmethod
    def _is_an_address(cls, listen: str) -> str:
        address_of(listen)
        return listen


class NotificationsSettings(Section):
    """What services send, and how it becomes samples and events."""

    urls: tuple[SecretStr, ...]
    topics: tuple[str, ...]
    priorities: tuple[str, ...]
    exchanges: tuple[str, ...]
    group: str = Field(min_length=1)
    workers: int = Field(ge=1, le=64)
    prefetch: int = Field(ge=1, le=65535)
    create_queues: bool
    queue_type: Literal["classic", "quorum"]
    durable: bool
    max_message_bytes: int = Field(ge=1024, le=1 << 30)
    definitions: Path | None
    event_definitions: Path | None
    store_events: bool
    drop_unmatched_notifications: bool
    store_raw: tuple[str, ...]

    @field_validator("urls", "topics", "priorities", "exchanges", "store_raw", mode="before")
    @classmethod
    def _several(cls, value: Any) -> Any:
        """A variable or flag gives them as text: a,b."""
        return split(value)

    @property
    def queues(self) -> tuple[str, ...]:
        """The queues or topics, as oslo.messaging names them."""
        return tuple(f"{topic}.{priority}" for topic in self.topics for priority in self.priorities)


class PushSettings(Section):
    """Where pushed samples are taken."""

    udp: str
    tcp: str

    @field_validator("udp", "tcp")
    @classmethod
    def _is_an_address(cls, listen: str) -> str:
        address_of(listen)
        return listen


def _mapping(value: Any) -> Any:
    """A mapping, of which a variable or flag gives the JSON."""
    if not isinstance(value, str):
        return value
    try:
        return msgspec.json.decode(value) if value else {}
    except msgspec.DecodeError:
        raise ValueError("must be a mapping, as JSON where it is a text") from None


class OpenStackSettings(Section):
    """The cloud whose APIs are polled, and how."""

    cloud: str
    clouds_file: Path | None
    auth_type: str
    auth: dict[str, SecretStr]
    cacert: str
    regions: tuple[str, ...]
    interface: Literal["", "public", "internal", "admin"]
    reseller_prefix: str = Field(pattern=r"^[A-Za-z0-9_.-]*$")
    page_size: int = Field(ge=1, le=100_000)
    timeout: float = Field(gt=0, le=600)
    listing_timeout: float = Field(gt=0, le=3600)

    @field_validator("auth", mode="before")
    @classmethod
    def _auth(cls, value: Any) -> Any:
        """A variable or flag gives it as JSON; a number in YAML is text to Keystone."""
        value = _mapping(value)
        if isinstance(value, dict):
            return {str(k): str(v) if isinstance(v, int) else v for k, v in value.items()}
        return value

    @field_validator("regions", mode="before")
    @classmethod
    def _several(cls, value: Any) -> Any:
        """A variable or flag gives them as text: a,b."""
        return tuple(v.strip() for v in value.split(",") if v.strip()) if isinstance(value, str) else value


class CredentialSettings(Section):
    """What a named credential holds; which of it counts is the business of what is polled with it."""

    user: str = ""
    password: SecretStr = SecretStr("")
    community: SecretStr = SecretStr("")
    token: SecretStr = SecretStr("")
    auth_proto: Literal["", "md5", "sha", "sha224", "sha256", "sha384", "sha512"] = ""
    priv_proto: Literal["", "des", "3des", "aes128", "aes192", "aes256"] = ""
    priv_password: SecretStr = SecretStr("")


class HardwareSettings(Section):
    """Hosts that are polled by SNMP, IPMI and Kwapi."""

    hosts: Path | None
    readonly_user_name: str
    readonly_user_password: SecretStr
    readonly_user_auth_proto: Literal["", "md5", "sha", "sha224", "sha256", "sha384", "sha512"]
    readonly_user_priv_proto: Literal["", "des", "3des", "aes128", "aes192", "aes256"]
    readonly_user_priv_password: SecretStr
    credentials: dict[str, CredentialSettings]
    snmp_timeout: float = Field(gt=0, le=60)
    snmp_retries: int = Field(ge=0, le=10)
    ipmi_timeout: float = Field(ge=1, le=3600)

    @field_validator("credentials", mode="before")
    @classmethod
    def _credentials(cls, value: Any) -> Any:
        """A variable or flag gives them as JSON."""
        return _mapping(value)

    def credential(self, name: str) -> CredentialSettings | None:
        """The credential of a name. '' is the one of hosts that name none: `default`, else the read-only user; None: there is none."""
        if name:
            return self.credentials.get(name)
        if "default" in self.credentials or not self.readonly_user_name:
            return self.credentials.get("default")
        return CredentialSettings(
            user=self.readonly_user_name,
            password=self.readonly_user_password,
            auth_proto=self.readonly_user_auth_proto,
            priv_proto=self.readonly_user_priv_proto,
            priv_password=self.readonly_user_priv_password,
        )
