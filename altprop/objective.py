"""The objective as mathematics: a model, its loss and its noise, at the present parameters or at others.

Nothing here is counted, and no phase of the noise ends here: that is what `altprop.problem` adds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from altprop.data import Batch
from altprop.losses import Loss
from altprop.noise import Draws, Noise, NoiseClock

Params = Mapping[str, Tensor]
TaskPenalty = Callable[[Params], Tensor | None]


class _Penalty(nn.Sequential):
    """Shows a noise's penalty as a forward pass, which `functional_call` can take at other parameters."""

    def forward(self) -> Tensor | None:  # type: ignore[override]
        noise = cast("Noise", self[0])
        return noise.penalty()


class Objective:
    """The loss of a batch, by default the mean over valid, labelled elements, plus the penalties of task and noise.

    Where `params` (name -> tensor) is None, the model's own parameters are meant, and buffers move as training moves
    them; at other parameters buffers stay as they are.

    Args:
        model: on its device, in its dtype.
        loss: of the task.
        clock: of the noise masks.

    Attributes:
        noise: of the model, or None.
        task_penalty: the task's own term, or None where it has none.
    """

    def __init__(self, model: nn.Module, loss: Loss, clock: NoiseClock) -> None:
        self._model: Any = model
        self._loss = loss
        self._clock = clock
        noise = getattr(model, "noise", None)
        self.noise = noise if isinstance(noise, Noise) else None
        self.task_penalty: TaskPenalty | None = None

    def charge(self, penalty: TaskPenalty) -> None:
        """Take a task's penalty, a function of all parameters by name; one that gives None is none."""
        self.task_penalty = None if penalty(dict(self._model.named_parameters())) is None else penalty

    def value(self, params: Params | None, batch: Batch, *, penalty: bool = True) -> Tensor:
        """Return the objective, a scalar, with the noise's own term unless `penalty` is False."""
        value = self.output_loss(self.outputs(params, batch), batch)
        own = self.penalty(params) if penalty else None
        return value if own is None else value + own

    def outputs(self, params: Params | None, batch: Batch) -> Tensor:
        """Return the model's outputs, (B, C) or (T, B, C)."""
        kwargs = {} if batch.mask is None else {"mask": batch.mask}
        if params is None:
            out: Tensor = self._model(batch.inputs, **kwargs)
        else:
            out = functional_call(self._model, {**self.spare_buffers(), **params}, (batch.inputs,), kwargs)
        return out

    def penalty(self, params: Params | None) -> Tensor | None:
        """Return the terms of task and noise, which no batch changes, or None where there are none."""
        of_noise = self._noise_penalty(params)
        if not self._charges_weights:
            return of_noise
        live = dict(self._model.named_parameters())
        every = live if params is None else {name: params.get(name, p) for name, p in live.items()}
        of_task = None if self.task_penalty is None else self.task_penalty(every)
        of_weights = None if self.noise is None else self.noise.weight_penalty(every)
        terms = [term for term in (of_task, of_noise, of_weights) if term is not None]
        return sum(terms[1:], terms[0]) if terms else None

    @property
    def _charges_weights(self) -> bool:
        """Whether a penalty depends on all parameters, and not on the noise's own alone."""
        return self.task_penalty is not None or (self.noise is not None and self.noise.charges_weights)

    def _noise_penalty(self, params: Params | None) -> Tensor | None:
        if self.noise is None:
            return None
        if params is None:
            return self.noise.penalty()
        given = {name.replace("noise.", "0.", 1): value for name, value in params.items() if name.startswith("noise.")}
        found: Tensor | None = functional_call(_Penalty(self.noise), given, ())
        return found

    # On outputs.

    def output_loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Return the loss of the batch, a scalar, without any penalty."""
        if batch.weights is None and self._loss.is_mean:
            return self._loss.mean(outputs, batch.targets)
        each = self._loss.per_element(outputs, batch.targets)
        weights = _weights(batch, each)
        return (each * weights).sum() / self._loss.divisor(weights)

    def output_gradient(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Return d output_loss / d outputs, shaped like the outputs."""
        return self._reduced(self._loss.gradient(outputs, batch.targets), batch)

    def output_curvature(self, outputs: Tensor, vector: Tensor, batch: Batch) -> Tensor:
        """Return the Hessian of output_loss in the outputs times `vector`, both shaped like the outputs."""
        return self._reduced(self._loss.curvature_product(outputs, vector), batch)

    def _reduced(self, each: Tensor, batch: Batch) -> Tensor:
        """Turn derivatives of each element's loss (..., C) into those of the loss of the batch."""
        if batch.weights is None and self._loss.is_mean:
            return each / each[..., 0].numel()
        weights = _weights(batch, each[..., 0])
        return each * weights[..., None] / self._loss.divisor(weights)

    def divisor(self, batch: Batch) -> float:
        """Return what the sum over the elements of a batch is divided by: parts of a batch are weighted by theirs."""
        if self._loss.is_mean:
            return batch.samples
        shape = batch.targets.shape[: 2 if batch.per_step else 1]
        like = torch.empty(shape, dtype=torch.float64, device=batch.targets.device)
        return float(self._loss.divisor(_weights(batch, like)))

    # Of many parameter points.

    def population(self, params: Params, batch: Batch, chunk: int) -> Tensor:
        """Return the objective (P,) of P individuals on one batch, under one noise.

        Args:
            params: name -> (P, *parameter).
            batch: that all individuals see.
            chunk: individuals that run at once where the model has no products of its own for populations.
        """
        return self.population_values(self.population_outputs(params, batch, chunk), params, batch)

    def population_outputs(self, params: Params, batch: Batch, chunk: int) -> Tensor:
        """Return the outputs (P, B, C) of P individuals on one batch, under one noise; see `population`."""
        if getattr(self._model, "batched", False) and batch.mask is None:
            outputs: Tensor = self._model.population(batch.inputs, params)
            return outputs
        size = len(next(iter(params.values())))
        with self.recorded_draws(batch) as draws, self._clock.replay(draws):
            # Batch normalisation writes its statistics in place: every individual gets its own.
            buffers = {n: b.expand(size, *b.shape).clone() for n, b in self._model.named_buffers()}
            mapped = vmap(lambda own: self.outputs(own, batch), chunk_size=chunk)
            return mapped({**params, **buffers})

    def population_values(self, outputs: Tensor, params: Params, batch: Batch) -> Tensor:
        """Return the objective (P,) of P individuals from their outputs (P, B, C) on a batch."""
        targets = batch.targets.expand(len(outputs), *batch.targets.shape)
        each = self._loss.per_element(outputs, targets)
        if batch.weights is None and self._loss.is_mean:
            values = each.flatten(1).mean(1)
        else:
            weights = _weights(batch, each[0])
            values = (each * weights).flatten(1).sum(1) / self._loss.divisor(weights)
        penalty = self._population_penalty(params)
        return values if penalty is None else values + penalty

    def _population_penalty(self, params: Params) -> Tensor | None:
        """Return the penalty of each individual's objective, (P,) or a scalar that they share."""
        penalty = self.penalty(None)
        every = self._charges_weights
        own = {name: value for name, value in params.items() if every or name.startswith("noise.")}
        if penalty is None or not own:
            return penalty

        def one(row: dict[str, Tensor]) -> Tensor:
            value = self.penalty(row)
            assert value is not None
            return value

        each: Tensor = vmap(one)(own)
        return each

    # Buffers and draws.

    def spare_buffers(self) -> dict[str, Tensor]:
        """Return copies of all buffers: what is evaluated at other parameters, or under a transform, writes there."""
        return {name: buffer.clone() for name, buffer in self._model.named_buffers()}

    @contextmanager
    def kept_buffers(self) -> Iterator[None]:
        """Leave every buffer as it was: copies stand in its place inside, since graphs hold on to what they saw."""
        kept = [(m, name, buffer) for m in self._model.modules() for name, buffer in m.named_buffers(recurse=False)]
        try:
            for module, name, buffer in kept:
                setattr(module, name, buffer.clone())
            yield
        finally:
            for module, name, buffer in kept:
                setattr(module, name, buffer)

    @contextmanager
    def recorded_draws(self, batch: Batch) -> Iterator[Draws]:
        """Give the draws of one forward pass, so that transforms reuse them; they are keyed, so they repeat."""
        if self.noise is None:
            yield {}
            return
        with self._clock.record() as draws, torch.no_grad(), self.kept_buffers():
            self.outputs(None, batch)
        yield draws


def _weights(batch: Batch, each: Tensor) -> Tensor:
    """Return 1 for each element that is valid and labelled and 0 for the others, shaped and typed like their losses."""
    weights = batch.weights
    return torch.ones_like(each) if weights is None else weights.expand(each.shape).to(each.dtype)
