"""The recipe for an optimizer: class, options, schedule, clipping, and what it asks of a step."""

import inspect
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import nn

from altprop.checks import SCHEDULES, check_name, check_number
from altprop.errors import AltpropError, near
from altprop.optim.foreign import KNOWN_NEEDS, LIBRARY, MATRICES_ONLY, IsolatedRandomState, create, library, named_class
from altprop.optim.schedule import Schedule
from altprop.resolve import resolve_class

ROLES = ("hidden", "input", "output", "bias", "norm")
NEEDS = ("closure", "graph", "swap")


FUSED = frozenset({torch.optim.Adagrad, torch.optim.Adam, torch.optim.AdamW})
"""torch's optimizers whose fused kernel is taken. That of SGD fails where some parameters have a velocity and others,
which a net has grown, have none yet."""


class OptimizerFactory:
    """A recipe for an optimizer.

    Args:
        optimizer: import path of a `torch.optim.Optimizer` class, or "pytorch_optimizer".
        lr: learning rate; None takes the class's own (by name, the library's 0.001).
        momentum: decay of the velocity, at least 0 and below 1, for classes that have one.
        algorithm: name in pytorch_optimizer, such as lion or soap.
        needs: what a step asks for beyond gradients: closure (re-evaluations), graph (gradients that can be
            differentiated), swap (other weights to predict with); None looks it up.
        roles: of the matrices that this optimizer takes (hidden, input, output); None takes every parameter.
        partner: recipe (optimizer, lr, options) for the parameters that `roles` leaves.
        schedule, warmup, end: the factor on `lr` over the budget, see `Schedule`.
        clip_norm: bound on the global norm of the direction, or None.
        clip_value: bound on each element of the direction, or None.
        clip_adaptive: bound on the norm of a unit's direction over that of its weights, or None (`clip_units`).
        options: further arguments of the class.

    Raises:
        AltpropError: for an unknown class, name, option, schedule, need or role, or a value that the class refuses.

    >>> OptimizerFactory("torch.optim.SGD", lr=0.1, momentm=0.9)
    Traceback (most recent call last):
    ...
    altprop.errors.AltpropError: optimizer.momentm is no option of SGD; did you mean momentum?
    """

    def __init__(
        self,
        optimizer: str,
        lr: float | None = None,
        *,
        momentum: float | None = None,
        algorithm: str | None = None,
        needs: Sequence[str] | None = None,
        roles: Sequence[str] | None = None,
        partner: Mapping[str, Any] | None = None,
        schedule: str = "constant",
        warmup: float = 0.0,
        end: float | None = None,
        clip_norm: float | None = None,
        clip_value: float | None = None,
        clip_adaptive: float | None = None,
        **options: Any,
    ) -> None:
        self.algorithm = None
        if optimizer == LIBRARY:
            self.kind: type[torch.optim.Optimizer] = named_class(algorithm)
            self.algorithm = str(algorithm).lower()
        else:
            if algorithm is not None:
                raise AltpropError(f"optimizer.algorithm belongs to optimizer={LIBRARY}; got it with {optimizer}")
            if str(optimizer).startswith(f"{LIBRARY}."):
                library()
            self.kind = resolve_class(optimizer, torch.optim.Optimizer)
        self.needs = self._check_needs(needs)
        check_name(schedule, "optimizer.schedule", SCHEDULES)
        check_number(warmup, "optimizer.warmup", 0.0, below=1.0)
        self.schedule = Schedule(
            schedule, warmup, None if end is None else check_number(end, "optimizer.end", 0.0, 1.0)
        )
        self.clip_norm = None if clip_norm is None else check_number(clip_norm, "optimizer.clip_norm", above=0.0)
        self.clip_value = None if clip_value is None else check_number(clip_value, "optimizer.clip_value", above=0.0)
        self.clip_adaptive = (
            None if clip_adaptive is None else check_number(clip_adaptive, "optimizer.clip_adaptive", above=0.0)
        )
        if momentum is not None:
            # torch takes any value; at 1 and above the velocity grows without bound.
            options["momentum"] = check_number(momentum, "optimizer.momentum", 0.0, below=1.0)
        rate = {} if lr is None else {"lr": check_number(lr, "optimizer.lr", 0.0)}
        self.options = self._check_options(options) | rate
        self.roles = self._check_roles(roles, partner)
        self.partner = None if partner is None else OptimizerFactory(**partner)
        if self.partner is not None and self.partner.needs:
            raise AltpropError(f"optimizer.partner={self.partner.name} must step on gradients alone")
        self._try()

    @property
    def name(self) -> str:
        """What to call it in sentences."""
        return self.kind.__name__

    @property
    def foreign(self) -> bool:
        """Whether it is not torch's own: it may draw from global random states and write into gradients."""
        return not self.kind.__module__.startswith("torch.optim.")

    def build(self, module: nn.Module, params: Mapping[str, nn.Parameter], seed: int = 0) -> torch.optim.Optimizer:
        """Build the optimizer on parameters of a module; what it draws depends on the seed alone."""
        device = next(iter(params.values())).device
        isolated = IsolatedRandomState([self.kind], device)(seed) if self.foreign else nullcontext()
        # Some of torch's own make their counters on the default device, which need not be a real one.
        with torch.device("cpu"), isolated:
            if self.algorithm is not None and self.roles is None:
                return create(module, self.algorithm, dict(self.options))
            return self.kind(list(params.values()), **self._fused(list(params.values())), **self.options)

    def _fused(self, params: Sequence[nn.Parameter]) -> dict[str, Any]:
        """Return what makes torch take its fused kernels, which step a small net two to four times as fast."""
        fits = all(p.is_floating_point() and p.device.type in ("cpu", "cuda") for p in params)
        chosen = {"fused", "foreach", "capturable", "differentiable"} & self.options.keys()
        return {"fused": True} if self.kind in FUSED and fits and not chosen else {}

    def _check_needs(self, needs: Sequence[str] | None) -> frozenset[str]:
        if needs is None:
            swap = {"swap"} if hasattr(self.kind, "eval") and hasattr(self.kind, "train") else set()
            return KNOWN_NEEDS.get(self.kind.__name__, frozenset()) | swap
        for need in needs:
            if need not in NEEDS:
                raise AltpropError(f"unknown optimizer.needs={need}; {near(str(need), NEEDS)}")
        return frozenset(needs)

    def _check_options(self, options: dict[str, Any]) -> dict[str, Any]:
        known = [
            name
            for name, p in inspect.signature(self.kind).parameters.items()
            if p.kind is not inspect.Parameter.VAR_KEYWORD and name not in ("params", "model", "named_parameters")
        ]
        if self.algorithm is not None:
            known += ["weight_decay", "adamw_lr", "adamw_wd"]
        for name in options:
            if name not in known:
                raise AltpropError(f"optimizer.{name} is no option of {self.name}; {near(name, known)}")
        return {name: tuple(value) if isinstance(value, list) else value for name, value in options.items()}

    def _check_roles(self, roles: Sequence[str] | None, partner: Mapping[str, Any] | None) -> frozenset[str] | None:
        if roles is None:
            if partner is not None:
                raise AltpropError("optimizer.partner needs optimizer.roles: which matrices the optimizer itself takes")
            if self.kind is getattr(torch.optim, "Muon", None) or self.name in MATRICES_ONLY:
                raise AltpropError(f"{self.name} takes matrices alone; set optimizer.roles and optimizer.partner")
            return None
        for role in roles:
            if role not in ROLES:
                raise AltpropError(f"unknown optimizer.roles={role}; {near(str(role), ROLES)}")
        if partner is None or self.needs & {"closure", "graph"}:
            raise AltpropError("optimizer.roles needs optimizer.partner and an optimizer that steps on gradients alone")
        return frozenset(roles)

    def _try(self) -> None:
        """Build it once on two throw-away matrices, so that a bad value fails here."""
        # skip_init: an initialisation would draw from the global stream.
        layers = [nn.utils.skip_init(nn.Linear, 2, 2, bias=False, device="cpu") for _ in range(2)]
        module = nn.Sequential(*layers).requires_grad_(True)
        try:
            optimizer = self.build(module, dict(module.named_parameters()))
        except AltpropError:
            raise
        except Exception as error:
            sentence = " ".join(str(error).split()) or type(error).__name__
            raise AltpropError(f"optimizer={self.name}: {sentence}") from error
        if not self.schedule.constant:
            if self.kind is torch.optim.Rprop:
                raise AltpropError("Rprop reads lr at its first step alone: a schedule would do nothing; use constant")
            if any("lr" not in group for group in optimizer.param_groups):
                raise AltpropError(f"{self.name} has no learning rate that a schedule could change; use constant")
