"""How sharp a quadratic may be before an optimizer's steps on it grow."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Stability(NamedTuple):
    """What an optimizer that steps x by a multiple of P^-1 g can bear.

    Attributes:
        limit: largest eigenvalue of P^-1/2 H P^-1/2 at which a quadratic with the Hessian H does not blow up.
        scales: the diagonal of P for each parameter, in their order; None where P is the identity.
    """

    limit: float
    scales: list[Tensor] | None


def stability(optimizer: torch.optim.Optimizer) -> Stability | None:
    """Return the limit of an optimizer with one rate for all, None for a kind whose limit is not known.

    With rate eta and the decay beta of the velocity,

        gradient descent       2 / eta                        heavy ball    2 (1 + beta) / eta
        Nesterov               2 (1 + beta) / (eta (1 + 2 beta))
        Adam, AdamW            2 (1 + beta_1) / (eta (1 - beta_1)),   P = sqrt(v) + eps, v corrected for its start
        RMSprop                2 / eta,   P = sqrt(v) + eps

    Cohen et al. 2021 (arXiv:2103.00065) for the first row, and 2022 (arXiv:2207.14484) for P as if it stood still.

    >>> x = torch.nn.Parameter(torch.ones(2))
    >>> round(stability(torch.optim.SGD([x], lr=0.1, momentum=0.9)).limit, 6)
    38.0
    """
    if len(optimizer.param_groups) != 1:
        return None
    group = optimizer.param_groups[0]
    rate = float(group["lr"])
    if rate <= 0 or group.get("maximize") or group.get("amsgrad") or group.get("centered"):
        return None
    if type(optimizer) is torch.optim.SGD and group["dampening"] == 0:
        beta = float(group["momentum"])
        return Stability(2 * (1 + beta) / (rate * (1 + 2 * beta if group["nesterov"] else 1)), None)
    if type(optimizer) in (torch.optim.Adam, torch.optim.AdamW):
        beta = float(group["betas"][0])
        return _scaled(optimizer, "exp_avg_sq", 2 * (1 + beta) / (rate * (1 - beta)), float(group["betas"][1]))
    if type(optimizer) is torch.optim.RMSprop and group["momentum"] == 0:
        return _scaled(optimizer, "square_avg", 2 / rate, None)
    return None


def _scaled(optimizer: torch.optim.Optimizer, name: str, limit: float, decay: float | None) -> Stability | None:
    """Return the limit with sqrt(v) + eps, None before there is a v."""
    group, scales = optimizer.param_groups[0], []
    for parameter in group["params"]:
        state = optimizer.state.get(parameter) or {}
        if name not in state:
            return None
        seen = 1.0 if decay is None else 1 - decay ** float(state["step"])
        scales.append((state[name].detach() / seen).sqrt() + group["eps"])
    return Stability(limit, scales)
