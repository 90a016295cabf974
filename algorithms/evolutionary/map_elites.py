"""The best of every behaviour: MAP-Elites, an archive of elites over a grid of behaviour descriptors."""

import math
from functools import partial
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from altprop import (
    Algorithm,
    AltpropError,
    Batch,
    BatchMode,
    Capability,
    Descriptor,
    Oracle,
    PredictorKind,
    Problem,
    Random,
    StepResult,
    check_number,
    check_whole,
)
from altprop.algorithms.evolutionary import checks
from altprop.algorithms.evolutionary.population import fitness_and_behaviour, refresh_statistics
from altprop.testing import set_up

MOST_CELLS = 10**6


class MapElites(Algorithm):
    """Keep the best individual in each cell of a grid over behaviours, and breed the next ones from all of them.

    One step is one generation. The behaviour b (K,) of each of P children is told by the problem's descriptor, whose
    span is cut into `cells` equal intervals along each of the K numbers: M = cells^K cells. What lies on a boundary
    belongs to the interval above it, what lies beyond the span to the last interval. Then

        a child whose cell is empty, or holds a larger loss, takes the cell; of equals the earlier one stays
        parents x and y (P, D) of the next children are drawn uniformly from the cells that are filled
        x' = x + sigma N(0, I) + line (y - x) N(0, 1), the last draw common to all weights of a child

    The first P are drawn around the initial weights, with deviation sigma. With `line` 0 the variation is Gaussian, as
    in Mouret and Clune; along lines between elites it is that of Vassiliades and Mouret. With one cell it is a
    (1 + P) evolution strategy of constant width.

    The model is the elite of the least loss. An elite is evaluated once, as in the paper, on the whole training set;
    where episodes are drawn anew in each step, its loss is that of the episodes which it met, so that the best of many
    is a lucky one: its evaluation by the task plays others. No objective of the present batch is known: the step has no
    `loss`.

    Told in each step are `coverage`, the share of cells that are filled, `qd_score`, by how much the elites are better
    than the worst of the first generation that has a finite loss, summed (who is worse counts 0), and `best_fitness` of
    all elites. Neither coverage nor score ever falls, nor does the best loss rise. The artefact `archive` holds the
    elites: their cell, behaviour and loss. State and memory are M (D + K + 1) numbers.

    Args:
        population: P.
        cells: along each number of the descriptor.
        sigma: standard deviation of variation in each weight, and of the first generation.
        line: standard deviation of variation along the line to another elite, as a share of the distance.

    Raises:
        AltpropError: for values outside these, or more than 1e6 cells.

    Paper: Mouret and Clune 2015, Illuminating search spaces by mapping elites; variation along lines: Vassiliades and
    Mouret 2018, Discovering the elite hypervolume by leveraging interspecies correlation; QD-score: Pugh, Soros and
    Stanley 2016, Quality diversity: a new frontier for evolutionary computation, which sums fitness that is never
    negative where we subtract what the first generation had at worst.
    """

    requires: ClassVar[frozenset[Capability]] = frozenset({Capability.BEHAVIOUR})
    kind: ClassVar[PredictorKind] = PredictorKind.MODEL
    batch = BatchMode.FULL
    state: ClassVar[tuple[str, ...]] = ("candidates", "genomes", "losses", "behaviour", "worst")

    def __init__(self, population: int = 20, cells: int = 16, sigma: float = 0.05, line: float = 0.2) -> None:
        self.population = check_whole(population, "algorithm.population", 1)
        self.cells = check_whole(cells, "algorithm.cells", 1)
        self.sigma = check_number(sigma, "algorithm.sigma", above=0.0)
        self.line = check_number(line, "algorithm.line", 0.0)
        self.candidates: Tensor
        self.genomes: Tensor
        self.losses: Tensor
        self.behaviour: Tensor
        self.worst: Tensor

    def _setup(self, problem: Problem) -> None:
        descriptor = problem.descriptor
        assert descriptor is not None
        count = self.cells ** len(descriptor.names)
        if count > MOST_CELLS:
            raise AltpropError(f"algorithm.cells={self.cells} along {len(descriptor.names)} numbers are {count} cells")
        start = problem.flat()
        self.edges = boundaries(descriptor, self.cells).to(start.device, start.dtype)
        self.candidates = start + self.sigma * problem.random.normal(self.population, start.numel())
        self.candidates[0] = start
        self.genomes = start.repeat(count, 1)
        self.losses = start.new_full((count,), math.inf)
        self.behaviour = start.new_zeros(count, len(descriptor.names))
        self.worst = start.new_full((), -math.inf)

    def _step(self, batch: Batch | None) -> StepResult:
        assert batch is not None
        problem = self.problem
        refresh_statistics(problem, batch)
        values, behaviour = fitness_and_behaviour(problem, self.candidates, batch)
        self._fill(values, behaviour)
        # Of the first generation in which anybody has a finite loss.
        self.worst = self.worst.where(self.worst > -math.inf, values.where(values < math.inf, -math.inf).max())
        problem.assign(self.genomes[self.losses.argmin(0, keepdim=True)][0])
        filled = self.losses < math.inf
        self.candidates = self._children(filled, problem.random)
        scalars = {"best_fitness": self.losses.min(), "mean_fitness": values.mean()}
        scalars |= {"coverage": filled.to(values.dtype).mean()}
        scalars |= {"qd_score": (self.worst - self.losses).clamp(min=0).sum()}
        return StepResult(None, scalars)

    def _fill(self, values: Tensor, behaviour: Tensor) -> None:
        """Let children of some losses (P,) and behaviours (P, K) take the cells in which they are best."""
        cell = cells_of(behaviour, self.edges)
        inside = cell[:, None] == torch.arange(len(self.losses), device=cell.device)
        least, row = torch.where(inside, values[:, None], math.inf).min(0)
        better = least < self.losses
        self.losses = torch.where(better, least, self.losses)
        self.behaviour = torch.where(better[:, None], behaviour[row], self.behaviour)
        self.genomes = torch.where(better[:, None], self.candidates[row], self.genomes)

    def _children(self, filled: Tensor, random: Random) -> Tensor:
        """Return children (P, D) of elites; while no cell (M,) is filled all hold the initial weights."""
        chances = (filled | ~filled.any()).to(self.genomes.dtype)
        parents = self.genomes[random.multinomial(chances, self.population)]
        children = parents + self.sigma * random.normal(*parents.shape)
        if not self.line:
            return children
        others = self.genomes[random.multinomial(chances, self.population)]
        return children + self.line * (others - parents) * random.normal(self.population, 1)

    def artefacts(self) -> dict[str, Any]:
        """Return the elites, cell by cell: place in the grid along each number, behaviour and loss."""
        descriptor = self.problem.descriptor
        assert descriptor is not None
        filled = self.losses < math.inf
        behaviour = self.behaviour[filled]
        places = (behaviour[..., None] >= self.edges).sum(-1)
        table = {f"{name}_cell": column.tolist() for name, column in zip(descriptor.names, places.T, strict=True)}
        table |= {name: column.tolist() for name, column in zip(descriptor.names, behaviour.T, strict=True)}
        return {"archive": {**table, "loss": self.losses[filled].tolist()}}

    @classmethod
    def oracles(cls) -> tuple[Oracle, ...]:
        """Check the archive against all that was evaluated, cell by cell, one cell against a climber, and the grid."""
        return (
            Oracle("the archive is the first best of each cell of all evaluated", lambda: _from_all(tie="first"), 0.0),
            Oracle("not the last best, where several are equal", lambda: _from_all(tie="last"), 1e-3, differs=True),
            Oracle("no cell's loss rises, nor do coverage and QD-score fall", lambda: _rise(whole=False), 0.0),
            Oracle("not the mean of each generation", lambda: _rise(whole=True), 1e-3, differs=True),
            Oracle("one cell is a (1 + P) evolution strategy", lambda: _from_climber(plus=True), 0.0),
            Oracle("not a (1, P) one", lambda: _from_climber(plus=False), 1e-3, differs=True),
            Oracle("what lies on a boundary is in the cell above", lambda: _misplaced("right"), 0.0),
            Oracle("not in the cell below", lambda: _misplaced("left"), 1.0, differs=True),
            Oracle("f and 7 log1p(f) - 3 give one run", lambda: _apart(transform=checks.squashed), 0.0),
            Oracle("not f and -f", lambda: _apart(transform=checks.negated), 1e-3, differs=True),
            Oracle("the origin of behaviour may lie anywhere", lambda: _apart(shift=0.75), 0.0),
            Oracle("not its scale", lambda: _apart(view=lambda seen: 3 * seen), 1e-3, differs=True),
        )


def boundaries(descriptor: Descriptor, cells: int) -> Tensor:
    """Return the inner boundaries of so many equal intervals along each number of a descriptor, (K, cells - 1).

    >>> boundaries(Descriptor(("x",), (-1.0,), (1.0,)), 4)
    tensor([[-0.5000,  0.0000,  0.5000]], dtype=torch.float64)
    """
    low, high = (torch.tensor(ends, dtype=torch.float64, device="cpu") for ends in (descriptor.low, descriptor.high))
    share = torch.arange(1, cells, dtype=torch.float64, device="cpu") / cells
    return low[:, None] + (high - low)[:, None] * share


def cells_of(behaviour: Tensor, edges: Tensor) -> Tensor:
    """Return the cell (P,) in which each behaviour (P, K) lies, counted with the last number running fastest.

    >>> edges = torch.tensor([[0.0], [1.0]])
    >>> cells_of(torch.tensor([[-9.0, 1.0], [0.0, 0.5], [0.0, 9.0]]), edges)
    tensor([1, 2, 3])
    """
    places = (behaviour[..., None] >= edges).sum(-1)
    numbers, inner = edges.shape
    weights = (inner + 1) ** torch.arange(numbers - 1, -1, -1, device=edges.device)
    return (places * weights).sum(-1)


def _small() -> MapElites:
    return MapElites(12, cells=5, sigma=0.3)


def _coarse(values: Tensor) -> Tensor:
    """Return values in steps of 1/2, so that many are equal."""
    return (2 * values).round() / 2


def _from_all(tie: str) -> float:
    """Return how far the archive is from the best of each cell among all evaluated, one after another."""
    learner, problem, seen = checks.behaved(_small, transform=_coarse)
    assert isinstance(learner, MapElites)
    best: dict[int, tuple[float, Tensor]] = {}
    for flat, value, behaviour in ((f, v, b) for one in seen for f, v, b in zip(*one, strict=True)):
        # The span is 4 and begins at -2 and at -3.
        x, y = (min(max(math.floor((float(b) - low) / 0.8), 0), 4) for b, low in zip(behaviour, (-2, -3), strict=True))
        held = best.get(5 * x + y, (math.inf, flat))[0]
        if value < held or (tie == "last" and value == held):
            best[5 * x + y] = (float(value), flat)
    found = {cell for cell in range(25) if learner.losses[cell] < math.inf}
    apart = 0.0
    for cell, (value, flat) in best.items():
        apart = max(apart, abs(float(learner.losses[cell]) - value), float((learner.genomes[cell] - flat).abs().max()))
    least = min(value for value, _ in best.values())
    model = min(float((problem.flat() - flat).abs().sum()) for value, flat in best.values() if value == least)
    return len(found ^ set(best)) + apart + model


def _rise(*, whole: bool) -> float:
    """Return the largest rise of what must not rise: losses of cells, and minus coverage and score; or of the mean."""
    problem, batch, _ = checks.behaving()
    learner, rise = set_up(_small(), problem), 0.0
    kept = torch.full_like(learner.losses, 1e9)
    for _ in range(30):
        told = learner.step(batch).scalars
        good = torch.stack([torch.as_tensor(told[name]) for name in ("coverage", "qd_score")])
        now = torch.as_tensor(told["mean_fitness"])[None] if whole else torch.cat([learner.losses, -good])
        now = now.clamp(max=1e9)
        rise = max(rise, float((now - kept).max())) if len(now) == len(kept) else rise
        kept = now
    return rise


def _from_climber(*, plus: bool) -> float:
    """Return how far one cell's model is from a climber that moves to the best of P children, if that is better."""
    _, problem, seen = checks.behaved(partial(MapElites, 12, cells=1, sigma=0.3, line=0.0))
    twin, _, _ = checks.behaving()
    random, here, least = twin.random, twin.flat(), math.inf
    children = here + 0.3 * random.normal(12, 6)
    children[0] = here
    for _ in seen:
        values = children.square().sum(1) / 2
        if not plus or values.min() < least:
            here, least = children[values.argmin()], float(values.min())
        random.multinomial(torch.ones(1, device="cpu"), 12)  # the draw of a parent among one
        children = here + 0.3 * random.normal(12, 6)
    return float((problem.flat() - here).abs().max())


def _misplaced(side: Literal["left", "right"]) -> float:
    """Return how many behaviours on boundaries, or next to them, numpy puts elsewhere."""
    descriptor = Descriptor(("x", "y"), (-1.2, 0.0), (0.6, 0.7))
    edges, wrong = boundaries(descriptor, 7), 0
    for x in _around(edges[0]):
        for y in _around(edges[1]):
            i, j = (int(np.searchsorted(edge.numpy(), float(b), side)) for edge, b in zip(edges, (x, y), strict=True))
            wrong += int(cells_of(torch.stack([x, y])[None], edges)) != 7 * i + j
    return float(wrong)


def _around(edges: Tensor) -> Tensor:
    far = torch.full_like(edges, 9.0)
    return torch.cat([edges, edges.nextafter(far), edges.nextafter(-far), far[:1], -far[:1]])


def _apart(**how: Any) -> float:
    """Return the largest difference of elites between a run as it is and one on a problem of another look."""
    one, other = (checks.behaved(_small, **kind)[0] for kind in ({}, how))
    assert isinstance(one, MapElites)
    assert isinstance(other, MapElites)
    return float((one.genomes - other.genomes).abs().max())
