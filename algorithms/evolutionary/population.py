"""Fitness of a whole population, and individuals as DEAP's selections take them.

DEAP's `creator` makes classes in a global registry, and its own loops evaluate those without a valid fitness only; here
an individual is a class of our own, a row of a stack with the fitness that it has on the present batch. The stack is
evaluated as one, on one batch and under one noise. DEAP's own draws come from the run's stream (`Random.as_global`).
"""

import torch
from deap import base
from torch import Tensor

from altprop import Batch, Problem


class Minimised(base.Fitness):  # type: ignore[misc]
    """DEAP's fitness of one objective that is minimised."""

    weights = (-1.0,)


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


def fitness(problem: Problem, stack: Tensor, batch: Batch) -> Tensor:
    """Return the objective of each row of a stack (P, D) on this batch, (P,); a value that is no number ranks last.

    DEAP's own loops evaluate those without a valid fitness only, so on mini-batches survivors would keep the value of
    an earlier batch. Here nobody brings a fitness along.
    """
    return torch.nan_to_num(problem.population_objective(stack, batch), nan=torch.inf, posinf=torch.inf)


def refresh_statistics(problem: Problem, batch: Batch) -> Tensor | None:
    """Let running statistics (batch normalisation) see the batch, where the model has any; return the objective.

    The evaluation of a population moves none, and the model predicts with them.
    """
    return problem.objective(batch) if any(True for _ in problem.model.buffers()) else None
