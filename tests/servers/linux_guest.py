"""A Linux guest that works at a steady pace and tells its own counters on its serial line: Debian's cloud kernel and a busybox.

Both packages are downloaded once with apt-get (which needs no root for it) and unpacked into the cache of the tests.
"""

from __future__ import annotations

import fcntl
import gzip
import hashlib
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import NamedTuple

from tests.servers import cache, missing
from tests.servers.libvirt import Libvirt, wait_for

ADDRESS, HOST = "10.77.0.2", "10.77.0.1"
_MODULES = (
    "drivers/virtio/virtio_ring.ko",
    "drivers/virtio/virtio.ko",
    "drivers/virtio/virtio_pci_legacy_dev.ko",
    "drivers/virtio/virtio_pci_modern_dev.ko",
    "drivers/virtio/virtio_pci.ko",
    "drivers/block/virtio_blk.ko",
    "net/core/failover.ko",
    "drivers/net/net_failover.ko",
    "drivers/net/virtio_net.ko",
    "drivers/virtio/virtio_balloon.ko",
)
# Each second a line of its counters: what /proc and /sys say, the fields that it says them in.
_INIT = f"""\
#!/bin/busybox sh
export PATH=/bin
/bin/busybox --install -s /bin
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
for module in {" ".join(Path(m).name for m in _MODULES)}; do insmod /modules/$module; done
ip link set lo up; ip addr add {ADDRESS}/24 dev eth0; ip link set eth0 up
ping -q {HOST} >/dev/null 2>&1 &
grep -q work /proc/cmdline && (
    while :; do timeout 2 sh -c 'while :; do :; done'; sleep 0.5; done &
    while :; do dd if=/dev/vda of=/dev/null bs=256k count=4 skip=1 iflag=direct; sleep 0.5; done &
    while :; do dd if=/dev/zero of=/dev/vda bs=256k count=2 seek=8 oflag=direct; sleep 0.5; done &
    while :; do ping -q -c 10 -i 0.1 -s 1200 {HOST}; sleep 0.1; done &
) >/dev/null 2>&1
while :; do
    read up rest < /proc/uptime
    read cpu < /proc/stat
    disk=$(cat /sys/block/vda/stat)
    net=$(grep eth0: /proc/net/dev)
    echo "GUEST $up|${{cpu#cpu}}|$disk|${{net#*:}}" > /dev/ttyS0
    sleep 1
done
"""


class Counters(NamedTuple):
    """What the guest says: seconds up, and idle with nothing to do or waiting for a disk; totals of disk and network."""

    up: float
    idle: float
    read_bytes: float
    write_bytes: float
    received: float
    sent: float


def counters_of(line: str) -> Counters | None:
    """Read a line of the guest; None where it is none, or not whole."""
    start, _, rest = line.strip().partition("GUEST ")
    parts = rest.split("|")
    if start or len(parts) != 4:
        return None
    cpu, disk, net = ([int(word) for word in part.split()] for part in parts[1:])
    if len(cpu) < 5 or len(disk) < 7 or len(net) < 16:
        return None
    return Counters(float(parts[0]), (cpu[3] + cpu[4]) / 100, disk[2] * 512, disk[6] * 512, net[0], net[8])


def _built() -> Path:
    """A folder with `vmlinuz` and `initrd.gz`."""
    made_of = hashlib.sha256("".join((_INIT, *_MODULES)).encode()).hexdigest()[:12]
    folder = cache() / f"linux-guest-{made_of}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / "linux-guest.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if folder.is_dir():
            return folder
        for program in ("apt-get", "dpkg-deb", "cpio"):
            if not shutil.which(program):
                missing(f"there is no {program} to make a guest with (Debian: apt install cpio)")
        with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
            work = Path(scratch)
            _download(work)
            made = work / "made"
            made.mkdir()
            (kernel,) = (work / "root/boot").glob("vmlinuz-*")
            shutil.copy(kernel, made / "vmlinuz")
            (made / "initrd.gz").write_bytes(_initrd(work))
            made.rename(folder)
    return folder


def _download(work: Path) -> None:
    told = subprocess.run(
        ["apt-cache", "depends", "linux-image-cloud-amd64"], capture_output=True, text=True, check=False
    ).stdout
    kernel = next((line.split()[1] for line in told.splitlines() if "Depends:" in line), "")
    done = subprocess.run(
        ["apt-get", "download", kernel, "busybox-static"], cwd=work, capture_output=True, text=True, check=False
    )
    if not kernel or done.returncode:
        missing(f"apt-get cannot download linux-image-cloud-amd64 and busybox-static: {done.stderr[-500:]}")
    for package in work.glob("*.deb"):
        subprocess.run(["dpkg-deb", "-x", package.name, "root"], cwd=work, check=True)


def _initrd(work: Path) -> bytes:
    tree = work / "initrd"
    for name in ("bin", "modules", "proc", "sys", "dev"):
        (tree / name).mkdir(parents=True)
    shutil.copy(work / "root/bin/busybox", tree / "bin")
    (modules,) = (work / "root/lib/modules").iterdir()
    for module in _MODULES:
        shutil.copy(modules / "kernel" / module, tree / "modules")
    (tree / "init").write_text(_INIT)
    (tree / "init").chmod(0o755)
    names = "\n".join(str(p.relative_to(tree)) for p in sorted(tree.rglob("*")))
    packed = subprocess.run(
        ["cpio", "-o", "-H", "newc", "--quiet"], cwd=tree, input=names.encode(), capture_output=True, check=True
    )
    return gzip.compress(packed.stdout, 6)


def start(server: Libvirt, number: int, *, work: bool) -> tuple[str, Path]:
    """Start one; its name, and the file of its serial line. With `work` it keeps CPU, disk and network busy."""
    files = _built()
    serial = server.folder / "disks" / f"serial-{number}.log"
    command = f"console=ttyS0 quiet mitigations=off {'work' if work else ''}"
    boot = f"<kernel>{files}/vmlinuz</kernel><initrd>{files}/initrd.gz</initrd><cmdline>{command}</cmdline>"
    line = f"<serial type='file'><source path='{serial}'/></serial>"
    name = server.add(number, size=64 << 20, memory=128, boot=boot, devices=line)
    tap = f"tap{number:04d}"
    server.inside("ip", "addr", "add", f"{HOST}/24", "dev", tap)
    wait_for("the guest tells its counters", lambda: latest(serial), 120)
    return name, serial


def latest(serial: Path) -> Counters | None:
    """What the guest said last."""
    lines = serial.read_text(errors="replace").splitlines() if serial.exists() else []
    return next((c for line in reversed(lines[-3:]) if (c := counters_of(line))), None)
