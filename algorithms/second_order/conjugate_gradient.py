"""The conjugate gradient method, truncated, with an exit at negative curvature."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Solution:
    """What `conjugate_gradient` found.

    Attributes:
        direction: (D,).
        iterations: products that were made.
        negative: whether a direction of curvature <= 0 ended it.
        bend: direction . A direction.
        flops: of the inner products; those of the matrix products are the caller's.
    """

    direction: Tensor
    iterations: int
    negative: bool
    bend: float
    flops: int


def conjugate_gradient(
    product: Callable[[Tensor], Tensor],
    gradient: Tensor,
    iterations: int,
    tolerance: float,
    exit_at_negative: bool = True,
) -> Solution:
    """Minimise g . d + 1/2 d . A d over d, from 0.

    Ends where the residual |g + A d| <= tolerance |g|, after `iterations` products, or at a search direction p with
    p . A p <= 0: then with the d of the iterations before, or with -g where it is the first. From 0 every iterate
    descends, so each such end is safe for a line search.

    Args:
        product: v (D,) -> A v.
        gradient: g, (D,).
        iterations: the largest number of products; D of them solve exactly.
        tolerance: relative.
        exit_at_negative: whether to end at curvature <= 0; without, a saddle attracts.

    >>> a, g = torch.tensor([1.0, 4.0], dtype=torch.float64), torch.tensor([2.0, 4.0], dtype=torch.float64)
    >>> [round(value, 12) for value in conjugate_gradient(lambda v: a * v, g, 2, 0.0).direction.tolist()]
    [-2.0, -1.0]

    Paper: Hestenes and Stiefel 1952; Steihaug 1983; Nocedal and Wright, 2nd edition, algorithm 7.1.
    """
    d, residual = torch.zeros_like(gradient), gradient
    p = -residual
    square = float(residual.dot(residual))
    limit = tolerance**2 * square
    used = 0
    negative = False
    while used < iterations and square > limit and square > 0:
        applied = product(p)
        used += 1
        curvature = float(p.dot(applied))
        if exit_at_negative and curvature <= 0:
            negative = True
            if used == 1:
                d, residual = p, residual + applied
            break
        length = square / curvature
        d = d + length * p
        residual = residual + length * applied
        following = float(residual.dot(residual))
        p = following / square * p - residual
        square = following
    inner = 2 + 2 * used - negative
    return Solution(d, used, negative, float(d.dot(residual - gradient)), 2 * d.numel() * inner)


@dataclass(frozen=True)
class Path:
    """What `preconditioned` went through.

    Attributes:
        iterates: some of the directions, (D,) each, in order, the last one at the end.
        values: of the quadratic at each of them; it falls from one to the next.
        iterations: products that were made.
        flops: of the inner products; those of the matrix products are the caller's.
    """

    iterates: list[Tensor]
    values: list[float]
    iterations: int
    flops: int


def preconditioned(
    product: Callable[[Tensor], Tensor],
    gradient: Tensor,
    start: Tensor,
    scale: Tensor,
    iterations: int,
    progress: float,
    spacing: float = 1.3,
) -> Path:
    """Minimise phi(d) = g . d + 1/2 d . A d over d, from a start, by conjugate gradients under a diagonal scale.

    Ends after `iterations` products, where phi fell over the last k = max(10, i / 10) of them by less than k times
    `progress` of what it fell in all, or at a direction of no curvature or one that is not finite, before it is taken.

    Args:
        product: v (D,) -> A v.
        gradient: g, (D,).
        start: (D,); 0, or what solved a system like this one.
        scale: (D,), positive: A is thought to be near its diagonal matrix.
        iterations: the largest number of products.
        progress: see above; 0 goes on.
        spacing: iterates are kept at 1, spacing, spacing^2, ... iterations.

    Paper: Martens 2010, Deep learning via Hessian-free optimization, sections 4.4, 4.6 and 4.7.
    """
    d, residual = start, product(start) + gradient if bool(start.any()) else gradient
    used = int(bool(start.any()))
    scaled = residual / scale
    p = -scaled
    square = float(residual.dot(scaled))
    kept, values, fallen = [d], [0.5 * float(d.dot(residual + gradient))], [0.0]
    following, count = 1.0, 0
    while used < iterations and square > 0:
        applied = product(p)
        used, count = used + 1, count + 1
        curvature = float(p.dot(applied))
        if not (curvature > 0 and math.isfinite(curvature)):
            break
        length = square / curvature
        d, residual = d + length * p, residual + applied * length
        fallen.append(0.5 * float(d.dot(residual + gradient)))
        scaled = residual / scale
        before, square = square, float(residual.dot(scaled))
        p = square / before * p - scaled
        window = max(10, count // 10)
        ends = count > window and fallen[-1] < 0 and fallen[-1] - fallen[-1 - window] > window * progress * fallen[-1]
        if count >= following or ends:
            following *= spacing
            kept, values = [*kept, d], [*values, fallen[-1]]
        if ends:
            break
    if len(fallen) > 1 and kept[-1] is not d:
        kept, values = [*kept, d], [*values, fallen[-1]]
    return Path(kept, values, used, 2 * d.numel() * (2 + 3 * count))
