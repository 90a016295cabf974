"""A walk through a chain of blocks: one pass forward that is kept, and any signal carried back through it.

`Problem.walk` makes it. Rules that send back something else than the gradient, or need what each layer saw, are written
with it: feedback alignment, curvature factors, equilibrium propagation, predictive coding.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterable, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, NamedTuple, cast

import torch
from torch import Tensor

from altprop import closed_form
from altprop.derivatives import Grads, cotangents
from altprop.noise import Draws
from altprop.vectorized import on_stacks

if TYPE_CHECKING:
    from altprop.models.base import Block
    from altprop.workspace import Workspace


class ChainSignals(NamedTuple):
    """What a signal is at each block.

    Attributes:
        deltas: cotangent of each block's pre-activation, shaped like it, in the order of the blocks.
        parameters: names of the blocks' parameters, and of the noise's own, -> cotangent; empty where not asked for.
    """

    deltas: list[Tensor]
    parameters: Grads


class ChainWalk:
    """One pass through the blocks of a chain. Signals may be carried back through it as often as one likes.

    With x_l what the linear part of block l sees, z_l = W_l x_l + b_l its pre-activation and f_l what follows, a signal
    s_l at the output of a block becomes

        delta_l = s_l * f_l'(z_l),    dW_l = delta_l^T x_l,    s_(l-1) = delta_l W_l  or  delta_l B_l.

    All is under the noise of this pass, whenever it is asked for. The weights that a signal goes back through are the
    present ones.

    Args:
        problem: whose model offers CHAIN.
        x: (B, ...) inputs.
        states: of every block but the last, shaped like its output, which the block above sees in the place of it; none
            for an ordinary pass.

    Attributes:
        states: what the block above was given in the place of a block's output, as `at` takes them.
        inputs: what the linear part of each block saw, (B, ...), under the input noise.
        outputs: (B, C) of the last block.
    """

    def __init__(self, problem: Workspace, x: Tensor, states: Sequence[Tensor] = ()) -> None:
        self._problem = problem
        self._ledger, self._clock, self._plain = problem.ledger, problem.clock, problem.plain_chain
        self._blocks = [cast("Block", block) for block in problem.layered.blocks]
        self._names = {id(p): name for name, p in zip(*problem.named_parameters(), strict=True)}
        self._rows = int(x.shape[0])
        self._shapes: list[torch.Size] = []
        self._before: list[Tensor] = []
        self._after: list[Tensor] = []
        self.inputs: list[Tensor] = []
        self.states = list(states)
        self._draws: Draws = {}
        self.outputs = self._run(x)

    def at(self, states: Sequence[Tensor]) -> ChainWalk:
        """Walk again with states of the hidden layers' own: block l + 1 sees states[l] and not what block l puts out.

        The first block has seen what it sees now, and does not run again. Inputs are the same, weights must be, and
        the noise is where `Problem.same_noise` holds it; buffers stay as they are.

        Args:
            states: of every block but the last, shaped like its output.
        """
        twin = copy.copy(self)
        twin.states = list(states)
        twin._shapes, twin.inputs, twin._draws = self._shapes[:1], self.inputs[:1], dict(self._draws)
        twin._before, twin._after = self._before[:1], self._after[:1]
        with self._problem.uncounted.kept_buffers():
            twin.outputs = twin._run(twin._seen_above())
        return twin

    def _run(self, x: Tensor) -> Tensor:
        """Run the blocks that have not run yet and return the outputs."""
        if self._problem.uncounted.noise is None:
            return self._written_out(x) if self._plain else self._forward(x)
        with self._clock.record() as draws:
            outputs = self._forward(x)
        self._draws.update((key, draw) for key, draw in draws.items() if key[0] == "weight")
        return outputs

    def _forward(self, x: Tensor) -> Tensor:
        """Run each block on a detached input, keep its graph, and return the outputs."""
        with self._ledger.graph():
            for block in self._blocks[len(self._after) :]:
                self._shapes.append(x.shape)
                self.inputs.append(block.perturbed(x).detach())
                with torch.enable_grad(), self._ledger.primitive("block_forward", self._rows):
                    z = block.transform(x)
                    y = block.respond(z)
                self._before.append(z)
                self._after.append(y)
                x = self._seen_above()
        return self._after[-1].detach()

    def _seen_above(self) -> Tensor:
        """Return what the next block sees: the state that is given, or what the last block that ran puts out."""
        place = len(self._after) - 1
        return self.states[place] if place < len(self.states) else self._after[place].detach()

    def _written_out(self, x: Tensor) -> Tensor:
        """Run each block of a plain chain without a graph, for the way back is written out too."""
        known = len(self._after)
        blocks = self._blocks[known:]

        def forward(x: Tensor, *given: Tensor) -> list[Tensor]:
            passes: list[closed_form.Pass] = []
            states = given[2 * len(blocks) :]
            for place, block in enumerate(blocks):
                layer = closed_form.Affine(given[2 * place], given[2 * place + 1], block.activation)
                with self._ledger.primitive("block_forward", self._rows):
                    passes += closed_form.forward(x, [layer], keep_z=True)
                x = states[place] if place < len(states) else passes[-1].a
            kept = [tensor for one in passes for tensor in (one.inputs, one.z, one.a)]
            self._ledger.keeps(kept)
            return kept

        with torch.no_grad():
            parameters = (p for block in blocks for p in (block.weight, block.bias))
            found = on_stacks(forward, x.flatten(1), *parameters, *self.states[known:])
        self.inputs, self._before, self._after = (
            [*old, *found[place::3]] for place, old in enumerate((self.inputs, self._before, self._after))
        )
        self._shapes = [seen.shape for seen in self.inputs]
        return self._after[-1]

    @property
    def preactivations(self) -> list[Tensor]:
        """Pre-activation of each block, (B, ...)."""
        return [z.detach() for z in self._before]

    @property
    def block_outputs(self) -> list[Tensor]:
        """What each block puts out, (B, ...), under its noise."""
        return [y.detach() for y in self._after]

    def pull(self, signals: Iterable[Tensor], parameters: bool | Collection[int] = True) -> ChainSignals:
        """Take a signal at the output of each block to its pre-activation and, where wanted, to its parameters.

        Args:
            signals: one for each block, shaped like its output.
            parameters: whether parameters get their share, or the indices of the blocks whose do; without, a block
                counts as a transpose and not as a backward pass.
        """
        found = ChainSignals([], {})
        for index, signal in enumerate(signals):
            own = parameters if isinstance(parameters, bool) else index in parameters
            with self._counted(own):
                found.deltas.append(self._pulled(index, signal, found.parameters if own else None))
        return found

    def delta(self, index: int, signal: Tensor) -> Tensor:
        """Return the signal at the output of one block, taken to its pre-activation."""
        with self._counted(parameters=False):
            return self._pulled(index, signal, None)

    def outer(self, deltas: Iterable[Tensor]) -> Grads:
        """Return name -> delta_l^T x_l of weights, and the sums of the rows of delta_l of biases; 0 of all others.

        Args:
            deltas: one for each block, shaped like its pre-activation. It counts as a backward pass.
        """
        found: Grads = {}
        for index, delta in enumerate(deltas):
            own = self._own(index)
            with self._counted(parameters=True):
                if self._plain:
                    with torch.no_grad():
                        values = on_stacks(lambda d, x: closed_form.parameters(d, x)[::-1], delta, self.inputs[index])
                else:
                    values = cotangents(self._before[index], list(own.values()), delta)
            for name, value in zip(own, values, strict=True):
                found[name] = found[name] + value if name in found else value
        return found

    def back(self, signal: Tensor, feedback: Sequence[Tensor] | None = None, parameters: bool = True) -> ChainSignals:
        """Carry a signal at the outputs back through all blocks.

        With the gradient of the loss in the outputs and the blocks' own weights it is backpropagation.

        Args:
            signal: (B, C).
            feedback: what stands in the place of the weights of all blocks but the first, shaped like them; noise on
                the weights acts on it with the same mask. None for the weights themselves.
            parameters: as for `pull`.
        """
        matrices: Sequence[Tensor | None] = [None] * len(self._blocks) if feedback is None else [None, *feedback]
        found = ChainSignals([], {})
        for index in reversed(range(len(self._blocks))):
            with self._counted(parameters):
                delta = self._pulled(index, signal, found.parameters if parameters else None)
                if index > 0:
                    signal = self._sent(index, delta, matrices[index])
            found.deltas.insert(0, delta)
        return found

    def send(self, index: int, delta: Tensor, matrix: Tensor | None = None) -> Tensor:
        """Return the signal at the output of the block below: a delta through the transposed weight of a block.

        Args:
            index: of the block, above 0.
            delta: shaped like its pre-activation.
            matrix: stands in the place of the weight, shaped like it.
        """
        with self._counted(parameters=False):
            return self._sent(index, delta, matrix)

    def _counted(self, parameters: bool) -> AbstractContextManager[None]:
        return self._ledger.primitive("block_backward" if parameters else "transpose", self._rows)

    def _pulled(self, index: int, signal: Tensor, into: Grads | None) -> Tensor:
        """Return the delta of a block; what its parameters get is added to `into`."""
        own = {} if into is None else self._own(index)
        if self._plain:
            delta, *found = self._pulled_in_closed_form(index, signal, into is not None)
        else:
            delta, *found = cotangents(self._after[index], [self._before[index], *own.values()], signal)
        if into is not None:
            for name, value in zip(own, found, strict=True):
                into[name] = into[name] + value if name in into else value
        return delta

    def _pulled_in_closed_form(self, index: int, signal: Tensor, parameters: bool) -> Sequence[Tensor]:
        """Return the delta of a block of a plain chain and, where wanted, the cotangents of its weight and bias."""
        activation = self._blocks[index].activation

        def back(signal: Tensor, inputs: Tensor, z: Tensor, a: Tensor) -> list[Tensor]:
            delta = activation.back(signal, z, a)
            return [delta, *closed_form.parameters(delta, inputs)[::-1]] if parameters else [delta]

        with torch.no_grad():
            return on_stacks(back, signal, self.inputs[index], self._before[index], self._after[index])

    def _own(self, index: int) -> dict[str, Tensor]:
        """Return the parameters that a block uses, by their names in the model."""
        block = self._blocks[index]
        used = [*block.parameters(), *(() if block.noise is None else block.noise.parameters())]
        return {self._names[id(p)]: p for p in used}

    def _sent(self, index: int, delta: Tensor, matrix: Tensor | None) -> Tensor:
        block = self._blocks[index]
        weight = block.weight if matrix is None else matrix
        if self._plain:
            with torch.no_grad():
                return on_stacks(lambda delta, weight: [delta @ weight], delta, weight)[0]
        if block.noise is not None:
            with self._clock.replay(self._draws):
                weight = block.noise(weight, "weight", index)
        return block.transpose(delta, weight.detach(), self._shapes[index])
