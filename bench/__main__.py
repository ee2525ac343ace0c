"""``python -m bench NAME``: a JSON line a case: {"case", "value", "unit", "against", "ratio"}."""

from __future__ import annotations

import importlib
import json
import pkgutil
import sys


def main() -> int:
    """Run the benches named on the command line, or list them."""
    import bench

    known = sorted(m.name for m in pkgutil.iter_modules(bench.__path__) if not m.name.startswith("_"))
    names = sys.argv[1:]
    unknown = [n for n in names if n not in known]
    if unknown or not names:
        print(f"usage: python -m bench NAME…; known: {', '.join(known)}", file=sys.stderr)
        return 2
    for name in names:
        for case in importlib.import_module(f"bench.{name}").cases():
            print(json.dumps(case), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
