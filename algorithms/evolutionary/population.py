"""Individuals and DEAP's toolbox with batched fitness, for all population learners of this family.

DEAP's `creator` makes classes in a global registry; here an individual is a class of our own, a row of a stack and its
fitness. DEAP's `map` gets all individuals of a generation at once, so that they are evaluated as one stack, on one
batch and under one noise. DEAP's own draws come from the run's stream (`Random.as_global`).
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from deap import base
from torch import Tensor

from altprop import Batch, Problem


class Minimised(base.Fitness):  # type: ignore[misc]
    """DEAP's fitness of one objective that is minimised."""

    weights = (-1.0,)


class Individual:
    """A parameter point and its fitness, as DEAP's selections take it.

    Attributes:
        genome: (D,), a row of the generation's stack.
        fitness: the objective on the present batch.
        row: position in the stack.
    """

    __slots__ = ("fitness", "genome", "row")

    def __init__(self, genome: Tensor, row: int) -> None:
        self.genome, self.row, self.fitness = genome, row, Minimised()


def batched_map(function: Callable[[Tensor], Tensor], individuals: Sequence[Individual]) -> list[tuple[float]]:
    """Apply a function of a stack (P, D) -> (P,) to all individuals at once: DEAP's `toolbox.map`.

    A value that is no number ranks last.
    """
    values = function(torch.stack([individual.genome for individual in individuals]))
    return [(value,) for value in torch.nan_to_num(values, nan=torch.inf, posinf=torch.inf).tolist()]


def make_toolbox(problem: Problem) -> Any:
    """Return DEAP's toolbox with `map` and `evaluate` (individuals, batch=...) registered."""
    toolbox = base.Toolbox()
    toolbox.register("map", batched_map)
    toolbox.register("evaluate", problem.population_objective)
    return toolbox


def evaluated(toolbox: Any, stack: Tensor, batch: Batch) -> list[Individual]:
    """Return the rows of a stack (P, D) as individuals, every one evaluated on this batch.

    DEAP's own loops evaluate those without a valid fitness only, so on mini-batches survivors would keep the value of
    an earlier batch. Here nobody brings a fitness along.
    """
    individuals = [Individual(genome, row) for row, genome in enumerate(stack)]
    for individual, values in zip(
        individuals, toolbox.map(partial(toolbox.evaluate, batch=batch), individuals), strict=True
    ):
        individual.fitness.values = values
    return individuals


def refresh_statistics(problem: Problem, batch: Batch) -> Tensor | None:
    """Let running statistics (batch normalisation) see the batch, where the model has any; return the objective.

    The evaluation of a population moves none, and the model predicts with them.
    """
    return problem.objective(batch) if any(True for _ in problem.model.buffers()) else None
