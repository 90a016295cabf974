"""What the rules that disturb pre-activations share: a pass that is kept, a disturbed one, and the weights' share.

With x_l what block l is given and z_l = W_l x_l + b_l its pre-activation, (B, n_l) or (B, channels, ...), a rule that
finds what the loss does when z_l moves, delta_l shaped like z_l, gives the weights dW_l = delta_l^T x_l and the biases
the sum of the rows of delta_l. No signal goes from one block to the one below.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from altprop import Batch, Block, Grads, Problem, Refused


class Kept(NamedTuple):
    """A pass through a chain without disturbance.

    Attributes:
        outputs: (B, C).
        shapes: of each block's pre-activation.
        pulls: of each block's linear part, `Problem.pull`.
    """

    outputs: Tensor
    shapes: list[torch.Size]
    pulls: list[Callable[..., Any]]


def chain(problem: Problem) -> list[Block]:
    """Return the model's blocks in order."""
    return [cast("Block", block) for block in problem.layered.blocks]


def refuse_what_no_node_reaches(problem: Problem) -> None:
    """Refuse a model that would learn with some of its parameters alone, or whose rows have no loss of their own.

    Raises:
        Refused: with a sentence.
    """
    problem.refuse_batch_norm("losses of single examples")
    covered = {id(p) for block in chain(problem) for p in (block.weight, block.bias)}
    left = [name for name, p in problem.params.items() if id(p) not in covered]
    if left:
        raise Refused(
            f"pre-activations that are disturbed teach weights and biases, not {left[0]}; "
            "use model.normalisation=none and a dropout without parameters"
        )


def kept_pass(problem: Problem, batch: Batch) -> Kept:
    """Run the chain block by block, without a graph from one to the next."""
    x = batch.inputs
    shapes: list[torch.Size] = []
    pulls: list[Callable[..., Any]] = []
    for index, block in enumerate(chain(problem)):
        own = {f"blocks.{index}.weight": block.weight, f"blocks.{index}.bias": block.bias}
        z, back = problem.pull(block.transform, x, own)
        shapes.append(z.shape)
        pulls.append(back)
        with torch.no_grad():
            x = block.respond(z)
    return Kept(x, shapes, pulls)


def disturbed_outputs(problem: Problem, x: Tensor, disturbances: Sequence[Tensor]) -> Tensor:
    """Return the outputs (B, C) of a chain on x whose first pre-activations are disturbed, z_l + u_l."""
    for index, block in enumerate(chain(problem)):
        z = block.transform(x)
        x = block.respond(z + disturbances[index] if index < len(disturbances) else z)
    return x


def parameters_of(kept: Kept, deltas: Sequence[Tensor]) -> Grads:
    """Return name -> delta_l^T x_l, from one delta for each block."""
    direction: Grads = {}
    for pull, delta in zip(kept.pulls, deltas, strict=True):
        direction.update(pull(delta, inputs=False).parameters)
    return direction


def for_each_row(factors: Tensor, like: Tensor) -> Tensor:
    """Return one factor for each row, (B,), as it multiplies values (B, ...)."""
    return factors.reshape(-1, *[1] * (like.dim() - 1))


def example_shares(problem: Problem, batch: Batch, like: Tensor) -> Tensor:
    """Return (B,), what the loss of each example weighs in that of the batch.

    Args:
        problem: whose loss is reduced.
        batch: rows whose target may not be used weigh nothing.
        like: (B,), losses of the examples.
    """
    weights = torch.ones_like(like) if batch.weights is None else batch.weights.to(like.dtype)
    return weights / problem.divisor(batch)
