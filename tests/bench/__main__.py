"""``python -m tests.bench [NAME…]``: all benchmarks, or those named.  Ends with 1 when a target is missed."""

from __future__ import annotations

import importlib
import sys

BENCHMARKS = ("signaling", "relay", "datapath")


def run(names: list[str]) -> int:
    """Each benchmark is a module of this package with ``main() -> bool``."""
    unknown = [name for name in names if name not in BENCHMARKS]
    if unknown:
        print(f"no benchmark {', '.join(unknown)}; there are: {', '.join(BENCHMARKS)}", file=sys.stderr)
        return 2
    met = [importlib.import_module(f"tests.bench.{name}").main() for name in names or BENCHMARKS]
    return 0 if all(met) else 1


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
