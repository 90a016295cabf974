"""`altprop-check TARGET`: run the conformance suite on an algorithm or a task, yours or ours."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from altprop.conformance.suite import AnyTarget

MARKS = {"passes": "ok      ", "broken": "BROKEN  ", "not applicable": "n/a     "}


def main(argv: Sequence[str] | None = None) -> None:
    """Run the console script; exit with 0 where all rules hold, 1 where one is broken, 2 a mistake, 130 interrupted."""
    parser = argparse.ArgumentParser(
        prog="altprop-check",
        description="Run the conformance suite: what a rule must obey to be compared fairly.",
        epilog="examples: altprop-check dfa; altprop-check my_package.my_rule:MyRule; altprop-check task=digits; "
        "altprop-check model=gru dropout=standard; "
        "altprop-check task=table task.path=my.csv task.target=column; "
        "altprop-check model=custom model._target_=my.Net task=digits; "
        "altprop-check --gradient backprop; altprop-check --card dfa. "
        "Exit code: 0 all rules hold, 1 one is broken, 2 a mistake.",
    )
    parser.add_argument(
        "target",
        nargs="+",
        help="an algorithm's name, package.module:Class, or task=NAME, model=NAME, dropout=NAME; "
        "what follows a task, model or dropout is its own where an option such as task.path=FILE is among it",
    )
    parser.add_argument("--config-dir", default=None, metavar="DIR", help="a folder of yours with further yaml files")
    parser.add_argument(
        "--gradient", action="store_true", help="only hold the first direction against central differences"
    )
    parser.add_argument(
        "--runs",
        default=None,
        metavar="RUNS",
        help="keep what the oracles, or --card, measure beside the runs in this folder, for their report",
    )
    parser.add_argument(
        "--card", action="store_true", help="only measure what an algorithm's updates depend on and cost"
    )
    parser.add_argument("-v", "--verbose", action="store_true", help="print tracebacks")
    options = parser.parse_args(argv)
    if options.gradient and options.runs is not None:
        parser.error("--runs keeps what oracles or --card measure; leave --gradient out")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # a rule in one file beside you is found by its name
    try:
        sys.exit(max([_examined(text, more, options) for text, more in _targets(options.target)]))
    except KeyboardInterrupt:
        print("altprop-check: interrupted", file=sys.stderr)
        sys.exit(130)


def _targets(words: Sequence[str]) -> list[tuple[str, tuple[str, ...]]]:
    """Return each target with its options: with an option among them, all words are of the first one."""
    if any("." in word.partition("=")[0] and "=" in word for word in words):
        return [(words[0], tuple(words[1:]))]
    return [(word, ()) for word in words]


def _examined(text: str, more: tuple[str, ...], options: argparse.Namespace) -> int:
    """Examine one target, print what is found, and return the exit code."""
    from altprop.errors import AltpropError

    try:
        from altprop.conformance.suite import find

        target = find(text, options.config_dir, more)
        if options.gradient:
            return _gradient(text, target)
        if options.card:
            return _card(text, target, options.runs)
        code = _check(text, target, options.verbose)
        return code if options.runs is None else max(code, _keep(target, options.runs))
    except AltpropError as error:
        print(f"altprop-check: {error}", file=sys.stderr)
        return 2


def _check(text: str, target: AnyTarget, verbose: bool) -> int:
    from altprop.conformance.suite import check, gradient_line

    print(text, flush=True)
    broken = 0
    for finding in check(target):
        tail = f": {finding.sentence}" if finding.sentence else ""
        print(f"  {MARKS[finding.verdict]}{finding.rule}{tail}", flush=True)
        if verbose and finding.details:
            print(finding.details)
        broken += finding.verdict == "broken"
        if finding.rule == "gradient is exact" and finding.verdict != "not applicable" and not finding.details:
            print(f"          {gradient_line(target)}", flush=True)
    print(f"  {broken} broken" if broken else "  all rules hold")
    return 1 if broken else 0


def _keep(target: AnyTarget, runs: str) -> int:
    """Measure the oracles of an algorithm anew and write its oracle check for reports; return the exit code."""
    from altprop.conformance.case import Target, target_path
    from altprop.harness.verification import verify

    if not isinstance(target, Target):
        print("  only algorithms have oracles: no oracle check is kept")
        return 0
    oracle_check = verify(target.name, target_path(target), runs, again=True)
    held = sum(oracle.passed for oracle in oracle_check.oracles)
    print(f"  {held} of {len(oracle_check.oracles)} oracle checks hold: {oracle_check.path}")
    return 1 if oracle_check.failing else 0


def _card(text: str, target: AnyTarget, runs: str | None) -> int:
    from altprop.conformance.card import card, keep, sentences
    from altprop.conformance.case import Target
    from altprop.errors import AltpropError

    if not isinstance(target, Target):
        raise AltpropError(f"--card is of an algorithm; {text} is none")
    found = card(target)
    print("\n  ".join([text, *sentences(found)]))
    if runs is not None:
        print(f"  kept: {keep(target, found, runs)}")
    return 0


def _gradient(text: str, target: AnyTarget) -> int:
    from altprop.conformance.suite import gradient

    found = gradient(target)
    print(f"{text}: {found.what}, against central differences of the objective")
    width = max(len(layer) for layer in found.errors)
    for layer, error in found.errors.items():
        print(f"  {layer:<{width}}  worst relative error {error:.1e}")
    print(f"  {found.verdict}")
    return 0 if found.honest else 1


if __name__ == "__main__":
    main()
