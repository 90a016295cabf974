"""All that an algorithm may see: the model, the objective and its products, randomness, and the books.

A problem holds no validation or test data. Every primitive counts itself in the ledger. Algorithms that are written
with these primitives alone compare, resume and batch over seeds for free.
"""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call, jvp, vjp, vmap

from altprop.capabilities import Capability, refusal
from altprop.errors import Refused
from altprop.ledger import Ledger
from altprop.linearization import Linearization
from altprop.losses import Loss
from altprop.noise import Draws, Noise, NoiseClock
from altprop.optim import OptimizerFactory, Updater, role_of
from altprop.randomness import Random
from altprop.ranks import Ranks
from altprop.task import Batch, ModelSpec

if TYPE_CHECKING:
    from altprop.models.base import Block, LayeredModel

Grads = dict[str, Tensor]


class BlockPulled(NamedTuple):
    """What the vector-Jacobian product of `Problem.pull_block` returns.

    Attributes:
        delta: cotangent of the block's pre-activation, shaped like it.
        parameters: the block's parameters, and the noise's own, by their names in the model -> cotangent.
    """

    delta: Tensor
    parameters: Grads


class Pulled(NamedTuple):
    """What the vector-Jacobian product of `Problem.pull` returns.

    Attributes:
        inputs: cotangent of x, or None where it was not asked for.
        parameters: name -> cotangent.
    """

    inputs: Tensor | None
    parameters: Grads


class _Penalty(nn.Sequential):
    """Shows a noise's penalty as a forward pass, which `functional_call` can take at other parameters."""

    def forward(self) -> Tensor | None:  # type: ignore[override]
        noise = cast("Noise", self[0])
        return noise.penalty()


class Problem:
    """A task's training objective under one model, as algorithms see it.

    Args:
        model: on its device, in its dtype.
        loss: of the task.
        spec: shapes.
        ledger: the run's books.
        random: the algorithm's own stream.
        clock: of the noise masks.
        offers: capabilities of task and model together.
        names: (task, model) for sentences.
        train_size: rows of the training split.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Loss,
        spec: ModelSpec,
        ledger: Ledger,
        random: Random,
        clock: NoiseClock,
        offers: Collection[Capability],
        names: tuple[str, str] = ("task", "model"),
        train_size: int = 0,
    ) -> None:
        self.model: Any = model
        self.loss = loss
        self.spec = spec
        self.ledger = ledger
        self.random = random
        self.clock = clock
        self.offers = frozenset(offers)
        self.names = names
        self.train_size = train_size
        self.progress = 0.0
        self.ranks = Ranks()
        first = next(model.parameters())
        self.device, self.dtype = first.device, first.dtype
        self._fresh_buffers = True
        self._structure: tuple[tuple[str, ...], tuple[nn.Parameter, ...]] | None = None
        self._updaters: weakref.WeakSet[Updater] = weakref.WeakSet()
        noise = getattr(model, "noise", None)
        if isinstance(noise, Noise):
            noise.bind(clock)

    # Values.

    @property
    def params(self) -> dict[str, nn.Parameter]:
        """Name -> parameter, in `named_parameters` order: the live tensors of the model."""
        return dict(self.model.named_parameters())

    @property
    def layered(self) -> LayeredModel:
        """The model, for algorithms that require LAYERED."""
        model: LayeredModel = self.model
        return model

    def flat(self) -> Tensor:
        """Return a copy of all parameters as one vector (D,)."""
        return torch.cat([p.detach().flatten() for p in self.model.parameters()])

    def unflatten(self, flat: Tensor) -> Grads:
        """Return name -> view of `flat` (..., D) shaped (..., *parameter)."""
        out, offset = {}, 0
        for name, p in self.model.named_parameters():
            out[name] = flat[..., offset : offset + p.numel()].reshape(*flat.shape[:-1], *p.shape)
            offset += p.numel()
        return out

    def flatten(self, grads: Mapping[str, Tensor]) -> Tensor:
        """Return tensors by parameter name as one vector (D,)."""
        return torch.cat([grads[name].flatten() for name in self.params])

    def assign(self, flat: Tensor) -> None:
        """Write a vector (D,) into the parameters, in place. It counts as one update."""
        self.ledger.updates += 0 if self.ledger._paused else 1
        params = self.params
        with torch.no_grad():
            for name, value in self.unflatten(flat).items():
                params[name].copy_(value)

    def refuse_unless(self, algorithm: str, requires: Collection[Capability]) -> None:
        """Refuse an algorithm whose needs are not offered.

        Raises:
            Refused: with the sentence that becomes the row in the report.
        """
        sentence = refusal(algorithm, requires, *self.names, self.offers)
        if sentence:
            raise Refused(sentence)

    # What the contract's final methods call.

    def begin_step(self, step: int) -> None:
        """Start the noise and buffer bookkeeping of a step."""
        self.clock.begin_step(step)
        self._fresh_buffers = True

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Evaluation mode, no noise, off the books, the optimizers' weights for predicting; all is put back after."""
        modes = {module: module.training for module in self.model.modules()}
        phase, fresh = self.clock.phase, self._fresh_buffers
        self.model.eval()
        try:
            with self.ledger.pause(), ExitStack() as swaps:
                for updater in self._updaters:
                    swaps.enter_context(updater.swapped())
                yield
        finally:
            self.clock.phase, self._fresh_buffers = phase, fresh
            for module, training in modes.items():
                module.training = training

    @contextmanager
    def observing(self) -> Iterator[None]:
        """Training mode off the books, for probes: masks of the present step, buffers and stream left as they were."""
        phase, fresh = self.clock.phase, self._fresh_buffers
        try:
            with self.ledger.pause(), self.clock.hold(), self._kept_buffers():
                yield
        finally:
            self.clock.phase, self._fresh_buffers = phase, fresh

    @contextmanager
    def same_noise(self) -> Iterator[None]:
        """Repeat all masks inside, however the stochastic layers are reached. Buffers move at most once."""
        with self.clock.hold():
            yield

    @contextmanager
    def _kept_buffers(self) -> Iterator[None]:
        kept = {name: buffer.clone() for name, buffer in self.model.named_buffers()}
        try:
            yield
        finally:
            for name, buffer in self.model.named_buffers():
                buffer.copy_(kept[name])

    def _evaluation_of_objective(self) -> AbstractContextManager[None]:
        """One evaluation: buffers move in the first of a step only, masks move on afterwards."""
        return _Evaluation(self)

    def forget_structure(self) -> None:
        """Look the parameters up anew: a rule that grows or replaces them says so here (`Updater.rebind` does)."""
        self._structure = None

    def _named(self) -> tuple[tuple[str, ...], tuple[nn.Parameter, ...]]:
        """Return names and live parameters; walking the modules at every step would cost a tenth of a small one."""
        if self._structure is None:
            found = dict(self.model.named_parameters())
            self._structure = tuple(found), tuple(found.values())
        return self._structure

    # Objectives.

    def outputs(self, batch: Batch) -> Tensor:
        """Return the model's outputs on a batch, (B, C) or (T, B, C), counted as one forward."""
        with self.ledger.primitive("forward", _rows(batch)), self._evaluation_of_objective():
            return self._call(None, batch)

    def _call(self, params: Mapping[str, Tensor] | None, batch: Batch) -> Tensor:
        kwargs = {} if batch.mask is None else {"mask": batch.mask}
        if params is None:
            out: Tensor = self.model(batch.inputs, **kwargs)
        else:
            out = functional_call(self.model, {**self._spare_buffers(), **params}, (batch.inputs,), kwargs)
        return out

    def _spare_buffers(self) -> Grads:
        """Return copies of all buffers: what is evaluated at other parameters, or under a transform, writes there."""
        return {name: buffer.clone() for name, buffer in self.model.named_buffers()}

    def output_loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Return the mean loss over valid, labelled elements, a scalar, without the noise's penalty."""
        if batch.weights is None:
            return self.loss.mean(outputs, batch.targets)
        return self._mean(self.loss.per_element(outputs, batch.targets), batch)

    def output_gradient(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Return d output_loss / d outputs, shaped like the outputs."""
        return self._averaged(self.loss.gradient(outputs, batch.targets), batch)

    def output_curvature(self, outputs: Tensor, vector: Tensor, batch: Batch) -> Tensor:
        """Return the Hessian of output_loss in the outputs times `vector`, both shaped like the outputs."""
        return self._averaged(self.loss.curvature_product(outputs, vector), batch)

    @staticmethod
    def _averaged(each: Tensor, batch: Batch) -> Tensor:
        """Turn derivatives of each element's loss (..., C) into those of the mean over valid, labelled elements."""
        weights = batch.weights
        if weights is None:
            return each / each[..., 0].numel()
        weights = weights.expand(each.shape[:-1]).to(each.dtype)
        return each * weights[..., None] / weights.sum()

    def sample_targets(self, outputs: Tensor) -> Tensor:
        """Draw targets from the model's own distribution."""
        return self.loss.sample_targets(outputs, self.random)

    @staticmethod
    def _mean(per_element: Tensor, batch: Batch) -> Tensor:
        weights = batch.weights
        if weights is None:
            return per_element.mean()
        weights = weights.expand(per_element.shape).to(per_element.dtype)
        return (per_element * weights).sum() / weights.sum()

    def _objective(self, params: Mapping[str, Tensor] | None, batch: Batch) -> Tensor:
        value = self.output_loss(self._call(params, batch), batch)
        penalty = self._penalty(params)
        return value if penalty is None else value + penalty

    def _penalty(self, params: Mapping[str, Tensor] | None) -> Tensor | None:
        """Return the noise's own term of the objective, at other parameters where given."""
        noise = getattr(self.model, "noise", None)
        if not isinstance(noise, Noise):
            return None
        if params is None:
            return noise.penalty()
        given = {name.replace("noise.", "0.", 1): value for name, value in params.items() if name.startswith("noise.")}
        found: Tensor | None = functional_call(_Penalty(noise), given, ())
        return found

    def objective(self, batch: Batch) -> Tensor:
        """Return the objective on a batch, a scalar without a graph."""
        rows = _rows(batch)
        with torch.no_grad(), self.ledger.primitive("forward", rows), self._evaluation_of_objective():
            return self._objective(None, batch)

    def unroll(self, batch: Batch, h: Tensor, start: int, stop: int) -> Tensor:
        """Run a recurrent model over the times start <= t < stop of a batch, without a graph.

        Args:
            batch: sequences (T, B, F).
            h: (B, S) state before `start`.
            start, stop: times; the books count the share (stop - start) / T of a forward.

        Returns:
            (stop - start, B, S), the state after each time.
        """
        share = (stop - start) / batch.inputs.shape[0]
        mask = None if batch.mask is None else batch.mask[start:stop]
        with torch.no_grad(), self.ledger.primitive("forward", _rows(batch) * share, share):
            states: Tensor = self.model.unroll(batch.inputs[start:stop], h, mask, start=start)[0]
        return states

    def functional_objective(self, params: Mapping[str, Tensor], batch: Batch) -> Tensor:
        """Return the objective at other parameters, differentiable in them; buffers stay as they are."""
        with self.ledger.primitive("forward", _rows(batch)):
            value = self._objective(params, batch)
        self.clock.advance()
        return value

    def per_example_loss(self, batch: Batch) -> Tensor:
        """Return the loss of each element, (B,) or (T, B), without a graph."""
        with torch.no_grad():
            return self.loss.per_element(self.outputs(batch), batch.targets)

    def population_objective(self, flat: Tensor, batch: Batch, chunk: int = 64) -> Tensor:
        """Return the objective of P individuals on one batch under one noise: (P, D) -> (P,); buffers stay as they are.

        Layered models run as grouped matrix products, others as chunked vmap.
        """
        rows = _rows(batch)
        with (
            torch.no_grad(),
            self.ledger.primitive("population", rows * flat.shape[0], flat.shape[0]),
        ):
            if getattr(self.model, "batched", False) and batch.mask is None:
                outputs = self.layered.population(batch.inputs, self.unflatten(flat))
            else:
                with self._recorded_draws(batch) as draws, self.clock.replay(draws):
                    # Batch normalisation writes its statistics in place: every individual gets its own.
                    buffers = {n: b.expand(flat.shape[0], *b.shape).clone() for n, b in self.model.named_buffers()}
                    mapped = vmap(lambda row, b: self._call({**self.unflatten(row), **b}, batch), chunk_size=chunk)
                    outputs = mapped(flat, buffers)
            targets = batch.targets.expand(flat.shape[0], *batch.targets.shape)
            per = self.loss.per_element(outputs, targets)
            penalty = self._population_penalty(flat)
        self.clock.advance()
        weights = batch.weights
        if weights is None:
            values = per.flatten(1).mean(1)
        else:
            weights = weights.expand(per.shape[1:]).to(per.dtype)
            values = (per * weights).flatten(1).sum(1) / weights.sum()
        return values if penalty is None else values + penalty

    def _population_penalty(self, flat: Tensor) -> Tensor | None:
        """Return the noise's term of each individual's objective, (P,) or a scalar that they share."""
        penalty = self._penalty(None)
        if penalty is None or not any(name.startswith("noise.") for name in self.params):
            return penalty

        def one(row: Tensor) -> Tensor:
            value = self._penalty(self.unflatten(row))
            assert value is not None
            return value

        each: Tensor = vmap(one)(flat)
        return each

    @contextmanager
    def _recorded_draws(self, batch: Batch) -> Iterator[Draws]:
        """Give the draws of one forward pass, so that transforms reuse them; they are keyed, so they repeat."""
        if getattr(self.model, "noise", None) is None:
            yield {}
            return
        with self.clock.record() as draws, torch.no_grad(), self._kept_buffers():
            self._call(None, batch)
        yield draws

    # Derivatives.

    def gradient(
        self,
        batch: Batch,
        *,
        create_graph: bool = False,
        loss: Callable[[], Tensor] | None = None,
        share: float = 1.0,
    ) -> tuple[Tensor, Grads]:
        """Return (objective, name -> gradient) on a batch.

        Args:
            batch: what to differentiate on.
            create_graph: whether the gradients can be differentiated again.
            loss: replaces the objective, a function that builds a scalar (a window of a sequence, a local loss).
            share: of a forward and a backward pass over the batch that `loss` takes, for the books.
        """
        rows = _rows(batch) * share
        names, values = self._named()
        with torch.enable_grad(), self.ledger.graph(), self._evaluation_of_objective():
            with self.ledger.primitive("forward", rows, share):
                value = self._objective(None, batch) if loss is None else loss()
            with self.ledger.primitive("backward", rows, share):
                grads = torch.autograd.grad(
                    value, values, create_graph=create_graph, allow_unused=True, materialize_grads=True
                )
        if self.ranks.size > 1:
            if create_graph:
                raise Refused(
                    "gradients that are differentiated again are not averaged over processes; use trainer=cpu"
                )
            value, *shared = self.ranks.average([value, *grads], batch.samples)
            return value, dict(zip(names, shared, strict=True))
        return value.detach(), dict(zip(names, grads, strict=True))

    def pull(
        self,
        function: Callable[[Tensor], Tensor],
        x: Tensor,
        parameters: Mapping[str, Tensor] | None = None,
    ) -> tuple[Tensor, Callable[..., Pulled]]:
        """Run one block (or any piece) on a detached input and return (output, vjp).

        `vjp(v, inputs=True)` returns the cotangents of x (only where `inputs`) and of the parameters. The graph ends
        at x: nothing flows further back.

        Args:
            function: a block, or a callable such as `block.respond`.
            x: input, detached here.
            parameters: name -> tensor to differentiate in; by default those of `function` where it is a module.
        """
        if parameters is None:
            parameters = dict(function.named_parameters()) if isinstance(function, nn.Module) else {}
        names, values = list(parameters), list(parameters.values())
        x = x.detach().requires_grad_(x.is_floating_point())
        rows = int(x.shape[0])
        with torch.enable_grad(), self.ledger.graph(), self.ledger.primitive("block_forward", rows):
            y = function(x)

        def vjp(v: Tensor, inputs: bool = True) -> Pulled:
            wanted = [*values, x] if inputs else values
            if not wanted:
                return Pulled(None, {})
            with self.ledger.primitive("block_backward", rows):
                found = torch.autograd.grad(y, wanted, v, retain_graph=True, allow_unused=True, materialize_grads=True)
            return Pulled(found[-1] if inputs else None, dict(zip(names, found[: len(names)], strict=True)))

        return y.detach(), vjp

    def pull_block(self, index: int, x: Tensor) -> tuple[Tensor, Callable[[Tensor], BlockPulled]]:
        """Run one block on a detached input and return (output, vjp), for rules that bring their own way back.

        `vjp(v)` takes a cotangent of the output to the pre-activation and the parameters and stops there: no product
        with the transposed weight is made. `block.transpose` takes it further, with whatever weight a rule names.

        Args:
            index: of the block in `layered.blocks`.
            x: (B, ...) input of the block, detached here.
        """
        block = cast("Block", self.layered.blocks[index])
        own = {f"blocks.{index}.{name}": p for name, p in block.named_parameters()}
        if block.noise is not None:
            own.update((f"noise.{name}", p) for name, p in block.noise.named_parameters())
        x, rows = x.detach(), int(x.shape[0])
        with torch.enable_grad(), self.ledger.graph(), self.ledger.primitive("block_forward", rows):
            z = block.transform(x)
            y = block.respond(z)

        def vjp(v: Tensor) -> BlockPulled:
            wanted = [z, *own.values()]
            with self.ledger.primitive("block_backward", rows):
                found = torch.autograd.grad(y, wanted, v, retain_graph=True, allow_unused=True, materialize_grads=True)
            return BlockPulled(found[0], dict(zip(own, found[1:], strict=True)))

        return y.detach(), vjp

    def penalty(self) -> tuple[Tensor, Grads] | None:
        """Return the noise's own term of the objective and its gradient by name, or None where there is none."""
        with torch.enable_grad():
            value = self._penalty(None)
            if value is None:
                return None
            params = self.params
            if not value.requires_grad:
                return value, {name: torch.zeros_like(p) for name, p in params.items()}
            found = torch.autograd.grad(value, list(params.values()), allow_unused=True, materialize_grads=True)
        return value.detach(), dict(zip(params, found, strict=True))

    def per_example_gradients(self, batch: Batch) -> Grads:
        """Return name -> (B, *parameter), the gradient of each row's own loss, without the noise's penalty.

        A row's loss is the mean over its own valid elements; rows whose target may not be used give 0. So the mean
        over the labelled rows is the gradient of `output_loss`, where all rows have equally many valid elements.

        Raises:
            Refused: with batch normalisation in training mode, where rows do not have a loss of their own.
        """
        self.refuse_batch_norm("per-example gradients")
        params = {name: p.detach() for name, p in self.params.items()}
        rows = _rows(batch)

        def per_row(row: Tensor, draws: Draws) -> Grads:
            piece = self._row(batch, row)

            def one(p: Grads) -> Tensor:
                return self.output_loss(self._call(p, piece), piece)

            with self.clock.replay(_lifted(draws)), self.ledger.primitive("forward", rows):
                value, pull = vjp(one, params)[:2]
            with self.ledger.primitive("backward", rows):
                found: tuple[Grads] = pull(torch.ones_like(value))
            return found[0]

        with self._recorded_draws(batch) as draws:
            mapped = vmap(per_row, in_dims=(0, _row_dims(draws)))
            grads: Grads = mapped(torch.arange(rows, device=self.device), draws)
        self.clock.advance()
        if batch.labelled is None:
            return grads
        return {name: g * batch.labelled.reshape(-1, *[1] * (g.dim() - 1)) for name, g in grads.items()}

    def jacobian(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return (outputs (B, C), Jacobian (B, C, D)) under this phase's noise.

        Raises:
            Refused: with batch normalisation in training mode, or for sequences.
        """
        self.refuse_batch_norm("per-example Jacobians")
        if self.spec.sequence:
            raise Refused("per-example Jacobians of sequences are not offered; try a task without time")
        params = {name: p.detach() for name, p in self.params.items()}
        rows = _rows(batch)

        unit = torch.eye(self.spec.outputs, dtype=self.dtype, device=self.device)

        def per_row(row: Tensor, draws: Draws) -> tuple[Tensor, Grads]:
            piece = self._row(batch, row)
            with self.clock.replay(_lifted(draws)), self.ledger.primitive("forward", rows):
                out, pull = vjp(lambda p: self._call(p, piece)[0], params)[:2]
            with self.ledger.primitive("backward", rows * self.spec.outputs, self.spec.outputs):
                found: tuple[Grads] = vmap(pull)(unit)
            return out, found[0]

        with self._recorded_draws(batch) as draws:
            mapped = vmap(per_row, in_dims=(0, _row_dims(draws)))
            outputs, jacobians = mapped(torch.arange(rows, device=self.device), draws)
        self.clock.advance()
        return outputs, torch.cat([jacobians[name].flatten(2) for name in params], dim=2)

    def jvp(self, batch: Batch, tangent: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return (objective, directional derivative along `tangent`) in one forward pass."""
        _load_forward_mode()
        params = {name: p.detach() for name, p in self.params.items()}
        tangents = {name: tangent[name] for name in params}

        def objective(p: Grads) -> tuple[Tensor, Grads]:
            buffers = self._spare_buffers()
            return self._objective({**p, **buffers}, batch), buffers

        with self.ledger.primitive("jvp", _rows(batch)), self._evaluation_of_objective():
            found: Any = jvp(objective, (params,), (tangents,), has_aux=True)
            value, derivative, moved = found
            for name, buffer in self.model.named_buffers():
                buffer.copy_(moved[name])
        return value, derivative

    def linearize(self, batch: Batch) -> Linearization:
        """Return loss, gradient and curvature products on one kept graph: an HVP costs about one forward+backward."""
        rows = _rows(batch)
        values = list(self.model.parameters())
        with torch.enable_grad(), self.ledger.graph(), self._evaluation_of_objective():
            with self.ledger.primitive("forward", rows):
                outputs = self._call(None, batch)
                value = self.output_loss(outputs, batch)
                penalty = self._penalty(None)
                value = value if penalty is None else value + penalty
            with self.ledger.primitive("backward", rows):
                grads = torch.autograd.grad(value, values, create_graph=True, allow_unused=True, materialize_grads=True)
        here = outputs.detach()
        return Linearization(
            value, outputs, grads, values, lambda v: self.output_curvature(here, v, batch), self.ledger, rows
        )

    def _row(self, batch: Batch, row: Tensor) -> Batch:
        """Return one row of a batch as a batch of one; `row` may be a vmapped index."""
        index = row.reshape(1)
        return Batch(
            batch.inputs.index_select(1 if self.spec.sequence else 0, index),
            batch.targets.index_select(1 if batch.per_step else 0, index),
            batch.index.index_select(0, index),
            None if batch.mask is None else batch.mask.index_select(1, index),
            None if batch.reset is None else batch.reset.index_select(0, index),
        )

    def refuse_batch_norm(self, what: str) -> None:
        """Refuse what needs each row to have an output of its own, where batch normalisation ties rows together.

        Args:
            what: begins the sentence.

        Raises:
            Refused: with batch normalisation in training mode.
        """
        if self.model.training and any(
            isinstance(module, nn.modules.batchnorm._BatchNorm) for module in self.model.modules()
        ):
            raise Refused(f"{what} do not exist under batch normalisation; use model.normalisation=layer or none")

    # Updates.

    def updater(
        self, optimizer: OptimizerFactory, module: nn.Module | None = None, direction: str = "gradient"
    ) -> Updater:
        """Bind the optimizer axis to parameters by name.

        Args:
            optimizer: what the constructor took from `optimizer: ${optimizer}`.
            module: whose parameters; the model by default.
            direction: "gradient" for exact gradients of the objective, "other" for anything else.

        Raises:
            Refused: for an optimizer that re-evaluates the objective, with directions that are no gradient.
        """
        target: nn.Module = self.model if module is None else module
        updater = Updater(optimizer, target, lambda: self._roles(target), self, direction)
        self._updaters.add(updater)
        return updater

    def _roles(self, module: nn.Module) -> dict[str, str]:
        """Return parameter name within a module -> role."""
        final = list(self.model.blocks)[-1] if hasattr(self.model, "blocks") else getattr(self.model, "readout", None)
        last = () if final is None else final.parameters()
        full = {id(p): name for name, p in self.model.named_parameters()}
        outputs = {id(p) for p in last}
        return {name: role_of(full.get(id(p), name), p, id(p) in outputs) for name, p in module.named_parameters()}

    def state_dict(self) -> dict[str, Any]:
        """Return parameters, buffers, stream and books in weights_only-safe types."""
        return {
            "model": {name: value.detach().clone() for name, value in self.model.state_dict().items()},
            "random": self.random.state_dict(),
            "clock": [self.clock.step, self.clock.phase],
            "ledger": self.ledger.state_dict(),
            "progress": self.progress,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put a state of `state_dict` back, in place."""
        self.model.load_state_dict(state["model"])
        self.random.load_state_dict(state["random"])
        self.clock.step, self.clock.phase = state["clock"]
        self.ledger.load_state_dict(state["ledger"])
        self.progress = state["progress"]


@cache
def _load_forward_mode() -> None:
    """Let torch load its forward mode, in which torch 2.13 calls what it deprecates (`torch.jit.script`)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        with torch.autograd.forward_ad.dual_level():
            zero = torch.zeros((), device="cpu")
            torch.autograd.forward_ad.make_dual(zero, zero)


class _Evaluation:
    """The context of one evaluation of the objective; a class, because it stands in every step."""

    def __init__(self, problem: Problem) -> None:
        self._problem = problem
        self._kept: AbstractContextManager[None] | None = None

    def __enter__(self) -> None:
        if self._problem._fresh_buffers:
            self._problem._fresh_buffers = False
        else:
            self._kept = self._problem._kept_buffers()
            self._kept.__enter__()

    def __exit__(self, *exc: Any) -> None:
        if self._kept is not None:
            self._kept.__exit__(*exc)
        self._problem.clock.advance()


def _row_dims(draws: Draws) -> dict[Any, int | None]:
    """Return the dimension of rows of each draw: the first, or none for noise on weights, which all rows share."""
    return {key: None if key[0] == "weight" else 0 for key in draws}


def _lifted(draws: Draws) -> Draws:
    """Return the draws of one row as those of a batch of one."""
    return {key: draw if key[0] == "weight" else draw.unsqueeze(0) for key, draw in draws.items()}


def _rows(batch: Batch) -> int:
    """Rows of a batch: the examples that a forward pass is charged for."""
    return int(batch.index.shape[0])
