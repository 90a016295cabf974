"""Fitness of a whole population, and individuals as DEAP's selections take them.

DEAP's `creator` makes classes in a global registry, and its own loops evaluate those without a valid fitness only; here
an individual is a class of our own, a row of a stack with the fitness that it has on the present batch. The stack is
evaluated as one, on one batch and under one noise. DEAP's own draws come from the run's stream (`Random.as_global`).
"""

from collections.abc import Sequence
from random import Random as PythonRandom

import numpy as np
import torch
from deap import base
from numpy.typing import NDArray
from torch import Tensor

from altprop import Batch, Problem, Random, Refused


class Minimised(base.Fitness):  # type: ignore[misc]
    """DEAP's fitness of one objective that is minimised."""

    weights = (-1.0,)


class LossAndSize(base.Fitness):  # type: ignore[misc]
    """DEAP's fitness of two objectives that are minimised."""

    weights = (-1.0, -1.0)


class Individual:
    """A row of a population, as DEAP's selections take it.

    Attributes:
        row: position in the stack.
        fitness: the objective on the present batch.
    """

    __slots__ = ("fitness", "row")

    def __init__(self, row: int, value: float) -> None:
        self.row, self.fitness = row, Minimised((value,))


def individuals(values: Tensor) -> list[Individual]:
    """Return the rows of a population as individuals, from the fitness of each, (P,)."""
    return [Individual(row, value) for row, value in enumerate(values.tolist())]


def tournament(values: Tensor, count: int, size: int, random: Random) -> Tensor:
    """Return the rows (count,) of the winners of tournaments of `size`, from the fitness of each row (P,).

    These are the rows that DEAP's `selTournament` chooses, draw for draw: who is drawn first wins among equals.
    """
    drawn = _choices(random.python_random, len(values), count * size).reshape(count, size)
    entered = values.numpy(force=True)[drawn]
    winners = drawn[np.arange(count), entered.argmin(1)]
    return torch.from_numpy(winners).to(values.device)


def _choices(random: PythonRandom, size: int, count: int) -> NDArray[np.int64]:
    """Return what `random.randrange(size)` would return so many times, and leave the stream where it would.

    Each call takes the highest bits of words of 32 until they are below `size`. As many words as draws are missing are
    never too many.

    >>> one, other = PythonRandom(0), PythonRandom(0)
    >>> _choices(one, 100, 5).tolist() == [other.randrange(100) for _ in range(5)], one.random() == other.random()
    (True, True)
    """
    found, missing = [], count
    while missing:
        words = np.frombuffer(random.getrandbits(32 * missing).to_bytes(4 * missing, "little"), "<u4")
        draws = words.astype(np.int64) >> (32 - size.bit_length())
        found.append(draws[draws < size])
        missing -= len(found[-1])
    return np.concatenate(found)


def fitness(problem: Problem, stack: Tensor, batch: Batch) -> Tensor:
    """Return the objective of each row of a stack (P, D) on this batch, (P,); a value that is no number ranks last.

    DEAP's own loops evaluate those without a valid fitness only, so on mini-batches survivors would keep the value of
    an earlier batch. Here nobody brings a fitness along.
    """
    return torch.nan_to_num(problem.population_objective(stack, batch), nan=torch.inf, posinf=torch.inf)


def fitness_and_behaviour(problem: Problem, stack: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """Return the objective (P,) and the behaviour (P, K) of each row of a stack (P, D), from the same evaluations.

    An individual of which one of these numbers is none ranks last.
    """
    values, behaviour = problem.population_behaviour(stack, batch)
    known = values.isfinite() & behaviour.isfinite().all(1)
    return values.where(known, torch.inf), behaviour


def refresh_statistics(problem: Problem, batch: Batch) -> Tensor | None:
    """Let running statistics (batch normalisation) see the batch, where the model has any; return the objective.

    The evaluation of a population moves none, and the model predicts with them.
    """
    return problem.objective(batch) if any(True for _ in problem.model.buffers()) else None


def centred_ranks(values: Tensor) -> Tensor:
    """Return the rank of each value (P,), from -1/2 for the lowest to 1/2 for the highest; equal values share theirs.

    >>> centred_ranks(torch.tensor([7.0, 0.0, 7.0, 1.0, torch.inf]))
    tensor([ 0.1250, -0.5000,  0.1250, -0.2500,  0.5000])
    """
    below, level = values[None, :] < values[:, None], values[None, :] == values[:, None]
    rank = below.sum(1, dtype=values.dtype) + (level.sum(1, dtype=values.dtype) - 1) / 2
    return rank / (len(values) - 1) - 0.5


def pareto(points: Sequence[tuple[float, int, str]]) -> list[tuple[float, int, str]]:
    """Return those that nobody beats in loss at their size or below, the smallest first.

    >>> pareto([(3.0, 1, "a"), (2.0, 5, "b"), (2.5, 7, "c"), (2.0, 5, "d")])
    [(3.0, 1, 'a'), (2.0, 5, 'b')]
    """
    front: list[tuple[float, int, str]] = []
    for loss, size, text in sorted(points, key=lambda point: (point[1], point[0], point[2])):
        if not front or loss < front[-1][0]:
            front.append((loss, size, text))
    return front


def refuse_dense(problem: Problem, size: int, most: int, *, matrices: int, instead: str) -> None:
    """Refuse a rule that holds matrices of D x D and decomposes one, where there are too many parameters.

    Args:
        problem: whose model it is.
        size: D.
        most: the largest D that is not refused.
        matrices: how many are alive at once.
        instead: what to choose.

    Raises:
        Refused: with an estimate of bytes, and of seconds at 10 GFLOP/s.
    """
    if size > most:
        gigabytes = matrices * size**2 * torch.empty((), dtype=problem.dtype, device="cpu").element_size() / 1e9
        seconds = 9 * size**3 / 1e10
        raise Refused(
            f"a full covariance matrix of {size} parameters takes {gigabytes:.1f} GB and about {seconds:.0f} s "
            f"for each decomposition; use {instead}, or raise algorithm.most_parameters={most}"
        )
