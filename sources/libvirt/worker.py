"""What a worker process does: it asks libvirt, over one read-only connection, and ends with its agent.

    python -P -m sources.libvirt.worker FD

The first thing that comes over the pipe FD is the URI.

A call that hangs cannot be interrupted. So it is made here, where the agent can kill it.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from multiprocessing.connection import Connection
from queue import SimpleQueue
from typing import Any

import libvirt

from nephoscope import times
from sources.libvirt.messages import Answer, Ask, Domain, Done, Failure, Found, Stats, decode_ask, encode, part_of

_GROUPS = {
    "state": libvirt.VIR_DOMAIN_STATS_STATE,
    "cpu": libvirt.VIR_DOMAIN_STATS_CPU_TOTAL,
    "balloon": libvirt.VIR_DOMAIN_STATS_BALLOON,
    "interface": libvirt.VIR_DOMAIN_STATS_INTERFACE,
    "block": libvirt.VIR_DOMAIN_STATS_BLOCK,
    "perf": libvirt.VIR_DOMAIN_STATS_PERF,
}
_PERMANENT = {
    libvirt.VIR_ERR_ACCESS_DENIED,
    libvirt.VIR_ERR_AUTH_CANCELLED,
    libvirt.VIR_ERR_AUTH_FAILED,
    libvirt.VIR_ERR_AUTH_UNAVAILABLE,
    libvirt.VIR_ERR_INVALID_ARG,
    libvirt.VIR_ERR_NO_CONNECT,
}
_NOWAIT = libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT


def serve(connection: Connection) -> None:
    """Answer until the other end is closed: then the process ends, whatever hangs."""
    asked: SimpleQueue[bytes] = SimpleQueue()

    def listen() -> None:
        try:
            while True:
                asked.put(connection.recv_bytes())
        except (EOFError, OSError):
            os._exit(0)

    threading.Thread(target=listen, daemon=True).start()
    connection.send_bytes(encode(Done()))
    uri = asked.get().decode()
    to: Any = None
    while True:
        ask = decode_ask(asked.get())
        try:
            if to is None:
                to = libvirt.openReadOnly(uri)
            for answer in _answers(to, ask):
                connection.send_bytes(encode(answer))
            answer = Done()
        except libvirt.libvirtError as error:
            answer = Failure(error.get_error_message() or str(error), error.get_error_code() in _PERMANENT)
        connection.send_bytes(encode(answer))


def _answers(to: Any, ask: Ask) -> Iterator[Answer]:
    found, objects = [], []
    for one in to.listAllDomains(0):
        uuid = one.UUIDString()
        if (ask.only is not None and uuid not in ask.only) or ask.part not in {None, part_of(uuid)}:
            continue
        try:
            xml = one.XMLDesc(0) if ask.groups else ""
        except libvirt.libvirtError as error:
            if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
                continue  # It has gone in between.
            raise
        # A domain that does not run has no number.
        found.append(Domain(uuid, one.name(), one.ID() >= 0, xml))
        objects.append(one)
    yield Found(found)
    groups = sum(_GROUPS[g] for g in ask.groups)
    for first in range(0, len(objects) if groups else 0, ask.size):
        began = times.now()
        rows = to.domainListGetStats(objects[first : first + ask.size], groups, _NOWAIT)
        yield Stats({domain.UUIDString(): told for domain, told in rows}, began, times.now())


def main() -> None:
    """The process."""
    # Ctrl-C on a terminal is meant for the agent.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Else libvirt prints each error as well.
    libvirt.registerErrorHandler(lambda *_: None, None)
    serve(Connection(int(sys.argv[1])))


if __name__ == "__main__":
    main()
