"""Reading a part of the host's domains, whatever hangs.

The first call is for many domains at once. Where it does not come back, a guest's QEMU has stopped answering: the process that asked is killed,
and the domains that are left are asked one by one. libvirtd goes on waiting for the one that hangs, so from then on NOWAIT passes it
over. A libvirtd that is away is tried again until the time is over.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator
from typing import Any
from xml.etree.ElementTree import ParseError

from nephoscope.errors import MissingExtra
from sources.libvirt.domain import Instance, instance_of
from sources.libvirt.messages import Ask, Domain, Found, Stats, part_of
from sources.libvirt.meters import groups_of
from sources.libvirt.pool import Hung, LibvirtError, Pool
from sources.libvirt.readings import is_complete, readings_of
from sources.pollster import PermanentError, Reading

_PAUSE = 0.25
"""Before libvirt is asked again (seconds): a libvirtd that is just starting, a domain that another client works on."""
_AGAIN = 3
"""A domain that NOWAIT passed over is asked so often more."""
Told = tuple[dict[str, Any], int]
"""libvirt's statistics of a domain, and when they were read (microseconds)."""


class Parts:
    """Polls parts. What it remembers between polls only saves work.

    Args:
        pool: who asks libvirt.
        host: this host's name, as Nova has it.
        patience: seconds that a call for many domains may take; all of a poll may take twice as long.

    """

    def __init__(self, pool: Pool, host: str, patience: float) -> None:
        self._pool = pool
        self._host = host
        self._patience = patience
        self._known: dict[str, tuple[Domain, int, Instance]] = {}
        self._hung: set[str] = set()

    def poll(self, ask: Ask, meters: Collection[str]) -> Iterator[Reading]:
        """The readings of the domains asked for; in the end LibvirtError or PermanentError where some are missing."""
        poll = _Poll(self._pool, ask, groups_of(meters), self._patience)
        wrong: list[str] = []
        try:
            while True:
                for uuid, told in poll.read():
                    yield from self._readings(poll.domains[uuid], told, meters, wrong)
                if not poll.ask_again(self._hung):
                    break
        except LibvirtError as error:
            wrong.append(str(error))
        # Those that hang: what libvirt knows without their QEMU.
        for uuid, partly in poll.incomplete.items():
            if partly is not None:
                yield from self._readings(poll.domains[uuid], partly, meters, wrong)
        self._remember(ask, poll)
        if poll.incomplete:
            names = sorted(f"{poll.domains[uuid].name} ({uuid})" for uuid in poll.incomplete)
            wrong.insert(0, f"{self._pool.uri}: no answer from the QEMU of {', '.join(names)}")
        if not wrong and (unknown := set(ask.only or ()).difference(poll.domains)):
            wrong.append(f"{self._pool.uri}: there is no instance {', '.join(sorted(unknown))}")
        if wrong:
            raise LibvirtError("; ".join(wrong))

    def _remember(self, ask: Ask, poll: _Poll) -> None:
        # Other threads poll other parts: what they know is left alone.
        self._hung.difference_update(poll.domains)
        self._hung.update(poll.incomplete)
        for uuid in list(self._known):
            if part_of(uuid) == ask.part and uuid not in poll.domains:
                self._known.pop(uuid, None)

    def _readings(self, domain: Domain, told: Told, meters: Collection[str], wrong: list[str]) -> Iterator[Reading]:
        state = told[0].get("state.state", 0)
        known = self._known.get(domain.uuid)
        if known is None or known[0].xml != domain.xml or known[1] != state:
            try:
                instance = instance_of(domain.uuid, domain.name, domain.xml, state, self._host)
            except (ParseError, ValueError) as error:
                wrong.append(f"the XML of {domain.name} ({domain.uuid}) cannot be read: {error}")
                return
            known = self._known[domain.uuid] = (domain, state, instance)
        yield from readings_of(known[2], told[0], meters, told[1])


class _Poll:
    """How far a poll is.

    `domains`: those that there are. `incomplete`: those whose QEMU did not answer, with what libvirt told without it.
    """

    def __init__(self, pool: Pool, ask: Ask, groups: list[str], patience: float) -> None:
        self._pool = pool
        self._ask = ask
        self._groups = groups
        self._patience = patience
        self._deadline = time.monotonic() + 2 * patience
        self._pending: list[str] | None = None
        self._again = 0
        self._listed = False  # The call that is made has told its domains: what hangs then is one of them.
        self.domains: dict[str, Domain] = {}
        self.incomplete: dict[str, Told | None] = {}

    def read(self) -> Iterator[tuple[str, Told]]:
        """Ask for all that is pending, again where a call hangs or libvirt is away; the domains of which all was told."""
        size, patience = self._ask.size, self._patience
        said: LibvirtError | None = None
        while self._pending is None or self._pending:
            try:
                yield from self._call(size, patience)
                return
            except MissingExtra as error:
                raise PermanentError(str(error)) from None
            except Hung as error:
                if self._pending and size == 1 and self._listed:
                    self.incomplete[self._pending.pop(0)] = None
                if time.monotonic() >= self._deadline:
                    # What libvirt said before says more than that the last try came too late.
                    raise said or error from None
                size, patience = 1, self._patience / 4
            except LibvirtError as error:
                said = error
                if not self._pause():
                    raise

    def ask_again(self, known: Collection[str]) -> bool:
        """Whether there is something to `read` once more: domains that were passed over, and did not hang before (`known`)."""
        late = [uuid for uuid in self.incomplete if uuid not in known]
        if not late or self._again >= _AGAIN or not self._pause():
            return False
        self._again += 1
        self._pending = late
        return True

    def _call(self, size: int, patience: float) -> Iterator[tuple[str, Told]]:
        only = self._ask.only if self._pending is None else self._pending
        self._listed = False
        for answer in self._pool.ask(Ask(self._ask.part, only, self._groups, size), patience, self._deadline):
            if isinstance(answer, Found):
                for gone in set(self._pending or ()).difference(d.uuid for d in answer.domains):
                    self.incomplete.pop(gone, None)
                self.domains |= {d.uuid: d for d in answer.domains}
                self._pending = [d.uuid for d in answer.domains]
                self._listed = True
            elif isinstance(answer, Stats) and self._pending is not None:
                del self._pending[:size]
                moment = (answer.began + answer.ended) // 2  # The nearest to when it was read.
                for uuid, told in answer.rows.items():
                    if is_complete(told, self._groups):
                        self.incomplete.pop(uuid, None)
                        yield uuid, (told, moment)
                    else:
                        self.incomplete[uuid] = (told, moment)

    def _pause(self) -> bool:
        """Wait a moment; whether there is time left."""
        if time.monotonic() + _PAUSE >= self._deadline:
            return False
        time.sleep(_PAUSE)
        return True
