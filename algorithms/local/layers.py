"""What local rules share: one block run on a detached input, and a loss of its output alone differentiated in it."""

from collections.abc import Callable, Mapping
from typing import cast

import torch
from torch import Tensor

from altprop import Batch, Block, Grads, Problem, Refused


def chain(problem: Problem) -> list[Block]:
    """Return the model's blocks in order."""
    return [cast("Block", block) for block in problem.layered.blocks]


def hidden_blocks(problem: Problem, rule: str) -> list[Block]:
    """Return all blocks but the last.

    Raises:
        Refused: where there is none.
    """
    *hidden, _ = chain(problem)
    if not hidden:
        raise Refused(f"{rule} teaches hidden layers, and this model has none; use model=mlp model.hidden=[100,100]")
    return hidden


def output_shapes(problem: Problem, blocks: list[Block]) -> list[tuple[int, ...]]:
    """Return the shape of what each of the first blocks gives for one example."""
    shapes = []
    x = torch.zeros(1, *problem.spec.input_shape, dtype=problem.dtype, device=problem.device)
    with problem.evaluating(), torch.no_grad():
        for block in blocks:
            x = block(x)
            shapes.append(tuple(x.shape[1:]))
    return shapes


def parameters_of(problem: Problem, block: Block) -> dict[str, Tensor]:
    """Return what a block and its noise learn, by their names in the model."""
    names = {id(p): name for name, p in zip(*problem.named_parameters(), strict=True)}
    used = [*block.parameters(), *(() if block.noise is None else block.noise.parameters())]
    return {names[id(p)]: p for p in used}


def local_pass(
    problem: Problem,
    layer: Callable[[Tensor], Tensor],
    head: Callable[[Tensor], Tensor],
    x: Tensor,
    parameters: Mapping[str, Tensor],
) -> tuple[Tensor, Tensor, Callable[[Tensor], Grads]]:
    """Return what a layer's head tells of its output, that output, and the way back from the former.

    Args:
        problem: whose ledger counts one pass over a block, forth and back.
        layer: x -> output.
        head: output -> what a local loss is a function of.
        x: (B, ...), detached here, so that nothing flows further down.
        parameters: name -> what is differentiated in: of the layer and of the head.
    """
    outputs = []

    def local(seen: Tensor) -> Tensor:
        outputs.append(layer(seen))
        return head(outputs[0])

    told, back = problem.pull(local, x, parameters)
    return told, outputs[0].detach(), lambda cotangent: back(cotangent, inputs=False).parameters


def local_gradient(
    problem: Problem,
    layer: Callable[[Tensor], Tensor],
    x: Tensor,
    loss: Callable[[Tensor], Tensor],
    parameters: Mapping[str, Tensor],
) -> tuple[Tensor, Tensor, Grads]:
    """Return the local loss of a layer, a scalar, its output, and the gradient of that loss by parameter name.

    Args:
        problem, layer, x, parameters: as for `local_pass`.
        loss: output -> scalar.
    """
    value, output, back = local_pass(problem, layer, loss, x, parameters)
    return value, output, back(torch.ones_like(value))


def add(total: Grads, found: Mapping[str, Tensor]) -> None:
    """Add gradients to those of the same names; what a noise learns has a share in several blocks."""
    for name, value in found.items():
        total[name] = total[name] + value if name in total else value


def with_penalty(problem: Problem, value: Tensor, direction: Grads) -> tuple[Tensor, Grads]:
    """Return a loss and a direction with the penalty of task and noise, where there is one."""
    penalty = problem.penalty()
    if penalty is None:
        return value, direction
    return value + penalty[0], {name: one + penalty[1][name] for name, one in direction.items()}


def shares(problem: Problem, batch: Batch) -> Tensor:
    """Return (B,), what each row weighs in the mean over the batch: 0 where its target may not be used."""
    like = batch.inputs.new_ones(batch.rows)
    weights = like if batch.weights is None else batch.weights.to(like.dtype)
    return weights / problem.divisor(batch)
