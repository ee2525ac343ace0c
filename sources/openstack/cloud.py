"""A cloud as clouds.yaml or the settings name it: its regions, its services' end points, and requests to them.

openstacksdk does the configuration, authentication and catalogue, keystoneauth the requests: a token that expires, or that a service
refuses, is renewed and the request sent again. Long lists are read as raw JSON through the same session, never as SDK objects.
"""

from __future__ import annotations

import importlib
import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from nephoscope.errors import MissingExtra, NephoscopeError
from nephoscope.settings.sections import OpenStackSettings
from sources.openstack.failures import CloudError, NotConfigured, cause, explain
from sources.pollster import PermanentError

_log = logging.getLogger(__name__)
IDENTITY: Final = "identity"
_AGAIN: Final = 30.0
"""Seconds for which nobody asks Keystone again after it failed: many listings at once must lock no user out, nor wait one after the other."""
_CONNECTIONS: Final = 64


class Deadline:
    """The moment by which a listing must be read."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._end = time.monotonic() + seconds

    @property
    def remaining(self) -> float:
        """Seconds that are left, none being 0."""
        return max(0.0, self._end - time.monotonic())


class Service:
    """A service of a region, whose `endpoint` is what the catalogue says. Its requests raise CloudError, which names both."""

    def __init__(self, cloud: Cloud, region: str, kind: str, endpoint: str, adapter: Any) -> None:
        self.region = region
        self.kind = kind
        self.endpoint = endpoint
        self.page_size = cloud.page_size
        self._cloud = cloud
        self._adapter = adapter
        self._base = ""
        self._microversions: dict[str, str | None] = {}

    @property
    def where(self) -> str:
        """The service and the region, in words."""
        return f"{self.kind} in {self.region or 'the only region'}"

    def get(
        self,
        path: str,
        params: Mapping[str, Any] | None = None,
        *,
        deadline: Deadline,
        microversion: str = "",
        method: str = "GET",
    ) -> Any:
        """The answer to a request, whatever its status: a requests.Response. `microversion` is the newest to use."""
        left = deadline.remaining
        if left <= 0:
            raise CloudError(f"{self.where}: not read within {deadline.seconds:g} s")
        wait = min(left, self._cloud.timeout)
        version = self._microversion(microversion) if microversion else None
        url = path if "://" in path else self._versioned() + path
        response = self._guarded(
            # By keystoneauth's session, not the SDK's client of the service: that counts and caches each request.
            lambda: self._adapter.session.request(
                url,
                method,
                params=dict(params or {}),
                timeout=wait,
                headers={"Accept": "application/json"},
                microversion=version,
                endpoint_filter={"service_type": self.kind},
                raise_exc=False,
            ),
            wait,
        )
        if response.status_code == 404:
            self._base = ""  # Was it found while the service was not well?
        return response

    def open(self, url: str, headers: Mapping[str, str], wait: float) -> Any:
        """The answer to a GET request of a whole URL, no redirection followed: a requests.Response whose body is not read yet, to be closed."""
        return self._guarded(
            lambda: self._adapter.session.request(
                url,
                "GET",
                timeout=wait,
                headers=dict(headers),
                endpoint_filter={"service_type": self.kind},
                raise_exc=False,
                redirect=False,
                stream=True,
                log=False,
            ),
            wait,
        )

    def left_out(self, what: str) -> None:
        """Tell, once, that the service has no such part."""
        self._cloud.left_out(self.region, f"no {what}")

    def _versioned(self) -> str:
        """The end point of the version that the SDK speaks. To find it takes requests, which where they fail would be made each time."""
        if not self._base:
            self._base = str(self._guarded(self._adapter.get_endpoint) or "").rstrip("/")
        if not self._base:
            raise CloudError(f"{self.where}: {self.endpoint} does not tell its versions")
        return self._base

    def _microversion(self, newest: str) -> str | None:
        if newest not in self._microversions:
            from openstack.utils import maximum_supported_microversion

            self._microversions[newest] = self._guarded(lambda: maximum_supported_microversion(self._adapter, newest))
        return self._microversions[newest]

    def _guarded(self, call: Callable[[], Any], wait: float | None = None) -> Any:
        try:
            return call()
        except self._cloud.failures as error:
            raise CloudError(f"{self.where}: {explain(error, wait or self._cloud.timeout)}") from None


class Cloud:
    """The cloud of some settings. Nothing is connected, nor the SDK imported, before it is asked something. For several threads."""

    def __init__(self, settings: OpenStackSettings) -> None:
        self.timeout = settings.timeout
        self.page_size = settings.page_size
        self._settings = settings
        self._lock = threading.RLock()
        self._config: Any = None
        self._connections: dict[str, Any] = {}
        self._services: dict[tuple[str, str], Service] = {}
        self._doors: dict[str, threading.Lock] = {}
        self._failed: dict[str, tuple[float, NephoscopeError]] = {}
        self._missing: set[tuple[str, str]] = set()
        self.failures: tuple[type[BaseException], ...] = (OSError,)

    @property
    def name(self) -> str:
        """What to call it in a message."""
        return f"the cloud {self._settings.cloud!r}" if self._settings.cloud else "the cloud"

    def regions(self) -> list[str]:
        """The regions to poll: those of the settings, else of clouds.yaml, else of the catalogue. The first is the cloud's own."""
        named = list(self._settings.regions) or self._configured_regions()
        if named:
            return named
        self._authenticate("")
        catalogue = self._connection("").config.get_service_catalog()
        found = {
            str(point.get("region_id") or point.get("region") or "")
            for service in (catalogue.catalog if catalogue else ())
            for point in service.get("endpoints", ())
        }
        return sorted(found) or [""]

    def service(self, region: str, kind: str) -> Service | None:
        """A service of a region by its official type; None where the catalogue has none, which is said once."""
        self._authenticate(region)
        config = self._connection(region).config
        key = region, kind
        try:
            there = config.get_endpoint(kind) or config.get_endpoint_from_catalog(kind)
            if not there:
                self.left_out(region, f"no {kind} in its catalogue")
                return None
            with self._lock:
                known = self._services.get(key)
                # The catalogue comes with each new token, and may have moved the service.
                if known is None or known.endpoint != there:
                    known = Service(self, region, kind, str(there), config.get_session_client(kind))
                    self._services[key] = known
                return known
        except self.failures as error:
            raise CloudError(f"{kind} in {region}: {explain(error, self.timeout)}") from None

    def left_out(self, region: str, why: str) -> None:
        """Tell, once, that something is not polled in a region because the region has not got it."""
        with self._lock:
            if (region, why) in self._missing:
                return
            self._missing.add((region, why))
        _log.warning("%s has %s (region %s): it is left out", self.name, why, region or "of no name")

    def close(self) -> None:
        """Give back the connections."""
        with self._lock:
            for connection in self._connections.values():
                connection.session.close()
                connection.close()
            self._connections.clear()
            self._services.clear()

    def _authenticate(self, region: str) -> None:
        """Have a token; one thread at a time, and for a while after a failure nobody.

        Where it failed before, nobody waits for the thread that tries again: the agent's threads have others to poll.
        """
        with self._lock:
            door = self._doors.setdefault(region, threading.Lock())
            _, known = self._failed.get(region, (0.0, None))
        if known is None:
            door.acquire()
        elif not door.acquire(blocking=False):
            raise _again(known)
        try:
            until, known = self._failed.get(region, (0.0, None))
            if known is not None and time.monotonic() < until:
                raise _again(known)
            try:
                self._connection(region).session.get_token()
            except self.failures as failure:
                told = self._refusal(failure)
                self._failed[region] = time.monotonic() + _AGAIN, told
                raise told from None
            self._failed.pop(region, None)
        finally:
            door.release()

    def _refusal(self, error: BaseException) -> NephoscopeError:
        from keystoneauth1 import exceptions

        if isinstance(error, exceptions.Unauthorized | exceptions.Forbidden):
            return PermanentError(f"Keystone refuses the credentials of {self.name}: {explain(error, self.timeout)}")
        return CloudError(f"Keystone of {self.name}: {explain(error, self.timeout)}")

    def _configured_regions(self) -> list[str]:
        config = self._sdk()
        cloud = self._settings.cloud or config.default_cloud
        of_cloud = config.cloud_config.get("clouds", {}).get(cloud) or {}
        listed = [r["name"] if isinstance(r, dict) else r for r in of_cloud.get("regions") or ()]
        if listed:
            return [str(r) for r in listed]
        name = self._connection("").config.get_region_name()
        return [str(name)] if name else []

    def _connection(self, region: str) -> Any:
        with self._lock:
            if region not in self._connections:
                self._connections[region] = self._connect(region)
            return self._connections[region]

    def _connect(self, region: str) -> Any:
        config = self._sdk()
        from keystoneauth1.session import TCPKeepAliveAdapter
        from openstack.connection import Connection

        settings = self._settings
        options: dict[str, Any] = {"api_timeout": self.timeout, "region_name": region or None}
        if settings.interface:
            options["interface"] = settings.interface
        if settings.auth:
            options["auth"] = {k: v.get_secret_value() for k, v in settings.auth.items()}
            options["auth_type"] = settings.auth_type or "password"
            if settings.cacert:
                options["cacert"] = settings.cacert
        try:
            made = config.get_one(cloud=settings.cloud or None, **options)
        except self.failures as error:
            # The SDK's messages name options, never their values.
            raise NotConfigured(f"{self.name} is not configured: {cause(error)}") from None
        connection = Connection(config=made, app_name="nephoscope")
        for scheme in ("https://", "http://"):
            # One for each of the agent's threads: urllib3 complains of each that is too many.
            connection.session.mount(scheme, TCPKeepAliveAdapter(pool_maxsize=_CONNECTIONS))
        return connection

    def _sdk(self) -> Any:
        """The configuration, by openstacksdk."""
        with self._lock:
            if self._config is None:
                try:
                    importlib.import_module("openstack")
                except ModuleNotFoundError as error:
                    if (error.name or "").partition(".")[0] != "openstack":
                        raise
                    raise MissingExtra("polling OpenStack", "openstack") from None
                from keystoneauth1.exceptions import ClientException
                from openstack.config import OpenStackConfig
                from openstack.exceptions import SDKException

                self.failures = (ClientException, SDKException, OSError)
                settings = self._settings
                file = settings.clouds_file
                try:
                    self._config = OpenStackConfig(
                        config_files=[str(file)] if file else None,
                        secure_files=None,
                        # What the settings say themselves is not mixed with what this shell says.
                        load_yaml_config=not settings.auth,
                        load_envvars=not settings.auth,
                    )
                except self.failures as error:
                    raise NotConfigured(f"{self.name} is not configured: {cause(error)}") from None
            return self._config


def _again(error: NephoscopeError) -> NephoscopeError:
    """The error for another thread: one that is raised keeps the stack of whoever raised it."""
    return type(error)(str(error))
