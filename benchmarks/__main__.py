"""`python -m benchmarks NAME`: print a table and, as the last line, one JSON object."""

import argparse
import importlib
import json
import pkgutil

import benchmarks
from benchmarks.timing import Table


def main() -> None:
    """Run one benchmark, or all of them."""
    others = ("__main__", "peers", "timing")
    names = sorted(m.name for m in pkgutil.iter_modules(benchmarks.__path__) if m.name not in others)
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("name", choices=[*names, "all"])
    parser.add_argument("--rounds", type=int, default=15, help="interleaved rounds (default 15)")
    options = parser.parse_args()
    for name in names if options.name == "all" else [options.name]:
        tables: list[Table] = importlib.import_module(f"benchmarks.{name}").run(options.rounds)
        print("\n\n".join(table.text() for table in tables))
        print(json.dumps({"name": name, "ratios": {way: r for t in tables for way, r in t.ratios().items()}}))


if __name__ == "__main__":
    main()
