"""The optimizer axis: how a direction becomes an update, bound to parameters by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from altprop.errors import AltpropError, Refused
from altprop.resolve import resolve_class

if TYPE_CHECKING:
    from altprop.problem import Problem

ROLES = ("hidden", "input", "output", "bias", "norm")
NEEDS = ("closure", "graph", "swap")
Evaluate = Callable[[bool], tuple[Tensor, dict[str, Tensor]]]


def role_of(name: str, parameter: Tensor, in_output_block: bool) -> str:
    """Return the role of a parameter: hidden, input, output, bias or norm."""
    if ".norm." in name:
        return "norm"
    if parameter.dim() < 2:
        return "bias"
    if in_output_block:
        return "output"
    return "input" if name.startswith("blocks.0.") else "hidden"


class OptimizerFactory:
    """A recipe for an optimizer: class, options, schedule and clipping.

    Args:
        optimizer: import path of a torch optimizer class.
        lr: learning rate, where the class takes one.
        needs: what `step` asks for beyond `.grad`: closure, graph (gradients that can be differentiated), swap.
        schedule: constant, linear, cosine or step: factor on `lr` as a function of the budget's progress.
        warmup: share of the budget over which `lr` rises from 0.
        clip_norm: bound on the global norm of the direction, or None.
        clip_value: bound on each element of the direction, or None.
        options: further arguments of the class.

    Raises:
        AltpropError: for an unknown class, option, schedule or need.
    """

    def __init__(
        self,
        optimizer: str,
        lr: float | None = None,
        *,
        needs: Sequence[str] = (),
        schedule: str = "constant",
        warmup: float = 0.0,
        clip_norm: float | None = None,
        clip_value: float | None = None,
        **options: Any,
    ) -> None:
        self.kind: type[torch.optim.Optimizer] = resolve_class(optimizer, torch.optim.Optimizer)
        if lr is not None and not lr >= 0:
            raise AltpropError(f"optimizer.lr must be at least 0; got {lr}")
        self.lr = lr
        self.needs = frozenset(needs)
        self.schedule, self.warmup = schedule, warmup
        self.clip_norm, self.clip_value = clip_norm, clip_value
        self.options = options


class Updater:
    """One optimizer on one module's parameters.

    State is kept by parameter name, so that a grown or replaced parameter keeps its own after `rebind`.
    """

    def __init__(
        self, factory: OptimizerFactory, module: nn.Module, roles: Mapping[str, str], problem: Problem, direction: str
    ) -> None:
        if direction != "gradient" and factory.needs & {"closure", "graph"}:
            raise Refused(f"optimizer {factory.kind.__name__} re-evaluates the objective; this rule's direction is none")
        self._factory, self._module, self._problem = factory, module, problem
        self.rebind()

    def rebind(self) -> None:
        """Take the module's present parameters, keeping the state of those whose name and shape are unchanged."""
        options = dict(self._factory.options)
        if self._factory.lr is not None:
            options["lr"] = self._factory.lr
        self._params = dict(self._module.named_parameters())
        self._optimizer = self._factory.kind(list(self._params.values()), **options)

    def apply(self, direction: Mapping[str, Tensor], evaluate: Evaluate | None = None) -> None:
        """Step along minus `direction`, parameter name -> tensor.

        Args:
            direction: gradients, or what stands for them.
            evaluate: `create_graph -> (loss, gradients)` at the present parameters and masks, for optimizers that
                re-evaluate.
        """
        for name, p in self._params.items():
            p.grad = direction[name]
        with self._problem.ledger.primitive("update", 0):
            self._optimizer.step()
        self._problem.ledger.updates += 1
        for p in self._params.values():
            p.grad = None

    @contextmanager
    def swapped(self) -> Iterator[None]:
        """Show the weights that predict, where the optimizer keeps others for training."""
        yield

    def state_dict(self) -> dict[str, Any]:
        """Return the optimizer's state."""
        return self._optimizer.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put a state of `state_dict` back."""
        self._optimizer.load_state_dict(state)
