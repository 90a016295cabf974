"""Part of the answer: what the runs make of claims of papers, claim by claim."""

from __future__ import annotations

from collections.abc import Sequence

from altprop.report.blocks import Block, Cell, Cells, Fold, Grid, Text, difference
from altprop.report.claims import FELL, HELD, Outcome, Tested
from altprop.report.format import plural

_ABOUT = (
    "A claim held where at least as many comparisons as it speaks of show it, did not hold where too many show the "
    "contrary or equivalence, and is not to be told here otherwise. Comparisons are paired by seed; p-values are "
    "adjusted by Holm over all comparisons of this table. Where a task declares no margin of equivalence, a difference "
    "that is shown is one."
)
_MARKS = {HELD: "✓ ", FELL: "✗ "}
_UNITS = {"sooner": "by when it met the target", "falls_with_depth": "change of the gap a doubling of depth"}


def claims_section(found: Sequence[Outcome]) -> list[Block]:
    """Return the table of claims and, folded away, each comparison; [] without a claim."""
    if not found:
        return []
    head: Cells = ["claim, and what differs here", "here"]
    return [
        Text("Claims put to the test", "h4"),
        Text(_ABOUT, "note"),
        Grid("Claims put to the test", head, [_row(one) for one in found]),
        Fold(
            f"The {plural(sum(len(one.tested) for one in found), 'comparison')} behind them",
            [
                Grid(
                    "Comparisons behind the claims",
                    [
                        "claim",
                        "learner",
                        "beside",
                        "on",
                        Cell("difference", kind="r"),
                        Cell("p (Holm)", kind="r"),
                        "so it",
                    ],
                    [_comparison(place, one, test) for place, one in enumerate(found, 1) for test in one.tested],
                )
            ],
            written=True,
        ),
    ]


def _row(one: Outcome) -> Cells:
    held = sum(test.verdict == HELD for test in one.tested)
    fell = sum(test.verdict == FELL for test in one.tested)
    total = len(one.tested) + len(one.missing)
    count = f"{held} of {total}, the contrary of {fell}" if fell else f"{held} of {total}"
    missing = (f"Could not be compared: {', '.join(one.missing)}.",) if one.missing else ()
    verdict = f"{_MARKS.get(one.verdict, '')}{one.verdict}: {count}, {one.needed} needed"
    return [
        Cell(one.claim.claim, f"{one.claim.source}. {one.claim.remark}".strip(), "t"),
        Cell(verdict, kind="t", flags=missing),
    ]


def _comparison(place: int, one: Outcome, test: Tested) -> Cells:
    known = test.comparison
    seeds = f"{known.wins} ahead, {known.losses} behind of {known.seeds} seeds"
    found = Cell(seeds, kind="r") if known.difference is None else difference(known.difference)
    return [
        Cell(str(place), _UNITS.get(one.claim.says, "")),
        test.learner,
        test.than,
        test.workload,
        found,
        Cell(f"{known.adjusted:.3g}", kind="r"),
        Cell(_MARKS.get(test.verdict, "") + test.verdict, kind="t"),
    ]
