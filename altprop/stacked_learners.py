"""Many seeds of one learner as one: parameters stacked, one product for all, bit for bit what each seed does alone.

A learner qualifies where its class says `stacks`, its model is a chain of dense blocks without noise, and its optimizer
steps each element by its own numbers. Equality is not hoped for: products of each shape are compared with the single
ones first and taken one by one where they round differently, every batch size is compared on all seeds when it first
comes, and audited steps are also taken by the learner itself. `StackingMismatch` then sends the caller to its loop.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Sequence
from functools import cache
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.nn import functional

from altprop.algorithm import Algorithm
from altprop.data import Batch
from altprop.losses import CrossEntropy
from altprop.models.base import Dense, LayeredModel
from altprop.optim import Updater


class StackingMismatch(Exception):
    """A stacked step would differ from the single ones."""


class _Batched(NamedTuple):
    """Which of an affine map's four products come out of one batched call with the bits of the single calls."""

    forward: bool
    weight: bool
    inputs: bool
    bias: bool


def _batched(size: int, rows: int, inputs: int, outputs: int, dtype: torch.dtype) -> _Batched:
    """Compare batched with single products of these shapes on random numbers.

    Kernels, and so rounding, go by shape and by the number of threads.
    """
    return _compared(size, rows, inputs, outputs, dtype, torch.get_num_threads())


@cache
def _compared(size: int, rows: int, inputs: int, outputs: int, dtype: torch.dtype, _threads: int) -> _Batched:
    generator = torch.Generator(device="cpu").manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=dtype, device="cpu")

    x, w, b, g = draw(size, rows, inputs), draw(size, outputs, inputs), draw(size, outputs), draw(size, rows, outputs)
    every, none = _Batched(True, True, True, True), _Batched(False, False, False, False)
    return _Batched(
        torch.equal(_forward(x, w, b, every), _forward(x, w, b, none)),
        torch.equal(_weight(g, x, every), _weight(g, x, none)),
        torch.equal(_inputs(g, w, every), _inputs(g, w, none)),
        torch.equal(_bias(g, every), _bias(g, none)),
    )


def _forward(x: Tensor, w: Tensor, b: Tensor, how: _Batched) -> Tensor:
    if how.forward:
        return torch.baddbmm(b[:, None], x, w.transpose(1, 2))
    return torch.stack([functional.linear(*each) for each in zip(x, w, b, strict=True)])


def _weight(g: Tensor, x: Tensor, how: _Batched) -> Tensor:
    if how.weight:
        return torch.bmm(g.transpose(1, 2), x)
    return torch.stack([torch.mm(each.t(), seen) for each, seen in zip(g, x, strict=True)])


def _inputs(g: Tensor, w: Tensor, how: _Batched) -> Tensor:
    return torch.bmm(g, w) if how.inputs else torch.stack([torch.mm(a, b) for a, b in zip(g, w, strict=True)])


def _bias(g: Tensor, how: _Batched) -> Tensor:
    return g.sum(1) if how.bias else torch.stack([each.sum(0) for each in g])


GROUP, MAX_FUSED_ROWS = 16, 256


def _means(each: Tensor) -> Tensor:
    """Return the means of (S, B) over B with the bits of torch's fused cross-entropy, up to 256 rows.

    Its sum takes the first element apart and the others sixteen by sixteen, and adds the unfinished group, the whole
    groups and the first element, in this order.
    """
    size, rows = each.shape
    whole, rest = divmod(rows - 1, GROUP)
    total = torch.zeros_like(each[:, 0])
    if rows > 1:
        padded = each.new_zeros(size, GROUP * (whole + bool(rest)))
        padded[:, : rows - 1] = each[:, 1:]
        sums, *others = padded.view(size, -1, GROUP).unbind(-1)
        for other in others:
            sums = sums + other
        groups = sums.unbind(1)
        if rest:
            total = groups[-1]
        if whole:
            level = groups[0]
            for group in groups[1:whole]:
                level = level + group
            total = total + level
    return (total + each[:, 0]) / rows


@cache
def _summed_alike(rows: int, dtype: torch.dtype) -> bool:
    """Compare `_means` with the fused kernel on random numbers: another version of torch may sum otherwise."""
    if rows > MAX_FUSED_ROWS:
        return False
    generator = torch.Generator(device="cpu").manual_seed(0)
    outputs = 3 * torch.randn((64, rows, 5), generator=generator, dtype=dtype, device="cpu")
    targets = torch.randint(0, 5, (64, rows), generator=generator, device="cpu")
    loss = CrossEntropy()
    alone = [loss.mean(o, t) for o, t in zip(outputs, targets, strict=True)]
    return torch.equal(_means(loss.per_element(outputs, targets)), torch.stack(alone))


class _Affine(torch.autograd.Function):
    """x W^T + b of all learners; torch's own derivative of `baddbmm` takes the weight's product the other way round."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        ctx.save_for_backward(x, w)
        size, rows, inputs = x.shape
        ctx.how = _batched(size, rows, inputs, w.shape[1], x.dtype)
        return _forward(x, w, b, ctx.how)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, Tensor, Tensor]:
        (g,), (x, w), how = cotangents, ctx.saved_tensors, ctx.how
        return _inputs(g, w, how) if ctx.needs_input_grad[0] else None, _weight(g, x, how), _bias(g, how)


ARITHMETIC = frozenset({"identity", "relu", "leaky_relu", "sign"})
"""Activations made of arithmetic and comparisons, which round alike wherever an element stands."""
LANES = 64
"""A multiple of the elements that vector instructions take at once. torch leaves the rest of a tensor to a scalar loop,
whose exp and tanh differ from the vectorised ones now and then; other numbers of elements would leave other rests."""


def stackable(learner: Algorithm, rows: Collection[int]) -> bool:
    """Return whether a learner qualifies; its other seeds, which differ in numbers alone, then do too.

    Args:
        learner: set up.
        rows: the sizes of the batches that will come.
    """
    model, updater = learner.problem.model, getattr(learner, "updater", None)
    return (
        type(learner).stacks
        and isinstance(updater, Updater)
        and updater.elementwise
        and isinstance(model, LayeredModel)
        and model.noise is None
        and learner.problem.uncounted.task_penalty is None
        and learner.problem.loss.is_mean
        and all(type(one) is Dense and one.norm is None for one in _blocks(model))
        and not learner.problem.spec.sequence
        and all(_alike(one.activation.name in ARITHMETIC, one.bias.numel(), rows) for one in _blocks(model))
        and _alike(learner.problem.loss.arithmetic, learner.problem.spec.outputs, rows)
    )


def _blocks(model: LayeredModel) -> list[Any]:
    return list(model.blocks)


def _alike(arithmetic: bool, width: int, rows: Collection[int]) -> bool:
    return arithmetic or all(count * width % LANES == 0 for count in rows)


class StackedLearners:
    """The learners of S seeds, stepped together. They share one ledger, which counts what each of them does.

    Args:
        learners: set up, with models of one shape, all at the same step; `stackable` holds for them.
    """

    def __init__(self, learners: Sequence[Algorithm]) -> None:
        self._learners = list(learners)
        self._models = [learner.problem.model for learner in learners]
        self._problem = learners[0].problem
        for learner in learners:
            learner.problem.ledger = self._problem.ledger
        self._model: Any = copy.deepcopy(self._models[0])
        self._params = dict(self._model.named_parameters())
        for name, p in self._params.items():
            p.data = torch.stack([learner.problem.params[name].detach() for learner in learners])
        self._updater = _updater(learners[0]).like(self._model)
        self._compared: set[int] = set()

    def __len__(self) -> int:
        return len(self._learners)

    def step(self, batch: Batch, single: Callable[[int], Batch]) -> Tensor:
        """Take one step of every learner.

        Args:
            batch: inputs (S, B, ...), targets (S, B) or (S, B, C), index (B,).
            single: place of a learner -> the batch that it would have been fed, for the steps that are compared.

        Returns:
            (S,), the losses before the update.

        Raises:
            StackingMismatch: where the bits would differ from those of single steps.
        """
        ledger = self._problem.ledger
        own = self._own_step(single(0)) if ledger.due_for_audit() else None
        losses, grads = self._gradient(batch)
        if batch.rows not in self._compared:
            self._compared.add(batch.rows)
            self._compare_gradients(losses, grads, single)
        if own is None:
            ledger.primitive("forward", batch.rows)
            ledger.primitive("backward", batch.rows)
            self._updater.apply(grads)
            ledger.count_step(batch.rows)
            return losses
        updates = ledger.updates
        with ledger.pause():
            self._updater.apply(grads)
        ledger.updates = updates
        loss, after = own
        if not (_same(losses[0], loss) and all(_same(p[0], after[name]) for name, p in self._params.items())):
            raise StackingMismatch(f"step {ledger.steps} differs from the learner's own")
        return losses

    def _gradient(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the losses (S,) and name -> gradients (S, *parameter)."""
        loss, params, affine = self._problem.loss, self._params, cast("Callable[..., Tensor]", _Affine.apply)
        x = batch.inputs
        with torch.enable_grad():
            for index, block in enumerate(self._model.blocks):
                x = block.perturbed(x, 1)
                z: Tensor = affine(x, params[f"blocks.{index}.weight"], params[f"blocks.{index}.bias"])
                y = block.respond(z, 1)
                x = torch.cat([x, y], -1) if block.shortcut else y
            each = loss.per_element(x, batch.targets)
            share = torch.ones((), dtype=each.dtype, device=each.device) / batch.rows
            grads = torch.autograd.grad(each, list(params.values()), share.expand_as(each))
        # The value of the mean rounds by how it is summed: as the learners sum it, or one by one.
        if isinstance(loss, CrossEntropy) and _summed_alike(batch.rows, each.dtype):
            values = _means(each.detach())
        else:
            alone = zip(x.detach().unbind(0), batch.targets.unbind(0), strict=True)
            values = torch.stack([loss.mean(outputs, targets) for outputs, targets in alone])
        return values, dict(zip(params, grads, strict=True))

    def _compare_gradients(self, losses: Tensor, grads: dict[str, Tensor], single: Callable[[int], Batch]) -> None:
        self.settle()
        for place, learner in enumerate(self._learners):
            batch = single(place)
            with learner.problem.observing():
                loss, own = learner.problem.gradient(batch)
            if not (_same(losses[place], loss) and all(_same(grads[name][place], g) for name, g in own.items())):
                raise StackingMismatch(f"the gradient on {batch.rows} rows differs from the learner's own")

    def _own_step(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Let the first learner take its own, audited step, undo it, and return its loss and its parameters after."""
        learner, params = self._learners[0], self._problem.params
        self.settle(1)
        before = {name: p.detach().clone() for name, p in params.items()}
        result = learner.step(batch)
        after = {name: p.detach().clone() for name, p in params.items()}
        with torch.no_grad():
            for name, p in params.items():
                p.copy_(before[name])
        if result.loss is None:
            raise StackingMismatch("the learner tells no loss")
        return result.loss, after

    def settle(self, first: int | None = None) -> None:
        """Write parameters and the optimizer's state back into the learners, all or the first few."""
        with torch.no_grad():
            for place, (learner, model) in enumerate(zip(self._learners[:first], self._models, strict=False)):
                for name, p in model.named_parameters():
                    p.copy_(self._params[name][place])
                self._updater.share(place, _updater(learner))


def _updater(learner: Any) -> Updater:
    updater: Updater = learner.updater
    return updater


def _same(a: Tensor, b: Tensor) -> bool:
    """Return whether two tensors are equal bit for bit, NaN being equal to NaN."""
    return bool(torch.equal(a, b) or torch.equal(torch.nan_to_num(a, 1.25), torch.nan_to_num(b, 1.25)))
