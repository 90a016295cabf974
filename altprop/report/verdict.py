"""Section 0: one careful sentence a workload, and what must be known to read it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from altprop.report.format import p_value, plural
from altprop.report.model import CURRENCIES, Report, Table
from altprop.report.paired import CLAIM_SEEDS, NOT_SHOWN, smallest_p
from altprop.report.results import Row, described
from altprop.report.robustness import caveats as tuning_caveats
from altprop.report.times import ranking_flips


@dataclass(frozen=True)
class Verdict:
    """What one workload shows: the sentences in order, and caveats."""

    sentences: tuple[str, ...]
    caveats: tuple[str, ...]


def conclude(report: Report, table: Table, rows: list[Row], problems: list[str]) -> Verdict:
    """Return the verdict on one workload; `problems` are sentences of the identity checks that failed."""
    ran = [row for row in rows if row.summary is not None]
    refused = [row for row in rows if row.summary is None]
    if not ran:
        return Verdict((f"No learner ran {table.workload}: every cell was refused.",), ())
    ended = [row for row in ran if row.summary is not None and row.summary.ended]
    if not ended:
        runs = sum(len(row.runs) for row in ran)
        return Verdict(
            (f"No run of {table.workload} came to its end: all {plural(runs, 'run')} failed.",), tuple(problems)
        )
    sentences = [*_leading(table, ended), *_tested(table, ran)]
    return Verdict(tuple(sentences), (*problems, *_caveats(report, table, ran, refused)))


def _leading(table: Table, ended: list[Row]) -> list[str]:
    contenders = [row for row in ended if not row.learner.control] or ended
    best = max(contenders, key=lambda row: row.score)
    reference = next((row for row in ended if row.learner.name == table.reference), None)
    place = f"On {table.workload}"
    if math.isinf(best.score):
        return [f"{place} the median run of every learner failed."]
    word = "highest" if table.sign > 0 else "lowest"
    metric = f"median {table.quality} {table.metric}"
    if len(ended) == 1:
        return [f"{place} {best.learner.name} reached {table.quality} {table.metric}: {described(best)}."]
    lead = f"{place} {best.learner.name} has the {word} {metric}: {described(best)}"
    if reference is None:
        return [f"{lead}."]
    if best is reference:
        others = [row for row in contenders if row is not best]
        if not others:
            return [f"{lead}. It is the reference."]
        second = max(others, key=lambda row: row.score)
        return [f"{lead}. It is the reference; next is {second.learner.name}: {described(second)}."]
    return [f"{lead}. The reference {reference.learner.name}: {described(reference)}."]


def _tested(table: Table, ran: list[Row]) -> list[str]:
    """Return what the paired tests allow to be said."""
    compared = [row for row in ran if row.comparison is not None and row.comparison.seeds]
    if len(ran) == 1:
        return ["No other learner ran here: nothing is compared."]
    if not compared:
        return ["There is no reference learner to compare with on the same seeds: nothing is tested."]
    said = []
    mute: set[tuple[int, int]] = set()
    groups: dict[str, list[str]] = {}
    for row in compared:
        comparison = row.comparison
        assert comparison is not None  # Filtered above.
        if not comparison.could_tell:
            mute.add((comparison.telling, comparison.family))
        else:
            groups.setdefault(comparison.verdict, []).append(f"{row.learner.name} (p {_equals(comparison.adjusted)})")
    for seeds, family in sorted(mute):
        least = min(1.0, smallest_p(seeds, family))
        reach = "1, whatever the data" if least == 1.0 else f"{least:.2g}"
        said.append(
            f"{plural(seeds, 'seed')} cannot show a difference here: over {plural(family, 'comparison')} with the "
            f"reference the smallest p that they can reach is {reach}."
        )
    for verdict in sorted(groups):
        against = "from" if verdict == NOT_SHOWN else "to" if verdict.startswith("equivalent") else "than"
        head, _, tail = verdict.partition(",")
        said.append(
            f"{head.capitalize()} {against} the reference{',' + tail if tail else ''}: {', '.join(groups[verdict])}."
        )
    fewest = min(row.summary.n for row in ran if row.summary is not None)
    if fewest < CLAIM_SEEDS:
        said.append(
            f"{plural(fewest, 'seed')} {'is' if fewest == 1 else 'are'} enough to look around and too few to claim "
            f"anything: a published claim takes {CLAIM_SEEDS}."
        )
    return said


def _equals(p: float) -> str:
    text = p_value(p)
    return text if text.startswith("<") else f"= {text}"


def _caveats(report: Report, table: Table, ran: list[Row], refused: list[Row]) -> list[str]:
    found = []
    failed = [row for row in ran if row.summary is not None and row.summary.failed]
    if failed:
        listed = ", ".join(
            f"{row.learner.name} {row.summary.failed} of {row.summary.n}" for row in failed if row.summary
        )
        found.append(f"Failed runs count as worst and forbid a mean: {listed}.")
    if refused:
        found.append(f"Refused: {', '.join(row.learner.name for row in refused)} (section 1 says why).")
    for row in ran:
        found += [f"{row.learner.name}: {flag}." for flag in row.flags]
    if not any(row.learner.control for row in ran):
        found.append("No control ran here: nothing shows what doing nothing would have reached.")
    found += tuning_caveats(report, table)
    found += _flips(table)
    if any(run.status in ("interrupted", "timed_out") for row in ran for run in row.runs):
        found.append("Some runs were cut off: they count as failed above and as censored in the time to target.")
    return found


def _flips(table: Table) -> list[str]:
    """Tell whether the order of the learners depends on the currency, at the hardest target where it does."""
    found = [(target, flips) for target in table.targets if (flips := ranking_flips(table, target))]
    if not found:
        return []
    target, flips = found[-1]
    ahead, behind, one, other = flips[0]
    more = f", and {plural(len(flips) - 1, 'more pair')}" if len(flips) > 1 else ""
    return [
        f"The ranking by time to the {target.replace('%', ' %')} target flips between currencies: {ahead} is ahead of "
        f"{behind} in {CURRENCIES[one]} and behind in {CURRENCIES[other]}{more}."
    ]
