"""The first process of the namespaces that a test's libvirtd lives in: mounts its folders, keeps it running, buries what ends.

python libvirt_init.py FOLDER: as systemd would, it starts libvirtd again when it ends, but not while FOLDER/hold is there. Its processes,
guests and network interfaces end with it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

PLACES = {
    "etc": "/etc/libvirt",
    "lib": "/var/lib/libvirt",
    "logs": "/var/log/libvirt",
    "cache": "/var/cache/libvirt",
    "run": "/run",
}
"""What lies where for this libvirtd: nothing of the host's own is read or written."""


def main(folder: Path) -> None:
    for name, place in PLACES.items():
        Path(place).mkdir(parents=True, exist_ok=True)
        subprocess.run(["mount", "--bind", str(folder / name), place], check=True)
    subprocess.run(["ip", "link", "set", "lo", "up"], check=False)
    daemon = 0
    # As soon as the folder is removed, whoever did it, this process ends, and all the others with it.
    while folder.exists():
        if not daemon and not (folder / "hold").exists():
            daemon = os.posix_spawnp("libvirtd", ["libvirtd"], os.environ)
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            pid = 0
        if pid == daemon:
            daemon = 0
        if not pid:
            time.sleep(0.05)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
