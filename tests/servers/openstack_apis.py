"""A cloud's APIs in the forms that they are documented in: Keystone v3, Glance, Cinder, Neutron, Octavia, Nova, Swift on one port.

No mock of a client: what is tested against it is keystoneauth's real client over HTTP. The real services are tested by
``./justw test-openstack``. As a program it serves 10,000 ports to a bench, which is another process.
"""

from __future__ import annotations

import datetime as dt
import json
import sys
import threading
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

PASSWORD = "t0p-secret-word"
PROJECT = "0" * 32
REGION = "RegionOne"
ENDPOINTS = {
    "identity": "/v3",
    "image": "/image",
    "volumev3": f"/volume/v3/{PROJECT}",
    "network": "/network",
    "load-balancer": "/load-balancer",
    "compute": "/compute/v2.1",
    "object-store": f"/object-store/v1/AUTH_{PROJECT}",
}
"""The catalogue: types as deployments name them, and the paths of their end points."""
_VERSIONS = {
    "/image": {"versions": [{"id": "v2.9", "status": "CURRENT", "links": [{"rel": "self", "href": "/image/v2/"}]}]},
    "/volume": {
        "versions": [
            {
                "id": "v3.0",
                "status": "CURRENT",
                "version": "3.70",
                "min_version": "3.0",
                "links": [{"rel": "self", "href": "/volume/v3/"}],
            }
        ]
    },
    "/compute": {
        "versions": [
            {
                "id": "v2.1",
                "status": "CURRENT",
                "version": "2.93",
                "min_version": "2.1",
                "links": [{"rel": "self", "href": "/compute/v2.1/"}],
            }
        ]
    },
    "/v3": {"version": {"id": "v3.14", "status": "stable", "links": [{"rel": "self", "href": "/v3/"}]}},
}


class Apis(ThreadingHTTPServer):
    """The APIs of a cloud. What they answer is what the attributes hold when they are asked.

    `lists`: path without the end point's: the entries. `accounts`: project: containers as Swift lists them. `faults`: the beginning of a path: a
    status, 'never', or the bytes of a body. `largest`: no page has more entries. `behind`: the address that links to next pages
    have.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.behind = self.url
        self.password = PASSWORD
        self.regions = [REGION]
        self.services = set(ENDPOINTS)
        self.lists: dict[str, list[dict[str, Any]]] = {}
        self.accounts: dict[str, list[dict[str, Any]]] = {}
        self.projects = [{"id": PROJECT, "name": "admin"}]
        self.faults: dict[str, int | str | bytes] = {}
        self.largest = 1000
        self.lifetime = 3600.0
        self.tokens: set[str] = set()
        self.refused: set[str] = set()
        self.asked: list[tuple[str, dict[str, list[str]], dict[str, str]]] = []
        self.counts: Counter[str] = Counter()
        self.ended = threading.Event()

    def auth(self) -> dict[str, str]:
        """The options of clouds.yaml's `auth`."""
        return {
            "auth_url": f"{self.url}/v3",
            "username": "telemetry",
            "password": PASSWORD,
            "project_name": "service",
            "user_domain_id": "default",
            "project_domain_id": "default",
        }

    def catalogue(self) -> list[dict[str, Any]]:
        """As a token carries it."""
        return [
            {
                "type": kind,
                "name": kind,
                "endpoints": [
                    {"interface": "public", "region": region, "region_id": region, "url": self.url + path}
                    for region in self.regions
                ],
            }
            for kind, path in ENDPOINTS.items()
            if kind in self.services
        ]


class _Handler(BaseHTTPRequestHandler):
    server: Apis
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        self._answer()

    do_HEAD = do_POST = do_GET  # noqa: N815 - http.server's names

    def log_message(self, *args: object) -> None:
        """Say nothing."""

    def _answer(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length) if length else b""
        split = urlsplit(self.path)
        path, params = unquote(split.path).rstrip("/"), parse_qs(split.query)
        apis = self.server
        apis.asked.append((path, params, dict(self.headers)))
        apis.counts[f"{self.command} {path}"] += 1
        for beginning, fault in apis.faults.items():
            if path.startswith(beginning):
                if fault == "never":
                    apis.ended.wait(60)
                    self.close_connection = True
                    return
                if isinstance(fault, int):
                    self._send(fault, {"NeutronError": {"type": "Fault", "message": f"it is broken: {fault}"}})
                else:
                    self._send(200, fault)
                return
        if path == "/v3/auth/tokens":
            self._authenticate(json.loads(body))
        elif path in _VERSIONS:
            text = json.dumps(_VERSIONS[path]).replace('"href": "', f'"href": "{apis.url}')
            self._send(200, text.encode())
        elif (token := self.headers.get("X-Auth-Token")) not in apis.tokens or token in apis.refused:
            self._send(401, {"error": {"message": "The request you have made requires authentication."}})
        elif path == "/v3/projects":
            self._send(200, {"projects": apis.projects, "links": {"next": None}})
        elif path.startswith("/object-store/v1/AUTH_"):
            self._account(path.rpartition("AUTH_")[2], params)
        else:
            self._list(path, params)

    def _authenticate(self, asked: dict[str, Any]) -> None:
        apis = self.server
        given = asked["auth"]["identity"]["password"]["user"]["password"]
        if given != apis.password:
            self._send(401, {"error": {"message": "The request you have made requires authentication.", "code": 401}})
            return
        token = uuid.uuid4().hex
        apis.tokens.add(token)
        now = dt.datetime.now(dt.UTC)
        told = {
            "methods": ["password"],
            "issued_at": now.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            "expires_at": (now + dt.timedelta(seconds=apis.lifetime)).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            "user": {"id": "u1", "name": "telemetry", "domain": {"id": "default", "name": "Default"}},
            "project": {"id": PROJECT, "name": "service", "domain": {"id": "default", "name": "Default"}},
            "roles": [{"id": "r1", "name": "admin"}],
            "catalog": apis.catalogue(),
        }
        self._send(201, {"token": told}, {"X-Subject-Token": token})

    def _list(self, path: str, params: dict[str, list[str]]) -> None:
        apis = self.server
        known = next((k for k in apis.lists if path.endswith(k)), None)
        if known is None:
            self._send(404, {"NeutronError": {"type": "HTTPNotFound", "message": "The resource could not be found."}})
            return
        entries = apis.lists[known]
        if known.endswith("/stats"):
            self._send(200, {"stats": entries[0]})
            return
        key = known.removesuffix("/detail").rpartition("/")[2].replace("-", "_").replace("get_pools", "pools")
        start = 0
        if "marker" in params:
            marker = params["marker"][0]
            places = [i for i, entry in enumerate(entries) if entry["id"] == marker]
            if not places:
                self._send(404, {"error": {"message": f"marker {marker} could not be found"}})
                return
            start = places[0] + 1
        limit = min(int(params.get("limit", ["0"])[0]) or apis.largest, apis.largest)
        page = entries[start : start + limit]
        told: dict[str, Any] = {key: page}
        if "fields" in params:
            wanted = set(params["fields"])
            told[key] = [{k: v for k, v in entry.items() if k in wanted} for entry in page]
        if start + limit < len(entries) and page:
            href = f"{apis.behind}{quote(path)}?limit={limit}&marker={page[-1]['id']}"
            if key == "images":
                told["next"] = href
            else:
                told[f"{key}_links"] = [{"rel": "next", "href": href}]
        self._send(200, told)

    def _account(self, project: str, params: dict[str, list[str]]) -> None:
        containers = self.server.accounts.get(project)
        if containers is None:
            self._send(404, b"")
            return
        headers = {
            "X-Account-Container-Count": str(len(containers)),
            "X-Account-Object-Count": str(sum(c["count"] for c in containers)),
            "X-Account-Bytes-Used": str(sum(c["bytes"] for c in containers)),
        }
        if self.command == "HEAD":
            self._send(204, b"", headers)
            return
        after = params.get("marker", [""])[0]
        page = [c for c in containers if c["name"] > after][: min(int(params["limit"][0]), self.server.largest)]
        self._send(200, page, headers)

    def _send(self, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


@contextmanager
def running() -> Iterator[Apis]:
    """The APIs, for as long as the context is open."""
    apis = Apis()
    thread = threading.Thread(target=apis.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield apis
    finally:
        apis.ended.set()
        apis.shutdown()
        apis.server_close()


def port(number: int) -> dict[str, Any]:
    """A port as Neutron lists it."""
    identity = f"{number:08x}-0000-4000-8000-{number:012x}"
    return {
        "id": identity,
        "name": f"port-{number}",
        "network_id": f"{number % 50:08x}-1111-4000-8000-000000000000",
        "tenant_id": f"{number % 100:032x}",
        "project_id": f"{number % 100:032x}",
        "mac_address": f"fa:16:3e:{number >> 16 & 255:02x}:{number >> 8 & 255:02x}:{number & 255:02x}",
        "admin_state_up": True,
        "status": "ACTIVE",
        "device_id": f"{number:08x}-2222-4000-8000-000000000000",
        "device_owner": "compute:nova",
        "fixed_ips": [{"subnet_id": "33333333-0000-4000-8000-000000000000", "ip_address": f"10.0.{number >> 8 & 255}.{number & 255}"}],
        "allowed_address_pairs": [],
        "extra_dhcp_opts": [],
        "security_groups": ["44444444-0000-4000-8000-000000000000"],
        "description": "",
        "binding:vnic_type": "normal",
        "binding:profile": {},
        "binding:host_id": f"compute-{number % 40}",
        "binding:vif_type": "ovs",
        "binding:vif_details": {"port_filter": True, "connectivity": "l2", "bridge_name": "br-int"},
        "port_security_enabled": True,
        "tags": [],
        "created_at": "2026-11-20T12:00:00Z",
        "updated_at": "2026-11-20T12:00:05Z",
        "revision_number": 4,
    }  # fmt: skip


def main() -> None:
    """Serve ports until stdin ends; the URL of Keystone is the first line printed."""
    with running() as apis:
        apis.lists["/ports"] = [port(n) for n in range(int(sys.argv[1]))]
        sys.stdout.write(json.dumps(apis.auth()) + "\n")
        sys.stdout.flush()
        sys.stdin.read()


if __name__ == "__main__":
    main()
