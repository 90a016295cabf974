"""Evolution beside other libraries: loss at equal evaluations, and seconds a generation, one thread, in one run.

Other libraries stand beside ours where they can be imported (`benchmarks.peers.evolution`), or it is said why not.

**Functions** in ten dimensions: CMA-ES from the same starts, U(-3, 3), with the same width 1 and 10 individuals, in
float64; evaluations until f < 1e-8 and the lowest value after 10,000. Ours and DEAP's have no negative weights;
pycma, EvoTorch and evosax have them by default and stand here with and without. What is left between those without:
pycma's and evosax's rate of the covariance's path and of the width are those of Hansen 2016, ours and DEAP's of 2006;
EvoTorch decomposes by Cholesky; evosax adds 1e-8 to the diagonal of the covariance in each generation.

**A network**, 64-32-10 on digits: 64 individuals, 200 generations of whole batches, from the same weights; sigma .05,
Adam at .02 where an optimizer moves the mean, PGPE's rate of widths .2 (of at most .2 of themselves), SNES at the
paper's rates. Genetic algorithms begin with the same population and stand in pairs as like as interfaces allow:

    truncation   the better half are parents, each gene from either, mutation of one width, nobody survives: `genetic`
                 and evosax's SimpleGA are one algorithm
    two_point    tournaments of 5, nobody survives: EvoTorch makes both children of a pair, ours one
    as it comes  ours with 2 elites and mutations that narrow with the budget; EvoTorch's elitist, the best of parents
                 and children (parents keep their values: batches are whole)

PGPE: ours compares with the mean of the *other* pairs, a factor of N / (N - 1) on the widths' steps. EvoTorch has no
OpenAI-ES; its PGPE with fixed widths is one under Adam. EvoTorch makes a new mean one step late, and has one step more
for it. The model is the mean, or the best of the latest population.

**XOR by NEAT**, 150 networks a generation: until one of them has all four rows on the right side of .5, and until 4
less its squared errors is 3.9. neat-python with its own example's values and with what its configuration can say of
Stanley's: it mutates weight by weight and not genome by genome, always crosses, may not be told another distance, and
has biases and slope 5 at its units. Ours with Stanley's values and with those of neat-python's example, but nothing is
deleted.

**Speed**: a generation of 256. evosax's is one compiled function, and its compilation is not counted; JAX is told to
use one thread, and how many cores it used is printed. EvoTorch's genetic algorithm evaluates parents again by default,
twice the work; it stands here with and without. EvoTorch is handed batched matrix products as fitness.
"""

import math
import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from altprop.algorithm import Algorithm
from altprop.algorithms.evolutionary import checks
from altprop.algorithms.evolutionary.cma_es import CMAES
from altprop.algorithms.evolutionary.genetic import Genetic
from altprop.algorithms.evolutionary.natural_evolution import SeparableNES
from altprop.algorithms.evolutionary.neat import NEAT
from altprop.algorithms.evolutionary.openai_es import OpenAIES
from altprop.algorithms.evolutionary.pgpe import PGPE
from altprop.capabilities import Capability
from altprop.data import Batch, Split
from altprop.models.mlp import MLP
from altprop.optim import OptimizerFactory
from altprop.randomness import generator_for
from altprop.tasks.digits import Digits
from altprop.tasks.xor import Xor
from altprop.testing import make_problem, set_up, toy_point
from benchmarks.peers import evolution as peers
from benchmarks.peers.alternatives import missing
from benchmarks.peers.evolution import Function, Generation, Learner, Network
from benchmarks.populations import ARRAYS, BATCHED, one_by_one, stepping
from benchmarks.timing import Table, interleave

SEEDS, DIMENSION, INDIVIDUALS, WIDTH, LIMIT, GOAL = 11, 10, 10, 1.0, 10_000, 1e-8
COUNT, GENERATIONS, SIGMA, LR, SIGMA_RATE = 64, 200, 0.05, 0.02, 0.2
NEAT_GENERATIONS = 300
OFFERS = frozenset({Capability.SUPERVISED, Capability.CLASSES, Capability.VECTORS})
ADAM = OptimizerFactory("torch.optim.Adam", lr=LR)
Entrant = Callable[[Network, int], tuple[Learner, int]]
"""(task, seed) -> learner and how many generations it has."""
MODULES = ("cma", "evotorch", "evosax.algorithms", "neat")


def spread(values: Sequence[float], digits: int = 0) -> str:
    """Return the median and the middle half of some values.

    >>> spread([3.0, 1.0, math.inf, 2.0, 5.0])
    '3 (2 to 5)'
    """
    ranked = sorted(values)
    low, high = ranked[len(ranked) // 4], ranked[-1 - len(ranked) // 4]
    middle = statistics.median(ranked)
    return f"{_written(middle, digits)} ({_written(low, digits)} to {_written(high, digits)})"


def _written(value: float, digits: int) -> str:
    if math.isinf(value):
        return "never"
    return f"{value:,.{digits}f}" if digits or value >= 100 or value == int(value) else f"{value:.2g}"


# Functions.


def rastrigin(flat: Tensor) -> Tensor:
    """Return Rastrigin's function of each row (P, D)."""
    return (flat.square() + 10 * (1 - (2 * math.pi * flat).cos())).sum(-1)


FUNCTIONS: dict[str, Function] = {
    "sphere": checks.sphere,
    "ellipsoid": checks.ellipsoid,
    "rosenbrock": checks.rosenbrock,
    "rastrigin": rastrigin,
}


def ours_on(function: Function, start: Tensor, sigma: float, count: int, seed: int) -> Generation:
    """Return `cma_es` on a function."""
    problem, batch = toy_point([0.0] * len(start), start.tolist(), seed=seed)
    checks.pose(problem, function)
    rule = set_up(CMAES(count, sigma), problem)
    return lambda: float(rule.step(batch).scalars["best_fitness"])


def strategies(absent: set[str]) -> dict[str, Callable[[Function, Tensor, float, int, int], Generation]]:
    """Return name -> CMA-ES on a function: ours, DEAP's, and those of libraries that are here."""
    found: dict[str, Callable[[Function, Tensor, float, int, int], Generation]] = {
        "cma_es": ours_on,
        "DEAP cma.Strategy": peers.deap_strategy,
    }
    others = {"pycma": peers.pycma, "EvoTorch CMAES": peers.evotorch_cma, "evosax CMA_ES": peers.evosax_cma}
    modules = ("cma", "evotorch", "evosax.algorithms")
    for (name, made), module in zip(others.items(), modules, strict=True):
        if module not in absent:
            found[f"{name}, no negative weights"] = partial(made, active=False)
            found[name] = partial(made, active=True)
    return found


def searched(generation: Generation, count: int, limit: int) -> tuple[float, float]:
    """Return evaluations until f < 1e-8, infinite where never, and the lowest value so far."""
    lowest = math.inf
    for done in range(count, limit + 1, count):
        lowest = min(lowest, generation())
        if lowest < GOAL:
            return done, lowest
    return math.inf, lowest


def show_functions(absent: set[str], seeds: int, limit: int) -> None:
    """Print how CMA-ES of each library does on each function."""
    for which, function in FUNCTIONS.items():
        print(f"\n{which}, {DIMENSION} dimensions: reached {GOAL}; evaluations to it; lowest value after {limit:,}")
        for name, make in strategies(absent).items():
            found = []
            for seed in range(seeds):
                draw = torch.rand(DIMENSION, generator=generator_for(seed, "order"), dtype=torch.float64)
                generation = make(function, 6 * draw - 3, WIDTH, INDIVIDUALS, seed)
                found.append(searched(generation, INDIVIDUALS, limit))
            reached = sum(not math.isinf(one) for one, _ in found)
            counts, values = zip(*found, strict=True)
            print(f"{name:38}{reached:3} of {seeds}   {spread(counts):30}{spread(values)}")


# A network.


def fresh(seed: int) -> MLP:
    """Return the net as all begin."""
    return MLP(Digits().spec, [32], generator=generator_for(seed, "initialisation"))


def network(train: Split, seed: int, count: int) -> Network:
    """Return the task of all learners; its first population is that of `genetic`."""
    problem = make_problem(fresh(seed), "cross_entropy", seed=seed, offers=OFFERS)
    rule = set_up(Genetic(count, sigma=SIGMA), problem)
    start, first = problem.flat().clone(), rule.genomes.clone()
    return Network((64, 32, 10), train.inputs, train.targets, start, first, SIGMA, LR)


def ours(make: Callable[[], Algorithm], task: Network, seed: int, generations: int = 0) -> Learner:
    """Return a learner of ours; with the number of generations it is told how far its budget is spent."""
    problem = make_problem(fresh(seed), "cross_entropy", seed=seed, offers=OFFERS)
    rule = set_up(make(), problem)
    batch = Batch(task.inputs, task.targets, torch.arange(len(task.inputs)))
    done = 0

    def generation() -> None:
        nonlocal done
        problem.progress = done / generations if generations else 0.0
        rule.step(batch)
        problem.ledger.auditing = problem.ledger.steps < 4
        done += 1

    return Learner(generation, lambda: problem.flat().clone(), lambda: torch.empty(0))


def learners(
    absent: set[str], count: int, generations: int
) -> dict[str, Callable[[Network, int], tuple[Learner, int]]]:
    """Return name -> entrant: each of ours before its peers."""
    half = max(1, count // 2)
    rules: dict[str, tuple[Callable[[], Algorithm], bool]] = {
        "snes": (lambda: SeparableNES(count, SIGMA), False),
        "pgpe": (lambda: PGPE(ADAM, count, SIGMA, SIGMA_RATE), False),
        "openai_es": (lambda: OpenAIES(ADAM, count, SIGMA), False),
        "genetic, truncation": (
            lambda: Genetic(count, elites=0, selection="truncation", pressure=half, sigma=SIGMA), False,
        ),
        "genetic, two_point": (lambda: Genetic(count, elites=0, crossover="two_point", sigma=SIGMA), False),
        "genetic": (lambda: Genetic(count, sigma=SIGMA), True),
    }  # fmt: skip
    torchs: dict[str, tuple[str, Callable[[Network, int], Learner], int]] = {
        "snes": ("EvoTorch SNES", lambda task, seed: peers.evotorch_snes(task, count, seed), 0),
        "pgpe": ("EvoTorch PGPE", lambda task, seed: peers.evotorch_pgpe(task, count, seed, SIGMA_RATE), 0),
        "openai_es": ("EvoTorch PGPE, fixed widths", lambda task, seed: peers.evotorch_pgpe(task, count, seed, 0.0), 0),
        "genetic, two_point": ("EvoTorch GA, two_point", partial(peers.evotorch_genetic, elitist=False), 1),
        "genetic": ("EvoTorch GA", partial(peers.evotorch_genetic, elitist=True), 1),
    }
    jaxs: dict[str, tuple[str, Callable[[Network, int], Learner], int]] = {
        "snes": ("evosax SNES", lambda task, seed: peers.evosax_snes(task, count, seed), 0),
        "pgpe": ("evosax PGPE", lambda task, seed: peers.evosax_pgpe(task, count, seed, SIGMA_RATE), 0),
        "openai_es": ("evosax Open_ES", lambda task, seed: peers.evosax_open_es(task, count, seed), 0),
        "genetic, truncation": ("evosax SimpleGA", peers.evosax_genetic, 1),
    }

    def own(make: Callable[[], Algorithm], told: bool, task: Network, seed: int) -> tuple[Learner, int]:
        return ours(make, task, seed, generations if told else 0), generations

    def other(make: Callable[[Network, int], Learner], spent: int, task: Network, seed: int) -> tuple[Learner, int]:
        return make(task, seed), generations - spent  # one population was evaluated before the first generation

    found: dict[str, Entrant] = {}
    for name, (rule, told) in rules.items():
        found[name] = partial(own, rule, told)
        for module, table in (("evotorch", torchs), ("evosax.algorithms", jaxs)):
            if name in table and module not in absent:
                label, make, spent = table[name]
                found[label] = partial(other, make, spent)
    return found


def show_networks(absent: set[str], train: Split, test: Split, seeds: int, count: int, generations: int) -> None:
    """Print training loss and test accuracy of each learner after the same number of evaluations."""
    print(f"\ndigits, 64-32-10, {count * generations:,} evaluations of {len(train.inputs)} rows: loss; test accuracy")
    for name, make in learners(absent, count, generations).items():
        found = []
        for seed in range(seeds):
            learner, steps = make(network(train, seed, count), seed)
            for _ in range(steps):
                learner.generation()
            found.append(scored(learner.model(), train, test))
        loss, accuracy = zip(*found, strict=True)
        print(f"{name:30}{spread(loss, 3):26}{spread(accuracy, 3)}")


def scored(weights: Tensor, train: Split, test: Split) -> tuple[float, float]:
    """Return the loss on the training set and the accuracy on the test set of a network."""
    model = fresh(0)
    torch.nn.utils.vector_to_parameters(weights, model.parameters())
    with torch.no_grad():
        loss = functional.cross_entropy(model(train.inputs), train.targets)
        return float(loss), float((model(test.inputs).argmax(1) == test.targets).double().mean())


# XOR.


def xor(make: Callable[[], NEAT], seed: int, generations: int) -> tuple[float, float]:
    """Return in which generation a network of `neat` was first right in all rows, and had 3.9; infinite if never."""
    rows = Xor().data().to(torch.device("cpu"), torch.float64).train
    problem = make_problem(MLP(Xor().spec, [2], generator=torch.Generator()), "binary_cross_entropy", seed=seed)
    rule, batch = set_up(make(), problem), Batch(rows.inputs, rows.targets, torch.arange(4))
    found = [math.inf, math.inf]
    for generation in range(1, generations + 1):
        outputs = rule.network(rule.genomes)(rows.inputs).sigmoid()
        sided = ((outputs > 0.5) == (rows.targets > 0.5)).flatten(1).all(1)
        near = 4 - (outputs - rows.targets).square().flatten(1).sum(1) >= 3.9
        for place, solved in enumerate((sided, near)):
            if bool(solved.any()):
                found[place] = min(found[place], generation)
        if not math.isinf(found[1]):
            break
        rule.step(batch)
    return found[0], found[1]


def show_xor(absent: set[str], seeds: int, generations: int) -> None:
    """Print how many generations and evaluations NEAT takes on XOR, by both rules."""
    ways: dict[str, Callable[[int], tuple[float, float]]] = {
        "neat": lambda seed: xor(NEAT, seed, generations),
        "neat, rates of neat-python's example": lambda seed: xor(_as_in_example, seed, generations),
    }
    if "neat" not in absent:
        ways["neat-python, its example"] = lambda seed: peers.neat_xor({}, seed, generations)
        ways["neat-python, Stanley's rates"] = lambda seed: peers.neat_xor(peers.STANLEY, seed, generations)
    print(f"\nXOR, 150 networks, at most {generations} generations: solved; generations; evaluations")
    for name, way in ways.items():
        found = [way(seed) for seed in range(seeds)]
        for place, rule in enumerate(("right side", "3.9")):
            ended = [one[place] for one in found]
            solved = sum(not math.isinf(one) for one in ended)
            evaluations = spread([150 * one for one in ended])
            print(f"{name:38}{rule:12}{solved:3} of {seeds}   {spread(ended):20}{evaluations}")


def _as_in_example() -> NEAT:
    """Return NEAT with the rates of neat-python's example; steps are as wide as N(0, .5)."""
    return NEAT(add_unit=0.2, add_connection=0.5, change_weights=1.0, power=0.87, difference=0.5, patience=20)


# Speed.


def generations_of(absent: set[str], train: Split, rows: int, count: int) -> dict[str, Callable[[], float]]:
    """Return name -> a generation, which returns how many individuals it is."""
    ways: dict[str, Callable[[], float]] = {
        "genetic": stepping("algorithm=genetic", rows=rows, population=count),
        "genetic, two_point": stepping(
            "algorithm=genetic", "algorithm.crossover=two_point", rows=rows, population=count
        ),
        "snes": stepping("algorithm=snes", rows=rows, population=count),
        "DEAP, lists, one by one": one_by_one(rows, count),
        "DEAP, lists, batched map": stepping(*BATCHED, rows=rows, population=count),
        "DEAP, arrays, batched map": stepping(*ARRAYS, rows=rows, population=count),
    }
    task = network(train.take(torch.arange(rows)), 0, count)
    made: dict[str, Learner] = {}
    if "evotorch" not in absent:
        made["EvoTorch GA"] = peers.evotorch_genetic(task, 0, elitist=True, again=True)
        made["EvoTorch GA, parents once"] = peers.evotorch_genetic(task, 0, elitist=True)
        made["EvoTorch SNES"] = peers.evotorch_snes(task, count, 0)
    if "evosax.algorithms" not in absent:
        made["evosax SimpleGA"] = peers.evosax_genetic(task, 0)
        made["evosax SNES"] = peers.evosax_snes(task, count, 0)
    for name, learner in made.items():
        first, _ = _seconds(partial(_repeated, learner, 3))
        again, cores = _seconds(partial(_repeated, learner, 5))
        print(
            f"{rows} rows: {name}: three generations {first:.1f} s at first, compilation included; "
            f"then one {again / 5 * 1e3:.0f} ms, {cores:.1f} CPU seconds a second"
        )
        ways[name] = partial(_counted, learner, count)
    return ways


def _repeated(learner: Learner, times: int) -> None:
    for _ in range(times):
        learner.generation()


def _counted(learner: Learner, count: int) -> float:
    learner.generation()
    return count


def _seconds(work: Callable[[], object]) -> tuple[float, float]:
    """Return how long it takes, and CPU seconds a second: more than 1 is more than one thread."""
    wall, used = time.perf_counter(), time.process_time()
    work()
    wall, used = time.perf_counter() - wall, time.process_time() - used
    return wall, used / wall


def run(
    rounds: int,
    seeds: int = SEEDS,
    limit: int = LIMIT,
    count: int = COUNT,
    generations: int = GENERATIONS,
    neat_generations: int = NEAT_GENERATIONS,
    timed: int = 256,
) -> list[Table]:
    """Measure; see the module."""
    torch.set_num_threads(1)
    data = Digits().data().to(torch.device("cpu"), torch.float32)
    train, test = data.train, data.tests["test"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what other libraries use and torch, numpy and JAX have left behind
        reasons = {module: missing(module) for module in MODULES}
        print("\n".join([peers.versions(), *filter(None, reasons.values())]))
        absent = {module for module, reason in reasons.items() if reason}
        show_functions(absent, seeds, limit)
        show_networks(absent, train, test, seeds, count, generations)
        show_xor(absent, seeds, neat_generations)
        print()
        tables = []
        for rows in (64, 512):
            ways = generations_of(absent, train, rows, timed)
            found = {f"{rows} rows: {way}": times for way, times in interleave(ways, max(3, rounds)).items()}
            title = f"evolution: {timed} networks 64-32-10 on {rows} rows, whole generations"
            tables.append(Table(title, f"{rows} rows: genetic", "an individual", found))
    return tables
