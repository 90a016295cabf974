"""Gradient health, the full tier: the standard one, the sharpness of the objective, and how the net maps small changes.

The sharpness is the largest eigenvalue (not the largest in size) of the Hessian of the objective on the probe
batch, by Lanczos; where the learner's optimizer scales each parameter, that of the scaled Hessian stands beside it, and
`edge` is the one that counts over what that optimizer can bear: above 1 its steps on this quadratic would grow.

The singular values of the input-output Jacobian are taken example by example: the largest, the median and the smallest,
each as its median over examples. All are 1 where a net keeps lengths and angles (Saxe et al. 2014; Pennington et al.
2017).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from altprop.capabilities import Capability
from altprop.data import Batch
from altprop.probes import standard
from altprop.probes.basic import BasicProbes, Value
from altprop.probes.standard import SELDOM, Found, Instrument, TieredProbes
from altprop.problem import Problem
from altprop.randomness import generator_for

PRODUCTS = 16
"""Hessian-vector products at the most."""
CLOSE = 1e-3
"""Lanczos ends where the residual of its largest eigenvalue is this share of it."""
EXAMPLES = 32
"""Rows whose Jacobians are taken."""


def probes(problem: Problem, batch: Batch, seed: int) -> TieredProbes:
    """Return the probes of this tier."""
    instruments = (*standard.INSTRUMENTS, Instrument(of_curvature, SELDOM), Instrument(of_jacobian, SELDOM))
    return TieredProbes(BasicProbes(problem, batch, seed), problem, batch, seed, instruments)


def largest_eigenvalue(
    product: Callable[[Tensor], Tensor], start: Tensor, products: int = PRODUCTS, close: float = CLOSE
) -> float:
    """Return the largest eigenvalue of a symmetric matrix, from below, by Lanczos with whole reorthogonalisation.

    Args:
        product: v (D,) -> matrix times v.
        start: (D,), not 0.
        products: at the most.
        close: share of the eigenvalue that its residual may be.

    >>> spectrum = torch.tensor([-9.0, 1.0, 4.0], dtype=torch.float64)
    >>> round(largest_eigenvalue(lambda v: spectrum * v, torch.ones(3, dtype=torch.float64)), 9)
    4.0
    """
    basis = [start / start.norm()]
    diagonal: list[float] = []
    beside: list[float] = []
    while True:
        v = product(basis[-1])
        diagonal.append(float(v @ basis[-1]))
        stack = torch.stack(basis)
        for _ in range(2):  # twice is enough (Parlett)
            v = v - stack.T @ (stack @ v)
        beside.append(float(v.norm()))
        small = torch.diag(torch.tensor(diagonal, dtype=torch.float64, device="cpu"))
        for place, value in enumerate(beside[:-1]):
            small[place, place + 1] = small[place + 1, place] = value
        if not bool(small.isfinite().all()):
            return math.nan
        values, vectors = torch.linalg.eigh(small)
        largest, residual = float(values[-1]), beside[-1] * abs(float(vectors[-1, -1]))
        if residual <= close * abs(largest) or len(diagonal) in (products, len(start)):
            return largest
        basis.append(v / beside[-1])


def of_curvature(problem: Problem, batch: Batch, seed: int) -> Found:
    """Measure the sharpness, and how near it is to what the optimizer can bear."""
    if Capability.CURVATURE not in problem.offers:
        return Found({}, {}, {})
    around = problem.linearize(batch)
    size = around.gradient.numel()
    start = torch.randn(size, generator=generator_for(seed, "sharpness"), dtype=problem.dtype, device="cpu")
    start = start.to(problem.device)
    sharpness = largest_eigenvalue(around.hvp, start)
    values: dict[str, Value] = {"sharpness": sharpness}
    known = problem.stability()
    if known is not None:
        scaled = sharpness
        if known.scales is not None:
            root = torch.cat([one.flatten() for one in known.scales]).rsqrt()
            scaled = largest_eigenvalue(lambda v: root * around.hvp(root * v), start)
            values["scaled_sharpness"] = scaled
        values["edge"] = scaled / known.limit
    return Found(values, {}, {})


def of_jacobian(problem: Problem, batch: Batch, seed: int) -> Found:
    """Measure the singular values of the input-output Jacobian."""
    if problem.spec.sequence or Capability.SUPERVISED not in problem.offers or not batch.inputs.is_floating_point():
        return Found({}, {}, {})
    values = torch.linalg.svdvals(jacobians(problem, batch.inputs[:EXAMPLES]))
    if not values.numel() or not bool(values.isfinite().all()):
        return Found({}, {}, {})
    middle = values.median(0).values
    return Found(
        {
            "jacobian_largest": float(middle[0]),
            "jacobian_median": float(middle[len(middle) // 2]),
            "jacobian_smallest": float(middle[-1]),
        },
        {},
        {},
    )


def jacobians(problem: Problem, x: Tensor) -> Tensor:
    """Return d outputs / d inputs of each row, (n, C, F), in one pass over C copies of the rows."""
    wide, n = problem.spec.outputs, len(x)
    copies = x.detach().repeat(wide, *[1] * (x.dim() - 1)).requires_grad_()
    with torch.enable_grad():
        outputs = problem.model(copies).reshape(wide, n, wide)
        own = outputs.diagonal(dim1=0, dim2=2).sum()
    (found,) = torch.autograd.grad(own, copies)
    return found.reshape(wide, n, -1).transpose(0, 1)
