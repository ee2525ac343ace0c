"""A cloud of real services from Debian's packages: Keystone, Glance, Neutron with VPNaaS, Cinder, Swift, Octavia, Placement and Nova.

MariaDB and RabbitMQ are processes of our own. Everything listens on free ports of the loopback, lies in one folder and ends with the context.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pymysql
import pytest

from tests.openstack import configuration
from tests.openstack.configuration import SECRET, Place
from tests.servers import Server, free_port
from tests.servers.mariadb import USER, MariaDB
from tests.servers.rabbitmq import running as running_rabbitmq

PORTS = (
    "keystone", "glance", "neutron", "cinder", "octavia", "placement", "nova", "swift", "swift-account",
    "swift-container", "swift-object",
)  # fmt: skip
DATABASES = ("keystone", "glance", "neutron", "cinder", "octavia", "placement", "nova", "nova_api", "nova_cell0")
SERVICES = {
    "glance": ("image", ""),
    "neutron": ("network", ""),
    "cinder": ("volumev3", "/v3/%(project_id)s"),
    "octavia": ("load-balancer", ""),
    "placement": ("placement", ""),
    "nova": ("compute", "/v2.1"),
    "swift": ("object-store", "/v1/AUTH_%(project_id)s"),
}
"""Types in the catalogue, and paths of the end points."""
_PATH = "/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin"
_ENVIRONMENT = {"PATH": _PATH, "PYTHONPATH": "", "VIRTUAL_ENV": ""}
_UWSGI = (
    "uwsgi", "--plugin", "python3", "--processes", "1", "--threads", "8", "--enable-threads", "--die-on-term",
    "--buffer-size", "65535", "--lazy-apps", "--need-app",
    # It keeps no connection open, whatever HTTP/1.1 says.
    "--add-header", "Connection: close",
)  # fmt: skip


def say(text: str) -> None:
    """Tell whoever waits how far it is, past pytest's capture."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.__stderr__, flush=True)


class Cloud:
    """The services; `admin` and `telemetry` are the options of a clouds.yaml's `auth`."""

    def __init__(self, place: Place, stack: contextlib.ExitStack) -> None:
        self.place = place
        self._stack = stack
        self.servers: dict[str, Server] = {}

    def auth(self, user: str, project: str) -> dict[str, str]:
        """The options of a clouds.yaml's `auth`."""
        return {
            "auth_url": f"{self.place.url('keystone')}/v3",
            "username": user,
            "password": SECRET,
            "project_name": project,
            "user_domain_id": "default",
            "project_domain_id": "default",
        }

    def connect(self) -> Any:
        """The SDK, as admin, to make things with."""
        import openstack

        options = {"region_name": "RegionOne", "load_envvars": False, "load_yaml_config": False}
        return self._stack.enter_context(openstack.connect(auth=self.auth("admin", "admin"), **options))

    def token(self) -> str:
        """An admin's token, by Keystone's API itself."""
        given = {"name": "admin", "password": SECRET, "domain": {"id": "default"}}
        asked = {
            "identity": {"methods": ["password"], "password": {"user": given}},
            "scope": {"project": {"name": "admin", "domain": {"id": "default"}}},
        }
        answer = httpx.post(f"{self.place.url('keystone')}/v3/auth/tokens", json={"auth": asked}, timeout=60)
        assert answer.status_code == 201, answer.text
        return answer.headers["X-Subject-Token"]

    def client(self, commands: Iterable[str]) -> dict[str, Any]:
        """What the `openstack` client says to some commands, as JSON; in one process, since to start it takes the longest."""
        commands = list(commands)
        environment = {k: v for k, v in os.environ.items() if not k.startswith("OS_")} | _ENVIRONMENT
        for name, value in self.auth("admin", "admin").items():
            environment[f"OS_{name.upper()}"] = value
        environment |= {
            "OS_REGION_NAME": "RegionOne",
            "OS_IDENTITY_API_VERSION": "3",
            "OS_VOLUME_API_VERSION": "3.64",
        }
        lines = "".join(f"{command} -f json\n" for command in commands)
        done = subprocess.run(
            ["/usr/bin/openstack"], input=lines, env=environment, capture_output=True, text=True, check=False
        )
        answers = list(_json_values(done.stdout))
        assert len(answers) == len(commands), (
            f"{len(answers)} answers to {len(commands)} commands: {done.stderr[-3000:]}"
        )
        return dict(zip(commands, answers, strict=True))

    def run(self, *command: str, **environment: str) -> None:
        """A command that must succeed."""
        done = subprocess.run(
            command, env={**os.environ, **_ENVIRONMENT, **environment}, capture_output=True, text=True, check=False
        )
        if done.returncode:
            pytest.fail(f"{' '.join(command[:3])} ended with {done.returncode}:\n{(done.stdout + done.stderr)[-3000:]}")

    def start(self, name: str, command: Sequence[str], ready: Callable[[], object], **environment: str) -> None:
        """A process of a service, until it answers."""
        folder = self.place.folder / "logs" / name
        folder.mkdir(parents=True, exist_ok=True)
        server = Server(folder, command, {**_ENVIRONMENT, **environment})
        self.servers[name] = server
        self._stack.callback(server.kill)
        server.start(ready, timeout=120)

    def restart_keystone(self, token_lifetime: int) -> None:
        """Keystone again, with tokens that live for so many seconds."""
        self.servers["keystone"].kill()
        self.write("keystone.conf", configuration.keystone(self.place, token_lifetime))
        _start_keystone(self)

    def write(self, name: str, text: str) -> str:
        """A configuration file; its path."""
        path = self.place.folder / "etc" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return str(path)

    def answers(self, service: str, path: str = "/") -> Callable[[], object]:
        """Whether a service answers, with whatever status but that of a proxy that finds nobody."""

        def ready() -> None:
            status = httpx.get(self.place.url(service) + path, timeout=5).status_code
            assert status not in {502, 503}, status

        return ready


def _json_values(text: str) -> Iterator[Any]:
    """The lists and mappings in a text, whatever stands between them."""
    decoder = json.JSONDecoder()
    for start in re.finditer(r"^[\[{]", text, re.MULTILINE):
        yield decoder.raw_decode(text, start.start())[0]


def _started() -> None:
    """Of what answers nobody: what is done with it shows whether it works."""


def _keystone(cloud: Cloud) -> None:
    place = cloud.place
    file = cloud.write("keystone.conf", configuration.keystone(place))
    for folder in ("keystone-fernet", "keystone-credential"):
        (place.folder / folder).mkdir(mode=0o700)
    manage = ("keystone-manage", "--config-file", file)
    owner = ("--keystone-user", "root", "--keystone-group", "root")
    cloud.run(*manage, "db_sync")
    cloud.run(*manage, "fernet_setup", *owner)
    cloud.run(*manage, "credential_setup", *owner)
    urls = [
        o
        for kind in ("public", "internal", "admin")
        for o in (f"--bootstrap-{kind}-url", f"{place.url('keystone')}/v3")
    ]
    cloud.run(*manage, "bootstrap", "--bootstrap-password", SECRET, "--bootstrap-region-id", "RegionOne", *urls)
    _start_keystone(cloud)


def _start_keystone(cloud: Cloud) -> None:
    command = (
        *_UWSGI, "--http-socket", f"127.0.0.1:{cloud.place.ports['keystone']}", "--wsgi-file", "/usr/bin/keystone-wsgi-public",
    )  # fmt: skip
    file = str(cloud.place.folder / "etc" / "keystone.conf")
    cloud.start("keystone", command, cloud.answers("keystone", "/v3"), OS_KEYSTONE_CONFIG_FILES=file)


def _identity(cloud: Cloud) -> None:
    """Users, roles and the catalogue."""
    identity = cloud.connect().identity
    project = identity.create_project(name="service", domain_id="default")
    roles = {role.name: role for role in identity.roles()}
    for name in ("service", "ResellerAdmin"):
        roles[name] = identity.create_role(name=name)
    for name in ("glance", "neutron", "cinder", "nova", "placement", "swift", "telemetry"):
        user = identity.create_user(name=name, password=SECRET, domain_id="default", default_project_id=project.id)
        for role in ("admin", "ResellerAdmin") if name == "telemetry" else ("admin", "service"):
            identity.assign_project_role_to_user(project, user, roles[role])
    for name, (kind, path) in SERVICES.items():
        service = identity.create_service(name=name, type=kind)
        for interface in ("public", "internal", "admin"):
            identity.create_endpoint(
                service_id=service.id, interface=interface, url=cloud.place.url(name) + path, region_id="RegionOne"
            )


def _glance(cloud: Cloud) -> None:
    (cloud.place.folder / "images").mkdir()
    file = cloud.write("glance-api.conf", configuration.glance(cloud.place))
    cloud.run("glance-manage", "--config-file", file, "db_sync")
    cloud.start("glance", ["glance-api", "--config-file", file], cloud.answers("glance"))


def _neutron(cloud: Cloud) -> None:
    (cloud.place.folder / "neutron" / "lock").mkdir(parents=True)
    file = cloud.write("neutron.conf", configuration.neutron(cloud.place))
    cloud.run("neutron-db-manage", "--config-file", file, "upgrade", "heads")
    cloud.start("neutron", ["neutron-server", "--config-file", file], cloud.answers("neutron"))


def _cinder(cloud: Cloud) -> None:
    folder = cloud.place.folder / "cinder"
    for name in ("lock", "backups"):
        (folder / name).mkdir(parents=True)
    file = cloud.write("cinder.conf", configuration.cinder(cloud.place))
    wrapper = cloud.write("cinder_wrapper.py", configuration.CINDER_WRAPPER)
    cloud.run("cinder-manage", "--config-file", file, "db", "sync")
    for name in ("api", "scheduler", "volume", "backup"):
        command = ["/usr/bin/python3", wrapper, f"/usr/bin/cinder-{name}", "--config-file", file]
        cloud.start(f"cinder-{name}", command, cloud.answers("cinder") if name == "api" else _started)


def _octavia(cloud: Cloud) -> None:
    (cloud.place.folder / "octavia").mkdir()
    file = cloud.write("octavia.conf", configuration.octavia(cloud.place))
    cloud.run("octavia-db-manage", "--config-file", file, "upgrade", "head")
    cloud.start("octavia", ["octavia-api", "--config-file", file], cloud.answers("octavia"))


def _nova(cloud: Cloud) -> None:
    place = cloud.place
    for name in ("lock", "instances"):
        (place.folder / "nova" / name).mkdir(parents=True)
    cloud.write("placement/placement.conf", configuration.placement(place))
    folder = str(place.folder / "etc" / "placement")
    cloud.run("placement-manage", "--config-file", f"{folder}/placement.conf", "db", "sync")
    command = (
        *_UWSGI,
        "--http-socket",
        f"127.0.0.1:{place.ports['placement']}",
        "--wsgi-file",
        "/usr/bin/placement-api",
    )
    cloud.start("placement", command, cloud.answers("placement"), OS_PLACEMENT_CONFIG_DIR=folder)
    file = cloud.write("nova.conf", configuration.nova(place))
    manage = ("nova-manage", "--config-file", file)
    cloud.run(*manage, "api_db", "sync")
    cloud.run(*manage, "cell_v2", "map_cell0", "--database_connection", place.database("nova_cell0"))
    cloud.run(*manage, "cell_v2", "create_cell", "--name", "cell1")
    cloud.run(*manage, "db", "sync")

    def has_a_host() -> None:
        """Whether the scheduler knows the host: a server that is asked for earlier ends as an error."""
        with pymysql.connect(host="127.0.0.1", port=place.database_port, user=USER, database="nova_api") as connection:
            cursor = connection.cursor()
            cursor.execute("SELECT count(*) FROM host_mappings")
            assert cursor.fetchone() == (1,)

    for name, ready in (
        ("conductor", _started),
        ("api", cloud.answers("nova")),
        ("compute", _started),
        ("scheduler", has_a_host),
    ):
        cloud.start(f"nova-{name}", [f"nova-{name}", "--config-file", file], ready)


def _swift(cloud: Cloud) -> None:
    place = cloud.place
    folder = place.folder / "swift"
    (folder / "node" / "d1").mkdir(parents=True)
    (folder / "swift.conf").write_text(configuration.SWIFT)
    for kind in ("account", "container", "object"):
        builder = str(folder / f"{kind}.builder")
        cloud.run("swift-ring-builder", builder, "create", "6", "1", "0")
        cloud.run("swift-ring-builder", builder, "add", f"r1z1-127.0.0.1:{place.ports[f'swift-{kind}']}/d1", "1")
        cloud.run("swift-ring-builder", builder, "rebalance")
        (folder / f"{kind}-server.conf").write_text(configuration.swift_node(place, kind))
    (folder / "proxy-server.conf").write_text(configuration.swift_proxy(place))
    environment = {"SWIFT_TEST_IN_PROCESS": ""}
    for kind in ("account", "container", "object"):
        command = [f"swift-{kind}-server", str(folder / f"{kind}-server.conf"), "-v"]
        cloud.start(f"swift-{kind}", command, cloud.answers(f"swift-{kind}", "/healthcheck"), **environment)
    updater = ["swift-container-updater", str(folder / "container-server.conf"), "-v"]
    cloud.start("swift-updater", updater, _started)
    command = ["swift-proxy-server", str(folder / "proxy-server.conf"), "-v"]
    cloud.start("swift", command, cloud.answers("swift", "/healthcheck"))


@contextmanager
def running(folder: Path) -> Iterator[Cloud]:
    """All of them, for as long as the context is open."""
    began = time.monotonic()
    with contextlib.ExitStack() as stack:
        (folder / "mariadb").mkdir()
        (folder / "rabbitmq").mkdir()
        database = MariaDB(folder / "mariadb")
        stack.callback(database.kill)
        database.start()
        broker = stack.enter_context(running_rabbitmq(folder / "rabbitmq"))
        with pymysql.connect(host="127.0.0.1", port=database.port, user=USER) as connection:
            cursor = connection.cursor()
            cursor.execute("SET GLOBAL max_connections = 500")
            for name in DATABASES:
                cursor.execute(f"CREATE DATABASE {name} CHARACTER SET utf8mb3")
        ports = {name: free_port() for name in PORTS}
        place = Place(folder, ports, database.port, USER, broker.url)
        cloud = Cloud(place, stack)
        say("MariaDB and RabbitMQ are up")
        _keystone(cloud)
        _identity(cloud)
        say("Keystone is up")
        steps = {
            "Neutron": _neutron,
            "Nova": _nova,
            "Cinder": _cinder,
            "Glance": _glance,
            "Swift": _swift,
            "Octavia": _octavia,
        }
        with ThreadPoolExecutor(3) as pool:
            for name, done in [(n, pool.submit(step, cloud)) for n, step in steps.items()]:
                done.result()
                say(f"{name} is up")
        say(f"the cloud is up after {time.monotonic() - began:.0f} s")
        yield cloud
