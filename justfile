# The recipes of ./justw. `./justw` alone lists them.

set positional-arguments

export PATH := justfile_directory() / ".venv/bin:" + env("PATH")

_list:
    @just --justfile "{{justfile()}}" --list --unsorted

# poll this host, run the pipeline over it, store the result and show it
[no-cd]
run *args:
    @exec nephoscope run "$@"

# any other command: ./justw nephoscope check my.yaml
[no-cd]
nephoscope *args:
    @exec nephoscope "$@"

# stages: correctness, topology, environment
[no-cd]
check *args:
    @exec nephoscope check "$@"

# all tests, or those named: ./justw test tests/flows -k delta
test *args: _dev _servers _libvirt
    python -m pytest -n 2 --dist worksteal "$@"

# the tests that take no more than a moment each
quick *args: _dev
    python -m pytest -q -m "not slow" "$@"

# ruff, the formatter's opinion, mypy
lint: _dev
    ruff check .
    ruff format --check .
    mypy

# format the code, mend what can be mended
fmt: _dev
    ruff format .
    ruff check --fix-only --exit-zero .

# kill, pause, starve and rescale a flow over a real Kafka, and compare what it stored: --quick, crashes, starved, hostile; the same to agents: chaos agents
chaos *args: _dev _servers
    @exec python -m tests.chaos "$@"

# memory and lag at 80 % of capacity, for 10 minutes: --for SECONDS
soak *args: _dev _servers
    @exec python -m tests.chaos soak "$@"

# polling real OpenStack services, on Debian 12 as root: Keystone, Glance, Neutron, Cinder, Swift, Octavia, Nova from its packages; under 10 minutes
test-openstack *args: _dev _openstack
    @exec env CI=true python -m pytest -n 0 --capture=sys tests/openstack/services.py "$@"

# measure: flow, store, … ; one JSON line a case
bench *args: _dev
    python -m bench "$@"

# regenerate locks/ from pyproject.toml; newer versions of all: ./justw lock --upgrade
lock *args: _dev
    #!/bin/sh
    set -eu
    for version in 3.11 3.12; do
        options="--quiet --universal --generate-hashes --no-emit-index-url --no-annotate --no-header --python-version $version"
        uv pip compile $options "$@" --group build pyproject.toml -o "locks/py$version.txt"
        uv pip compile $options "$@" --group build --group dev --extra kafka -c "locks/py$version.txt" pyproject.toml -o "locks/py$version-dev.txt"
    done
    # By itself: it has no wheels, and the others must install without a compiler.
    echo 'libvirt-python>=9.0' | uv pip compile $options "$@" - -o locks/libvirt.txt
    grep -c == locks/*.txt

# where to read on
docs:
    @echo "README.md         what it is, how to start"
    @echo "ARCHITECTURE.md   the rooms, the path of a sample, where to add what"
    @echo "docs/semantics.md what a pipeline computes, row by row"
    @echo "docs/decisions/   why it is as it is"
    @echo "conf/             every setting, commented"

# write docs/meters.md anew, from the code
docs-meters: _dev
    python -m tests.sources.write_meters

# remove the environment and caches (var/ holds your data: it stays)
clean:
    rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist *.egg-info

_dev:
    @sh ./justw --setup dev

# What the tests' real servers need and pip has not: Debian packages, as root and only where they are missing. Without root the tests say
# what they lack.
_servers:
    #!/bin/sh
    set -eu
    wanted=
    java -version >/dev/null 2>&1 || wanted="$wanted default-jre-headless"
    mvn -version >/dev/null 2>&1 || wanted="$wanted maven"
    # program=package; servers lie in folders that are not on everybody's path.
    for one in mariadbd=mariadb-server redis-server=redis-server memcached=memcached rabbitmq-server=rabbitmq-server \
        snmpd=snmpd snmpget=snmp ipmi_sim=openipmi ipmitool=ipmitool; do
        PATH="$PATH:/usr/sbin" command -v "${one%%=*}" >/dev/null 2>&1 || wanted="$wanted ${one#*=}"
    done
    ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || wanted="$wanted postgresql"
    for one in libvirtd=libvirt-daemon-system virsh=libvirt-clients qemu-system-x86_64=qemu-system-x86 ip=iproute2 cpio=cpio gcc=gcc pkg-config=pkg-config; do
        PATH="$PATH:/usr/sbin:/sbin" command -v "${one%%=*}" >/dev/null 2>&1 || wanted="$wanted ${one#*=}"
    done
    ls /usr/lib/*/libvirt/connection-driver/libvirt_driver_qemu.so >/dev/null 2>&1 || wanted="$wanted libvirt-daemon-driver-qemu"
    pkg-config --exists libvirt 2>/dev/null || wanted="$wanted libvirt-dev"
    python -c 'import os, sys, sysconfig; sys.exit(not os.path.exists(sysconfig.get_path("include") + "/Python.h"))' ||
        wanted="$wanted $(python -c 'import sys; print("python%d.%d-dev" % sys.version_info[:2])')"
    if [ -z "$wanted" ] || [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null 2>&1; then
        exit 0
    fi
    echo "installing$wanted with apt-get, for the tests" >&2
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -q >/dev/null </dev/null || echo "apt-get update failed, trying what is known" >&2
    apt-get install -y -q --no-install-recommends $wanted >/dev/null </dev/null

# libvirt's Python binding comes as source only: it is built where libvirt's headers and a compiler are. Without it its tests say so.
_libvirt: _dev _servers
    #!/bin/sh
    set -eu
    if python -c 'import libvirt' 2>/dev/null || ! pkg-config --exists libvirt 2>/dev/null || ! command -v gcc >/dev/null; then
        exit 0
    fi
    echo "building libvirt-python, for the tests" >&2
    python -m pip --disable-pip-version-check --no-input install -q --require-hashes --no-deps --no-build-isolation -r locks/libvirt.txt </dev/null ||
        echo "libvirt-python could not be built (see above)" >&2

# The services of test-openstack: some 400 Debian packages, 160 MB, as root and only where they are missing. What they would start is left alone.
_openstack:
    #!/bin/sh
    set -eu
    services="mariadb-server rabbitmq-server keystone glance-api neutron-server python3-neutron-vpnaas cinder-api cinder-scheduler cinder-volume cinder-backup swift-account
        swift-container swift-object swift-proxy octavia-api placement-api nova-api nova-conductor nova-scheduler nova-compute
        uwsgi-core uwsgi-plugin-python3 python3-openstackclient python3-octaviaclient"
    wanted=
    for one in $services; do
        dpkg-query -W -f '${Status}' "$one" 2>/dev/null | grep -q 'ok installed' || wanted="$wanted $one"
    done
    if [ -z "$wanted" ]; then
        exit 0
    fi
    if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null 2>&1; then
        echo "test-openstack needs$wanted (Debian packages), or to be root on Debian" >&2
        exit 1
    fi
    echo "installing$wanted with apt-get, for the test; none of them is started" >&2
    export DEBIAN_FRONTEND=noninteractive
    # A service that Debian would start is refused, unless somebody has said what is to be done already.
    policy=/usr/sbin/policy-rc.d
    if [ ! -e "$policy" ]; then
        printf '#!/bin/sh\nexit 101\n' > "$policy"
        chmod 755 "$policy"
        trap 'rm -f "$policy"' EXIT
    fi
    apt-get update -q >/dev/null </dev/null || echo "apt-get update failed, trying what is known" >&2
    apt-get install -y -q --no-install-recommends -o DPkg::Lock::Timeout=300 $wanted >/dev/null </dev/null
