"""The pollsters' figures: each system against the plain way of reading it, in the same run.

``python -m bench pollsters [--case CASE]… [--quick]``

libvirt-200     seconds for a cycle over 200 domains, against Ceilometer's calls a domain
openstack-list  client CPU of a list of 10,000 resources, against an SDK object for each
snmp-200        seconds for 200 SNMP hosts of which 20 are dead, against the period of 10 s
dynamic         samples per CPU-second of a dynamic pollster over a JSON list of 10,000 entries, against requests, json and a walk of
                dictionaries for each attribute

A system adds one file, ``bench/_NAME.py`` with a function ``cases(repeat)`` that yields {"case", "value", "unit", "against", "ratio"}: the best of
`repeat` turns. One that cannot run here says why on stderr; the others go on, and the exit status is 1. With ``--quick`` there is one turn: a
look, no figure.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from importlib import import_module
from typing import Any, Final

_MODULES: Final = {
    "libvirt-200": "bench._libvirt",
    "openstack-list": "bench._openstack",
    "snmp-200": "bench._snmp",
    "dynamic": "bench._dynamic",
}
CASES: Final = tuple(_MODULES)
"""The cases, in the order in which they are run."""
_TURNS: Final = 3


def cases(*, quick: bool = False, only: Sequence[str] = ()) -> Iterator[dict[str, Any]]:
    """The cases that are asked for; all by default."""
    failed = []
    for case in only or CASES:
        try:
            yield from import_module(_MODULES[case]).cases(1 if quick else _TURNS)
        except Exception as error:  # noqa: BLE001 - a system that is not here keeps no other from being measured
            print(f"{case}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
            failed.append(case)
    if failed:
        raise SystemExit(f"not measured: {', '.join(failed)}")
