"""openstack-list: CPU of a client that lists 10,000 ports, against the SDK's objects of the same ports, in the same run.

The server is another process that speaks Keystone's and Neutron's API (tests/servers/openstack_apis.py), so only the client's CPU is counted: requests,
decoding, and readings with their metadata. Theirs is what Ceilometer's pollsters do: a list of SDK objects, and of each the attributes that its sample
needs. Both authenticate before, and take pages of 1000.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from nephoscope.settings import load_settings
from sources.openstack import openstack, target_of

PORTS: Final = 10_000
_ATTRIBUTES: Final = (
    "name", "status", "is_admin_state_up", "network_id", "mac_address", "fixed_ips", "device_id", "device_owner",
    "binding_host_id", "created_at",
)  # fmt: skip


def cases(repeat: int) -> Iterator[dict[str, Any]]:
    with _server() as auth:
        system = openstack(load_settings(environment={}, flags={"openstack.auth": json.dumps(auth)}))
        (pollster,) = [p for p in system.pollsters if p.name == "openstack.ports"]
        target = target_of("RegionOne")
        with _sdk(auth) as connection:

            def ours() -> int:
                return sum(1 for reading in pollster.poll(target, {"port"}) if reading.metadata)

            def theirs() -> int:
                count = 0
                for port in connection.network.ports(limit=1000):
                    about = {name: getattr(port, name) for name in _ATTRIBUTES}
                    count += bool(port.id and port.project_id and about)
                return count

            _cpu(ours), _cpu(theirs)  # They connect and authenticate.
            turns = [(_cpu(ours), _cpu(theirs)) for _ in range(repeat)]
        system.close()
    mine, plain = (min(times) for times in zip(*turns, strict=True))
    yield {
        "case": "openstack-list",
        "value": round(mine, 4),
        "unit": "s",
        "against": round(plain, 4),
        "ratio": round(plain / mine, 2),
    }


def _cpu(work: Callable[[], int]) -> float:
    begin = time.process_time()
    found = work()
    spent = time.process_time() - begin
    if found != PORTS:
        raise AssertionError(f"{found} ports instead of {PORTS}")
    return spent


@contextmanager
def _server() -> Iterator[dict[str, str]]:
    """The APIs in another process; the options of `auth`."""
    command = [sys.executable, "-m", "tests.servers.openstack_apis", str(PORTS)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin
    assert process.stdout
    try:
        yield json.loads(process.stdout.readline())
    finally:
        process.stdin.close()
        process.wait(10)


@contextmanager
def _sdk(auth: dict[str, str]) -> Iterator[Any]:
    import openstack as sdk

    with sdk.connect(auth=auth, region_name="RegionOne", load_envvars=False, load_yaml_config=False) as connection:
        yield connection
