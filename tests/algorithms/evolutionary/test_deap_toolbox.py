"""Toolboxes of DEAP's users: their loops give the figures that they give by themselves, and train our tasks."""

import random
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from deap import algorithms, tools

import altprop
from altprop.algorithms.evolutionary.deap_toolbox import DeapToolbox
from altprop.errors import AltpropError, Refused
from altprop.testing import set_up, toy, toy_point

THEIRS = """
import functools
import math
import operator
import random

import numpy
from deap import base, benchmarks, cma, creator, gp, tools

creator.create("Most", base.Fitness, weights=(1.0,))
creator.create("Least", base.Fitness, weights=(-1.0,))
creator.create("Bits", list, fitness=creator.Most)
creator.create("Point", list, fitness=creator.Least)
creator.create("Array", numpy.ndarray, fitness=creator.Least)
creator.create("Two", base.Fitness, weights=(-1.0, -1.0))
creator.create("Both", list, fitness=creator.Two)
creator.create("Tree", gp.PrimitiveTree, fitness=creator.Least)


def onemax():
    box = base.Toolbox()
    box.register("bit", random.randint, 0, 1)
    box.register("individual", tools.initRepeat, creator.Bits, box.bit, 100)
    box.register("population", tools.initRepeat, list, box.individual)
    box.register("evaluate", lambda bits: (sum(bits),))
    box.register("mate", tools.cxTwoPoint)
    box.register("mutate", tools.mutFlipBit, indpb=0.05)
    box.register("select", tools.selTournament, tournsize=3)
    box.done = lambda population: max(one.fitness.values[0] for one in population) >= 100
    return box


def covariance():
    box = base.Toolbox()
    box.strategy = cma.Strategy(centroid=[5.0] * 6, sigma=5.0, lambda_=12)
    box.register("evaluate", lambda x: (sum(v * v for v in x),))
    box.register("generate", box.strategy.generate, creator.Point)
    box.register("update", box.strategy.update)
    return box


def trees():
    grammar = gp.PrimitiveSet("MAIN", 1)
    grammar.addPrimitive(operator.add, 2)
    grammar.addPrimitive(operator.mul, 2)
    box = base.Toolbox()
    box.register("expr", gp.genHalfAndHalf, pset=grammar, min_=1, max_=2)
    box.register("individual", tools.initIterate, creator.Tree, box.expr)
    box.register("population", tools.initRepeat, list, box.individual)

    def error(tree):
        found = gp.compile(tree, grammar)
        return (sum((found(x) - x**4 - x**3 - x**2 - x) ** 2 for x in (i / 10 for i in range(-10, 10))),)

    box.register("evaluate", error)
    box.register("select", tools.selTournament, tournsize=3)
    box.register("mate", gp.cxOnePoint)
    box.register("expr_mut", gp.genFull, min_=0, max_=2)
    box.register("mutate", gp.mutUniform, expr=box.expr_mut, pset=grammar)
    box.decorate("mate", gp.staticLimit(operator.attrgetter("height"), 9))
    box.decorate("mutate", gp.staticLimit(operator.attrgetter("height"), 9))
    return box


def quartic():
    # examples/gp/symbreg.py: x^4 + x^3 + x^2 + x at 20 places.
    grammar = gp.PrimitiveSet("MAIN", 1)
    for function, arity in ((operator.add, 2), (operator.sub, 2), (operator.mul, 2), (protected, 2)):
        grammar.addPrimitive(function, arity)
    for function in (operator.neg, math.cos, math.sin):
        grammar.addPrimitive(function, 1)
    grammar.addEphemeralConstant("theirs101", functools.partial(random.randint, -1, 1))
    grammar.renameArguments(ARG0="x")
    box = base.Toolbox()
    box.register("expr", gp.genHalfAndHalf, pset=grammar, min_=1, max_=2)
    box.register("individual", tools.initIterate, creator.Tree, box.expr)
    box.register("population", tools.initRepeat, list, box.individual)

    def error(tree):
        found = gp.compile(tree, grammar)
        squares = ((found(x) - x**4 - x**3 - x**2 - x) ** 2 for x in (i / 10.0 for i in range(-10, 10)))
        return (math.fsum(squares) / 20,)

    box.register("evaluate", error)
    box.register("select", tools.selTournament, tournsize=3)
    box.register("mate", gp.cxOnePoint)
    box.register("expr_mut", gp.genFull, min_=0, max_=2)
    box.register("mutate", gp.mutUniform, expr=box.expr_mut, pset=grammar)
    box.decorate("mate", gp.staticLimit(operator.attrgetter("height"), 17))
    box.decorate("mutate", gp.staticLimit(operator.attrgetter("height"), 17))
    return box


def protected(one, other):
    try:
        return one / other
    except ZeroDivisionError:
        return 1


def rastrigin():
    # examples/es/cma_minfct.py: CMA-ES on Rastrigin's function in 30 dimensions.
    box = base.Toolbox()
    box.strategy = cma.Strategy(centroid=[5.0] * 30, sigma=5.0, lambda_=20 * 30)
    box.register("evaluate", benchmarks.rastrigin)
    box.register("generate", box.strategy.generate, creator.Point)
    box.register("update", box.strategy.update)
    return box


def zdt1():
    # examples/ga/nsga2.py: two objectives of 30 variables.
    box = base.Toolbox()
    box.register("individual", tools.initRepeat, creator.Both, random.random, 30)
    box.register("population", tools.initRepeat, list, box.individual)
    box.register("evaluate", benchmarks.zdt1)
    box.register("mate", tools.cxSimulatedBinaryBounded, low=0.0, up=1.0, eta=20.0)
    box.register("mutate", tools.mutPolynomialBounded, low=0.0, up=1.0, eta=20.0, indpb=1.0 / 30)
    box.register("select", tools.selNSGA2)
    box.halloffame = tools.ParetoFront()
    return box


def crowded(population, toolbox, ngen, stats=None, halloffame=None, verbose=False):
    # The loop of that example, from its population on; a user's own loop.
    book = tools.Logbook()

    def judged(ones):
        fresh = [one for one in ones if not one.fitness.valid]
        for one, values in zip(fresh, toolbox.map(toolbox.evaluate, fresh)):
            one.fitness.values = values
        return len(fresh)

    if judged(population):
        population = toolbox.select(population, len(population))
    for generation in range(1, ngen + 1):
        children = [toolbox.clone(one) for one in tools.selTournamentDCD(population, len(population))]
        for one, other in zip(children[::2], children[1::2]):
            if random.random() <= 0.9:
                toolbox.mate(one, other)
            toolbox.mutate(one)
            toolbox.mutate(other)
            del one.fitness.values, other.fitness.values
        count = judged(children)
        population = toolbox.select(population + children, len(population))
        halloffame.update(population)
        book.record(gen=generation, nevals=count, **stats.compile(population))
    return population, book


def weights(size):
    box = base.Toolbox()
    box.register("gene", random.gauss, 0.0, 0.3)
    box.register("individual", tools.initRepeat, creator.Point, box.gene, size)
    box.register("population", tools.initRepeat, list, box.individual)
    box.register("mate", tools.cxBlend, alpha=0.3)
    box.register("mutate", tools.mutGaussian, mu=0.0, sigma=0.1, indpb=0.3)
    box.register("select", tools.selTournament, tournsize=3)
    return box


def mean_and_width(size, start):
    box = base.Toolbox()
    box.strategy = cma.Strategy(centroid=start, sigma=0.3, lambda_=12)
    box.register("generate", box.strategy.generate, creator.Array)
    box.register("update", box.strategy.update)
    return box


def upside_down(size):
    box = weights(size)
    box.register("individual", tools.initRepeat, creator.Bits, box.gene, size)
    box.register("population", tools.initRepeat, list, box.individual)
    return box


def too_short(size):
    return weights(size - 1)


def nothing():
    return None
"""


@pytest.fixture(autouse=True)
def theirs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The module of a DEAP user."""
    (tmp_path / "my_toolboxes.py").write_text(THEIRS)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    made = __import__("my_toolboxes")
    yield made
    for name in ("Most", "Least", "Bits", "Point", "Array", "Tree", "Two", "Both"):
        delattr(made.creator, name)
    del sys.modules["my_toolboxes"]


def learner(name: str, **options) -> DeapToolbox:
    return DeapToolbox(f"my_toolboxes.{name}", **options)


def test_onemax_is_deaps() -> None:
    """DEAP's first example, seed 64: it stops after generation 35 with these figures."""
    problem, batch = toy()
    start = problem.flat()
    run = set_up(learner("onemax", options={"cxpb": 0.5, "mutpb": 0.2}, population=300, seed=64), problem)
    before = random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
    for generation in range(1, 100):  # noqa: B007 - the last one is looked at
        result = run.step(batch)
        if result.done:
            break
    assert generation == 35
    assert result.scalars["avg"] == pytest.approx(97.0433333, abs=1e-7)
    assert result.scalars["std"] == pytest.approx(2.3255370, abs=1e-7)
    assert (result.scalars["min"], result.scalars["max"]) == (86.0, 100.0)
    assert run.artefacts()["hall_of_fame"] == {"fitness": ["100.0"], "individual": [str([1] * 100)]}
    assert torch.equal(problem.flat(), start)  # the task has no say
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before  # noqa: NPY002


@pytest.mark.parametrize(
    ("name", "loop", "options"),
    [
        ("covariance", "eaGenerateUpdate", {}),
        ("trees", "eaSimple", {"cxpb": 0.5, "mutpb": 0.1}),
        ("trees", "eaMuPlusLambda", {"mu": 20, "lambda_": 30, "cxpb": 0.5, "mutpb": 0.2}),
        ("trees", "eaMuCommaLambda", {"mu": 20, "lambda_": 30, "cxpb": 0.5, "mutpb": 0.2}),
    ],
)
def test_a_loop_gives_what_it_gives_by_itself(theirs, name, loop, options) -> None:
    problem, batch = toy()
    run = set_up(learner(name, loop=loop, options=options, population=40, seed=128), problem)
    ours = [run.step(batch).scalars for _ in range(8)]
    python, numbers = random.getstate(), np.random.get_state()  # noqa: NPY002
    random.seed(128), np.random.seed(128)  # noqa: NPY002
    box = getattr(theirs, name)()
    population = [] if loop == "eaGenerateUpdate" else [box.population(n=40)]
    ngen = 8
    _, book = getattr(algorithms, loop)(*population, box, ngen=ngen, stats=run.search.stats, verbose=False, **options)
    random.setstate(python), np.random.set_state(numbers)  # noqa: NPY002
    alone = book[-ngen:]
    assert [one["min"] for one in ours] == [one["min"] for one in alone]
    assert [one["avg"] for one in ours] == [one["avg"] for one in alone]
    assert len({one["min"] for one in ours}) > 1


@pytest.mark.parametrize(
    ("name", "loop", "population", "seed", "options"),
    [
        ("quartic", "deap.algorithms.eaSimple", 300, 318, {"cxpb": 0.5, "mutpb": 0.1}),
        ("rastrigin", "deap.algorithms.eaGenerateUpdate", 1, 128, {}),
        ("zdt1", "my_toolboxes.crowded", 100, 64, {}),
    ],
)
def test_deaps_example_programs_give_their_own_figures(theirs, name, loop, population, seed, options) -> None:
    """Symbolic regression, CMA-ES and NSGA-II on ZDT1 with the seeds of the examples: every number of ten generations.

    Alone they run as their author runs them, from `random.seed`, all generations in one call.
    """
    problem, batch = toy()
    run = set_up(
        learner(name, loop=loop, options=options, population=population, seed=seed, keep_fitness=True), problem
    )
    ours = [run.step(batch).scalars for _ in range(10)]
    python, numbers = random.getstate(), np.random.get_state()  # noqa: NPY002
    random.seed(seed), np.random.seed(seed)  # noqa: NPY002
    box = getattr(theirs, name)()
    begun = [] if name == "rastrigin" else [box.population(n=population)]
    function = theirs.crowded if name == "zdt1" else getattr(algorithms, loop.rpartition(".")[2])
    hall = tools.ParetoFront() if name == "zdt1" else tools.HallOfFame(1)
    ended, book = function(*begun, box, ngen=10, stats=run.search.stats, halloffame=hall, verbose=False, **options)
    random.setstate(python), np.random.set_state(numbers)  # noqa: NPY002
    figures = ("avg", "std", "min", "max")
    assert [[one[key] for key in figures] for one in ours] == [[one[key] for key in figures] for one in book[-10:]]
    assert [str(one) for one in run.search.population] == [str(one) for one in ended]
    assert run.artefacts()["hall_of_fame"]["individual"] == [str(one) for one in hall]
    assert len({one["avg"] for one in ours}) == 10


@pytest.mark.parametrize(
    ("name", "loop", "options"),
    [
        ("weights", "eaSimple", {"cxpb": 0.5, "mutpb": 0.5}),
        ("weights", "eaMuPlusLambda", {"mu": 20, "lambda_": 20, "cxpb": 0.4, "mutpb": 0.6}),
        ("mean_and_width", "eaGenerateUpdate", {}),
    ],
)
def test_a_task_of_ours_is_learnt_and_resumed(name, loop, options) -> None:
    def make():
        problem, batch = toy(seed=1)
        return problem, batch, set_up(learner(name, loop=loop, options=options, population=20), problem)

    (problem, batch, run), (other, _, again) = make(), make()
    first = float(problem.objective(batch))
    for _ in range(25):
        result = run.step(batch)
    again.restore({"problem": problem.state_dict(), "algorithm": run.state_dict()})
    for each in (run, again):
        result = each.step(batch)
    assert torch.equal(problem.flat(), other.flat())
    assert float(problem.objective(batch)) == pytest.approx(result.scalars["min"], rel=1e-12)
    assert result.scalars["min"] < 0.8 * first
    calls = problem.ledger.summary()["evaluations"]
    assert 25 * 10 < calls <= 26 * 40 + 2  # whether one by one or at once; two by this test


def test_survivors_are_evaluated_on_every_batch_unless_deaps_way_is_asked_for() -> None:
    counts = []
    for keep in (False, True):
        problem, batch = toy()
        run = set_up(learner("weights", options={"cxpb": 0.0, "mutpb": 0.5}, keep_fitness=keep), problem)
        for _ in range(10):
            run.step(batch)
        counts.append(problem.ledger.summary()["evaluations"])
    assert counts[0] > 10 * 20 > counts[1]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("upside_down", r"the task's objective is minimised; its fitness needs weights=\(-1.0,\), and has \(1.0,\)"),
        ("too_short", r"an individual holds \[\d+\] numbers, the model \d+; make_toolbox\(size\) is told how many"),
    ],
)
def test_toolboxes_that_do_not_fit_are_refused(name, message) -> None:
    problem, batch = toy()
    with pytest.raises(Refused, match=message):
        set_up(learner(name, options={"cxpb": 0.5, "mutpb": 0.5}), problem).step(batch)


def test_paths_that_lead_nowhere_say_so() -> None:
    with pytest.raises(
        AltpropError, match=r"algorithm.toolbox=my_toolboxes.nobody is no function that can be imported"
    ):
        learner("nobody")
    with pytest.raises(AltpropError, match=r"algorithm.loop=deap.algorithms.eaComplex is no function"):
        learner("weights", loop="eaComplex")
    with pytest.raises(AltpropError, match=r"must return a deap.base.Toolbox; got NoneType"):
        set_up(learner("nothing"), toy_point([0.0], [1.0])[0])


def test_what_cannot_be_pickled_says_so() -> None:
    problem, _ = toy_point([0.0], [1.0])
    run = set_up(learner("weights"), problem)
    run.search.population[0].mark = lambda: None
    with pytest.raises(AltpropError, match="cannot be pickled"):
        run.state_dict()


def test_a_run_keeps_the_hall_of_fame_the_logbook_and_the_code(tmp_path: Path) -> None:
    """The user's file is part of the run's key."""
    command = ["algorithm=deap_toolbox", "algorithm.toolbox=my_toolboxes.weights", "task=xor", "report=false"]
    command += ["budget.currency=steps", "budget.amount=5", "seeds=[0]", f"runs_dir={tmp_path / 'runs'}"]
    row = altprop.run(command).iloc[0]
    assert row.status == "completed"
    trace = altprop.load_trace(tmp_path / "runs")
    assert {"avg", "std", "min", "max", "nevals"} <= set(trace.columns) | set(trace.name.dropna())
    kept = next((tmp_path / "runs").rglob("hall_of_fame.csv")).read_text()
    assert kept.startswith("fitness,individual")
    path = tmp_path / "my_toolboxes.py"
    path.write_text(THEIRS.replace("sigma=0.1", "sigma=0.2"))
    assert len({row.key, *altprop.run(command).key}) == 2
