"""A generation of 256 networks of 2,410 weights: DEAP's eaSimple as its users write it, batched, and `genetic`."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from deap import algorithms, base, tools
from numpy.typing import NDArray

from altprop.algorithms.evolutionary.deap_toolbox import Weights, gaussian_toolbox
from altprop.algorithms.evolutionary.population import Minimised
from altprop.conformance.case import composed
from altprop.harness.building import Parts, build_parts
from altprop.harness.cell import make_cell
from benchmarks.timing import Table, interleave

POPULATION = 256
COMMON = ("task=digits", "model.hidden=[32]", "probes=off")
BATCHED = ("algorithm=deap_toolbox", "algorithm.keep_fitness=true")
ARRAYS = (*BATCHED, "algorithm.toolbox=benchmarks.populations.arrays")


class Row(np.ndarray[Any, Any]):
    """An individual whose weights are an array."""

    fitness: base.Fitness

    def __deepcopy__(self, memo: Any) -> "Row":
        return copied(self)


def row(values: NDArray[Any]) -> Row:
    """Return an individual without a fitness."""
    made = values.astype(np.float32).view(Row)
    made.fitness = Minimised()
    return made


def copied(one: Row) -> Row:
    """Return a copy; DEAP's own deepcopy walks over every weight."""
    made = row(one)
    made.fitness.values = one.fitness.values
    return made


def crossed(one: Row, other: Row) -> tuple[Row, Row]:
    """Cross two individuals at two points; slices of arrays are views and are copied first."""
    low, high = sorted(np.random.randint(0, len(one) + 1, 2))  # noqa: NPY002
    one[low:high], other[low:high] = other[low:high].copy(), one[low:high].copy()
    return one, other


def mutated(one: Row, sigma: float = 0.05) -> tuple[Row]:
    """Add N(0, sigma^2) to half of the weights."""
    count = len(one)
    one += sigma * np.random.standard_normal(count) * (np.random.random_sample(count) < 0.5)  # noqa: NPY002
    return (one,)


def arrays(start: NDArray[Any]) -> base.Toolbox:
    """Return a toolbox of arrays, with operators that copy them."""
    toolbox = base.Toolbox()
    toolbox.register("individual", lambda: row(start + 0.05 * np.random.standard_normal(len(start))))  # noqa: NPY002
    toolbox.register("population", tools.initRepeat, list, toolbox.individual)
    toolbox.register("clone", copied)
    toolbox.register("mate", crossed)
    toolbox.register("mutate", mutated)
    toolbox.register("select", tools.selTournament, tournsize=3)
    return toolbox


def stepping(*learner: str, rows: int, population: int = POPULATION) -> Callable[[], float]:
    """Return a generation of a learner of ours, on the next batch."""
    overrides = (*COMMON, f"task.batch_size={rows}", f"algorithm.population={population}", *learner)
    parts = build_parts(make_cell(composed(overrides, None), overrides), 0)
    place = 0

    def go() -> float:
        nonlocal place
        parts.algorithm.step(parts.feed.batch(place))
        place += 1
        return population

    return go


def one_by_one(rows: int, population: int = POPULATION) -> Callable[[], float]:
    """Return eaSimple as DEAP's users write it: lists, `map`, one network at a time."""
    overrides = (*COMMON, f"task.batch_size={rows}", f"algorithm.population={population}", "algorithm=genetic")
    parts: Parts = build_parts(make_cell(composed(overrides, None), overrides), 0)
    batch, loss = parts.feed.batch(0), torch.nn.CrossEntropyLoss()
    toolbox = gaussian_toolbox(parts.problem.flat().numpy())

    def evaluate(one: Weights) -> tuple[float]:
        with torch.no_grad():
            torch.nn.utils.vector_to_parameters(torch.tensor(one), parts.model.parameters())
            return (float(loss(parts.model(batch.inputs), batch.targets)),)

    toolbox.register("evaluate", evaluate)
    individuals: list[Weights] = toolbox.population(n=population)

    def go() -> float:
        algorithms.eaSimple(individuals, toolbox, cxpb=0.5, mutpb=0.5, ngen=1, verbose=False)
        return population

    return go


def run(rounds: int) -> list[Table]:
    """Measure; see the module. DEAP's loop evaluates who has changed (three in four), `genetic` every genome."""
    torch.set_num_threads(1)
    tables = []
    for rows in (64, 512):
        ways = {
            "DEAP, lists, one by one": one_by_one(rows),
            "DEAP, lists, batched map": stepping(*BATCHED, rows=rows),
            "DEAP, arrays, batched map": stepping(
                *BATCHED, "algorithm.toolbox=benchmarks.populations.arrays", rows=rows
            ),
            "genetic": stepping("algorithm=genetic", rows=rows),
        }
        found = {f"{rows} rows: {way}": times for way, times in interleave(ways, max(3, rounds // 3)).items()}
        title = f"populations: {POPULATION} networks 64-32-10 on {rows} rows, whole generations"
        tables.append(Table(title, f"{rows} rows: DEAP, lists, one by one", "an individual", found))
    return tables
