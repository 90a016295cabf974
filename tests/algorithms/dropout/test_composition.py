"""Every kind of dropout under every shape of learner that evaluates a model: it runs, or is refused with a reason."""

import pytest
import torch
from test_kinds import KINDS

from altprop.algorithms.backprop.manual_backprop import ManualBackprop
from altprop.algorithms.evolutionary.evolution_strategy import EvolutionStrategy
from altprop.algorithms.feedback.dfa import DirectFeedbackAlignment
from altprop.algorithms.feedback.feedback_alignment import FeedbackAlignment
from altprop.algorithms.second_order.newton_cg import NewtonCG
from altprop.errors import Refused
from altprop.testing import set_up, sgd

LEARNERS = {
    "manual_backprop": ManualBackprop,
    "dfa": lambda: DirectFeedbackAlignment(sgd()),
    "feedback_alignment": lambda: FeedbackAlignment(sgd()),
    "evolution_strategy": lambda: EvolutionStrategy(population=4),
    "newton_cg": NewtonCG,
}
# What each cannot have, and the words that say so: no plain chain, or no mask of mean 1 that is no parameter's.
REFUSALS = {
    ("manual_backprop", "alpha"): "covers noise that multiplies by a mask",
    ("manual_backprop", "concrete"): "covers noise that multiplies by a mask",
    **{
        (learner, kind): "needs a"
        for learner in ("manual_backprop", "dfa", "feedback_alignment")
        for kind in ("stochastic_depth", "variational", "zoneout", "recurrent")
    },
    **{("manual_backprop", kind): "needs a" for kind in ("spatial", "dropblock")},
}


@pytest.mark.parametrize("learner", LEARNERS)
@pytest.mark.parametrize("kind", KINDS)
def test_it_runs_or_says_why_not(learner, kind):
    problem, batch = KINDS[kind].problem(KINDS[kind].noise(**KINDS[kind].acts))
    words = REFUSALS.get((learner, kind))
    if words is not None:
        with pytest.raises(Refused, match=words):
            set_up(LEARNERS[learner](), problem)
        return
    rule = set_up(LEARNERS[learner](), problem)
    before = problem.flat()
    for _ in range(2):
        rule.step(batch)
    assert torch.isfinite(problem.flat()).all()
    assert not torch.equal(problem.flat(), before)
