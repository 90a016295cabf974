"""Evolution by other libraries, where they can be imported: EvoTorch, evosax, pycma, neat-python; DEAP's bare CMA-ES.

They drag other versions in; put them into a folder of their own and on PYTHONPATH: `pip install --no-deps --target
peers evotorch==0.6.1 ray==2.60.0 "pandas<3" python-dateutil pytz six click protobuf jsonschema
jsonschema-specifications referencing rpds-py attrs gymnasium farama-notifications cloudpickle evosax==0.3.2 jax==0.6.2
jaxlib==0.6.2 flax==0.10.7 optax==0.2.5 chex==0.1.90 dotmap opt_einsum ml_dtypes absl-py toolz msgpack cma==4.5.0
neat-python==2.0.0`. EvoTorch imports ray and never starts it here.

A function takes a population (P, D) and returns its values (P,), which are minimised.
"""

import contextlib
import importlib
import importlib.metadata
import logging
import os
import random
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import torch
from deap import cma as deap_cma
from torch import Tensor
from torch.nn import functional

from altprop.algorithms.evolutionary.population import Minimised
from altprop.randomness import Random

Function = Callable[[Tensor], Tensor]
Generation = Callable[[], float]
"""Evaluates one generation and returns its lowest value."""

PACKAGES = ("torch", "deap", "cma", "evotorch", "evosax", "jax", "neat-python")


class Learner(NamedTuple):
    """A learner of another library on a network.

    Attributes:
        generation: evaluates a population and learns from it.
        model: () -> (D,), the weights that it would predict with: the mean, or the best of the latest population.
        population: () -> (P, D), the latest.
    """

    generation: Callable[[], object]
    model: Callable[[], Tensor]
    population: Callable[[], Tensor]


class Network(NamedTuple):
    """The task of all learners.

    Attributes:
        sizes: units of each layer, the inputs first; ReLU between.
        inputs: (B, F).
        targets: (B,) classes.
        start: (D,) initial weights.
        first: (P, D) the first population of genetic algorithms.
        sigma: width of the first search distribution, and of mutations.
        lr: Adam's learning rate, where an optimizer moves the mean.
    """

    sizes: tuple[int, ...]
    inputs: Tensor
    targets: Tensor
    start: Tensor
    first: Tensor
    sigma: float
    lr: float


def versions() -> str:
    """Return the versions of everything that is here."""
    found = []
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found.append(f"{name} {importlib.metadata.version(name)}")
    return ", ".join(found)


# Covariance matrix adaptation on functions, in float64.


class _Row(list[float]):
    """An individual as DEAP's strategy takes it."""

    def __init__(self, values: Sequence[float]) -> None:
        super().__init__(values)
        self.fitness = Minimised()


def deap_strategy(function: Function, start: Tensor, sigma: float, count: int, seed: int) -> Generation:
    """Return DEAP's `cma.Strategy`, which has no negative weights."""
    stream, strategy = Random(seed), deap_cma.Strategy(start.tolist(), sigma, lambda_=count)

    def go() -> float:
        with stream.as_global():
            rows = strategy.generate(_Row)
        values = function(torch.tensor(rows, dtype=torch.float64)).tolist()
        for row, value in zip(rows, values, strict=True):
            row.fitness.values = (value,)
        strategy.update(rows)
        return float(min(values))

    return go


def pycma(function: Function, start: Tensor, sigma: float, count: int, seed: int, active: bool) -> Generation:
    """Return pycma's CMA-ES; its own stopping rules are not asked."""
    cma: Any = importlib.import_module("cma")
    options = {"popsize": count, "seed": seed + 1, "CMA_active": active, "verbose": -9}
    search = cma.CMAEvolutionStrategy(start.numpy(), sigma, options)

    def go() -> float:
        rows = search.ask()
        values = function(torch.tensor(np.array(rows))).tolist()
        search.tell(rows, values)
        return float(min(values))

    return go


def evotorch_cma(function: Function, start: Tensor, sigma: float, count: int, seed: int, active: bool) -> Generation:
    """Return EvoTorch's CMA-ES."""
    algorithms: Any = importlib.import_module("evotorch.algorithms")
    problem = _evotorch_problem(function, start, seed)
    search = algorithms.CMAES(problem, stdev_init=sigma, popsize=count, center_init=start.tolist(), active=active)

    def go() -> float:
        search.step()
        return float(search.population.evals.min())

    return go


def evosax_cma(function: Function, start: Tensor, sigma: float, count: int, seed: int, active: bool) -> Generation:
    """Return evosax's CMA-ES in float64."""
    jax = _jax()
    with jax.experimental.enable_x64():
        mean, search = jax.numpy.asarray(start.numpy()), _evosax_strategy(len(start), count, active)
        params = search.default_params.replace(std_init=jax.numpy.asarray(sigma, dtype=mean.dtype))
        state, key = search.init(jax.random.key(seed), mean, params), jax.random.key(seed + 1000)

    def go() -> float:
        nonlocal state, key
        with jax.experimental.enable_x64():
            key, asked, told = jax.random.split(key, 3)
            rows, state = search.ask(asked, state, params)
            values = function(torch.from_numpy(np.array(rows)))
            state, _ = search.tell(told, rows, jax.numpy.asarray(values.numpy()), state, params)
        return float(values.min())

    return go


@cache
def _evosax_strategy(size: int, count: int, active: bool) -> Any:
    """Return one strategy for all seeds: each would compile anew."""
    jax = _jax()
    algorithms: Any = importlib.import_module("evosax.algorithms")
    with jax.experimental.enable_x64():
        search = algorithms.CMA_ES(population_size=count, solution=jax.numpy.zeros(size))
    search.use_negative_weights = active
    return search


# Networks by EvoTorch.


def losses(network: Network) -> Function:
    """Return weights (P, D) -> cross-entropy of each network (P,), by batched matrix products."""
    layers = list(zip(network.sizes[:-1], network.sizes[1:], strict=True))

    def evaluate(stack: Tensor) -> Tensor:
        h, place = network.inputs.expand(len(stack), -1, -1), 0
        for layer, (n, m) in enumerate(layers):
            weight = stack[:, place : place + n * m].reshape(-1, m, n)
            bias = stack[:, place + n * m : place + n * m + m]
            h = torch.baddbmm(bias[:, None], h.relu() if layer else h, weight.mT)
            place += n * m + m
        each = functional.cross_entropy(h.flatten(0, 1), network.targets.repeat(len(stack)), reduction="none")
        return each.reshape(len(stack), -1).mean(1)

    return evaluate


def _evotorch_problem(function: Function, start: Tensor, seed: int) -> Any:
    evotorch: Any = importlib.import_module("evotorch")
    logging.getLogger("evotorch").setLevel(logging.WARNING)
    return evotorch.Problem(
        "min", function, solution_length=len(start), initial_bounds=(-1.0, 1.0), dtype=start.dtype, seed=seed,
        vectorized=True,
    )  # fmt: skip


def _evotorch_search(search: Any, ahead: bool = False) -> Learner:
    """Return a search; a new mean is made at the start of the step after its population (`ahead`)."""

    def model() -> Tensor:
        if not ahead:
            best: Tensor = search.population.values[search.population.evals[:, 0].argmin()]
            return best.clone()
        search.step()
        mean: Tensor = search.status["center"]
        return mean.clone()

    return Learner(search.step, model, lambda: search.population.values.clone())


def evotorch_snes(network: Network, count: int, seed: int) -> Learner:
    """Return EvoTorch's SNES at its own rates, which are the paper's."""
    algorithms: Any = importlib.import_module("evotorch.algorithms")
    problem = _evotorch_problem(losses(network), network.start, seed)
    search = algorithms.SNES(problem, stdev_init=network.sigma, popsize=count, center_init=network.start)
    return _evotorch_search(search, ahead=True)


def evotorch_pgpe(network: Network, count: int, seed: int, sigma_rate: float) -> Learner:
    """Return EvoTorch's PGPE with Adam and centred ranks; with a rate of 0 it is an evolution strategy of pairs."""
    algorithms: Any = importlib.import_module("evotorch.algorithms")
    problem = _evotorch_problem(losses(network), network.start, seed)
    search = algorithms.PGPE(
        problem, popsize=count, center_learning_rate=network.lr, stdev_learning_rate=sigma_rate, optimizer="adam",
        stdev_init=network.sigma, center_init=network.start, ranking_method="centered", stdev_max_change=0.2,
    )  # fmt: skip
    return _evotorch_search(search, ahead=True)


def evotorch_genetic(network: Network, seed: int, elitist: bool, again: bool = False) -> Learner:
    """Return EvoTorch's genetic algorithm: tournaments of 5, two-point crossover, Gaussian mutation of every gene.

    Args:
        network: the task.
        seed: of its draws.
        elitist: the best of parents and children live on, or children only.
        again: parents are evaluated again in each generation, EvoTorch's default, for noisy fitness.
    """
    algorithms: Any = importlib.import_module("evotorch.algorithms")
    operators: Any = importlib.import_module("evotorch.operators")
    problem = _evotorch_problem(losses(network), network.start, seed)
    used = [
        operators.TwoPointCrossOver(problem, tournament_size=5),
        operators.GaussianMutation(problem, stdev=network.sigma),
    ]
    search = algorithms.GeneticAlgorithm(
        problem, operators=used, popsize=len(network.first), elitist=elitist, re_evaluate=again
    )
    search.population.set_values(network.first.clone())
    return _evotorch_search(search)


# Networks by evosax: a generation is one compiled function.


def _jax() -> Any:
    """Import JAX on one thread, as far as it obeys."""
    os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1")
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    jax: Any = importlib.import_module("jax")
    importlib.import_module("jax.experimental")
    return jax


def _evosax_losses(network: Network) -> Callable[[Any], Any]:
    """Return weights (P, D) -> cross-entropy of each network (P,), as JAX maps a network over a population."""
    jax = _jax()
    inputs, targets = (jax.numpy.asarray(one.numpy()) for one in (network.inputs, network.targets))
    layers = list(zip(network.sizes[:-1], network.sizes[1:], strict=True))

    def loss(flat: Any) -> Any:
        h, place = inputs, 0
        for layer, (n, m) in enumerate(layers):
            weight = flat[place : place + n * m].reshape(m, n)
            h = (jax.nn.relu(h) if layer else h) @ weight.T + flat[place + n * m : place + n * m + m]
            place += n * m + m
        return -jax.numpy.take_along_axis(jax.nn.log_softmax(h), targets[:, None], 1).mean()

    return jax.vmap(loss)  # type: ignore[no-any-return]


def _evosax_search(search: Any, params: Any, state: Any, network: Network, seed: int, by_mean: bool) -> Learner:
    jax = _jax()
    evaluate, key = _evosax_losses(network), jax.random.key(seed + 1000)
    latest: Any = None

    @jax.jit
    def generation(state: Any, key: Any) -> Any:
        key, asked, told = jax.random.split(key, 3)
        rows, state = search.ask(asked, state, params)
        values = evaluate(rows)
        state, _ = search.tell(told, rows, values, state, params)
        return state, key, rows, values

    def go() -> None:
        nonlocal state, key, latest
        state, key, *latest = generation(state, key)
        latest[1].block_until_ready()
        state.best_fitness.block_until_ready()

    def model() -> Tensor:
        found = state.mean if by_mean else latest[0][latest[1].argmin()]
        return torch.from_numpy(np.array(found))

    return Learner(go, model, lambda: torch.from_numpy(np.array(latest[0])))


def _evosax_mean(name: str, network: Network, count: int, seed: int, replaced: Any, **options: Any) -> Learner:
    jax = _jax()
    algorithms: Any = importlib.import_module("evosax.algorithms")
    mean = jax.numpy.asarray(network.start.numpy())
    search = getattr(algorithms, name)(population_size=count, solution=mean, **options)
    params = search.default_params.replace(**replaced)
    state = search.init(jax.random.key(seed), mean, params)
    return _evosax_search(search, params, state, network, seed, by_mean=True)


def evosax_snes(network: Network, count: int, seed: int) -> Learner:
    """Return evosax's SNES at its own rates, which are the paper's."""
    return _evosax_mean("SNES", network, count, seed, {"std_init": network.sigma})


def evosax_pgpe(network: Network, count: int, seed: int, sigma_rate: float) -> Learner:
    """Return evosax's PGPE with Adam and centred ranks."""
    optax: Any = importlib.import_module("optax")
    replaced = {"std_init": network.sigma, "std_lr": sigma_rate, "std_max_change": 0.2}
    return _evosax_mean("PGPE", network, count, seed, replaced, optimizer=optax.adam(network.lr))


def evosax_open_es(network: Network, count: int, seed: int) -> Learner:
    """Return evosax's OpenAI-ES with Adam, centred ranks and mirrored pairs."""
    optax: Any = importlib.import_module("optax")
    options = {"optimizer": optax.adam(network.lr), "std_schedule": optax.constant_schedule(network.sigma)}
    return _evosax_mean("Open_ES", network, count, seed, {}, **options)


def evosax_genetic(network: Network, seed: int) -> Learner:
    """Return evosax's SimpleGA: parents from the better half, each gene from either; it evaluates the first ones."""
    jax = _jax()
    algorithms: Any = importlib.import_module("evosax.algorithms")
    optax: Any = importlib.import_module("optax")
    first = jax.numpy.asarray(network.first.numpy())
    search = algorithms.SimpleGA(len(first), first[0], std_schedule=optax.constant_schedule(network.sigma))
    params = search.default_params.replace(crossover_rate=0.5)
    values = jax.jit(_evosax_losses(network))(first)
    state = search.init(jax.random.key(seed), first, values, params)
    return _evosax_search(search, params, state, network, seed, by_mean=False)


# XOR by neat-python.

NEAT_EXAMPLE: dict[str, dict[str, object]] = {
    "NEAT": {
        "fitness_criterion": "max", "fitness_threshold": 3.9, "no_fitness_termination": False, "pop_size": 150,
        "reset_on_extinction": False,
    },
    "DefaultGenome": {
        "num_inputs": 2, "num_outputs": 1, "num_hidden": 0, "feed_forward": True, "initial_connection": "full",
        "activation_default": "sigmoid", "activation_options": "sigmoid", "activation_mutate_rate": 0.0,
        "aggregation_default": "sum", "aggregation_options": "sum", "aggregation_mutate_rate": 0.0,
        "node_add_prob": 0.2, "node_delete_prob": 0.2, "conn_add_prob": 0.5, "conn_delete_prob": 0.5,
        "single_structural_mutation": False, "structural_mutation_surer": "default",
        "compatibility_disjoint_coefficient": 1.0, "compatibility_weight_coefficient": 0.5,
        "enabled_default": True, "enabled_mutate_rate": 0.01, "enabled_rate_to_true_add": 0.0,
        "enabled_rate_to_false_add": 0.0,
    },
    "DefaultSpeciesSet": {"compatibility_threshold": 3.0},
    "DefaultStagnation": {"species_fitness_func": "max", "max_stagnation": 20, "species_elitism": 2},
    "DefaultReproduction": {"elitism": 2, "survival_threshold": 0.2, "min_species_size": 2},
}  # fmt: skip
"""The values of neat-python's own example on XOR."""

NUMBERS = {
    "weight": {"init_stdev": 1.0, "mutate_rate": 0.8, "mutate_power": 0.5, "replace_rate": 0.1},
    "bias": {"init_stdev": 1.0, "mutate_rate": 0.7, "mutate_power": 0.5, "replace_rate": 0.1},
    "response": {"init_mean": 1.0, "init_stdev": 0.0, "mutate_rate": 0.0, "mutate_power": 0.0, "replace_rate": 0.0},
}
COMMON = {"init_mean": 0.0, "init_type": "gaussian", "max_value": 30.0, "min_value": -30.0}

STANLEY: dict[str, dict[str, object]] = {
    "DefaultGenome": {
        "node_add_prob": 0.03, "node_delete_prob": 0.0, "conn_add_prob": 0.05, "conn_delete_prob": 0.0,
        "single_structural_mutation": True, "compatibility_weight_coefficient": 0.4, "enabled_mutate_rate": 0.0,
        "weight_mutate_rate": 0.72, "weight_replace_rate": 0.08, "weight_mutate_power": 1.44,
        "bias_mutate_rate": 0.72, "bias_replace_rate": 0.08, "bias_mutate_power": 1.44,
    },
    "DefaultStagnation": {"max_stagnation": 15, "species_elitism": 1},
    "DefaultReproduction": {"elitism": 1},
}  # fmt: skip
"""What its configuration can say of the paper's rates: no deletion, and steps as wide as U(-2.5, 2.5)."""


def neat_config(changes: dict[str, dict[str, object]]) -> str:
    """Return the text of a configuration, the example's with changes."""
    sections = {name: {**values, **changes.get(name, {})} for name, values in NEAT_EXAMPLE.items()}
    for kind, values in NUMBERS.items():
        for item, value in {**COMMON, **values}.items():
            sections["DefaultGenome"].setdefault(f"{kind}_{item}", value)
    return "\n".join(
        f"[{name}]\n" + "\n".join(f"{item} = {value}" for item, value in values.items())
        for name, values in sections.items()
    )


def neat_xor(changes: dict[str, dict[str, object]], seed: int, generations: int) -> tuple[float, float]:
    """Return in which generation neat-python first had all rows on the right side, and 4 - squared errors of 3.9."""
    neat: Any = importlib.import_module("neat")
    rows = [((0.0, 0.0), 0.0), ((0.0, 1.0), 1.0), ((1.0, 0.0), 1.0), ((1.0, 1.0), 0.0)]
    found = [float("inf"), float("inf")]

    with _config(neat, changes) as config:
        population = neat.Population(config, seed=seed)

        def evaluate(genomes: Any, config: Any) -> None:
            for _, genome in genomes:
                network = neat.nn.FeedForwardNetwork.create(genome, config)
                outputs = [network.activate(inputs)[0] for inputs, _ in rows]
                genome.fitness = 4 - sum((o - t) ** 2 for o, (_, t) in zip(outputs, rows, strict=True))
                sided = all((o > 0.5) == (t > 0.5) for o, (_, t) in zip(outputs, rows, strict=True))
                for place, solved in enumerate((sided, genome.fitness >= 3.9)):
                    if solved:
                        found[place] = min(found[place], population.generation + 1)

        with _global_random(), contextlib.suppress(neat.CompleteExtinctionException):
            random.seed(seed)
            population.run(evaluate, generations)
    return found[0], found[1]


@contextlib.contextmanager
def _config(neat: Any, changes: dict[str, dict[str, object]]) -> Iterator[Any]:
    with TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = Path(folder) / "xor"
        path.write_text(neat_config(changes))
        kinds = (neat.DefaultGenome, neat.DefaultReproduction, neat.DefaultSpeciesSet, neat.DefaultStagnation)
        yield neat.Config(*kinds, str(path))


@contextlib.contextmanager
def _global_random() -> Iterator[None]:
    """Give Python's global stream back as it was."""
    held = random.getstate()
    yield
    random.setstate(held)
