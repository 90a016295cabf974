"""`altprop-check TARGET`: run the conformance suite on an algorithm or a task, yours or ours."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of the console script: exit code 0 all rules hold, 1 one is broken, 2 a mistake."""
    parser = argparse.ArgumentParser(
        prog="altprop-check",
        description="Run the conformance suite: what a rule must obey to be compared fairly.",
        epilog="examples: altprop-check dfa; altprop-check my_package.my_rule:MyRule; altprop-check task=digits",
    )
    parser.add_argument("target", nargs="+", help="an algorithm's name, package.module:Class, or task=NAME")
    parser.add_argument("--config-dir", default=None, help="a folder of yours with further yaml files")
    parser.add_argument("-v", "--verbose", action="store_true", help="print tracebacks")
    options = parser.parse_args(argv)
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    sys.exit(max(_check(target, options) for target in options.target))


def _check(target: str, options: argparse.Namespace) -> int:
    from altprop.conformance.suite import check
    from altprop.errors import AltpropError

    print(target)
    broken = 0
    try:
        for finding in check(target, options.config_dir):
            mark = {"passes": "ok      ", "broken": "BROKEN  ", "not applicable": "n/a     "}[finding.verdict]
            tail = f": {finding.sentence}" if finding.sentence else ""
            print(f"  {mark}{finding.rule}{tail}", flush=True)
            if options.verbose and finding.details:
                print(finding.details)
            broken += finding.verdict == "broken"
    except AltpropError as error:
        print(f"altprop-check: {error}", file=sys.stderr)
        return 2
    print(f"  {broken} broken" if broken else "  all rules hold")
    return 1 if broken else 0


if __name__ == "__main__":
    main()
