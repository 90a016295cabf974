"""Levenberg-Marquardt: least squares in the limit, one solution in both forms, never uphill, and its ledger."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from altprop.algorithms.second_order import levenberg_marquardt
from altprop.algorithms.second_order.levenberg_marquardt import LevenbergMarquardt
from altprop.capabilities import BatchMode
from altprop.data import Batch
from altprop.errors import AltpropError, Refused
from altprop.flops import count_flops
from altprop.noise import MultiplicativeNoise
from altprop.testing import make_problem, toy

LOSSES = ["half_squared_error", "mse", "one_hot_squared_error"]


class Dropout(MultiplicativeNoise):
    sites = frozenset({"unit", "weight"})

    def _mask(self, like: Tensor, shape: torch.Size, site: str, layer: int) -> Tensor:
        return (self.clock.uniform(shape, site, layer, 0, like) < 0.7).to(like.dtype) / 0.7


class Penalised(Dropout):
    def penalty(self) -> Tensor:
        return torch.tensor(1.0, dtype=torch.float64)


def ready(options: dict[str, Any] | None = None, module: Any = levenberg_marquardt, **kwargs: Any) -> tuple[Any, Any]:
    problem, batch = toy(**{"loss": "half_squared_error", **kwargs})
    rule = module.LevenbergMarquardt(**(options or {}))
    rule.setup(problem)
    return rule, batch


def test_against_numpy_least_squares() -> None:
    """One step with lambda -> 0 on a linear net lands on numpy's solution, one with a ridge on the ridge's."""
    for damping in (1e-15, 0.2):
        rule, batch = ready({"damping": damping}, sizes=(4, 2), rows=25)
        start = rule.problem.flat().numpy()
        rule.step(batch)
        x, y = batch.inputs.numpy(), batch.targets.numpy()
        # The model is W x + b, its Jacobian block diagonal: solve for the increments from the start, output by output.
        design = np.concatenate([x, np.ones((25, 1))], 1) / math.sqrt(25)
        weight, bias = start[:8].reshape(2, 4), start[8:]
        residual = (y - x @ weight.T - bias) / math.sqrt(25)
        ridge = np.concatenate([design, math.sqrt(damping) * np.eye(5)])
        step, *_ = np.linalg.lstsq(ridge, np.concatenate([residual, np.zeros((5, 2))]), rcond=None)
        expected = np.concatenate([(weight + step[:4].T).ravel(), bias + step[4]])
        assert np.abs(rule.problem.flat().numpy() - expected).max() <= 1e-13


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("noise", [False, True])
def test_the_system_is_the_objective(loss: str, noise: bool) -> None:
    """1/2 |r|^2, J^T r and J^T J against objective, gradient and Gauss-Newton products of autograd."""
    rule, batch = ready({"form": "primal"}, loss=loss, noise=Dropout() if noise else None)
    problem = rule.problem
    with problem.same_noise():
        system, here = rule.system(batch), problem.linearize(batch)
        assert float(0.5 * system.residuals @ system.residuals) == pytest.approx(float(here.loss), rel=1e-14)
        assert float((system.gradient - here.gradient).norm() / here.gradient.norm()) <= 1e-14
        ggn = torch.stack([here.ggn_vp(v) for v in torch.eye(len(system.gradient), dtype=torch.float64)])
    assert float((system.gram - ggn).norm() / ggn.norm()) <= 1e-14


def test_unlabelled_rows_do_not_count() -> None:
    rule, batch = ready({"damping": 0.1}, rows=12)
    labelled = torch.arange(12) % 3 > 0
    rule.step(Batch(batch.inputs, batch.targets, batch.index, labelled=labelled))
    other, _ = ready({"damping": 0.1}, rows=12)
    rows = labelled.nonzero()[:, 0]
    other.step(Batch(batch.inputs[rows], batch.targets[rows], batch.index[rows]))
    assert torch.allclose(rule.problem.flat(), other.problem.flat(), rtol=0, atol=1e-13)


def solutions_differ(module: Any) -> float:
    rule, batch = ready({"form": "primal"}, module)
    primal, predicted = rule.solve(rule.system(batch), 0.03)
    rule.form = "dual"
    dual, as_well = rule.solve(rule.system(batch), 0.03)
    return float((primal - dual).norm() / primal.norm()) + abs(predicted - as_well) / predicted


def test_both_forms_have_one_solution() -> None:
    assert solutions_differ(levenberg_marquardt) <= 1e-11


@pytest.mark.parametrize(("rows", "size"), [(3, 9), (29, 87), (30, 89), (40, 89)])
def test_the_smaller_form_is_chosen(rows: int, size: int) -> None:
    rule, batch = ready(sizes=(5, 7, 4, 3), rows=rows)
    assert rule.problem.flat().numel() == 89
    system = rule.system(batch)
    assert system.gram.shape == (size, size)
    assert system.primal == (size == 89)


def losses_of(module: Any, options: dict[str, Any], steps: int = 12, **kwargs: Any) -> list[float]:
    rule, batch = ready(options, module, **kwargs)
    return [float(rule.step(batch).loss) for _ in range(steps)]


@pytest.mark.parametrize("rule", ["nielsen", "marquardt"])
@pytest.mark.parametrize("loss", LOSSES)
def test_the_loss_never_rises(rule: str, loss: str) -> None:
    losses = losses_of(levenberg_marquardt, {"rule": rule, "damping": 1e-6}, loss=loss, rows=30)
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.5 * losses[0]


def rejected(module: Any) -> tuple[bool, list[float], float]:
    """A step whose every trial raises the loss: whether nothing moved, the dampings tried, and what is left."""
    rule, batch = ready({"tries": 4, "damping": 1.0}, module)
    problem = rule.problem
    before, tried = problem.flat(), []
    solve = rule.solve

    def uphill(system: Any, damping: float) -> tuple[Tensor, float]:
        tried.append(damping)
        direction, predicted = solve(system, damping)
        return -direction, predicted

    rule.solve = uphill
    result = rule.step(batch)
    stayed = torch.equal(problem.flat(), before) and problem.ledger.updates == 0 and not result.scalars["taken"]
    return stayed, tried, rule.damping


def test_an_uphill_step_is_never_taken() -> None:
    assert rejected(levenberg_marquardt) == (True, [1.0, 2.0, 8.0, 64.0], 1024.0)


@pytest.mark.parametrize("rho", [0.01, 0.3, 0.5, 0.9, 1.0])
def test_damping_after_a_step_that_was_taken(rho: float) -> None:
    rule = LevenbergMarquardt(damping=1.0)
    rule.nu = 16.0
    rule._adapt(True, rho)
    assert rule.damping == max(1 / 3, 1 - (2 * rho - 1) ** 3)
    assert rule.nu == 2.0
    rule = LevenbergMarquardt(damping=1.0, rule="marquardt")
    rule._adapt(True, rho)
    assert rule.damping == 0.1
    rule._adapt(False, -1.0)
    assert rule.damping == pytest.approx(1.0)


def start_value_difference(module: Any) -> float:
    """The objective at the present parameters as a trial sees it, against 1/2 |r|^2 of the same step, under dropout."""
    rule, batch = ready({"tries": 1}, module, noise=Dropout())
    seen: list[float] = []
    original = rule.problem.functional_objective
    rule.solve = lambda system, damping: (torch.zeros_like(system.gradient), 1.0)

    def spy(params: Any, given: Any) -> Tensor:
        seen.append(float(original(params, given)))
        return torch.tensor(seen[-1])

    rule.problem.functional_objective = spy
    return abs(float(rule.step(batch).loss) - seen[0])


def test_a_step_sees_one_function_under_dropout() -> None:
    assert start_value_difference(levenberg_marquardt) <= 1e-15


def test_a_failed_factorisation_is_a_rejection() -> None:
    rule, batch = ready()
    system = rule.system(batch)
    direction, predicted = rule.solve(system._replace(gram=-system.gram), 1e-3)
    assert (float(direction.abs().max()), predicted) == (0.0, 0.0)


def test_no_signal_no_change() -> None:
    problem, batch = toy((4, 3), loss="half_squared_error")
    rule = LevenbergMarquardt()
    rule.setup(problem)
    before = problem.flat()
    result = rule.step(Batch(batch.inputs, problem.outputs(batch).detach(), batch.index))
    assert torch.equal(problem.flat(), before)
    assert (result.scalars["trials"], rule.damping) == (0.0, 0.01)


def test_flops_of_a_step_by_hand() -> None:
    rows, n, h, c = 7, 5, 6, 3
    rule, batch = ready({"form": "dual"}, sizes=(n, h, c), rows=rows)
    assert rule.step(batch).scalars["trials"] == 1
    m, d = rows * c, n * h + h + h * c + c
    forward = 2 * rows * (n * h + h * c)
    by_kind = rule.problem.ledger.flops_by_kind()
    assert by_kind["forward"] == 2 * forward  # the Jacobian's and the trial's
    # Each row's and output's outer products for W_2 and W_1; the way back through W_2 starts at the unit vectors, which
    # all rows share.
    assert by_kind["backward"] == rows * c * 2 * (h * c + n * h) + c * 2 * c * h
    # J^T r, J J^T and 1/2 |r|^2.
    assert by_kind["other"] == 2 * m * d + 2 * m * m * d + 2 * m
    # Cholesky, two triangular solves, J^T of the solution, the predicted decrease.
    assert by_kind["update"] == m**3 // 3 + 2 * m * m + 2 * m * d + 2 * d
    ledger = rule.problem.ledger
    assert (ledger.forwards, ledger.backwards, ledger.updates) == (2, c, 1)


@pytest.mark.parametrize("noise", [False, True])
def test_the_books_agree_with_every_step(noise: bool) -> None:
    rule, batch = ready({"damping": 1e-8}, noise=Dropout() if noise else None, rows=20)
    ledger = rule.problem.ledger
    trials = 0.0
    for _ in range(20):
        before, results = ledger.flops, []
        counted = count_flops(lambda out=results: out.append(rule.step(batch)))
        trials += results[0].scalars["trials"]
        assert ledger.flops - before == pytest.approx(counted, rel=1e-9)
    assert trials > 20
    assert ledger.forwards == 20 + trials
    assert ledger.residual <= 1e-9


def test_refusals() -> None:
    for kwargs, message in (
        ({"loss": "cross_entropy"}, "needs a least-squares objective"),
        ({"normalisation": "batch"}, "do not exist under batch normalisation"),
        ({"noise": Penalised()}, "adds a penalty"),
    ):
        problem, _ = toy(**{"loss": "mse", **kwargs})
        with pytest.raises(Refused, match=message):
            LevenbergMarquardt().setup(problem)
    problem = make_problem(toy((64, 100, 10))[0].model, "one_hot_squared_error", train_size=718)
    with pytest.raises(Refused, match=r"53,921,800 numbers, above algorithm.largest=50,000,000"):
        LevenbergMarquardt().setup(problem)
    assert LevenbergMarquardt.batch is BatchMode.FULL


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"damping": 0}, "number above 0"),
        ({"damping": math.inf}, "number above 0"),
        ({"rule": "broyden"}, "known are: marquardt, nielsen"),
        ({"form": "both"}, "known are: auto, dual, primal"),
        ({"tries": 0}, "whole number of at least 1"),
    ],
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(AltpropError, match=message):
        LevenbergMarquardt(**options)


@pytest.mark.parametrize("damping", [0.01, 0.5])
def test_the_ratio_is_one_where_the_model_is_the_function(damping: float) -> None:
    """On a linear net with squared error the predicted decrease, of the objective without lambda, is the real one."""
    rule, batch = ready({"damping": damping}, sizes=(4, 3), rows=20)
    assert rule.step(batch).scalars["rho"] == pytest.approx(1.0, abs=1e-9)
