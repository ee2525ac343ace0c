"""Dynamic pollsters: samples per CPU-second of this process, from the request to the readings, over a JSON list of 10,000 entries.

The API is another process on the loopback. An entry is as a list of servers gives it (20 members, some 700 bytes); of each go volume, owners, and eight
attributes of metadata, two of them nested, into the sample. The plain way: requests, the json of the standard library, a walk of dictionaries for each
attribute, a dictionary for each sample, as Ceilometer does it.
"""

from __future__ import annotations

import json
import multiprocessing
import tempfile
import time
from collections.abc import Iterator
from functools import reduce
from http.server import BaseHTTPRequestHandler, HTTPServer
from operator import getitem
from pathlib import Path
from typing import Any, Final

import requests

from nephoscope.settings import load_settings
from sources.dynamic import dynamic

ENTRIES: Final = 10_000
FIELDS: Final = (
    "name", "status", "flavor.vcpus", "flavor.ram", "OS-EXT-AZ:availability_zone", "OS-EXT-SRV-ATTR:host", "locked", "created",
)  # fmt: skip
_ATTEMPTS: Final = 5
"""Polls in a turn: their CPU time is long enough to be measured."""


def cases(repeat: int) -> Iterator[dict[str, Any]]:
    """The case `dynamic`."""
    here, there = multiprocessing.Pipe()
    server = multiprocessing.Process(target=_serve, args=(there,), daemon=True)
    server.start()
    url = f"http://127.0.0.1:{here.recv()}/servers"
    try:
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "servers.yaml").write_text(json.dumps([_definition(url)]))
            (pollster,) = dynamic(load_settings(flags={"pollsters_definitions_dirs": folder})).pollsters

            def ours() -> int:
                return len(list(pollster.poll(url, {"server.status"})))

            def plain() -> int:
                return len(list(_plain(url)))

            best = {ours: 0.0, plain: 0.0}
            for turn in range(repeat + 1):
                for way in (ours, plain):
                    begin = time.process_time()
                    count = sum(way() for _ in range(_ATTEMPTS))
                    rate = count / (time.process_time() - begin)
                    if count != ENTRIES * _ATTEMPTS:
                        raise AssertionError(f"{count} samples instead of {ENTRIES * _ATTEMPTS}")
                    if turn:  # The first warms both.
                        best[way] = max(best[way], rate)
    finally:
        server.kill()
        server.join()
    yield {
        "case": "dynamic",
        "value": round(best[ours]),
        "unit": "samples/CPU-s",
        "against": round(best[plain]),
        "ratio": round(best[ours] / best[plain], 2),
    }


def _definition(url: str) -> dict[str, Any]:
    return {
        "name": "server.status",
        "sample_type": "gauge",
        "unit": "server",
        "value_attribute": "status",
        "url_path": url,
        "response_entries_key": "servers",
        "project_id_attribute": "tenant_id",
        "metadata_fields": FIELDS,
        "value_mapping": {"ACTIVE": "1"},
        "default_value": 0,
    }


def _plain(url: str) -> Iterator[dict[str, Any]]:
    answer = requests.get(url, timeout=30)
    answer.raise_for_status()
    for entry in json.loads(answer.text)["servers"]:
        value = {"ACTIVE": "1"}.get(_walk(entry, "status"), 0)
        metadata = {field: _walk(entry, field) for field in FIELDS}
        yield {
            "name": "server.status",
            "type": "gauge",
            "unit": "server",
            "volume": float(value),
            "user_id": _walk(entry, "user_id"),
            "project_id": _walk(entry, "tenant_id"),
            "resource_id": _walk(entry, "id"),
            "resource_metadata": metadata,
        }


def _walk(entry: Any, way: str) -> Any:
    return reduce(getitem, way.split("."), entry)


def _entry(i: int) -> dict[str, Any]:
    return {
        "id": f"{i:08x}-5e4a-4000-8000-000000000000",
        "name": f"server-{i}",
        "status": "ACTIVE" if i % 10 else "ERROR",
        "tenant_id": f"{i % 100:032x}",
        "user_id": f"{i % 300:032x}",
        "metadata": {"role": "web"},
        "hostId": f"{i:056x}",
        "image": "",
        "flavor": {"vcpus": 2, "ram": 4096, "disk": 20, "ephemeral": 0, "swap": 0, "original_name": "m1.small"},
        "created": "2026-01-01T00:00:00Z",
        "updated": "2026-01-01T00:00:00Z",
        "addresses": {"private": [{"addr": "10.0.0.3", "version": 4, "OS-EXT-IPS:type": "fixed"}]},
        "accessIPv4": "",
        "key_name": "key",
        "OS-EXT-AZ:availability_zone": "nova",
        "OS-EXT-SRV-ATTR:host": f"compute{i % 50}",
        "locked": False,
        "progress": 0,
        "tags": [],
        "description": None,
    }


def _serve(pipe: Any) -> None:
    body = json.dumps({"servers": [_entry(i) for i in range(ENTRIES)]}).encode()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Nothing."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    pipe.send(server.server_address[1])
    server.serve_forever()
