"""A penalty of the task is part of the objective wherever the objective is, and of nothing else."""

import pytest
import torch

from altprop.algorithms.backprop.manual_backprop import ManualBackprop
from altprop.algorithms.feedback.feedback_alignment import FeedbackAlignment
from altprop.conformance.case import find_target, make, on_task
from altprop.errors import Refused
from altprop.noise import Noise
from altprop.tasks.iris import Iris
from altprop.testing import against_backprop, central_differences, set_up, sgd, toy, toy_sequence


class Gaussian(Noise):
    """Adds noise of a trained size to the hidden units, and charges its square."""

    sites = frozenset({"unit"})

    def _setup(self, places, train_size):
        self.size = torch.nn.Parameter(torch.tensor(0.4))

    def _perturb(self, x, shape, site, layer):
        return x + self.size * self.clock.normal(shape, site, layer, 0, x)

    def penalty(self):
        return 0.3 * self.size.square()


def decay(params):
    """Weight decay: .05 times the sum of squares of all weights of the model, not of biases or of the noise."""
    return 0.05 * sum(p.square().sum() for name, p in params.items() if name.endswith("weight"))


PROBLEMS = {
    "mlp": toy,
    "mlp, learned noise": lambda: toy(noise=Gaussian()),
    "mlp, batch norm": lambda: toy(normalisation="batch"),
    "gru": lambda: toy_sequence("gru", lengths=[7, 3, 5, 1]),
}


@pytest.fixture(params=PROBLEMS)
def decayed(request):
    problem, batch = PROBLEMS[request.param]()
    problem.uncounted.charge(decay)
    return problem, batch


def test_every_way_to_the_objective_holds_it(decayed):
    problem, batch = decayed
    amount = decay(problem.params).item()
    with problem.same_noise():
        problem.uncounted.task_penalty, kept = None, problem.uncounted.task_penalty
        bare, bare_gradient = problem.gradient(batch)
        rows = None if any(True for _ in problem.model.buffers()) else problem.per_example_gradients(batch)
        problem.uncounted.task_penalty = kept
        assert amount > 0.1
        value = float(bare) + amount
        assert float(problem.objective(batch)) == pytest.approx(value, rel=1e-13)
        loss, grads = problem.gradient(batch)
        assert float(loss) == pytest.approx(value, rel=1e-13)
        for name, gradient in grads.items():
            own = 0.1 * problem.params[name].detach() if name.endswith("weight") else 0.0
            assert (gradient - bare_gradient[name] - own).abs().max() < 1e-13
        assert (central_differences(problem, batch) - problem.flatten(grads)).abs().max() < 1e-8
        v = torch.ones_like(problem.flat())
        pushed, slope = problem.jvp(batch, problem.unflatten(v))
        assert float(pushed) == pytest.approx(value, rel=1e-13)
        assert float(slope) == pytest.approx(float(problem.flatten(grads) @ v), rel=1e-11)
        pushed, slope = problem.jvp(batch, problem.unflatten(v), penalty=False)
        alone, alone_gradient = problem.gradient(batch, penalty=False)
        assert float(pushed) == pytest.approx(float(alone), rel=1e-13)
        assert float(slope) == pytest.approx(float(problem.flatten(alone_gradient) @ v), rel=1e-11)
        around = problem.linearize(batch)
        assert float(around.loss) == pytest.approx(value, rel=1e-13)
        assert (around.gradient - problem.flatten(grads)).norm() < 1e-13
        assert problem.functional_objective(problem.params, batch).item() == pytest.approx(value, rel=1e-13)
        if rows is not None:
            again = problem.per_example_gradients(batch)
            assert all(torch.equal(again[name], row) for name, row in rows.items())
        start = problem.flat()
        flat = start[None] + 0.1 * torch.arange(3.0, dtype=start.dtype)[:, None]
        together = problem.population_objective(flat, batch)
        for one, row in zip(together, flat, strict=True):
            problem.assign(row)
            assert float(problem.objective(batch)) == pytest.approx(float(one), rel=1e-12)
        problem.assign(start)


def test_a_task_brings_it(monkeypatch):
    """It reaches the run."""
    backprop, here = find_target("backprop"), on_task("iris")
    assert make(backprop, *here).problem.penalty() is None
    monkeypatch.setattr(Iris, "_penalty", lambda self, params: decay(params))
    problem = make(backprop, *here).problem
    assert problem.penalty()[0] == decay(problem.params)


def test_a_rule_with_a_direction_of_its_own_gets_it_too():
    problem, batch = toy()
    rule = set_up(FeedbackAlignment(sgd()), problem)
    rule.feedback = [block.weight.detach().clone() for block in list(problem.layered.blocks)[1:]]
    assert against_backprop(rule, batch) < 1e-15
    problem.uncounted.charge(decay)
    assert against_backprop(rule, batch) < 1e-15
    assert float(rule.direction(batch)[0]) == pytest.approx(float(problem.objective(batch)), rel=1e-14)


def test_a_penalty_that_is_none_is_none():
    problem, _ = toy()
    problem.uncounted.charge(lambda params: None)
    assert problem.uncounted.task_penalty is None
    assert problem.penalty() is None


def test_a_lesson_without_penalties_refuses_one():
    problem, _ = toy()
    problem.uncounted.charge(decay)
    with pytest.raises(Refused, match="covers no penalty, and the task has one"):
        ManualBackprop().setup(problem)


def test_outputs_at_other_parameters():
    problem, batch = toy(noise=Gaussian(), normalisation="batch")
    moved = {name: (p.detach() + 0.1).requires_grad_() for name, p in problem.params.items()}
    start, buffers = problem.flat(), [b.clone() for b in problem.model.buffers()]
    with problem.same_noise():
        outputs = problem.outputs(batch, moved)
        gradient = torch.autograd.grad(problem.output_loss(outputs, batch), list(moved.values()), allow_unused=True)
        assert all(torch.equal(a, b) for a, b in zip(problem.model.buffers(), buffers, strict=True))
        problem.assign(start + 0.1)
        assert torch.equal(problem.outputs(batch), outputs)
        expected = problem.gradient(batch, penalty=False)[1]
    assert all((g - e).abs().max() < 1e-15 for g, e in zip(gradient, expected.values(), strict=True) if g is not None)
    assert problem.ledger.forwards == 3
    phase = problem.clock.phase
    assert not torch.equal(problem.outputs(batch, moved), outputs)
    assert problem.clock.phase == phase + 1
