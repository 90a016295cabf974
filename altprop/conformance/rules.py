"""All rules for learners, and those from which a learner may exempt itself with a reason."""

from __future__ import annotations

from altprop.conformance.accounting import ACCOUNTING
from altprop.conformance.case import NotApplicable, Rule, Target, by_name, make
from altprop.conformance.direction import DIRECTION
from altprop.conformance.learning import LEARNING
from altprop.conformance.side_effects import SIDE_EFFECTS
from altprop.conformance.state import STATE
from altprop.harness.verification import measure


def passes_its_oracles(target: Target) -> str | None:
    """Every oracle is within its tolerance, every negative control outside it."""
    oracles, problem = measure(type(make(target).algorithm))
    if problem:
        return f"oracles() raised {problem}"
    if not oracles:
        raise NotApplicable("it has no oracles(); write the strongest that exists")
    return next((oracle.sentence for oracle in oracles if not oracle.passed), None)


# What no learner is excused from are the rules about bits, costs and side effects.
EXEMPTABLE = frozenset({"changes_nothing_without_an_error", "beats_the_controls", "learns_from_its_labels"})


def asks_for_few_exemptions(target: Target) -> str | None:
    """It exempts itself from rules about learning alone, each with a reason."""
    for name, reason in type(make(target).algorithm).exempt.items():
        if name not in EXEMPTABLE:
            return f"nothing is exempt from {name!r}; `exempt` may name {', '.join(sorted(EXEMPTABLE))}"
        if not reason.strip():
            return f"its exemption from {name!r} gives no reason"
    return None


RULES: dict[str, Rule] = {
    **SIDE_EFFECTS,
    **STATE,
    **ACCOUNTING,
    **DIRECTION,
    **by_name(asks_for_few_exemptions, passes_its_oracles),
    **LEARNING,
}
