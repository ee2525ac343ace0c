"""HBase in one process (master, region server and ZooKeeper) with its Thrift servers, from Maven's jars."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import happybase
from Hbase_thrift import IOError as HBaseError
from thriftpy2.thrift import TException

from tests.servers import JAVA_FLAGS, Server, free_port, jars, java, shared

_JARS = ("org.apache.hbase:hbase-server:2.6.1", "org.apache.hbase:hbase-thrift:2.6.1")
_OPENED: tuple[str, ...] = (
    "java.base/java.io",
    "java.base/java.lang",
    "java.base/java.lang.reflect",
    "java.base/java.net",
    "java.base/java.nio",
    "java.base/java.util",
    "java.base/java.util.concurrent",
    "java.base/jdk.internal.misc",
    "java.base/jdk.internal.ref",
    "java.base/sun.nio.ch",
    "java.security.jgss/sun.security.krb5",
)
_SITE = {
    "hbase.cluster.distributed": "false",
    "hbase.localcluster.assign.random.ports": "true",
    "hbase.master.hostname": "localhost",
    "hbase.master.info.port": "-1",
    "hbase.master.wait.on.regionservers.interval": "100",
    "hbase.master.wait.on.regionservers.maxtostart": "1",
    "hbase.master.wait.on.regionservers.mintostart": "1",
    "hbase.master.wait.on.regionservers.timeout": "200",
    "hbase.regionserver.handler.count": "10",
    "hbase.regionserver.hostname": "localhost",
    "hbase.regionserver.info.port": "-1",
    "hbase.regionserver.msginterval": "200",
    "hbase.thrift.info.port": "-1",
    "hbase.unsafe.stream.capability.enforce": "false",
    "hbase.wal.provider": "filesystem",
    # What a Thrift server does while the region server is away: it tries for some seconds, then says so.
    "hbase.client.retries.number": "4",
    "hbase.client.operation.timeout": "8000",
    "hbase.client.meta.operation.timeout": "8000",
    "hbase.client.scanner.timeout.period": "8000",
    "hbase.rpc.timeout": "4000",
    "hbase.client.pause": "50",
    "zookeeper.recovery.retry": "1",
}
_PATIENT = {
    "hbase.client.retries.number": "15",
    "hbase.client.operation.timeout": "120000",
    "hbase.client.meta.operation.timeout": "120000",
    "hbase.client.scanner.timeout.period": "60000",
    "hbase.rpc.timeout": "60000",
}
_LOGGING = """\
log4j.rootLogger=WARN,out
log4j.appender.out=org.apache.log4j.ConsoleAppender
log4j.appender.out.layout=org.apache.log4j.PatternLayout
log4j.appender.out.layout.ConversionPattern=%d %p %c: %m%n
"""


class HBase:
    """HBase, its Thrift server at `address` and the Thrift 2 server at `admin`; each can be killed and started again on its data.

    `heap`: of the first, with Java's own choice of collector and compiler and HBase's own time-outs instead of the tests' short ones.
    `with_admin` False: without a Thrift 2 server. `session`: seconds after which it ends itself where the machine did not let it speak to its ZooKeeper.
    """

    def __init__(
        self,
        folder: Path,
        facts: dict[str, Any] | None = None,
        *,
        heap: str | None = None,
        with_admin: bool = True,
        session: int = 10,
    ) -> None:
        self._with_admin = with_admin
        self.folder = folder
        self.facts = facts or {"port": free_port(), "admin": free_port(), "zookeeper": free_port()}
        self.port: int = self.facts["port"]
        self.address, self.admin = f"127.0.0.1:{self.port}", f"127.0.0.1:{self.facts['admin']}"
        conf = folder / "conf"
        if not conf.exists():
            conf.mkdir(parents=True)
            site = {
                **_SITE,
                **({} if heap is None else _PATIENT),
                "zookeeper.session.timeout.localHBaseCluster": f"{1000 * session}",
                "hbase.rootdir": f"file://{folder}/data",
                "hbase.tmp.dir": f"{folder}/tmp",
                "hbase.zookeeper.property.clientPort": str(self.facts["zookeeper"]),
                "hbase.zookeeper.property.dataDir": f"{folder}/zookeeper",
                "hbase.zookeeper.quorum": "localhost",
            }
            (conf / "hbase-site.xml").write_text(_xml(site))
            (conf / "log4j.properties").write_text(_LOGGING)
        address = ("-b", "127.0.0.1", "-p")
        self._flags = JAVA_FLAGS if heap is None else ()
        self.master = self._server("master", heap or "384m", "org.apache.hadoop.hbase.master.HMaster", "start")
        self.thrift = self._server(
            "thrift",
            "256m",
            "org.apache.hadoop.hbase.thrift.ThriftServer",
            "start",
            *address,
            str(self.port),
            "-t",
            "600000",
        )
        self.thrift2 = self._server(
            "thrift2",
            "128m",
            "org.apache.hadoop.hbase.thrift2.ThriftServer",
            "start",
            *address,
            str(self.facts["admin"]),
        )

    def _server(self, name: str, heap: str, *main: str) -> Server:
        conf, lib = self.folder / "conf", jars("hbase-2.6.1", *_JARS)
        opened = [f"--add-opens={package}=ALL-UNNAMED" for package in _OPENED]
        flags = [*self._flags, *opened, f"-Dlog4j.configuration=file:{conf}/log4j.properties", f"-Xmx{heap}"]
        (self.folder / name).mkdir(exist_ok=True)
        return Server(self.folder / name, [java(), *flags, *main], {"CLASSPATH": f"{conf}:{lib}/*"})

    def start(self) -> None:
        """Start it all, until it answers."""
        for server in (self.master, self.thrift, *([self.thrift2] if self._with_admin else [])):
            server.start(_at_once)
        self.wait()

    def start_again(self, server: Server) -> None:
        """Start one of the three that was killed, until all answer."""
        server.start(_at_once)
        self.wait()

    def wait(self, patience: float = 120.0) -> None:
        """Until a table can be made and that of tables is served, and the Thrift servers are there; they wait for the master by themselves."""
        deadline = time.monotonic() + patience
        while True:
            try:
                with closing(happybase.Connection("127.0.0.1", self.port, timeout=10_000)) as connection:
                    # A master that has not come so far answers to less than this.
                    connection.create_table(f"probe{time.time_ns()}", {"f": {}})
                    for _ in connection.table("hbase:meta").scan(limit=1):
                        break
                if self._with_admin:
                    socket.create_connection(("127.0.0.1", self.facts["admin"])).close()
                return
            except (OSError, EOFError, TException, HBaseError) as error:
                if time.monotonic() > deadline:
                    raise TimeoutError(f"HBase is not there ({error}):\n{self.master.tail()}") from error
            time.sleep(0.1)

    def kill(self) -> None:
        """SIGKILL for all."""
        for server in (self.thrift2, self.thrift, self.master):
            server.kill()


def _at_once() -> None:
    """What it takes for the next to be started."""


def _xml(properties: dict[str, str]) -> str:
    inside = "".join(
        f"<property><name>{escape(k)}</name><value>{escape(v)}</value></property>" for k, v in properties.items()
    )
    return f"<configuration>{inside}</configuration>\n"


@contextmanager
def running(folder: Path, *, heap: str | None = None, with_admin: bool = True) -> Iterator[HBase]:
    """An HBase of one's own, to be killed."""
    hbase = HBase(folder, heap=heap, with_admin=with_admin)
    try:
        hbase.start()
        yield hbase
    finally:
        hbase.kill()


@contextmanager
def for_all(base: Path) -> Iterator[tuple[str, str]]:
    """The addresses of Thrift and Thrift 2 of the HBase that a test run shares."""
    folder = base / "hbase"
    facts = folder / "facts.json"

    def start_master(_: Path) -> tuple[int, dict[str, Any]]:
        # Nobody kills it, and a busy machine may hold it up for long.
        hbase = HBase(folder, session=40)
        facts.write_text(json.dumps(hbase.facts))
        hbase.master.start(_at_once)
        return hbase.master.disown(), {}

    def start_thrift(_: Path) -> tuple[int, dict[str, Any]]:
        hbase = HBase(folder, json.loads(facts.read_text()))
        hbase.thrift.start(_at_once)
        return hbase.thrift.disown(), {}

    def start_thrift2(_: Path) -> tuple[int, dict[str, Any]]:
        hbase = HBase(folder, json.loads(facts.read_text()))
        hbase.thrift2.start(_at_once)
        hbase.wait()
        return hbase.thrift2.disown(), {"address": hbase.address, "admin": hbase.admin}

    with (
        shared(base, "hbase-master", start_master),
        shared(base, "hbase-thrift", start_thrift),
        shared(base, "hbase-thrift2", start_thrift2) as known,
    ):
        yield known["address"], known["admin"]
