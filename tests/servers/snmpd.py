"""One snmpd, from Debian's snmpd, on any addresses of the loopback net; and hosts that answer otherwise."""

from __future__ import annotations

import shutil
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.servers import Server, missing

COMMUNITY = "c0mmun1ty"
PASSWORD, PRIVACY = "authpass-1234", "privpass-1234"
USERS = """
createUser sha SHA {0} AES {1}
createUser sha256 SHA-256 {0} AES {1}
createUser md5 MD5 {0} DES {1}
createUser auth SHA {0}
createUser none
rouser sha priv
rouser sha256 priv
rouser md5 priv
rouser auth auth
rouser none noauth
"""


def program(name: str, package: str) -> str:
    """The path of a program. Skips or fails where there is none."""
    found = shutil.which(name, path="/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/bin")
    return found or missing(f"there is no {name} (Debian: apt install {package})")


def free_udp_port(host: str = "127.0.0.1") -> int:
    """A UDP port that nobody uses now."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.bind((host, 0))
        return int(one.getsockname()[1])


class Snmpd:
    """An agent at 127.0.0.1:`port`, and on the same port of further addresses. It can be stopped and started again."""

    def __init__(
        self, folder: Path, hosts: Sequence[str] = ("127.0.0.1",), engine: str = "80001f8804746573743031"
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.port = free_udp_port()
        self._get = program("snmpget", "snmp")
        self._folder = folder
        self.configure(engine, hosts)
        command = [program("snmpd", "snmpd"), "-f", "-Lo", "-C", "-c", str(folder / "snmpd.conf"), "-I", "-smux"]
        self._server = Server(folder, command, {"SNMP_PERSISTENT_DIR": str(folder / "state"), "MIBS": ""})

    def configure(self, engine: str, hosts: Sequence[str] = ("127.0.0.1",)) -> None:
        """Write its configuration, for the next start."""
        shutil.rmtree(self._folder / "state", ignore_errors=True)
        listening = ",".join(f"udp:{h}:{self.port}" for h in hosts)
        text = f"agentAddress {listening}\nexactEngineID 0x{engine}\nrocommunity {COMMUNITY}\nincludeAllDisks 5%\n"
        (self._folder / "snmpd.conf").write_text(text + USERS.format(PASSWORD, PRIVACY))

    def start(self) -> None:
        """Start it, until it answers."""
        self._server.start(lambda: self.get("1.3.6.1.2.1.1.3.0"))

    def stop(self) -> None:
        """Stop it."""
        self._server.stop()

    def kill(self) -> None:
        """SIGKILL."""
        self._server.kill()

    def get(self, *oids: str) -> list[str]:
        """What snmpget says."""
        command = [self._get, "-v2c", "-c", COMMUNITY, "-m", "", "-Oqvt", "-t", "2", f"127.0.0.1:{self.port}", *oids]
        said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout
        return [line.strip('"') for line in said.splitlines()]


@contextmanager
def running(folder: Path, hosts: Sequence[str] = ("127.0.0.1",)) -> Iterator[Snmpd]:
    """An agent of one's own."""
    agent = Snmpd(folder, hosts)
    agent.start()
    try:
        yield agent
    finally:
        agent.kill()


@contextmanager
def silent(host: str = "127.0.0.1") -> Iterator[int]:
    """A host that takes what comes and says nothing; its port."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.bind((host, 0))
        yield int(one.getsockname()[1])


@contextmanager
def answering(reply: Callable[[bytes], bytes | None], host: str = "127.0.0.1") -> Iterator[int]:
    """A host that answers each datagram with what `reply` makes of it, or not at all; its port."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.bind((host, 0))
        one.settimeout(0.1)
        stop = threading.Event()

        def serve() -> None:
            while not stop.is_set():
                try:
                    data, peer = one.recvfrom(65535)
                except TimeoutError:
                    continue
                answer = reply(data)
                if answer is not None:
                    one.sendto(answer, peer)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield int(one.getsockname()[1])
        finally:
            stop.set()
            thread.join(5)
