"""A libvirtd with guests under QEMU's own translator: no KVM, no systemd, nothing of the host's libvirt touched.

It lives in namespaces of its own (mounts, processes, network), so that guests, taps and files end with it. It needs root.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import psutil
import pytest

from tests.servers import Server, cache, missing, suspend
from tests.servers.libvirt_init import PLACES

_PACKAGES = "apt install libvirt-daemon libvirt-daemon-driver-qemu libvirt-daemon-system libvirt-clients qemu-system-x86 iproute2"
_LIBVIRTD = """\
listen_tls = 0
listen_tcp = 0
unix_sock_dir = "{folder}/sock"
auth_unix_rw = "none"
auth_unix_ro = "none"
log_outputs = "3:file:{folder}/libvirtd.log"
"""
# No cgroups, no namespaces of QEMU's own, no virtlogd: they need systemd or rights that a container has not.
_QEMU = """\
stdio_handler = "file"
user = "root"
group = "root"
security_driver = "none"
dynamic_ownership = 0
remember_owner = 0
cgroup_controllers = [ ]
namespaces = [ ]
"""
_SPACES = ("unshare", "--mount", "--pid", "--net", "--fork", "--kill-child", "--mount-proc")
NOVA = """\
<nova:instance xmlns:nova="http://openstack.org/xmlns/libvirt/nova/1.1">
  <nova:package version="26.2.2"/>
  <nova:name>{display}</nova:name>
  <nova:creationTime>2026-01-02 03:04:05</nova:creationTime>
  <nova:flavor name="m1.tiny">
    <nova:memory>{memory}</nova:memory><nova:disk>1</nova:disk><nova:swap>0</nova:swap>
    <nova:ephemeral>0</nova:ephemeral><nova:vcpus>1</nova:vcpus>
  </nova:flavor>
  <nova:owner><nova:user uuid="5f1e4c4c">demo</nova:user><nova:project uuid="9a9dba6f">demo</nova:project></nova:owner>
  <nova:root type="image" uuid="155d900f-4e14-4e4c-a73d-069cbf4541e6"/>
</nova:instance>"""
_DOMAIN = """\
<domain type='qemu'><name>{name}</name><uuid>{uuid}</uuid><metadata>{nova}</metadata>
<memory unit='MiB'>{memory}</memory><vcpu>1</vcpu>
<os><type arch='x86_64' machine='pc'>hvm</type>{boot}</os><features><acpi/></features>
<devices><emulator>/usr/bin/qemu-system-x86_64</emulator>
<disk type='file' device='disk'><driver name='qemu' type='raw' cache='{caching}'/><source file='{disk}'/><target dev='vda' bus='virtio'/></disk>
<interface type='ethernet'><mac address='{mac}'/><target dev='{tap}'/><model type='virtio'/></interface>
<memballoon model='virtio'><stats period='1'/></memballoon><controller type='usb' model='none'/>{devices}</devices></domain>"""


def boot_sector(path: Path, *, ticks: int = 18, size: int = 1 << 20) -> None:
    """A disk that boots into a loop: through the BIOS it reads and writes 4 KiB every `ticks` of 55 ms, and halts in between.

    With 0 it does so once, and halts for ever.
    """
    code = bytes.fromhex(
        "fa 31c0 8ed8 8ec0 8ed0 bc007c fb"  # cli; ds = es = ss = 0; sp = 0x7c00; sti
        "be247c b442 cd13"  # again: si = what to read (below); ah = 0x42: int 0x13, extended read
        "be247c b80043 cd13"  # the same place: ax = 0x4300: extended write
        + (
            f"b9{ticks & 255:02x}{ticks >> 8:02x} f4 e2fd" if ticks else "fa f4 9090 9090"
        )  # cx = ticks; wait: hlt; loop wait
        + "ebe9"  # jmp again
    )
    # 16 bytes long, 8 sectors, to 0080:0000, from sector 64.
    code += bytes([16, 0, 8, 0, 0, 0, 0x80, 0]) + (64).to_bytes(8, "little")
    with path.open("wb") as disk:
        disk.write(code.ljust(510, b"\0") + b"\x55\xaa")
        disk.truncate(size)


class Libvirt:
    """A libvirtd at `uri`, whose guests are `guests`: their names and UUIDs."""

    def __init__(self, folder: Path) -> None:
        if os.geteuid():
            missing("libvirtd needs root here")
        for program in ("libvirtd", "virsh", "qemu-system-x86_64", "ip", "unshare", "nsenter"):
            if not shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"):
                missing(f"there is no {program} (Debian: {_PACKAGES})")
        if subprocess.run([*_SPACES, "true"], capture_output=True, check=False).returncode:
            missing("this container lets nobody make namespaces: libvirtd would touch the host's own")
        try:
            import libvirt  # noqa: F401
        except ImportError:
            missing("there is no libvirt-python: ./justw test installs it where libvirt-dev, gcc and pkg-config are")
        self.folder = folder
        self.uri = f"qemu+unix:///system?socket={folder}/sock/libvirt-sock-ro"
        self._admin = f"qemu+unix:///system?socket={folder}/sock/libvirt-sock"
        self.guests: dict[str, str] = {}
        for name in (*PLACES, "sock", "disks"):
            (folder / name).mkdir()
        # What QEMU can do takes seconds to find out: it is kept for the next time.
        known = cache() / "libvirt"
        known.mkdir(parents=True, exist_ok=True)
        (folder / "cache").rmdir()
        (folder / "cache").symlink_to(known)
        (folder / "etc" / "libvirtd.conf").write_text(_LIBVIRTD.format(folder=folder))
        (folder / "etc" / "qemu.conf").write_text(_QEMU)
        init = [sys.executable, str(Path(__file__).with_name("libvirt_init.py")), str(folder)]
        path = {"PATH": f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"}
        self._server = Server(folder, [*_SPACES, *init], path)

    def start(self) -> None:
        """Start it, until it answers."""
        self._server.start(lambda: self.virsh("list"), 120)

    def close(self) -> None:
        """End it, and with it all guests."""
        self._server.kill()
        deadline = time.monotonic() + 10
        while self._space() and time.monotonic() < deadline:
            time.sleep(0.05)

    def virsh(self, *command: str) -> str:
        """What virsh says."""
        done = subprocess.run(
            ["virsh", "-q", "-c", self._admin, *command],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
            stdin=subprocess.DEVNULL,
        )
        if done.returncode:
            raise OSError(done.stderr.strip())
        return done.stdout

    def domstats(self, *groups: str) -> dict[str, dict[str, str]]:
        """What `virsh domstats` says, by the name of the guest."""
        out: dict[str, dict[str, str]] = {}
        for line in self.virsh("domstats", *groups).splitlines():
            key, _, value = line.strip().partition("=")
            if line.startswith("Domain:"):
                current = out[line.partition("'")[2].rstrip("'")] = {}
            elif value:
                current[key] = value
        return out

    def add(self, number: int, *, start: bool = True, size: int = 1 << 20, ticks: int = 18, **more: Any) -> str:
        """Define a guest, and start it; its name. `boot`, `devices`, `memory` (MiB), `nova` and `caching` are as in its XML."""
        name = f"guest-{number:04d}"
        self.guests[name] = str(uuid.uuid5(uuid.NAMESPACE_DNS, name))
        disk = self.folder / "disks" / f"{name}.img"
        boot_sector(disk, size=size, ticks=ticks)
        memory = more.get("memory", 16)
        about = {
            "name": name,
            "uuid": self.guests[name],
            "disk": disk,
            "memory": memory,
            "boot": more.get("boot", "<boot dev='hd'/>"),
            "devices": more.get("devices", ""),
            "caching": more.get("caching", "writeback"),
            "mac": f"52:54:00:00:{number >> 8:02x}:{number & 255:02x}",
            "tap": f"tap{number:04d}",
            "nova": more.get("nova", NOVA.format(display=escape(f"VM & {number}"), memory=memory)),
        }
        file = self.folder / "disks" / f"{name}.xml"
        file.write_text(_DOMAIN.format(**about))
        self.virsh("define", str(file))
        if start:
            self.virsh("start", name)
        return name

    def signal(self, guest: str, number: int) -> None:
        """Send a signal to a guest's QEMU."""
        os.kill(self.pid_of(guest), number)

    def pid_of(self, guest: str) -> int:
        """The process of a guest's QEMU, as it is called outside of the namespace."""
        return next(p.pid for p in self._space() if any(a.startswith(f"guest={guest},") for a in p.cmdline()))

    def stop_daemon(self) -> None:
        """SIGSTOP libvirtd: it takes calls, and does not answer."""
        suspend(self._daemon().pid)

    def hurry(self, guest: str) -> None:
        """Have a guest's QEMU run before all else that the machine does: nothing else tells the guest that it did not run."""
        process = Path(f"/proc/{self.pid_of(guest)}")
        for thread in (process / "task").iterdir():
            try:
                os.sched_setscheduler(int(thread.name), os.SCHED_RR, os.sched_param(1))
            except PermissionError:  # In a group of processes that has no real time.
                os.setpriority(os.PRIO_PROCESS, int(thread.name), -20)
        with contextlib.suppress(OSError):
            (process / "autogroup").write_text("-20")

    def kill_daemon(self) -> None:
        """SIGKILL libvirtd, which stays away until `restore_daemon`. The guests run on."""
        (self.folder / "hold").touch()
        daemon = self._daemon()
        daemon.kill()
        daemon.wait(10)

    def restore_daemon(self) -> None:
        """Have it come back; returns at once."""
        (self.folder / "hold").unlink(missing_ok=True)

    def inside(self, *command: str) -> str:
        """What a command says in the network and processes of the guests."""
        init = self._space()[0].pid
        done = subprocess.run(
            ["nsenter", "-t", str(init), "-n", "-p", *command], capture_output=True, text=True, check=True, timeout=60
        )
        return done.stdout

    def _daemon(self) -> psutil.Process:
        return next(p for p in self._space() if p.name() == "libvirtd")

    def _space(self) -> list[psutil.Process]:
        """Its processes, the first of them first."""
        with contextlib.suppress(psutil.NoSuchProcess, AssertionError):  # An assertion: it was never started.
            found = psutil.Process(self._server.pid).children(recursive=True)
            return [p for p in found if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
        return []


@contextmanager
def running() -> Iterator[Libvirt]:
    """A libvirtd of one's own. Its folder's path is short, as paths of sockets must be."""
    with tempfile.TemporaryDirectory(prefix="lv-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        server = Libvirt(Path(folder))
        try:
            server.start()
            yield server
        finally:
            server.close()


def wait_for(what: str, true: Any, timeout: float = 60.0) -> Any:
    """Wait until it is true; what it gave."""
    deadline = time.monotonic() + timeout
    while not (found := true()):
        if time.monotonic() > deadline:
            pytest.fail(f"{what}: not after {timeout:g} s")
        time.sleep(0.1)
    return found


STOP, CONTINUE = signal.SIGSTOP, signal.SIGCONT
