"""Backprop: its oracles, the regimes of batch size, closures under noise, and mutants that the oracles kill."""

from math import comb

import pytest
import torch
from torch import Tensor

from altprop.algorithms.backprop.backprop import Backprop
from altprop.algorithms.dropout.standard import StandardDropout
from altprop.data import Batch
from altprop.optim import OptimizerFactory
from altprop.problem import Problem
from altprop.testing import toy

SGD = OptimizerFactory("torch.optim.SGD", lr=0.1)


@pytest.mark.parametrize("size", [1, 2, 3, 5, 6])
def test_mean_over_all_mini_batches_is_the_full_gradient(size: int) -> None:
    """All C(6, k) of them, k = 1 (stochastic) to 6 (batch): the error was 2e-16 at most."""
    problem, batch = toy(rows=6, noise=None)
    full = problem.flatten(problem.gradient(batch)[1])
    total, count = torch.zeros_like(full), 0
    for subset in torch.combinations(batch.index, size):
        total += problem.flatten(problem.gradient(Batch(batch.inputs[subset], batch.targets[subset], subset))[1])
        count += 1
    assert count == comb(6, size)
    assert float((total / count - full).abs().max()) < 1e-15


def test_batches_of_unequal_size_count_by_their_rows() -> None:
    """The trap of the last partial batch: the mean of the means is not the mean."""
    problem, batch = toy(rows=7)
    full = problem.flatten(problem.gradient(batch)[1])
    parts = [batch.index[:5], batch.index[5:]]
    found = [problem.flatten(problem.gradient(Batch(batch.inputs[i], batch.targets[i], i))[1]) for i in parts]
    assert float(((5 * found[0] + 2 * found[1]) / 7 - full).abs().max()) < 1e-15
    assert float(((found[0] + found[1]) / 2 - full).abs().max()) > 1e-2


def test_the_loss_is_that_before_the_update() -> None:
    problem, batch = toy()
    rule = Backprop(SGD)
    rule.setup(problem)
    before = problem.objective(batch)
    loss = rule.step(batch).loss
    assert loss is not None
    assert torch.equal(loss, before)
    assert not loss.requires_grad
    assert float(problem.objective(batch)) < float(before)


def test_counts_one_forward_one_backward_one_update_a_step() -> None:
    problem, batch = toy()
    rule = Backprop(SGD)
    rule.setup(problem)
    for _ in range(3):
        rule.step(batch)
    ledger = problem.ledger
    assert (ledger.forwards, ledger.backwards, ledger.updates, ledger.steps, ledger.samples) == (3, 3, 3, 3, 24)


def losses_seen(problem: Problem, batch: Batch, rule: Backprop, monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """Step once and return the loss of every evaluation with the weights of the first put back."""
    seen: list[Tensor] = []
    start = problem.flat()
    original = Problem.gradient

    def spy(self: Problem, b: Batch, **options: bool) -> object:
        here = self.flat()
        with torch.no_grad():
            for name, value in self.unflatten(start).items():
                self.params[name].copy_(value)
            with self.ledger.pause():
                held = self.clock.phase
                seen.append(original(self, b)[0])
                self.clock.phase = held
            for name, value in self.unflatten(here).items():
                self.params[name].copy_(value)
        return original(self, b, **options)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(Problem, "gradient", spy)
        rule.step(batch)
    return seen


def test_a_line_search_sees_one_function(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under dropout every evaluation of an L-BFGS step repeats the masks; the next step draws others."""
    problem, batch = toy(noise=StandardDropout(0.5))
    rule = Backprop(OptimizerFactory("torch.optim.LBFGS", lr=0.5, max_iter=4, line_search_fn="strong_wolfe"))
    rule.setup(problem)
    start = problem.flat()
    first = losses_seen(problem, batch, rule, monkeypatch)
    assert len(first) >= 3
    assert all(torch.equal(value, first[0]) for value in first)
    problem.assign(start)
    second = losses_seen(problem, batch, rule, monkeypatch)
    assert not torch.equal(first[0], second[0])


@pytest.mark.parametrize("whole", [True, False])
def test_lbfgs_learns_curvature_across_steps_on_the_whole_set_alone(whole: bool) -> None:
    """With one iteration a step, pairs can only span steps: on a part of the set it is steepest descent."""
    problem, batch = toy(sizes=(5, 4, 1), rows=6, loss="half_squared_error")
    problem.train_size = 6 if whole else 7
    options = {"max_iter": 1, "max_eval": 25, "tolerance_change": 1e-15, "tolerance_grad": 1e-12}
    rule = Backprop(OptimizerFactory("torch.optim.LBFGS", lr=1.0, line_search_fn="strong_wolfe", **options))
    rule.setup(problem)
    for _ in range(20):
        rule.step(batch)
    norm = float(problem.flatten(problem.gradient(batch)[1]).norm())
    assert (norm < 1e-5) == whole, norm  # 2e-8 against 1e-3
    (part,) = rule.updater.state_dict()["parts"]
    assert bool(dict(part["state"]["blocks.0.weight"]["items"])["old_dirs"]) == whole


def test_lbfgs_learns_no_curvature_across_masks() -> None:
    """The whole set under dropout is another function at each step."""
    problem, batch = toy(noise=StandardDropout(0.3))
    rule = Backprop(OptimizerFactory("torch.optim.LBFGS", lr=0.1, max_iter=1))
    rule.setup(problem)
    for _ in range(4):
        rule.step(batch)
    (part,) = rule.updater.state_dict()["parts"]
    assert not dict(part["state"]["blocks.0.weight"]["items"])["old_dirs"]
