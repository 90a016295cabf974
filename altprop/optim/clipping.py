"""Adaptive gradient clipping: a unit's direction is bounded in units of its own weights."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

import torch
from torch import Tensor, nn

FLOOR = 1e-3
"""Norm that weights have at the least, so that those at 0 can leave it."""


def clip_units(parameters: Iterable[nn.Parameter], bound: float) -> None:
    """Bound `.grad` of every unit by `bound` times the norm of its weights, in place.

        G_i <- G_i min(1, bound max(|W_i|, 1e-3) / |G_i|)

    with i a row of a matrix or a kernel, all weights of one unit; a vector, such as the biases of a layer, is one.

    Args:
        parameters: W, with their directions G in `.grad`.
        bound: lambda.

    Brock, De, Smith and Simonyan 2021, arXiv:2102.06171, and for vectors the authors' code.
    """
    with torch.no_grad():
        for parameter in parameters:
            if parameter.grad is not None:
                most = bound * _norms(parameter).clamp(min=FLOOR)
                found = _norms(parameter.grad)
                parameter.grad.mul_(torch.where(found > most, most / found, torch.ones_like(found)))


def below_outputs(parameters: Mapping[str, nn.Parameter], roles: Mapping[str, str]) -> Collection[nn.Parameter]:
    """Return the parameters outside the layer that gives the outputs, which the paper does not clip."""
    outputs = {name.rpartition(".")[0] for name, role in roles.items() if role == "output"}
    return [p for name, p in parameters.items() if name.rpartition(".")[0] not in outputs]


def _norms(value: Tensor) -> Tensor:
    """Return the norm of each unit, so shaped that it multiplies `value`."""
    if value.dim() < 2:
        whole: Tensor = torch.linalg.vector_norm(value)
        return whole
    each: Tensor = torch.linalg.vector_norm(value, dim=list(range(1, value.dim())), keepdim=True)
    return each
