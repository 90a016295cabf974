"""A DEAP user's own toolbox, operators and loop, on any task of ours, with all whole generations evaluated at once."""

import importlib
import inspect
import pickle
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import torch
from deap import algorithms, base, tools
from numpy.typing import NDArray

from altprop import (
    Algorithm,
    AltpropError,
    Batch,
    Oracle,
    PredictorKind,
    Problem,
    Random,
    Refused,
    StepResult,
    check_whole,
)
from altprop.algorithms.evolutionary import checks
from altprop.algorithms.evolutionary.population import Minimised, fitness, refresh_statistics
from altprop.testing import set_up, toy

Loop = Callable[..., tuple[list[Any], tools.Logbook]]
UNPICKLED = "an individual, a strategy or a hall of fame of the toolbox cannot be pickled"


class DeapToolbox(Algorithm):
    """Let one of DEAP's loops, or one like them, run a toolbox of the user's, a generation a step.

    `toolbox` names a function that returns a `deap.base.Toolbox`. It may take `size`, the number of weights D, and
    `start`, the initial ones (D,). The toolbox has what its loop needs: `population`, `mate`, `mutate` and `select`, or
    `generate` and `update`. Where it registers no `evaluate`, an individual is a sequence of D weights, its fitness the
    task's objective on the step's batch (one value, minimised: weights=(-1.0,)), and `map` evaluates all that it is
    given as one tensor. Where it does, the task has no say and the model stays as it is: so DEAP's own examples run.

    A step is loop(population, toolbox, ngen=1, ...): for DEAP's loops, which change the population in place, as many
    generations as one call with a larger `ngen`, with the same draws. They evaluate only individuals without a valid
    fitness, so on mini-batches who survives would keep the value of an earlier batch; here every individual loses its
    value before the step, unless `keep_fitness`, which is DEAP's way and right on full batches.

    All draws from global `random` and `numpy.random` come from the run's stream. Optional members of the toolbox:
    `stats` and `halloffame`, as the loops take them (by default avg, std, min and max; the best one), and
    `done(population)`, which ends the run. The logbook's numbers are this step's scalars; the hall of fame is kept as
    an artefact. The model is the best individual of the present population; its `loss` before a step is not known.

    A checkpoint holds pickled individuals, hall of fame and the object whose method `update` is.

    Args:
        toolbox: import path of the function.
        loop: a name of `deap.algorithms`, or the import path of a function that takes the same arguments.
        options: further arguments of the loop; cxpb and mutpb are .5 and mu and lambda_ `population` unless given.
        population: individuals at the start, where the toolbox has a population.
        keep_fitness: see above.
        seed: what `random.seed` and `numpy.random.seed` are given before the first draw; None for the run's stream.

    Raises:
        AltpropError: for paths that do not import.

    Paper: Fortin, De Rainville, Gardner, Parizeau and Gagne 2012, DEAP: evolutionary algorithms made easy.
    """

    kind: ClassVar[PredictorKind] = PredictorKind.MODEL
    not_stacked: ClassVar[str] = "DEAP's loops run one population of Python objects"
    state: ClassVar[tuple[str, ...]] = ("search",)

    def __init__(
        self,
        toolbox: str = "altprop.algorithms.evolutionary.deap_toolbox.gaussian_toolbox",
        loop: str = "eaSimple",
        options: Mapping[str, Any] | None = None,
        population: int = 20,
        keep_fitness: bool = False,
        seed: int | None = None,
    ) -> None:
        self.make = _function(toolbox, "algorithm.toolbox")
        self.loop: Loop = _function(loop if "." in loop else f"deap.algorithms.{loop}", "algorithm.loop")
        self.size = check_whole(population, "algorithm.population", 1)
        usual = {"cxpb": 0.5, "mutpb": 0.5, "mu": self.size, "lambda_": self.size}
        self.taken = inspect.signature(self.loop).parameters
        self.options = {**{name: value for name, value in usual.items() if name in self.taken}, **(options or {})}
        self.keep_fitness = keep_fitness
        self.seed = None if seed is None else check_whole(seed, "algorithm.seed", 0)
        self.search: Search

    def _setup(self, problem: Problem) -> None:
        if self.seed is not None:
            problem.random.python_random.seed(self.seed)
            problem.random.numpy_random.seed(self.seed)
        start = problem.flat().cpu().numpy()
        known = {"size": len(start), "start": start}
        taken = inspect.signature(self.make).parameters
        with problem.random.as_global():
            toolbox = self.make(**{name: value for name, value in known.items() if name in taken})
            if not isinstance(toolbox, base.Toolbox):
                raise AltpropError(f"algorithm.toolbox must return a deap.base.Toolbox; got {type(toolbox).__name__}")
            self.search = Search(toolbox, self.size)
        self.ours = not hasattr(toolbox, "evaluate")

    def _step(self, batch: Batch | None) -> StepResult:
        assert batch is not None
        problem, search, toolbox = self.problem, self.search, self.search.toolbox
        loss = refresh_statistics(problem, batch)
        if self.ours:
            toolbox.evaluate = _never
            toolbox.map = lambda function, rows: self._mapped(function, list(rows), batch)
            if not self.keep_fitness:
                for one in search.population:
                    del one.fitness.values
        begun = (search.population,) if "population" in self.taken else ()
        told = {"stats": search.stats, "halloffame": search.hall, "verbose": False}
        with problem.random.as_global():
            search.population, logbook = self.loop(*begun, toolbox, ngen=1, **told, **self.options)
            done = bool(toolbox.done(search.population)) if hasattr(toolbox, "done") else False
        if self.ours:
            best = np.array(tools.selBest(search.population, 1)[0], dtype=np.float64)
            problem.assign(torch.from_numpy(best).to(problem.device, problem.dtype))
        return StepResult(loss, _numbers(logbook[-1]), done)

    def _mapped(self, function: Callable[..., Any], rows: list[Any], batch: Batch) -> Iterable[Any]:
        """Return what DEAP's `map` would, all evaluations in one."""
        if function is not _never:
            return map(function, rows)
        if not rows:
            return []
        if rows[0].fitness.weights != (-1.0,):
            weights = rows[0].fitness.weights
            raise Refused(f"the task's objective is minimised; its fitness needs weights=(-1.0,), and has {weights}")
        genes = np.array([np.asarray(row, dtype=np.float64) for row in rows])
        size = self.problem.flat().numel()
        if genes.shape[1:] != (size,):
            shape = list(genes.shape[1:])
            raise Refused(f"an individual holds {shape} numbers, the model {size}; make_toolbox(size) is told how many")
        stack = torch.from_numpy(genes).to(self.problem.device, self.problem.dtype)
        return [(value,) for value in fitness(self.problem, stack, batch).tolist()]

    def artefacts(self) -> dict[str, Any]:
        """Return the hall of fame: fitness and individual of each member, in words."""
        members = list(self.search.hall or ())
        return {
            "hall_of_fame": {
                "fitness": [" ".join(map(repr, map(float, one.fitness.values))) for one in members],
                "individual": [str(list(one)) if isinstance(one, np.ndarray) else str(one) for one in members],
            }
        }

    @classmethod
    def oracles(cls) -> tuple[Oracle, ...]:
        """Check that steps are the generations of one call, and that only ranks count."""
        return (
            Oracle("steps are the generations of one call", lambda: _from_one_call(False), 0.0),
            Oracle("not from another seed", lambda: _from_one_call(True), 1e-3, differs=True),
            Oracle("f and 7 log1p(f) - 3 give one run", lambda: checks.rank_difference(cls, checks.squashed), 0.0),
            Oracle(
                "not f and -f give one run", lambda: checks.rank_difference(cls, checks.negated), 1e-3, differs=True
            ),
            Oracle("fitness is of the present batch", lambda: _staleness(False), 1e-12),
            Oracle("not where it is kept", lambda: _staleness(True), 1e-3, differs=True),
        )


class Search:
    """What a toolbox has made so far, pickled in checkpoints.

    Args:
        toolbox: of the user.
        size: individuals at the start.
    """

    def __init__(self, toolbox: base.Toolbox, size: int) -> None:
        self.toolbox = toolbox
        self.population = toolbox.population(n=size) if hasattr(toolbox, "population") else []
        self.stats = getattr(toolbox, "stats", None) or _statistics()
        hall = getattr(toolbox, "halloffame", None)  # an empty one is false
        self.hall = tools.HallOfFame(1, similar=_alike) if hall is None else hall
        # The strategy of a loop that generates and updates: what its `update` is a method of.
        update = getattr(toolbox, "update", None)
        self.strategy = getattr(getattr(update, "func", update), "__self__", None)

    def state_dict(self) -> dict[str, NDArray[np.uint8]]:
        """Return it as bytes."""
        strategy = None if self.strategy is None else vars(self.strategy)
        try:
            kept = pickle.dumps((self.population, list(self.hall), strategy))
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise AltpropError(f"{UNPICKLED}: {error}") from error
        return {"pickled": np.frombuffer(kept, dtype=np.uint8)}

    def load_state_dict(self, saved: Mapping[str, NDArray[np.uint8]]) -> None:
        """Put a state of `state_dict` back."""
        self.population, hall, strategy = pickle.loads(saved["pickled"].tobytes())
        self.hall.clear()
        for one in hall:
            self.hall.insert(one)
        if strategy is not None:
            vars(self.strategy).update(strategy)


def _function(path: str, what: str) -> Callable[..., Any]:
    """Import a function by its path.

    Raises:
        AltpropError: where there is none.
    """
    module, _, name = str(path).rpartition(".")
    try:
        found: Any = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise AltpropError(f"{what}={path} is no function that can be imported: {error}") from error
    if not callable(found):
        raise AltpropError(f"{what}={path} is a {type(found).__name__}, not a function")
    checked: Callable[..., Any] = found
    return checked


def _never(individual: Any) -> tuple[float, ...]:
    """Stand where the task evaluates; `map` knows it."""
    raise AltpropError("the task evaluates individuals through toolbox.map; call toolbox.map(toolbox.evaluate, ...)")


def _alike(one: Any, other: Any) -> bool:
    return bool(np.array_equal(one, other)) if isinstance(one, np.ndarray) else bool(one == other)


def _statistics() -> tools.Statistics:
    stats = tools.Statistics(lambda one: one.fitness.values)
    for name, function in (("avg", np.mean), ("std", np.std), ("min", np.min), ("max", np.max)):
        stats.register(name, function)
    return stats


def _numbers(record: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers of an entry of a logbook by name."""
    return {
        str(name): float(value)
        for name, value in record.items()
        if name != "gen" and isinstance(value, (int, float, np.integer, np.floating))
    }


class Weights(list[float]):
    """An individual of the default toolbox."""

    def __init__(self, values: Sequence[float]) -> None:
        super().__init__(values)
        self.fitness = Minimised()


def gaussian_toolbox(start: NDArray[Any], sigma: float = 0.05) -> base.Toolbox:
    """Return DEAP's own operators on lists: two-point crossover, Gaussian mutation, tournaments of three.

    Args:
        start: weights (D,) around which the first population lies.
        sigma: of the first population and of mutations.
    """
    toolbox = base.Toolbox()

    def individual() -> Weights:
        return Weights((start + sigma * np.random.standard_normal(len(start))).tolist())  # noqa: NPY002

    toolbox.register("population", tools.initRepeat, list, individual)
    toolbox.register("mate", tools.cxTwoPoint)
    toolbox.register("mutate", tools.mutGaussian, mu=0.0, sigma=sigma, indpb=0.5)
    toolbox.register("select", tools.selTournament, tournsize=3)
    return toolbox


def _from_one_call(other: bool, steps: int = 6) -> float:
    """Return the largest difference of the best individual from one call of the loop with as many generations."""
    problem, batch = toy(seed=1)
    learner = set_up(DeapToolbox(population=10, keep_fitness=True, seed=5), problem)
    start = problem.flat().numpy()
    for _ in range(steps):
        learner.step(batch)
    single = Random(0)
    single.python_random.seed(5 + other)
    single.numpy_random.seed(5 + other)
    with single.as_global():
        toolbox = gaussian_toolbox(start)
        population = toolbox.population(n=10)
        toolbox.register(
            "evaluate", lambda one: tuple(fitness(problem, torch.tensor([one], dtype=torch.float64), batch).tolist())
        )
        algorithms.eaSimple(population, toolbox, ngen=steps, cxpb=0.5, mutpb=0.5, verbose=False)
    best = torch.tensor(tools.selBest(population, 1)[0], dtype=torch.float64)
    return float((best - problem.flat()).abs().max())


def _staleness(keep_fitness: bool, steps: int = 6) -> float:
    """Return the largest difference of an individual's fitness from its objective on the present batch.

    Each batch has other targets, so a fitness kept from an earlier batch is wrong by about 1.
    """
    problem, batch = toy(seed=2)
    learner = set_up(DeapToolbox(population=10, keep_fitness=keep_fitness), problem)
    worst = 0.0
    for shift in range(steps):
        present = replace(batch, targets=(batch.targets + shift) % 3)
        learner.step(present)
        population = learner.search.population
        fresh = fitness(problem, torch.tensor([list(one) for one in population], dtype=torch.float64), present)
        kept = torch.tensor([one.fitness.values[0] for one in population], dtype=torch.float64)
        worst = max(worst, float((fresh - kept).abs().max()))
    return worst
