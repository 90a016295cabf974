"""Genetic programming: formulas that fit the data, bred by DEAP's operators on trees."""

import math
import operator
import random
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any, ClassVar

import torch
from deap import gp, tools
from torch import Tensor

from altprop import (
    Algorithm,
    Batch,
    BatchMode,
    Capability,
    Oracle,
    PredictorKind,
    Problem,
    Refused,
    StepResult,
    check_name,
    check_number,
    check_whole,
)
from altprop.algorithms.evolutionary.population import LossAndSize, Minimised, pareto
from altprop.testing import set_up, toy

SELECTIONS = ("tournament", "nsga2")


class Tree(gp.PrimitiveTree):  # type: ignore[misc]
    """A formula; its fitness is (loss,) or (loss, size)."""

    def __init__(self, content: Any, objectives: int = 1) -> None:
        super().__init__(content)
        self.fitness = Minimised() if objectives == 1 else LossAndSize()


class SymbolicRegression(Algorithm):
    """Evolve formulas of the inputs by exchange and renewal of subtrees; the best formula is the predictor.

    One step is one generation. A formula is a tree of +, -, *, protected division (1 where the divisor is 0), sin, cos
    and negation over the inputs x0, x1, ... and constants from U(-1, 1). Every formula is evaluated on the whole
    training set (on mini-batches small formulas fit by chance), its output for all rows at once; a loss that is no
    number ranks last. Children come from tournaments of `pressure`, by one-point crossover with probability
    `crossover_rate` and a new subtree with probability `mutation_rate`; one higher than `height` is replaced by its
    parent.

        tournament  the `elites` best live on, the children replace the others
        nsga2       of parents and children the best P are kept by non-dominated sorting of (loss, number of nodes) and
                    crowding distance (Deb et al. 2002): a Pareto front of accuracy against size

    The front of the last generation is an artefact in both. The predictor is the formula of least loss; `loss` is its
    loss before the step (elites and fronts keep it). A formula is booked as one FLOP a node and row.

    Args:
        population: P.
        selection: tournament or nsga2.
        elites: with tournament; at least 1.
        pressure: formulas in a tournament.
        crossover_rate, mutation_rate: see above.
        height: of the highest tree that is allowed.

    Raises:
        AltpropError: for values outside these.

    Paper: Koza 1992, Genetic programming: on the programming of computers by means of natural selection; Deb, Pratap,
    Agarwal and Meyarivan 2002, A fast and elitist multiobjective genetic algorithm: NSGA-II. Trees, their operators and
    both selections are DEAP's, with the run's stream in place of global `random`.
    """

    kind: ClassVar[PredictorKind] = PredictorKind.OUTPUT
    batch = BatchMode.FULL
    exempt: ClassVar[Mapping[str, str]] = {
        "beats_the_controls": "on diabetes the bound, .39, lies below least squares' own .48; its .64 after 150 "
        "generations is half of what the best of the random walks has, 1.25"
    }
    trains_model: ClassVar[bool | None] = False
    requires: ClassVar[frozenset[Capability]] = frozenset({Capability.VECTORS, Capability.LEAST_SQUARES})
    not_stacked: ClassVar[str] = "DEAP's trees are one population of Python objects"
    state: ClassVar[tuple[str, ...]] = ("formulas", "best", "front")

    def __init__(
        self,
        population: int = 100,
        selection: str = "tournament",
        elites: int = 1,
        pressure: int = 5,
        crossover_rate: float = 0.7,
        mutation_rate: float = 0.3,
        height: int = 8,
    ) -> None:
        self.population = check_whole(population, "algorithm.population", 4)
        self.selection = check_name(selection, "algorithm.selection", SELECTIONS)
        self.elites = check_whole(elites, "algorithm.elites", 1)
        self.pressure = check_whole(pressure, "algorithm.pressure", 1)
        self.crossover_rate = check_number(crossover_rate, "algorithm.crossover_rate", 0.0, 1.0)
        self.mutation_rate = check_number(mutation_rate, "algorithm.mutation_rate", 0.0, 1.0)
        self.height = check_whole(height, "algorithm.height", 2)
        self.objectives = 1 if selection == "tournament" else 2
        self.formulas: list[str]
        self.best: str
        self.front: list[tuple[float, int, str]] = []

    def _setup(self, problem: Problem) -> None:
        spec = problem.spec
        if spec.outputs != 1 or spec.sequence or len(spec.input_shape) != 1:
            raise Refused(
                f"a formula of single inputs gives one output, and the task has inputs {list(spec.input_shape)} and "
                f"{spec.outputs} outputs; try task=diabetes"
            )
        self.grammar = grammar(spec.input_shape[0])
        with problem.random.as_global():
            made = [gp.genHalfAndHalf(self.grammar, 1, 3) for _ in range(self.population)]
        self.formulas = [str(gp.PrimitiveTree(tree)) for tree in made]
        self.best = self.formulas[0]

    def _trees(self) -> list[Tree]:
        return [Tree(gp.PrimitiveTree.from_string(text, self.grammar), self.objectives) for text in self.formulas]

    def _step(self, batch: Batch | None) -> StepResult:
        assert batch is not None
        problem = self.problem
        parents = self._evaluated(self._trees(), batch)
        known = {str(one): one.fitness.values[0] for one in parents}.get(self.best)
        with problem.random.as_global():
            if self.selection == "tournament":
                best = tools.selBest(parents, self.elites)
                children = self._children(parents, self.population - len(best))
                following = evaluated = [*best, *children]
            else:
                children = self._evaluated(self._children(parents, self.population), batch)
                following = evaluated = tools.selNSGA2([*parents, *children], self.population)
        told = [one for one in evaluated if one.fitness.valid]
        least = min(told, key=lambda one: one.fitness.values[0])
        self.best, self.formulas = str(least), [str(one) for one in following]
        self.front = pareto([(one.fitness.values[0], len(one), str(one)) for one in parents])
        values = [one.fitness.values[0] for one in parents]
        scalars = {
            "best_fitness": least.fitness.values[0],
            "mean_fitness": math.fsum(values) / len(values),
            "nodes": float(len(least)),
            "mean_nodes": math.fsum(map(len, following)) / len(following),
        }
        return StepResult(None if known is None else torch.tensor(known, dtype=problem.dtype), scalars)

    def _evaluated(self, trees: list[Tree], batch: Batch) -> list[Tree]:
        """Give every tree its loss on the batch, and its size where that counts."""
        problem, ledger, rows = self.problem, self.problem.ledger, batch.rows
        with torch.no_grad(), ledger.primitive("population", rows * len(trees), len(trees)):
            ledger.charge("population", float(rows * sum(map(len, trees))))
            with ledger.charged("population"):
                for tree in trees:
                    loss = float(problem.output_loss(self._function(tree)(batch.inputs), batch))
                    loss = loss if math.isfinite(loss) else math.inf
                    tree.fitness.values = (loss,) if self.objectives == 1 else (loss, len(tree))
        return trees

    def _children(self, parents: list[Tree], count: int) -> list[Tree]:
        """Return so many children by DEAP's operators, from the global generator."""
        limit = gp.staticLimit(operator.attrgetter("height"), self.height)
        mate, mutate = limit(gp.cxOnePoint), limit(gp.mutUniform)
        made: list[Tree] = []
        while len(made) < count:
            pair = [Tree(one, self.objectives) for one in tools.selTournament(parents, 2, self.pressure)]
            if random.random() < self.crossover_rate:
                pair = list(mate(*pair))
            for one in pair:
                if random.random() < self.mutation_rate:
                    (one,) = mutate(one, expr=lambda pset, type_: gp.genFull(pset, 0, 2), pset=self.grammar)
                made.append(one)
        return made[:count]

    def _function(self, tree: gp.PrimitiveTree) -> Callable[[Tensor], Tensor]:
        """Return inputs (B, F) -> outputs (B, 1) of a formula."""
        compiled = gp.compile(tree, self.grammar)

        def outputs(inputs: Tensor) -> Tensor:
            found = compiled(*inputs.unbind(1))
            return torch.as_tensor(found, dtype=inputs.dtype, device=inputs.device).expand(len(inputs))[:, None]

        return outputs

    def _predictor(self) -> Callable[[Tensor], Tensor]:
        return self._function(gp.PrimitiveTree.from_string(self.best, self.grammar))

    def artefacts(self) -> dict[str, Any]:
        """Return the Pareto front of the last generation (loss, nodes, formula) and the best formula."""
        losses, nodes, texts = zip(*self.front, strict=True) if self.front else ((), (), ())
        return {"front": {"loss": list(losses), "nodes": list(nodes), "formula": list(texts)}, "formula": self.best}

    @classmethod
    def oracles(cls) -> tuple[Oracle, ...]:
        """Check a formula against plain arithmetic, that a polynomial is found, and that fronts are fronts."""
        return (
            Oracle("a formula is what plain arithmetic says", lambda: _from_arithmetic(0.0), 1e-15),
            Oracle("not of other inputs", lambda: _from_arithmetic(1.0), 1e-3, differs=True),
            Oracle("x^2 + x is found", lambda: _found(60), 1e-12),
            Oracle("not in one generation", lambda: _found(1), 1e-6, differs=True),
            Oracle("nobody in a front is dominated", lambda: _dominated(cls(40, "nsga2")), 0.0),
        )


def divided(one: Tensor, other: Tensor) -> Tensor:
    """Return one / other, and 1 where other is 0 (Koza's protected division)."""
    zero = other == 0
    return torch.where(zero, 1.0, one / torch.where(zero, 1.0, other))


def _constant() -> float:
    return random.uniform(-1, 1)


def grammar(inputs: int) -> gp.PrimitiveSet:
    """Return the functions and terminals of formulas of x0, x1, ...; constants become tensors where they must."""

    def of_tensors(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        return lambda *values: function(*(torch.as_tensor(value, **_kind(values)) for value in values))

    made = gp.PrimitiveSet("FORMULA", inputs, prefix="x")
    made.context["__builtins__"] = {"__import__": __import__}  # DEAP takes all away; torch imports where it first acts
    made.addPrimitive(operator.add, 2, name="add")
    made.addPrimitive(operator.sub, 2, name="sub")
    made.addPrimitive(operator.mul, 2, name="mul")
    made.addPrimitive(operator.neg, 1, name="neg")
    made.addPrimitive(of_tensors(divided), 2, name="div")
    made.addPrimitive(of_tensors(torch.sin), 1, name="sin")
    made.addPrimitive(of_tensors(torch.cos), 1, name="cos")
    made.addEphemeralConstant("altprop_constant", _constant)
    return made


def _kind(values: Sequence[Any]) -> dict[str, Any]:
    """Return dtype and device of the tensors among some values; of constants alone float64 on the CPU."""
    tensors = (value for value in values if isinstance(value, Tensor))
    return next(
        ({"dtype": one.dtype, "device": one.device} for one in tensors), {"dtype": torch.float64, "device": "cpu"}
    )


def _posed(learner: SymbolicRegression, seed: int = 0) -> tuple[SymbolicRegression, Batch]:
    """Return a learner and the batch of x^2 + x at 20 places."""
    problem, _ = toy((1, 2, 1), loss="half_squared_error", seed=seed)
    x = torch.linspace(-1, 1, 20, dtype=torch.float64, device="cpu")[:, None]
    return set_up(learner, problem), Batch(x, x * x + x, torch.arange(20, device="cpu"))


def _from_arithmetic(shift: float) -> float:
    """Return the largest difference of a formula's output from what it says in words."""
    learner, _ = _posed(SymbolicRegression(4))
    learner.grammar = grammar(2)
    text = "add(mul(x0, sin(x1)), div(neg(x1), sub(x0, x0)))"
    x = torch.tensor([[0.3, -1.2], [2.0, 0.5]], dtype=torch.float64, device="cpu")
    found = learner._function(gp.PrimitiveTree.from_string(text, learner.grammar))(x + shift)
    expected = [a * math.sin(b) + 1.0 for a, b in x.tolist()]
    return float(max(abs(one - other) for one, other in zip(found[:, 0].tolist(), expected, strict=True)))


def _found(steps: int) -> float:
    """Return the best loss on x^2 + x after so many generations."""
    learner, batch = _posed(SymbolicRegression(60), seed=3)
    return float([learner.step(batch).scalars["best_fitness"] for _ in range(steps)][-1])


def _dominated(learner: SymbolicRegression) -> float:
    """Return how many pairs of a recorded front are no trade of size against loss, over some generations."""
    learner, batch = _posed(learner)
    wrong = 0
    for _ in range(10):
        learner.step(batch)
        front = learner.front
        wrong += sum(not (a[1] < b[1] and a[0] > b[0]) for a, b in pairwise(front))
    return float(wrong + (len(learner.front) < 2))
