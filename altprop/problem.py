"""All that an algorithm may see: the model, the objective and its products, randomness, and the ledger.

A problem holds no validation or test data. Every primitive counts itself in the ledger. Algorithms that are written
with these primitives alone compare, resume and batch over seeds for free.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from altprop import closed_form, closed_form_time, derivatives, recurrence
from altprop.acting import TrainingEnvironment
from altprop.capabilities import DERIVATIVES, Capability, refusal
from altprop.chain import ChainWalk
from altprop.data import Batch, Descriptor, ModelSpec
from altprop.derivatives import Grads, Pulled
from altprop.environment import Environment
from altprop.errors import AltpropError, Refused, near
from altprop.ledger import Ledger
from altprop.linearization import Linearization
from altprop.losses import Loss
from altprop.monte_carlo import MonteCarlo
from altprop.noise import Noise, NoiseClock
from altprop.objective import Objective
from altprop.optim import OptimizerFactory, Updater, role_of
from altprop.optim.stability import Stability
from altprop.randomness import Random, derive_seed
from altprop.ranks import Ranks
from altprop.recurrence import CellStep, LocalStep, Window
from altprop.vectorized import differentiate, has_graph

if TYPE_CHECKING:
    from altprop.models.base import LayeredModel

PlayerLoss = Callable[[str, nn.Module, Batch, Random], Tensor]

__all__ = ["CellStep", "ChainWalk", "Grads", "LocalStep", "Problem", "Pulled"]


class Problem:
    """A task's training objective under one model, as algorithms see it.

    Args:
        model: on its device, in its dtype.
        loss: of the task.
        spec: shapes.
        ledger: the run's ledger.
        random: the algorithm's own stream.
        clock: of the noise masks.
        offers: capabilities of task and model together.
        names: (task, model) for sentences.
        train_size: rows of the training split.

    Attributes:
        probe_batch: the frozen probe batch, where runs are probed; `Algorithm.artefacts` may measure on it.
        player_loss: of the task, `(player, model, batch, random) -> scalar`, where the model has players.
        descriptor: the numbers that tell how an individual behaves, for algorithms that require BEHAVIOUR.
        describe: of the task, `(outputs (P, B, C), batch) -> (P, K)`, where it has no environment that describes.
        uncounted: the objective as mathematics, outside the ledger: for the primitives here and for probes.
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
        self.heard: dict[str, Tensor] | None = None
        self.probe_batch: Batch | None = None
        self.ranks = Ranks()
        self.player_loss: PlayerLoss | None = None
        self.descriptor: Descriptor | None = None
        self.describe: Callable[[Tensor, Batch], Tensor] | None = None
        self._environment: TrainingEnvironment | None = None
        first = next(model.parameters())
        self.device, self.dtype = first.device, first.dtype
        self._fresh_buffers = True
        self._structure: tuple[tuple[str, ...], tuple[nn.Parameter, ...]] | None = None
        self._plain: bool | None = None
        self._updaters: weakref.WeakSet[Updater] = weakref.WeakSet()
        self.uncounted = Objective(model, loss, clock)
        if self.uncounted.noise is not None:
            self._set_up(self.uncounted.noise)

    def _set_up(self, noise: Noise) -> None:
        """Give the noise its clock and show it the model."""
        shape = (1, 1, *self.spec.input_shape) if self.spec.sequence else (1, *self.spec.input_shape)
        example = torch.zeros(shape, dtype=self.dtype, device=self.device)
        noise.bind(self.clock)
        with self.evaluating(), torch.no_grad():
            noise.setup(self.model, example, self.train_size, self.names[1])

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

    @property
    def players(self) -> dict[str, nn.Module]:
        """Name -> module of each player, for algorithms that require PLAYERS; each has a loss of its own."""
        return {name: self.model.get_submodule(name) for name in getattr(self.model, "players", ())}

    def attach(self, environment: Environment) -> None:
        """Take the environment of the task, whose steps are counted from now on."""
        self._environment = TrainingEnvironment(environment, self)
        self.descriptor = environment.descriptor

    @property
    def acts(self) -> bool:
        """Whether the task has an environment."""
        return self._environment is not None

    @property
    def environment(self) -> TrainingEnvironment:
        """The task's environment, for algorithms that require ENVIRONMENT.

        Raises:
            Refused: where the task has none.
        """
        if self._environment is None:
            raise Refused(f"task {self.names[0]} has no environment to act in")
        return self._environment

    def _player(self, name: str) -> nn.Module:
        players = self.players
        if name not in players:
            raise AltpropError(f"{name} is no player of model {self.names[1]}; {near(name, players)}")
        return players[name]

    def flat(self) -> Tensor:
        """Return a copy of all parameters as one vector (D,)."""
        return torch.cat([p.detach().flatten() for p in self.model.parameters()])

    def unflatten(self, flat: Tensor) -> Grads:
        """Return name -> view of `flat` (..., D) shaped (..., *parameter)."""
        out, offset = {}, 0
        for name, p in self.model.named_parameters():
            out[name] = flat[..., offset : offset + p.numel()].reshape((*flat.shape[:-1], *p.shape))
            offset += p.numel()
        return out

    def flatten(self, grads: Mapping[str, Tensor]) -> Tensor:
        """Return tensors by parameter name as one vector (D,)."""
        return torch.cat([grads[name].flatten() for name in self.params])

    def assign(self, flat: Tensor, *, update: bool = True) -> None:
        """Write a vector (D,) into the parameters, in place.

        Args:
            flat: what to write.
            update: whether this is the learner's move, which counts as one update; a trial and the way back are none.
        """
        self.ledger.updates += 1 if update and not self.ledger.paused else 0
        params = self.params
        with torch.no_grad():
            for name, value in self.unflatten(flat).items():
                params[name].copy_(value)

    def refuse_unless(self, algorithm: str, requires: Collection[Capability]) -> None:
        """Refuse an algorithm whose needs are not offered.

        Raises:
            Refused: with the sentence that becomes the row in the report.
        """
        missing = set(requires) - self.offers
        hint = getattr(self.model, "differentiable_with", "") if missing <= DERIVATIVES else ""
        sentence = refusal(algorithm, requires, *self.names, self.offers, hint)
        if sentence:
            raise Refused(sentence)

    # What the contract's final methods call.

    def begin_step(self, step: int) -> None:
        """Start the noise and buffer bookkeeping of a step."""
        self.clock.begin_step(step, self.progress)
        self._fresh_buffers = True

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Enter evaluation mode: no noise, not counted, the optimizers' weights for predicting; put all back after."""
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

    @property
    def predictor(self) -> Callable[..., Tensor]:
        """What predicts inside `evaluating`: the model, or the mean of the noisy passes that its noise asks for."""
        noise = self.uncounted.noise
        model: Callable[..., Tensor] = self.model
        return model if noise is None or not noise.passes else MonteCarlo(self._passes, self.loss)

    def _passes(self, x: Tensor, **kwargs: Any) -> Tensor:
        """Return the outputs of passes whose masks are those of no training step, (K, ..., C)."""
        noise = self.uncounted.noise
        assert noise is not None
        noise.train()
        try:
            outputs = []
            for one in range(noise.passes):
                self.clock.phase = -1 - one
                outputs.append(self.model(x, **kwargs))
        finally:
            noise.eval()
        return torch.stack(outputs)

    @contextmanager
    def observing(self) -> Iterator[None]:
        """Let probes look in training mode, not counted.

        The masks are those of the present step; buffers and stream are left as they were.
        """
        phase, fresh = self.clock.phase, self._fresh_buffers
        try:
            with self.ledger.pause(), self.clock.hold(), self.uncounted.kept_buffers():
                yield
        finally:
            self.clock.phase, self._fresh_buffers = phase, fresh

    @contextmanager
    def same_noise(self) -> Iterator[None]:
        """Repeat all masks inside, however the stochastic layers are reached. Buffers move at most once."""
        with self.clock.hold():
            yield

    def structure_changed(self) -> None:
        """Take note that the model has other parameters, or others of another shape (`Updater.rebind` says so too).

        What is spent stays; what the work costs from now on is measured anew, from the next step on at the latest.
        """
        self.look_up()
        with self.ledger.pause():
            flops = self.ledger.measure_forward()
        self.ledger.structure_changed(len(getattr(self.model, "blocks", ())), flops)

    def look_up(self) -> None:
        """Look the parameters up anew, which may be others under the same names."""
        self._structure = self._plain = None

    def named_parameters(self) -> tuple[tuple[str, ...], tuple[nn.Parameter, ...]]:
        """Return names and live parameters; walking the modules at every step would cost a tenth of a small one."""
        if self._structure is None:
            found = dict(self.model.named_parameters())
            self._structure = tuple(found), tuple(found.values())
        return self._structure

    # Objectives.

    def outputs(self, batch: Batch, params: Mapping[str, Tensor] | None = None) -> Tensor:
        """Return the model's outputs on a batch, (B, C) or (T, B, C), counted as one forward.

        Args:
            batch: whose inputs are run.
            params: name -> tensor, other parameters than the present ones; the outputs can be differentiated in them,
                and buffers stay as they are.
        """
        if params is None:
            with self.ledger.primitive("forward", batch.rows), _Evaluation(self):
                return self.uncounted.outputs(None, batch)
        with self.ledger.primitive("forward", batch.rows):
            outputs = self.uncounted.outputs(params, batch)
        self.clock.advance()
        return outputs

    def output_loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Return the loss of a batch, a scalar, without any penalty.

        It is the mean over valid, labelled elements, unless the loss brings a reduction of its own (`Loss.divisor`).
        """
        return self.uncounted.output_loss(outputs, batch)

    def divisor(self, batch: Batch) -> float:
        """Return what `output_loss` divides the sum over elements by, so that parts of a batch add up to the whole."""
        return self.uncounted.divisor(batch)

    def output_gradient(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Return d output_loss / d outputs, shaped like the outputs."""
        return self.uncounted.output_gradient(outputs, batch)

    def output_curvature(self, outputs: Tensor, vector: Tensor, batch: Batch) -> Tensor:
        """Return the Hessian of output_loss in the outputs times `vector`, both shaped like the outputs."""
        return self.uncounted.output_curvature(outputs, vector, batch)

    def sample_targets(self, outputs: Tensor) -> Tensor:
        """Draw targets from the model's own distribution."""
        return self.loss.sample_targets(outputs, self.random)

    def objective(self, batch: Batch, *, of: str | None = None) -> Tensor:
        """Return the objective on a batch, or the loss of the player `of`, a scalar without a graph.

        In an environment it is minus the mean return of the model on this step's episodes, one for each row.
        """
        if self._environment is not None and of is None:
            return self._environment.loss(batch.rows)
        with torch.no_grad(), self._pass("forward", of, batch.rows), _Evaluation(self):
            return self.uncounted.value(None, batch) if of is None else self._loss_of(of, batch)

    def _loss_of(self, player: str, batch: Batch) -> Tensor:
        """Return a player's loss with its graph; what it draws is keyed, as masks are, so that it can be repeated."""
        if self.player_loss is None:
            raise Refused(f"task {self.names[0]} has no loss of the player {player}")
        seed = derive_seed(self.clock.seed, "players", self.clock.step, self.clock.phase)
        return self.player_loss(player, self.model, batch, Random(seed, self.device, self.dtype))

    def _pass(self, kind: str, player: str | None, rows: float, calls: float = 1) -> AbstractContextManager[None]:
        """Count a forward or backward pass."""
        return self.ledger.primitive(kind, rows, calls) if player is None else self._pass_of(kind, player, rows, calls)

    @contextmanager
    def _pass_of(self, kind: str, player: str, rows: float, calls: float) -> Iterator[None]:
        """Count a pass of one player: its FLOPs have a rate of their own, for players differ in their work."""
        with (
            self.ledger.primitive(kind, rows, calls),
            self.ledger.work(f"{kind} of {player}", per="example", examples=rows),
        ):
            yield

    def unroll(self, batch: Batch, h: Tensor, start: int, stop: int) -> Tensor:
        """Run a recurrent model over the times start <= t < stop of a batch, without a graph.

        Args:
            batch: sequences (T, B, F).
            h: (B, S) state before `start`.
            start, stop: times; the ledger counts the share (stop - start) / T of a forward.

        Returns:
            (stop - start, B, S), the state after each time.
        """
        share = (stop - start) / batch.inputs.shape[0]
        mask = None if batch.mask is None else batch.mask[start:stop]
        with torch.no_grad(), self.ledger.primitive("forward", batch.rows * share, share):
            states: Tensor = self.model.unroll(batch.inputs[start:stop], h, mask, start=start)[0]
        return states

    def cell_step(self, batch: Batch, time: int, h: Tensor, jacobians: bool = False) -> CellStep:
        """Step a recurrent model from h_(t-1) to h_t, with all the noise that it has at this time.

        One time step after the other from `model.initial_state` gives the states of the whole unroll under the same
        noise. The phase of the noise stands still, as in `unroll`. It counts as 1 / T of a forward; the Jacobians
        are those of real-time recurrent learning (Williams and Zipser 1989), each of S rows of a backward's cost.

        Args:
            batch: sequences (T, B, F).
            time: t, 0 <= t < T.
            h: (B, S), state before.
            jacobians: whether to differentiate the next state in the present one and in the parameters.
        """
        return recurrence.cell_step(self, batch, time, h, jacobians)

    def local_step(self, batch: Batch, time: int, h: Tensor) -> LocalStep:
        """Step a recurrent model from h_(t-1) to h_t, and say how each unit follows from itself and its parameters.

        That is what rules know that are local in space: it costs as much as a few passes over the cell's element-wise
        functions, where the Jacobians of `cell_step` cost S passes back. It counts as 1 / T of a forward.

        Args:
            batch: sequences (T, B, F).
            time: t, 0 <= t < T.
            h: (B, S), state before.

        Raises:
            Refused: under noise, and for a cell that does not write `local`.
        """
        return recurrence.local_step(self, batch, time, h)

    def readout(self, states: Tensor, start: int = 0) -> tuple[Tensor, Callable[..., Pulled]]:
        """Read a recurrent model's states out, with noise, and return (outputs, vjp).

        `vjp(v, inputs=True)` returns the cotangents of the states (only where `inputs`) and of the readout's
        parameters, by their names in the model. The phase of the noise stands still.

        Args:
            states: (B, S), for a target at the end; or (T', B, S) of the times `start`, `start` + 1, ..., for targets
                at each time.
            start: time of the first of them.
        """
        return recurrence.readout(self, states, start)

    def functional_objective(self, params: Mapping[str, Tensor], batch: Batch) -> Tensor:
        """Return the objective at other parameters, differentiable in them; buffers stay as they are."""
        with self.ledger.primitive("forward", batch.rows):
            value = self.uncounted.value(params, batch)
        self.clock.advance()
        return value

    def per_example_loss(self, batch: Batch) -> Tensor:
        """Return the loss of each element, (B,) or (T, B), without a graph."""
        with torch.no_grad():
            return self.loss.per_element(self.outputs(batch), batch.targets)

    def population_objective(self, flat: Tensor, batch: Batch, chunk: int = 64) -> Tensor:
        """Return the objective of P individuals on one batch under one noise: (P, D) -> (P,); buffers stay as they are.

        Layered models run as grouped matrix products, others as chunked vmap. In an environment it is minus the mean
        return of each on this step's episodes, one for each row of the batch.
        """
        if self._environment is not None:
            return self._environment.population_loss(flat, batch.rows, chunk)
        individuals = flat.shape[0]
        with torch.no_grad(), self.ledger.primitive("population", batch.rows * individuals, individuals):
            values = self.uncounted.population(self.unflatten(flat), batch, chunk)
        self.clock.advance()
        return values

    def population_behaviour(self, flat: Tensor, batch: Batch, chunk: int = 64) -> tuple[Tensor, Tensor]:
        """Return `population_objective` (P,) and how each individual behaves, (P, K), from the same evaluations.

        For algorithms that require BEHAVIOUR: `descriptor` names the K numbers and the bounds between which they lie.
        In an environment they are means over this step's episodes, else the task's account of the outputs.

        Raises:
            Refused: where the task describes nothing.
        """
        if self.descriptor is None:
            raise Refused(f"task {self.names[0]} has no behaviour descriptor")
        if self._environment is not None:
            return self._environment.population_behaviour(flat, batch.rows, chunk)
        assert self.describe is not None
        individuals, params = flat.shape[0], self.unflatten(flat)
        with torch.no_grad(), self.ledger.primitive("population", batch.rows * individuals, individuals):
            outputs = self.uncounted.population_outputs(params, batch, chunk)
            values = self.uncounted.population_values(outputs, params, batch)
            behaviour = self.describe(outputs, batch)
        self.clock.advance()
        return values, behaviour

    def circuit(self, batch: Batch, occurrence: int | None = None, shift: float = 0.0) -> Tensor:
        """Run the circuit of a model that is one, for algorithms that require CIRCUIT; no graph is kept.

        Each call counts as a run on each row, work of the kind "circuit"; its FLOPs are those that the model declares.

        Args:
            batch: what to run it on.
            occurrence: place in `model.gates()` of the one gate whose angle is shifted, or None.
            shift: radians that are added to that angle.

        Returns:
            (B, C) outputs.
        """
        ledger, rows, declared = self.ledger, batch.rows, self.model.flops_per_run
        shifted = nullcontext() if occurrence is None else self.model.shifted(occurrence, shift)
        with torch.no_grad(), shifted, _Evaluation(self), ledger.work("circuit", per="example", examples=rows):
            if declared is None:
                return self.uncounted.outputs(None, batch)
            ledger.charge("circuit", declared * rows)
            with ledger.charged("circuit"):
                return self.uncounted.outputs(None, batch)

    # Derivatives.

    def gradient(
        self,
        batch: Batch,
        *,
        of: str | None = None,
        create_graph: bool = False,
        loss: Callable[[], Tensor] | None = None,
        share: float = 1.0,
        penalty: bool = True,
    ) -> tuple[Tensor, Grads]:
        """Return (objective, name -> gradient) on a batch.

        Args:
            batch: what to differentiate on.
            of: a player: its own loss, without the noise's term, and its own parameters, by their names in it.
            create_graph: whether the gradients can be differentiated again.
            loss: replaces the objective, a function that builds a scalar (a window of a sequence, a local loss).
            share: of a forward and a backward pass over the batch that `loss` takes, for the ledger.
            penalty: whether the terms of task and noise belong to the objective.
        """
        if loss is None and of is None:
            self._refuse_continued(batch)
        if of is None and loss is None and not create_graph and self._in_closed_form(batch):
            with _Evaluation(self):
                value, found = closed_form.gradient(self, self.loss, batch)
            return self._averaged_over_ranks(value, dict(zip(self.named_parameters()[0], found, strict=True)), batch)
        if of is None and loss is None and not create_graph and self._swept(batch):
            length = batch.inputs.shape[0]
            h = self.model.initial_state(batch.inputs.shape[1])
            return self.window_gradient(batch, Window(0, 0, length), batch, h)[:2]
        rows = batch.rows * share
        if of is None:
            names, values = self.named_parameters()
        else:
            own = dict(self._player(of).named_parameters())
            names, values, loss = tuple(own), tuple(own.values()), lambda: self._loss_of(of, batch)
        with torch.enable_grad(), self.ledger.graph(), _Evaluation(self):
            with self._pass("forward", of, rows, share):
                value = self.uncounted.value(None, batch, penalty=penalty) if loss is None else loss()
            with self._pass("backward", of, rows, share):
                grads = differentiate(value, values, create_graph=create_graph)
        if self.ranks.size > 1 and create_graph:
            raise Refused("gradients that are differentiated again are not averaged over processes; use trainer=cpu")
        return self._averaged_over_ranks(value.detach(), dict(zip(names, grads, strict=True)), batch)

    def window_gradient(self, batch: Batch, window: Window, piece: Batch, h: Tensor) -> tuple[Tensor, Grads, Tensor]:
        """Return (mean loss, name -> gradient, states after each time) of a window of a recurrent model.

        The state before it is held. No penalty of noise or task belongs to the loss. It counts as the window's share of
        a forward and a backward, and as one evaluation of the objective.

        Args:
            batch: sequences (T, B, F).
            window: which times are run, and which carry losses.
            piece: the targets of the latter, as a batch; of final targets those of the rows that end in the window.
            h: (B, S), the state before the window.
        """
        if self._swept(batch):
            with _Evaluation(self):
                value, grads, states = closed_form_time.gradient(self, batch, window, piece, h)
            return *self._averaged_over_ranks(value, grads, batch), states
        kept: list[Tensor] = []
        share = (window.stop - window.start) / batch.inputs.shape[0]
        loss = partial(recurrence.window_loss, self, batch, window, piece, h, kept)
        value, grads = self.gradient(batch, loss=loss, share=share)
        return value, grads, kept[0]

    def _swept(self, batch: Batch) -> bool:
        """Return whether the gradient through time is written out for this model, and nothing is added to the loss."""
        bare = self.uncounted.task_penalty is None and not self._mixed
        return bare and closed_form_time.applies(self.model)

    @property
    def plain_chain(self) -> bool:
        """Whether the model is a chain of dense blocks and nothing else, and nobody watches one by a hook."""
        return self.uncounted.noise is None and self._written_out

    @property
    def _written_out(self) -> bool:
        """Whether the model is a chain of dense blocks, under masks at the most, and nobody watches one by a hook."""
        if self._plain is None:
            self._plain = closed_form.applies(self.model)
        return self._plain and not self.model.hooked and not self._mixed

    @property
    def _mixed(self) -> bool:
        """Whether autocast chooses the precision of each operation, which it does for those it knows backwards."""
        return torch.is_autocast_enabled(self.device.type)

    def _in_closed_form(self, batch: Batch) -> bool:
        """Return whether the objective on a batch is the mean loss of a plain chain and nothing else."""
        bare = self.loss.is_mean and self.uncounted.task_penalty is None and batch.weights is None
        return bare and self._written_out

    def _averaged_over_ranks(self, value: Tensor, grads: Grads, batch: Batch) -> tuple[Tensor, Grads]:
        if self.ranks.size == 1:
            return value, grads
        value, *shared = self.ranks.average([value, *grads.values()], batch.samples)
        return value, dict(zip(grads, shared, strict=True))

    def pull(
        self,
        function: Callable[[Tensor], Tensor],
        x: Tensor,
        parameters: Mapping[str, Tensor] | None = None,
    ) -> tuple[Tensor, Callable[..., Pulled]]:
        """Run one block (or any piece) on a detached input and return (output, vjp).

        `vjp(v, inputs=True)` returns the cotangents of x (only where `inputs`) and of the parameters. The graph ends
        at x: nothing flows further back. Without parameters a way back counts as a transpose, not as a backward.

        Args:
            function: a block, or a callable such as `block.respond`.
            x: input, detached here.
            parameters: name -> tensor to differentiate in; by default those of `function` where it is a module.
        """
        return derivatives.pull(self, function, x, parameters)

    def push(
        self, function: Callable[..., Tensor], values: Sequence[Tensor], tangents: Sequence[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Run any piece and return (output, its derivative along the tangents), in one pass forward.

        It is the twin of `pull` in forward mode, counts as one jvp and leaves no graph. The phase of the noise stands
        still.

        Args:
            function: of as many tensors as there are values; what else it uses is held fixed.
            values: where it is run, rows first.
            tangents: shaped like the values.
        """
        return derivatives.push(self, function, values, tangents)

    def walk(self, batch: Batch, states: Sequence[Tensor] = ()) -> ChainWalk:
        """Run a chain forward and keep what each block saw, for rules that bring their own way back.

        One evaluation of the objective: it counts as a forward, and the noise of the next one is another.

        Args:
            batch: whose inputs are run.
            states: of every block but the last, shaped like its output, which the block above sees in the place of it;
                none for an ordinary pass. `ChainWalk.at` goes on with others.
        """
        with _Evaluation(self):
            return ChainWalk(self, batch.inputs, states)

    def penalty(self) -> tuple[Tensor, Grads] | None:
        """Return the penalty of task and noise and its gradient by name, or None where there is none."""
        with torch.enable_grad():
            value = self.uncounted.penalty(None)
            if value is None:
                return None
            params = self.params
            if not has_graph(value):
                return value, {name: torch.zeros_like(p) for name, p in params.items()}
            found = differentiate(value, list(params.values()))
        return value.detach(), dict(zip(params, found, strict=True))

    def per_example_gradients(self, batch: Batch) -> Grads:
        """Return name -> (B, *parameter), the gradient of each row's own loss, without any penalty.

        A row's loss is the mean over its own valid elements; rows whose target may not be used give 0. So the mean
        over the labelled rows is the gradient of `output_loss`, where all rows have equally many valid elements. With
        a reduction of the loss's own it is applied to the row alone: of a sum, the rows' gradients add up to the whole.

        Raises:
            Refused: with batch normalisation in training mode, where rows do not have a loss of their own.
        """
        return derivatives.per_example_gradients(self, batch)

    def jacobian(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return (outputs (B, C), Jacobian (B, C, D)) under this phase's noise.

        Raises:
            Refused: with batch normalisation in training mode, or for sequences.
        """
        return derivatives.jacobian(self, batch)

    def jvp(self, batch: Batch, tangent: Mapping[str, Tensor], *, penalty: bool = True) -> tuple[Tensor, Tensor]:
        """Return (objective, directional derivative along `tangent`) in one forward pass.

        Args:
            batch: what to differentiate on.
            tangent: parameter name -> direction, shaped like it.
            penalty: whether the terms of task and noise belong to the objective.
        """
        with self.ledger.primitive("jvp", batch.rows), _Evaluation(self):
            value, derivative, moved = derivatives.along(self, batch, tangent, penalty)
            for name, buffer in self.model.named_buffers():
                buffer.copy_(moved[name])
        return value, derivative

    def linearize(self, batch: Batch) -> Linearization:
        """Return loss, gradient and curvature products on one kept graph: an HVP costs about one forward+backward."""
        rows = batch.rows
        values = list(self.model.parameters())
        with torch.enable_grad(), self.ledger.graph(), _Evaluation(self):
            with self.ledger.primitive("forward", rows):
                outputs = self.uncounted.outputs(None, batch)
                value = self.output_loss(outputs, batch)
                penalty = self.uncounted.penalty(None)
                value = value if penalty is None else value + penalty
            with self.ledger.primitive("backward", rows):
                grads = differentiate(value, values, create_graph=True)
        here = outputs.detach()
        return Linearization(
            value, outputs, grads, values, lambda v: self.output_curvature(here, v, batch), self.ledger, rows
        )

    def _refuse_continued(self, batch: Batch) -> None:
        """Refuse the gradient on a batch whose sequences began in the batch before: here each would start anew.

        Raises:
            Refused: unless every row starts anew.
        """
        if batch.reset is not None and not bool(batch.reset.all()):
            raise Refused(
                "the gradient goes back over whole sequences, and this batch continues one from the batch before; "
                "try algorithm=truncated_bptt"
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
        self,
        optimizer: OptimizerFactory,
        module: nn.Module | None = None,
        direction: str = "gradient",
        *,
        of: str | None = None,
    ) -> Updater:
        """Bind the optimizer axis to parameters by name.

        Args:
            optimizer: what the constructor took from `optimizer: ${optimizer}`.
            module: whose parameters; the model by default.
            direction: "gradient" for exact gradients of the objective, "other" for anything else.
            of: a player, in place of a module.

        Raises:
            Refused: for an optimizer that re-evaluates the objective, with directions that are no gradient.
        """
        if of is not None:
            module = self._player(of)
        target: nn.Module = self.model if module is None else module
        updater = Updater(optimizer, target, lambda: self._roles(target), self, direction)
        self._updaters.add(updater)
        return updater

    def stability(self) -> Stability | None:
        """Return what the one optimizer of all parameters can bear, None where there is none that is known."""
        own = {id(p) for p in self.model.parameters()}
        every = [updater for updater in self._updaters if {id(p) for p in updater.parameters} == own]
        return every[0].stability() if len(every) == 1 and len(self._updaters) == 1 else None

    @property
    def updates_model(self) -> bool:
        """Whether an updater steps parameters of the model."""
        own = {id(p) for p in self.model.parameters()}
        return any(id(p) in own for updater in self._updaters for p in updater.parameters)

    def _roles(self, module: nn.Module) -> dict[str, str]:
        """Return parameter name within a module -> role."""
        # A player that is a net itself has input and output layers of its own.
        whole: Any = module if hasattr(module, "blocks") or hasattr(module, "readout") else self.model
        final = list(whole.blocks)[-1] if hasattr(whole, "blocks") else getattr(whole, "readout", None)
        last = () if final is None else final.parameters()
        full = {id(p): name for name, p in whole.named_parameters()}
        outputs = {id(p) for p in last}
        return {name: role_of(full.get(id(p), name), p, id(p) in outputs) for name, p in module.named_parameters()}

    def state_dict(self) -> dict[str, Any]:
        """Return parameters, buffers, stream and ledger in weights_only-safe types."""
        return {
            "model": {name: value.detach().clone() for name, value in self.model.state_dict().items()},
            "random": self.random.state_dict(),
            "clock": [self.clock.step, self.clock.phase],
            "ledger": self.ledger.state_dict(),
            "progress": self.progress,
            **({} if self._environment is None else {"environment": self._environment.state_dict()}),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put a state of `state_dict` back, in place; where it holds the model alone, what is spent stays."""
        self.look_up()
        self.model.load_state_dict(state["model"])
        if "ledger" not in state:
            return
        self.random.load_state_dict(state["random"])
        self.clock.step, self.clock.phase = state["clock"]
        self.ledger.load_state_dict(state["ledger"])
        self.progress = state["progress"]
        if self._environment is not None:
            self._environment.load_state_dict(state["environment"])


class _Evaluation:
    """One evaluation of the objective: buffers move in the first of a step only, masks move on afterwards.

    A class of its own, because it stands in every step: `contextmanager` takes three times as long.
    """

    __slots__ = ("_kept", "_problem")

    def __init__(self, problem: Problem) -> None:
        self._problem = problem

    def __enter__(self) -> None:
        self._kept: AbstractContextManager[None] | None = None
        if self._problem._fresh_buffers:
            self._problem._fresh_buffers = False
        else:
            self._kept = self._problem.uncounted.kept_buffers()
            self._kept.__enter__()

    def __exit__(self, *exc: Any) -> None:
        if self._kept is not None:
            self._kept.__exit__(*exc)
        self._problem.clock.advance()
