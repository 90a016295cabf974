"""What settling rules share: hidden states that are driven from below and from above until they rest."""

from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import Tensor

from altprop import Block, ChainWalk, Problem, Refused


def hidden_blocks(problem: Problem, rule: str) -> list[Block]:
    """Return the blocks whose outputs settle: all but the last.

    Args:
        problem: whose model is a chain.
        rule: its name in words, which begins a refusal.

    Raises:
        Refused: with noise, and for normalised layers.
    """
    if problem.uncounted.noise is not None:
        raise Refused(f"{rule} settles under an energy that has no masks; use dropout=none")
    hidden = [cast("Block", block) for block in problem.layered.blocks][:-1]
    if any(block.norm is not None for block in hidden):
        raise Refused(f"{rule} has no energy of normalised layers; use model.normalisation=none")
    return hidden


def settle(
    walk: ChainWalk,
    hidden: Sequence[Block],
    steps: int,
    rate: float,
    top: Callable[[ChainWalk], Tensor] | None = None,
    gain: float = 1.0,
) -> ChainWalk:
    """Let the hidden states of a walk take steps, and return the walk at the last ones.

    A step is s_l <- (1 - rate) s_l + rate f(W_l s_(l-1) + b_l + gain W_(l+1)^T s_(l+1)).

    Args:
        walk: at the states to start from.
        hidden: the blocks whose outputs they are.
        steps: how many.
        rate: of a step.
        top: walk -> what stands for the state of the last block, (B, C), or None for nothing from there.
        gain: of what comes from above.
    """
    for _ in range(steps if walk.states else 0):
        drives = walk.preactivations[:-1]
        signals = walk.states[1:] if top is None else [*walk.states[1:], top(walk)]
        above = [walk.send(index, signal) for index, signal in enumerate(signals, 1)]
        with torch.no_grad():
            if gain != 1:
                above = [gain * signal for signal in above]
            drives[: len(above)] = [z + signal for z, signal in zip(drives, above, strict=False)]
            wanted = [block.activation.function(u) for block, u in zip(hidden, drives, strict=True)]
            states = [(1 - rate) * s + rate * w for s, w in zip(walk.states, wanted, strict=True)]
        walk = walk.at(states)
    return walk
