"""Controllers for IPMI over LAN: OpenIPMI's ipmi_sim with sensors, and one by pyghmi that knows DCMI, which ipmi_sim does not.

``python bmc.py PORT`` is the second one.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

USER, PASSWORD = "admin", "s3cret-bmc"
WATTS, INLET = 347, 24
_SENSORS = (
    # name, sensor type, unit, M, exponent, entity, raw reading
    ("Ambient Temp", 1, 1, 1, 0, 0x37, 23),
    ("CPU1 Temp", 1, 1, 1, 0, 3, 48),
    ("FAN1", 4, 18, 60, 0, 0x1D, 80),
    ("12V", 2, 4, 6, -2, 0x13, 200),
    ("PSU1 Current", 3, 5, 1, -1, 0x0A, 15),
    ("Pwr Consumption", 0x0B, 6, 4, 0, 0x0A, 55),
)


def _record(number: int, name: str, kind: int, unit: int, m: int, exponent: int, entity: int) -> str:
    """A full sensor record (IPMI 2.0, 43.1) of a linear sensor with thresholds."""
    head = [0, 0, 0x51, 1, 0, 0x20, 0, number, entity, 1, 0x7F, 0x68, kind, 1, 0, 0, 0, 0, 0x3F, 0x3F, 0, unit, 0, 0]
    rest = [m & 0xFF, (m >> 8 & 3) << 6, 0, 0, 0, (exponent & 15) << 4, 7, 0, 255, 0, 255, 0]
    thresholds = [240, 220, 200, 0, 0, 0, 1, 1, 0, 0, 0]
    data = [*head, *rest, *thresholds, 0xC0 | len(name), *name.encode()]
    data[4] = len(data) - 5
    return " ".join(f"0x{byte:02x}" for byte in data)


class Simulator:
    """ipmi_sim at 127.0.0.1:`port`."""

    def __init__(self, folder: Path) -> None:
        from tests.servers import Server
        from tests.servers.snmpd import free_udp_port, program

        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.port = folder, free_udp_port()
        self._tool = program("ipmitool", "ipmitool")
        lines = [
            "mc_setbmc 0x20",
            "mc_add 0x20 0 no-device-sdrs 0x23 9 8 0x9f 0x1291 0xf02",
            "sel_enable 0x20 100 0x0a",
        ]
        for number, (name, kind, unit, m, exponent, entity, raw) in enumerate(_SENSORS, 1):
            self.set(number, raw)
            lines += [
                f'sensor_add 0x20 0 {number} 0x{kind:02x} 1 poll 500 file "{folder / str(number)}"',
                f"sensor_set_value 0x20 0 {number} {raw} 0",
                f"sensor_set_event_support 0x20 0 {number} enable scanning per-state "
                + " ".join(["000111111111111"] * 4),
                f"main_sdr_add 0x20 {_record(number, name, kind, unit, m, exponent, entity)}",
            ]
        (folder / "sim.emu").write_text("\n".join([*lines, "mc_enable 0x20\n"]))
        allowed = "\n".join(
            f"    allowed_auths_{who} none md2 md5 straight" for who in ("callback", "user", "operator", "admin")
        )
        (folder / "lan.conf").write_text(
            f'name "tests"\nset_working_mc 0x20\n  startlan 1\n    addr 127.0.0.1 {self.port}\n    priv_limit admin\n{allowed}\n'
            f'    guid a123456789abcdefa123456789abcdef\n  endlan\n  user 2 true "{USER}" "{PASSWORD}" admin 10 none md2 md5 straight\n'
        )
        command = [program("ipmi_sim", "openipmi"), "-c", "lan.conf", "-f", "sim.emu", "-s", str(folder), "-n"]
        self._server = Server(folder, command)

    def set(self, number: int, raw: int) -> None:
        """Give a sensor another reading; it is taken up within half a second."""
        (self.folder / str(number)).write_text(f"{raw}\n")

    def start(self) -> None:
        """Start it, until it answers."""
        self._server.start(lambda: self.tool("mc", "info"))

    def tool(self, *command: str) -> str:
        """What ipmitool says."""
        arguments = ["-I", "lanplus", "-H", "127.0.0.1", "-p", str(self.port), "-U", USER, "-E", "-C", "3", "-N", "2"]
        environment = {**os.environ, "IPMI_PASSWORD": PASSWORD}
        done = subprocess.run(
            [self._tool, *arguments, *command], env=environment, capture_output=True, text=True, check=True, timeout=60
        )
        return done.stdout

    def kill(self) -> None:
        """SIGKILL."""
        self._server.kill()


@contextmanager
def running(folder: Path) -> Iterator[Simulator]:
    """A simulator of one's own."""
    one = Simulator(folder)
    one.start()
    try:
        yield one
    finally:
        one.kill()


@contextmanager
def with_dcmi(folder: Path) -> Iterator[int]:
    """A controller that knows DCMI, and no sensors; its port."""
    from tests.servers import Server
    from tests.servers.snmpd import free_udp_port, program

    folder.mkdir(parents=True, exist_ok=True)
    port = free_udp_port()
    tool = program("ipmitool", "ipmitool")
    command = [tool, "-I", "lanplus", "-H", "127.0.0.1", "-p", str(port), "-U", USER, "-E", "-C", "3", "mc", "info"]

    def answers() -> None:
        environment = {**os.environ, "IPMI_PASSWORD": PASSWORD}
        subprocess.run(command, env=environment, capture_output=True, check=True, timeout=60)

    server = Server(folder, [sys.executable, __file__, str(port)])
    server.start(answers)
    try:
        yield port
    finally:
        server.kill()


def _serve(port: int) -> None:
    from pyghmi.ipmi.bmc import Bmc

    def replied(request: dict, session: object) -> bool:
        """Get Power Reading and Get Temperature Readings (DCMI 1.5, 6.6.1 and 6.7.3)."""
        if request["netfn"] != 0x2C or request["data"][:1] != b"\xdc":
            return False
        watts = WATTS.to_bytes(2, "little")
        if request["command"] == 0x02:
            session.send_ipmi_response(data=b"\xdc" + watts * 4 + bytes(4) + (1000).to_bytes(4, "little") + b"\x40")
        elif request["command"] == 0x10:
            inlet = request["data"][2] == 0x40
            session.send_ipmi_response(data=b"\xdc\x01\x01" + bytes([INLET if inlet else 61, 1]))
        else:
            return False
        return True

    class Dcmi(Bmc):
        def handle_raw_request(self, request: dict, session: object) -> None:
            if not replied(request, session):
                super().handle_raw_request(request, session)

    if not socket.has_ipv6:
        raise SystemExit("pyghmi listens on IPv6 sockets")
    Dcmi({USER: PASSWORD}, port=port, address="::ffff:127.0.0.1")
    while True:
        Dcmi.listen(timeout=10)


if __name__ == "__main__":
    _serve(int(sys.argv[1]))
