"""``python -m bench NAME…``: a JSON line a case: {"case", "value", "unit", "against", "ratio"}.

``--quick`` and ``--case CASE`` where the bench takes them (bench/cluster.py, bench/stores.py); ``--store NAME`` for bench/stores.py.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import json
import pkgutil
import sys
from typing import Any

_FLAGS = {"quick": "quick", "only": "case", "stores": "store"}


def main() -> int:
    """Run the benches named on the command line, or list them."""
    import bench

    known = sorted(m.name for m in pkgutil.iter_modules(bench.__path__) if not m.name.startswith("_"))
    parser = argparse.ArgumentParser(prog="python -m bench", description=f"known: {', '.join(known)}")
    parser.add_argument("names", nargs="+", metavar="NAME", choices=known)
    parser.add_argument("--quick", action="store_true", help="fewer samples, rough figures")
    parser.add_argument("--case", action="append", default=[], metavar="CASE", help="this one; may be repeated")
    parser.add_argument("--store", action="append", default=[], metavar="NAME", help="this one; may be repeated")
    given = parser.parse_args()
    for name in given.names:
        module: Any = importlib.import_module(f"bench.{name}")
        takes = inspect.signature(module.cases).parameters
        wanted = {"quick": given.quick, "only": given.case, "stores": given.store}
        for option, value in wanted.items():
            if value and option not in takes:
                parser.error(f"{name} has no --{_FLAGS[option]}")
        unknown = [c for c in given.case if c not in module.CASES] if given.case else []
        if unknown:
            parser.error(f"{name} has no case {unknown[0]}; known: {', '.join(module.CASES)}")
        unknown = [s for s in given.store if s not in module.STORES] if given.store else []
        if unknown:
            parser.error(f"{name} has no store {unknown[0]}; known: {', '.join(module.STORES)}")
        for case in module.cases(**{option: value for option, value in wanted.items() if option in takes}):
            print(json.dumps(case), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
