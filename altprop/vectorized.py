"""Code of one learner on the tensors of many: `torch.vmap` as a place to stand in, not a function to call.

Inside `Members.inside` a member's code sees tensors without the leading dimension of members and computes for all of
them: that is a level of `torch.func.vmap`, kept open over as many steps as one likes. What vmap cannot do there is done
on the stacked tensors themselves: derivatives through an ordinary graph (`differentiate`), optimizers and draws
(`Members.outside`). Where nobody is inside, each function here is the plain one of torch.

torch's own `vmap` is made of the same private functions, which is why this module is the only one to name them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch._functorch.vmap import vmap_increment_nesting

_functorch: Any = torch._C._functorch


class Members:
    """So many members whose tensors are stacked along a leading dimension.

    Args:
        size: how many.
    """

    entered: Members | None = None
    """Those whose code runs at present."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._level = 0
        self._layer: Any = None

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Let tensors be shown as one member's (`one`) inside, for code that runs where the members are `inside`."""
        with vmap_increment_nesting(self.size, "error") as self._level:
            self._layer = _functorch.pop_dynamic_layer_stack()
            try:
                yield
            finally:
                _functorch.push_dynamic_layer_stack(self._layer)

    @contextmanager
    def inside(self) -> Iterator[None]:
        """Let code that is written for one member compute for all; they are opened."""
        _functorch.push_dynamic_layer_stack(self._layer)
        Members.entered = self
        try:
            yield
        finally:
            Members.entered = None
            self._layer = _functorch.pop_dynamic_layer_stack()

    @contextmanager
    def outside(self) -> Iterator[None]:
        """Compute with stacked tensors as such, amid code of one member."""
        self._layer = _functorch.pop_dynamic_layer_stack()
        Members.entered = None
        try:
            yield
        finally:
            _functorch.push_dynamic_layer_stack(self._layer)
            Members.entered = self

    def one(self, stacked: Tensor, dim: int = 0) -> Tensor:
        """Return what one member sees of stacked values: (S, ...) -> (...).

        Args:
            stacked: the values.
            dim: that counts the members.
        """
        seen: Tensor = _functorch._add_batch_dim(stacked, dim, self._level)
        return seen

    def differ(self, seen: Tensor) -> bool:
        """Return whether a tensor may have other values in other members."""
        return bool(_functorch.is_batchedtensor(seen))

    def all(self, seen: Tensor) -> Tensor:
        """Return the stacked values of what one member sees, (...) -> (S, ...), with the graph that they have."""
        stacked: Tensor = _functorch._remove_batch_dim(seen, self._level, self.size, 0)
        return stacked


def differentiate(
    outputs: Tensor,
    inputs: Sequence[Tensor],
    cotangent: Tensor | None = None,
    *,
    create_graph: bool = False,
    retain_graph: bool | None = None,
) -> tuple[Tensor, ...]:
    """Return the cotangents of `inputs`, zeros for those that `outputs` does not depend on: `torch.autograd.grad`.

    Args:
        outputs: what is differentiated; a scalar where there is no cotangent.
        inputs: in which, each a parameter or made by `leaf`, or on the way to the outputs.
        cotangent: of the outputs, shaped like them.
        create_graph, retain_graph: as torch has them.
    """
    members = Members.entered
    how: Any = {"create_graph": create_graph, "retain_graph": retain_graph}
    how |= {"allow_unused": True, "materialize_grads": True}
    if members is None:
        return torch.autograd.grad(outputs, list(inputs), cotangent, **how)
    # The very tensors behind what one member sees: another view of them would have no place in the graph.
    places = [_functorch.maybe_get_bdim(one) for one in inputs]
    if min(places, default=0) < 0:
        raise Unstackable("what all members share cannot be differentiated in: each has a gradient of its own")
    wanted = [_functorch.get_unwrapped(one) for one in inputs]
    stacked = members.all(outputs)
    along = torch.ones_like(stacked) if cotangent is None else members.all(cotangent)
    with members.outside():
        found = torch.autograd.grad(stacked, wanted, along, **how)
    return tuple(members.one(one, place) for one, place in zip(found, places, strict=True))


def leaf(value: Tensor) -> Tensor:
    """Return a detached copy in which can be differentiated, where its type allows that: a leaf of the graph."""
    members = Members.entered
    if members is None:
        return value.detach().requires_grad_(value.is_floating_point())
    stacked = members.all(value)
    with members.outside():
        stacked = stacked.detach().requires_grad_(value.is_floating_point())
    return members.one(stacked)


def on_stacks(function: Callable[..., Sequence[Tensor]], *seen: Tensor) -> Sequence[Tensor]:
    """Return what a function of stacked tensors (S, ...) gives, amid the code of one member, as that member sees it.

    Where nobody is inside, the tensors and what comes back have no leading dimension.
    """
    members = Members.entered
    if members is None:
        return function(*seen)
    stacks = [members.all(one) for one in seen]
    with members.outside():
        found = function(*stacks)
    return [members.one(one) for one in found]


def mapped(value: Tensor) -> bool:
    """Return whether a value is what one row or member sees under `torch.func.vmap`, which has no rule for some work.

    >>> mapped(torch.zeros(2))
    False
    """
    return bool(_functorch.is_batchedtensor(value))


def has_graph(value: Tensor) -> bool:
    """Return whether a value can be differentiated."""
    members = Members.entered
    return bool((value if members is None else members.all(value)).requires_grad)


class Unstackable(Exception):
    """What cannot be done for many members at once; the sentence says what."""


class Unmeasured(Unstackable):
    """Work whose cost is not known yet, and cannot be measured in a step of many members."""


def common(values: Sequence[Any], what: str) -> Any:
    """Return what all members have alike.

    Raises:
        Unstackable: where they do not.
    """
    first = values[0]
    if not all(one is first or _alike(one, first) for one in values[1:]):
        raise Unstackable(f"{what} differs between the members; what differs must be a tensor")
    return first


def _alike(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return torch.equal(a, b)
    return bool(type(a) is type(b) and not isinstance(a, Tensor) and a == b)
