"""`python -m tests.simulator`: one run, or the comparison with what Ceilometer does; a line of JSON each."""

from __future__ import annotations

import argparse
import json
import sys
import time

from tests.simulator.processes import Ceilometer, Nephoscope
from tests.simulator.runs import Run


def main() -> int:
    """Run what the command line asks for; status 1 where something was lost or doubled that must not be."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulator", description=main.__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--periods", type=int, default=10_000)
    parser.add_argument("--members", type=int, default=50)
    parser.add_argument("--targets", type=int, default=100)
    parser.add_argument("--interval", type=int, default=20)
    parser.add_argument("--lease", type=float, default=10.0)
    parser.add_argument("--harsh", action="store_true", help="troubles overlap")
    parser.add_argument("--compare", action="store_true", help="run Ceilometer's cycle with tooz's ring as well")
    given = parser.parse_args()
    options = {k: v for k, v in vars(given).items() if k not in {"seed", "compare"}}
    bad = False
    for kind in (Nephoscope, Ceilometer) if given.compare else (Nephoscope,):
        began = time.process_time()
        result = Run(given.seed, kind=kind, **options)()
        took = round(time.process_time() - began, 1)
        said = {"who": kind.__name__, "seed": given.seed, **options, **vars(result), "cpu_seconds": took}
        sys.stdout.write(json.dumps(said) + "\n")
        sys.stdout.flush()
        if kind is not Ceilometer:
            silent = result.missing > (result.counted if given.harsh or given.interval < 2 * given.lease else 0)
            bad = bool(silent or result.doubled)
    return int(bad)


if __name__ == "__main__":
    sys.exit(main())
