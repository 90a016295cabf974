"""Curvature as a whole matrix: how it is made, what it may weigh, and how far to trust a step that solves with it."""

from typing import NamedTuple

import torch
from torch import Tensor

from altprop import Batch, Problem, Refused

LEAST_DAMPING, MOST_DAMPING = 1e-15, 1e10
Trust = tuple[Tensor, Tensor]
"""A damping and its growth, scalars."""


def refuse_large(problem: Problem, algorithm: str, largest: float, other: str, rows: int = 0) -> None:
    """Refuse a problem whose matrices would hold more numbers than they may, before one is made.

    Args:
        problem: with D parameters and C outputs.
        algorithm: begins the sentence.
        largest: numbers that a (D, D) matrix and a Jacobian (rows, C, D) may hold.
        other: what would work.
        rows: of the Jacobian; 0 for none.

    Raises:
        Refused: with need, limit, override and another choice.
    """
    size = sum(p.numel() for p in problem.params.values())
    shape = (size, size) if size >= rows * problem.spec.outputs else (rows, problem.spec.outputs, size)
    numbers = 1
    for length in shape:
        numbers *= length
    if numbers > largest:
        sizes = " x ".join(f"{length:,}" for length in shape)
        raise Refused(
            f"{algorithm} needs a matrix of {sizes} numbers ({numbers * problem.dtype.itemsize / 1e9:,.2g} GB), above "
            f"algorithm.largest={largest:,.0f}; raise that, or try a smaller model or {other}"
        )


def hessian(problem: Problem, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """Return objective, gradient (D,) and Hessian (D, D), which takes D products with unit vectors."""
    here = problem.linearize(batch)
    unit = torch.eye(len(here.gradient), dtype=problem.dtype, device=problem.device)
    matrix = torch.stack([here.hvp(row) for row in unit])
    return here.loss, here.gradient, (matrix + matrix.mT) / 2


def gauss_newton(problem: Problem, batch: Batch) -> Tensor:
    """Return the generalised Gauss-Newton matrix J^T H_L J, (D, D), of a batch; a penalty is left out.

    Where the loss is the negative log-likelihood of a distribution whose natural parameters are the outputs, it is that
    distribution's Fisher matrix (Martens 2020, arXiv:1412.1193, section 9): so it is for all losses that
    `Problem.sample_targets` knows.
    """
    outputs, jacobian = problem.jacobian(batch)
    units = [torch.zeros_like(outputs) for _ in range(outputs.shape[1])]
    for place, unit in enumerate(units):
        unit[:, place] = 1
    curved = torch.stack([problem.output_curvature(outputs, unit, batch) for unit in units])  # (C, B, C)
    with problem.ledger.work("Gauss-Newton matrix", per="example", examples=batch.rows):
        bent = torch.einsum("cbe,bed->bcd", curved, jacobian)
        matrix = bent.flatten(0, 1).mT @ jacobian.flatten(0, 1)
    return (matrix + matrix.mT) / 2


def solved(matrix: Tensor, damping: Tensor | float, gradient: Tensor) -> Tensor:
    """Return d with (matrix + damping I) d = -gradient, (D,); 0 where there is none, or none that is finite."""
    unit = torch.eye(len(gradient), dtype=gradient.dtype, device=gradient.device)
    d, info = torch.linalg.solve_ex(matrix + damping * unit, -gradient)
    return torch.where((info == 0) & torch.isfinite(d.sum()), d, torch.zeros_like(d))


def first_trust(problem: Problem, damping: float) -> Trust:
    """Return the damping at the start and its growth, as scalars."""
    start = next(iter(problem.params.values())).detach()
    return start.new_tensor(damping), start.new_tensor(2.0)


def predicted(gradient: Tensor, direction: Tensor, matrix: Tensor) -> Tensor:
    """Return the decrease along a direction (D,) of the quadratic with a gradient (D,) and a matrix (D, D)."""
    return -(gradient.dot(direction) + 0.5 * direction.dot(matrix @ direction))


class Judged(NamedTuple):
    """What became of a trial: whether it is taken, the damping from now on and its growth, and the reduction ratio."""

    taken: Tensor
    damping: Tensor
    growth: Tensor
    rho: Tensor


def judged(damping: Tensor, growth: Tensor, before: Tensor, after: Tensor, predicted: Tensor) -> Judged:
    """Decide on a trial by what it did to the objective, and move the damping (Nielsen's rule).

    With rho the decrease over the predicted one: taken where the objective falls and rho > 0; then damping *= max(1/3,
    1 - (2 rho - 1)^3) and growth = 2, else damping *= growth and growth *= 2. It is a trust region in the form of a
    damping (Nielsen 1999), and holds one seed or many, for nothing here branches.

    Args:
        damping, growth: as they are, scalars.
        before, after: the objective, scalars; what is not finite is not taken.
        predicted: decrease of the quadratic model, without its damping.
    """
    rho = (before - after) / torch.where(predicted > 0, predicted, torch.ones_like(predicted))
    taken = torch.isfinite(after) & (after < before) & (predicted > 0) & (rho > 0)
    eased = (1 - (2 * rho - 1) ** 3).clamp(min=1 / 3)
    moved = torch.where(taken, damping * eased, damping * growth).clamp(LEAST_DAMPING, MOST_DAMPING)
    grown = torch.where(taken, torch.full_like(growth, 2.0), (2 * growth).clamp(max=MOST_DAMPING))
    return Judged(taken, moved, grown, rho)


def try_step(
    problem: Problem, batch: Batch, before: Tensor, direction: Tensor, promised: Tensor, trust: Trust
) -> tuple[Trust, dict[str, Tensor]]:
    """Move by a direction (D,), evaluate the objective there, and go back where it is not taken.

    Returns damping and growth from now on, and what a step tells: its damping, whether it was taken, and rho.

    Args:
        problem, batch: of the objective; call it inside `Problem.same_noise`.
        before: the objective here.
        direction, promised: the step and the decrease that its model predicts.
        trust: damping and growth.
    """
    start = problem.flat()
    problem.assign(start + direction, update=False)
    with torch.no_grad():
        found = judged(*trust, before, problem.objective(batch), promised)
    problem.assign(torch.where(found.taken, start + direction, start))
    told = {"damping": trust[0], "taken": found.taken.to(before.dtype), "rho": found.rho}
    return (found.damping, found.growth), told
