"""The updater: one optimizer bound to one module's parameters by name."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from altprop.errors import AltpropError, Refused, near
from altprop.optim.clipping import below_outputs, clip_units
from altprop.optim.cost import CostMeter, LbfgsMeter
from altprop.optim.factory import ROLES, OptimizerFactory
from altprop.optim.foreign import IsolatedRandomState
from altprop.optim.stability import Stability, stability
from altprop.optim.state import export, restore
from altprop.randomness import derive_seed
from altprop.vectorized import Members

if TYPE_CHECKING:
    from altprop.workspace import Workspace

__all__ = ["ROLES", "Evaluate", "Updater", "role_of"]

ELEMENTWISE = frozenset(
    getattr(torch.optim, name)
    for name in "SGD Adagrad RMSprop Adadelta Adam AdamW NAdam RAdam Adamax Rprop ASGD".split()
)
"""torch's optimizers that step each element by its own numbers alone."""
Evaluate = Callable[[bool], tuple[Tensor, dict[str, Tensor]]]


def role_of(name: str, parameter: Tensor, in_output_block: bool) -> str:
    """Return the role of a parameter: hidden, input, output, bias or norm."""
    if ".norm." in name:
        return "norm"
    if parameter.dim() < 2:
        return "bias"
    if in_output_block:
        return "output"
    return "input" if name.startswith("blocks.0.") or name == "cell.weight_input" else "hidden"


class _Part(NamedTuple):
    """One torch optimizer, the names of what it steps, and its step."""

    optimizer: torch.optim.Optimizer
    params: dict[str, nn.Parameter]
    step: Callable[[], Any]


def _part(optimizer: torch.optim.Optimizer, params: dict[str, nn.Parameter]) -> _Part:
    """Bind an optimizer; nobody registers hooks on it, so its step goes without torch's wrapper where it can.

    The wrapper writes a label for torch's profiler, which takes 9 us: a third of a step of SGD on a small network. And
    plain SGD is one operation on all parameters.
    """
    if type(optimizer) is torch.optim.SGD and all(map(_is_plain, optimizer.param_groups)):
        return _Part(optimizer, params, partial(_descend, optimizer))
    method: Any = type(optimizer).step
    bare = getattr(method, "__wrapped__", None) if getattr(method, "hooked", False) else None
    return _Part(optimizer, params, optimizer.step if bare is None else partial(bare, optimizer))


def _is_plain(group: Mapping[str, Any]) -> bool:
    """Return whether SGD subtracts lr times the gradient from the parameters of a group, and does nothing else."""
    never = ("momentum", "weight_decay", "maximize", "foreach", "fused", "differentiable")
    return not any(group.get(name) for name in never) and isinstance(group["lr"], float)


@torch.no_grad()
def _descend(optimizer: torch.optim.Optimizer) -> None:
    """Take a step of plain SGD, to torch's bits."""
    for group in optimizer.param_groups:
        moved = [p for p in group["params"] if p.grad is not None]
        if moved:
            torch._foreach_add_(moved, [p.grad for p in moved], alpha=-group["lr"])


def _renamed(old: Mapping[str, nn.Parameter], new: Mapping[str, nn.Parameter]) -> dict[str, nn.Parameter]:
    """Return the parameters of an optimizer under the names that they, or what replaced them, have now."""
    present = {id(p): name for name, p in new.items()}
    followed = {present[id(p)]: p for p in old.values() if id(p) in present}
    gone = {name: p for name, p in old.items() if id(p) not in present}
    return {**{name if name not in followed else f"{name} (gone)": p for name, p in gone.items()}, **followed}


def _laid_out(value: Tensor | None, p: Tensor) -> Tensor | None:
    """Return a direction in the memory order of its parameter: torch's fused kernels read it as if it were that.

    Under autocast it may come in half precision, and gets the parameter's dtype; otherwise torch says what is wrong.
    """
    if value is None or (value.stride() == p.stride() and value.dtype == _dtype_for(value, p)):
        return value
    return torch.empty_like(p, requires_grad=False).copy_(value)


def _dtype_for(value: Tensor, p: Tensor) -> torch.dtype:
    """Return the dtype in which a direction is applied: its own, or under autocast its parameter's."""
    return p.dtype if torch.is_autocast_enabled(p.device.type) else value.dtype


class Updater:
    """One optimizer on one module's parameters.

    State is saved by parameter name; after `rebind` moved and replaced parameters keep theirs. An optimizer
    with `roles` works beside its partner, each on its own parameters.

    Args:
        factory: the recipe.
        module: whose parameters.
        roles: () -> name -> role, of the module's present parameters.
        problem: for progress, ledger and random seeds.
        direction: "gradient", or "other" for what is no gradient of the objective.

    Raises:
        Refused: for an optimizer that re-evaluates or differentiates the objective, with directions that are no
            gradient; and for one whose roles match no parameter.
    """

    def __init__(
        self,
        factory: OptimizerFactory,
        module: nn.Module,
        roles: Callable[[], Mapping[str, str]],
        problem: Workspace,
        direction: str = "gradient",
    ) -> None:
        if direction not in ("gradient", "other"):
            raise AltpropError(f"unknown direction={direction!r}; {near(direction, ('gradient', 'other'))}")
        if direction == "other" and factory.needs & {"closure", "graph"}:
            does = "evaluates the objective" if "closure" in factory.needs else "differentiates the gradient"
            raise Refused(
                f"optimizer {factory.name} {does} again, and this rule's direction is no gradient of it; "
                "try optimizer=adam or optimizer=sgd"
            )
        self._factory, self._module, self._roles, self._problem = factory, module, roles, problem
        self.direction = direction
        self._params: dict[str, nn.Parameter] = {}
        self._parts: list[_Part] = []
        self._below_outputs: Collection[nn.Parameter] = ()
        self._steps = 0
        self._fresh = True
        kinds = [recipe.kind for recipe in (factory, factory.partner) if recipe is not None and recipe.foreign]
        self._isolated = IsolatedRandomState(kinds, problem.device) if kinds else None
        self._meter = CostMeter() if kinds and not self.wants_closure else None
        self._clips = any(bound is not None for bound in (factory.clip_norm, factory.clip_value, factory.clip_adaptive))
        self._copies = bool(kinds) or self._clips or self.wants_closure
        self._stacked: Callable[[Mapping[str, Tensor], Members], None] | None = None
        self.rebind()
        self._seed = derive_seed(problem.random.seed, "optimizer", *self._params)

    @property
    def parameters(self) -> tuple[nn.Parameter, ...]:
        """What it steps."""
        return tuple(self._params.values())

    @property
    def elementwise(self) -> bool:
        """Whether each element is stepped by its own numbers alone, so that parameters of many seeds can be stacked."""
        factory = self._factory
        return factory.kind in ELEMENTWISE and factory.roles is None and not self._clips and not self.wants_closure

    def same_recipe(self, other: Updater) -> bool:
        """Return whether another updater does with a direction exactly what this one does."""
        return self._factory is other._factory or vars(self._factory) == vars(other._factory)

    # What a rule asks before and after its gradient.

    @property
    def wants_closure(self) -> bool:
        """Whether `apply` needs `evaluate`."""
        return "closure" in self._factory.needs

    @property
    def wants_graph(self) -> bool:
        """Whether the next direction must come with its graph (`problem.gradient(batch, create_graph=True)`)."""
        if "graph" not in self._factory.needs:
            return False
        return bool(self._steps % getattr(self._parts[0].optimizer, "update_period", 1) == 0)

    def apply(
        self,
        direction: Mapping[str, Tensor],
        evaluate: Evaluate | None = None,
        *,
        loss: Tensor | None = None,
        fixed: bool = False,
    ) -> None:
        """Step along minus `direction`, parameter name -> tensor; a parameter without one stays.

        Args:
            direction: gradients, or what stands for them; they are left as they are.
            evaluate: `create_graph -> (loss, gradients)` at the present parameters, on the same batch and under the
                same noise, for optimizers that evaluate the objective again.
            loss: the objective where `direction` was taken, which saves such optimizers an evaluation.
            fixed: whether the objective is the very function of the step before (the whole set, no noise). Unless it
                is, L-BFGS forms no curvature pair across the two steps.

        Raises:
            AltpropError: for a direction of an unknown parameter.
            Refused: for an optimizer that evaluates the objective again, with a rule that gives no `evaluate`.
        """
        if self._problem.heard is not None and self._module is self._problem.model:
            self._tell(direction, self._problem.heard)
        if self._stacked is not None and Members.entered is not None:
            self._stacked(direction, Members.entered)
            return
        params, factory, ledger = self._params, self._factory, self._problem.ledger
        if direction.keys() != params.keys():
            self._check_names(direction)
        if not factory.schedule.constant:
            self._set_rates(factory.schedule(self._problem.progress))
        try:
            self._put(direction)
            if self.wants_closure:
                self._search(direction, evaluate, loss, fixed)
            elif self._isolated is not None and self._meter is not None:
                if self.wants_graph:
                    # The products inside are calls of their own; their FLOPs are metered with the update's.
                    ledger.primitive("hvp", 0, getattr(self._parts[0].optimizer, "num_samples", 1))
                with self._isolated(derive_seed(self._seed, self._steps)), ledger.charged("update"):
                    ledger.charge("update", self._meter.run(self._step, ledger.auditing))
            else:
                with ledger.primitive("update", 0):
                    self._step()
        finally:
            for p in params.values():
                p.grad = None
        self._steps += 1
        ledger.updates += 0 if ledger.paused else 1

    def _tell(self, direction: Mapping[str, Tensor], heard: dict[str, Tensor]) -> None:
        """Tell who listens the first direction of a step, of all members where they are stacked."""
        members = Members.entered
        for name, value in direction.items():
            heard.setdefault(name, (value if members is None else members.all(value)).detach().clone())

    def _check_names(self, direction: Mapping[str, Tensor]) -> None:
        for name in direction:
            if name not in self._params:
                raise AltpropError(f"direction for {name}, which is no parameter; {near(name, self._params)}")

    def _put(self, direction: Mapping[str, Tensor]) -> None:
        """Hand the direction over as `.grad`, clipped; as a copy where it would be written into."""
        if not self._copies:
            for name, p in self._params.items():
                p.grad = _laid_out(direction.get(name), p)
            return
        with torch.enable_grad():
            for name, p in self._params.items():
                value = direction.get(name)
                kept = torch.contiguous_format
                p.grad = None if value is None else value.to(_dtype_for(value, p), copy=True, memory_format=kept)
        if self._clips:
            self._clip()

    def _clip(self) -> None:
        values = list(self._params.values())
        if self._factory.clip_value is not None:
            nn.utils.clip_grad_value_(values, self._factory.clip_value)
        if self._factory.clip_adaptive is not None:
            clip_units(self._below_outputs, self._factory.clip_adaptive)
        if self._factory.clip_norm is not None:
            nn.utils.clip_grad_norm_(values, self._factory.clip_norm)

    def _step(self) -> None:
        if self._fresh:
            self._fresh = False
            # State is made now, some of it on the default device, which need not be a real one.
            with torch.device("cpu"):
                for part in self._parts:
                    part.step()
            return
        for part in self._parts:
            part.step()

    def _search(
        self, direction: Mapping[str, Tensor], evaluate: Evaluate | None, loss: Tensor | None, fixed: bool
    ) -> None:
        """Step an optimizer that evaluates the objective again."""
        if evaluate is None:
            raise Refused(
                f"optimizer {self._factory.name} evaluates the objective again; this rule does not offer that"
            )
        optimizer = self._parts[0].optimizer
        # All but BSAM evaluate first where the direction was taken.
        known = None if loss is None or self._factory.name == "BSAM" else loss
        evaluations = 0

        def closure() -> Tensor:
            nonlocal known, evaluations
            if known is not None:
                value, known = known, None
                return value
            evaluations += 1
            value, grads = evaluate(False)
            self._put(grads)
            return value

        ledger = self._problem.ledger
        step: Any = optimizer.step
        if isinstance(optimizer, torch.optim.LBFGS):
            meter = LbfgsMeter(optimizer, not fixed)
            if not fixed:
                self._drop_pending_pair(optimizer)
            with ledger.charged("update"):
                step(closure)
            ledger.charge("update", meter.flops(evaluations))
        else:
            assert self._isolated is not None
            with self._isolated(derive_seed(self._seed, self._steps)), ledger.primitive("update", 0):
                step(closure)

    def _drop_pending_pair(self, optimizer: torch.optim.LBFGS) -> None:
        """Let L-BFGS's next pair be y = 0, which it skips: gradients of two batches differ by more than curvature."""
        state = optimizer.state[next(iter(self._params.values()))]
        if state.get("prev_flat_grad") is not None:
            zeros = (torch.zeros_like(p) if p.grad is None else p.grad for p in self._params.values())
            state["prev_flat_grad"] = torch.cat([g.flatten() for g in zeros])

    def stability(self) -> Stability | None:
        """Return what its optimizer can bear, None where there are two, or its limit is unknown."""
        return stability(self._parts[0].optimizer) if len(self._parts) == 1 else None

    # Rates, binding, swap, state.

    def _set_rates(self, factor: float) -> None:
        for part, rates in zip(self._parts, self._rates, strict=True):
            for group, rate in zip(part.optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * factor

    def rebind(self) -> None:
        """Take the module's present parameters; those that keep their shape keep their state.

        A parameter is followed under its new name (blocks behind an inserted one change theirs), and what replaces one
        under its name takes its place.
        """
        self._problem.look_up()
        params = dict(self._module.named_parameters())
        if (
            self._parts
            and len(params) == len(self._params)
            and all(params.get(n) is p for n, p in self._params.items())
        ):
            return
        old = self._params
        if old and {n: p.shape for n, p in old.items()} != {n: p.shape for n, p in params.items()}:
            self._problem.structure_changed()
            self._meter = None if self._meter is None else CostMeter()
        saved = [export(part.optimizer, _renamed(part.params, params)) for part in self._parts]
        self._start(params)
        for part, state in zip(self._parts, saved, strict=False):
            restore(part.optimizer, part.params, state)

    def _start(self, params: dict[str, nn.Parameter]) -> None:
        """Build optimizers without a past."""
        self._params, self._parts = params, self._build(params)
        self._below_outputs = () if self._factory.clip_adaptive is None else below_outputs(params, self._roles())
        self._fresh = True
        self._rates = [[group.get("lr", 0.0) for group in part.optimizer.param_groups] for part in self._parts]

    def _build(self, params: dict[str, nn.Parameter]) -> list[_Part]:
        factory, seed = self._factory, derive_seed(self._problem.random.seed, "optimizer", *params)
        if factory.roles is None:
            return [_part(factory.build(self._module, params, seed), params)]
        roles = self._roles()
        own = {name: p for name, p in params.items() if roles[name] in factory.roles and p.dim() == 2}
        if not own:
            wanted = " or ".join(sorted(factory.roles))
            raise Refused(
                f"optimizer {factory.name} takes {wanted} matrices, and this model has none; "
                "try model.hidden=[100,100], or optimizer.roles=[hidden,input]"
            )
        rest = {name: p for name, p in params.items() if name not in own}
        parts = [_part(factory.build(self._module, own, seed), own)]
        if rest:
            assert factory.partner is not None
            parts.append(_part(factory.partner.build(self._module, rest, seed), rest))
        return parts

    @contextmanager
    def swapped(self) -> Iterator[None]:
        """Show the weights that predict, where the optimizer keeps others for training; exact, however often."""
        if "swap" not in self._factory.needs or self._steps == 0:
            yield
            return
        kept = [p.detach().clone() for p in self._params.values()]
        optimizers: list[Any] = [part.optimizer for part in self._parts if hasattr(part.optimizer, "eval")]
        for optimizer in optimizers:
            optimizer.eval()
        try:
            yield
        finally:
            for optimizer in optimizers:
                optimizer.train()
            with torch.no_grad():
                # Its own way back rounds.
                for p, value in zip(self._params.values(), kept, strict=True):
                    p.copy_(value)

    def state_dict(self) -> dict[str, Any]:
        """Return the state by parameter name, in weights_only-safe types."""
        meter = self._meter
        return {
            "steps": self._steps,
            "parts": [export(part.optimizer, part.params) for part in self._parts],
            "meter": None if meter is None else [meter.updates, list(meter.seen)],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put a state of `state_dict` back.

        Raises:
            AltpropError: where the state is of other parameters.
        """
        self._problem.look_up()
        self._start(dict(self._module.named_parameters()))
        shapes = [{name: list(p.shape) for name, p in part.params.items()} for part in self._parts]
        if [saved["shapes"] for saved in state["parts"]] != shapes:
            raise AltpropError(f"the saved state of optimizer {self._factory.name} is of other parameters")
        for part, saved in zip(self._parts, state["parts"], strict=True):
            restore(part.optimizer, part.params, saved)
        self._steps = state["steps"]
        if self._meter is not None and state["meter"] is not None:
            self._meter.updates, self._meter.seen = state["meter"][0], list(state["meter"][1])
