"""The conjugate gradient method, truncated, with an exit at negative curvature."""

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
