"""NeuroEvolution of augmenting topologies: networks that grow, compared by the history of their connections."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random as PythonRandom
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.func import vmap

from altprop import (
    Algorithm,
    Batch,
    Capability,
    Oracle,
    PredictorKind,
    Problem,
    Refused,
    StepResult,
    check_number,
    check_whole,
)
from altprop.testing import set_up, toy

# innovation number -> (from, to, weight, enabled); the innovation number is that of the connection's first appearance
Genome = dict[int, tuple[int, int, float, bool]]
SLOPE = 4.9  # of the logistic function, Stanley's: nearly linear between -.5 and .5
RENEWED, DISABLED, SMALL = 0.1, 0.75, 20  # shares of mutated weights and of disabled genes; genes of a small genome


class NEAT(Algorithm):
    """Evolve weights and topology of networks that begin without hidden units; speciation protects what is new.

    One step is one generation. A genome is a set of connections, each with the innovation number of its first
    appearance in the run, by which two genomes are aligned. E is the number of excess genes, D of disjoint ones, W the
    mean weight difference of matching ones, N the genes of the larger genome (1 where both have fewer than 20):

        delta = excess E / N + disjoint D / N + difference W

    A genome joins the first species whose representative, a random member of the generation before, is nearer than
    `threshold`. Shares of the next generation are proportional to the species' mean fitness exp(-L), L the loss on the
    step's batch (fitness sharing: a common factor exp(min L) changes no share). In an environment L is minus the
    return, and fitness is the return, less the lowest one where that is negative. A species without a better value for
    `patience` generations gets none, unless it has the best genome. In each, the best fifth are parents; a champion of
    more than five is copied. A child comes from one parent (`mutation_only`) or from two: matching genes at random,
    the others from the fitter one (equal: both), and where either gene is disabled the child's is with probability
    3/4. Then, with their probabilities, a connection is split by a new unit (weights 1 and the old one), two units are
    connected (never in a circle: networks are feed-forward), and all weights change, 9 of 10 by U(-power, power), the
    others to new ones.

    Units are logistic of slope 4.9; the output is 4.9 times the weighted sum, so that under a loss of logits its
    logistic function is Stanley's output. All P networks are evaluated as one, padded to the size of the largest, and
    booked as these products: some ten times what enabled connections alone would cost. The predictor is the best genome
    on the latest batch; `loss` is None. On mini-batches champions are evaluated anew and best values of species are
    noisy.

    Args:
        population: P.
        threshold, excess, disjoint, difference: of the distance.
        patience: generations.
        mutation_only, add_unit, add_connection, change_weights: probabilities.
        power: of changes of weights.

    Raises:
        AltpropError: for values outside these.

    Paper: Stanley and Miikkulainen 2002, Evolving neural networks through augmenting topologies. As there: all
    parameters but `power`, which is that of the authors' code. Other than there: an innovation keeps its number for the
    whole run and not for a generation; no mating between species; where there are targets fitness is exp(-L) and not
    a task's own.
    """

    kind: ClassVar[PredictorKind] = PredictorKind.MODEL
    trains_model: ClassVar[bool | None] = False
    not_stacked: ClassVar[str] = "its networks grow, each in its own way"
    state: ClassVar[tuple[str, ...]] = ("genomes", "species", "champion", "numbers", "splits", "units")

    def __init__(
        self,
        population: int = 150,
        threshold: float = 3.0,
        excess: float = 1.0,
        disjoint: float = 1.0,
        difference: float = 0.4,
        patience: int = 15,
        mutation_only: float = 0.25,
        add_unit: float = 0.03,
        add_connection: float = 0.05,
        change_weights: float = 0.8,
        power: float = 2.5,
    ) -> None:
        self.population = check_whole(population, "algorithm.population", 2)
        self.threshold = check_number(threshold, "algorithm.threshold", above=0.0)
        self.excess = check_number(excess, "algorithm.excess", 0.0)
        self.disjoint = check_number(disjoint, "algorithm.disjoint", 0.0)
        self.difference = check_number(difference, "algorithm.difference", 0.0)
        self.patience = check_whole(patience, "algorithm.patience", 1)
        self.mutation_only = check_number(mutation_only, "algorithm.mutation_only", 0.0, 1.0)
        self.add_unit = check_number(add_unit, "algorithm.add_unit", 0.0, 1.0)
        self.add_connection = check_number(add_connection, "algorithm.add_connection", 0.0, 1.0)
        self.change_weights = check_number(change_weights, "algorithm.change_weights", 0.0, 1.0)
        self.power = check_number(power, "algorithm.power", above=0.0)

    def _setup(self, problem: Problem) -> None:
        spec = problem.spec
        if spec.sequence or len(spec.input_shape) != 1 or spec.input_shape[0] == 0:
            raise Refused(f"neat connects single inputs, one unit each, and the task's are {list(spec.input_shape)}")
        self.inputs, self.outputs = spec.input_shape[0] + 1, spec.outputs  # the last input is the bias
        self.units = self.inputs + self.outputs
        # (from, to) -> innovation number; innovation number of a split connection -> the unit in it
        self.numbers: dict[tuple[int, int], int] = {}
        self.splits: dict[int, int] = {}
        random = problem.random.python_random
        self.genomes = [self._without_hidden(random) for _ in range(self.population)]
        # of each: representative, least loss so far, generations since
        self.species: list[tuple[Genome, float, int]] = []
        self.champion = self.genomes[0]

    def _without_hidden(self, random: PythonRandom) -> Genome:
        """Return a genome in which every input, the bias too, is connected to every output."""
        ends = [(i, self.inputs + o) for i in range(self.inputs) for o in range(self.outputs)]
        return {self._number(*end): (*end, random.uniform(-1, 1), True) for end in ends}

    def _number(self, source: int, target: int) -> int:
        """Return the innovation number of a connection."""
        return self.numbers.setdefault((source, target), len(self.numbers))

    def _step(self, batch: Batch | None) -> StepResult:
        assert batch is not None
        losses = self._losses(batch)
        order = sorted(range(self.population), key=losses.__getitem__)
        self.champion = self.genomes[order[0]]
        random = self.problem.random.python_random
        groups = self._speciated(random)
        told = {
            "best_fitness": losses[order[0]],
            "mean_fitness": math.fsum(losses) / self.population,
            "species": float(len(groups)),
            "connections": float(sum(gene[3] for gene in self.champion.values())),
            "hidden_units": float(len(self._units_of(self.champion)) - self.inputs - self.outputs),
        }
        self.genomes = self._next(groups, losses, random)
        return StepResult(None, told)

    def _losses(self, batch: Batch) -> list[float]:
        """Return the loss of each genome, in an environment minus its mean return; what is no number is infinite."""
        problem, ledger, rows = self.problem, self.problem.ledger, batch.rows
        count = len(self.genomes)
        network = self.network(self.genomes)
        if Capability.ENVIRONMENT in problem.offers:
            return self._played(network, rows)
        with torch.no_grad(), ledger.primitive("population", rows * count, count):
            ledger.charge("population", network.flops(rows))
            with ledger.charged("population"):
                outputs = network(batch.inputs)
                losses = vmap(lambda own: problem.output_loss(own, batch))(outputs)
        return torch.nan_to_num(losses, nan=torch.inf, posinf=torch.inf).tolist()

    def _played(self, network: Network, episodes: int) -> list[float]:
        """Return minus the mean return of each network on this step's episodes."""
        environment, ledger, count = self.problem.environment, self.problem.ledger, len(self.genomes)
        calls = count

        def policy(seen: Tensor) -> Tensor:
            nonlocal calls
            with ledger.primitive("population", len(seen), calls):
                ledger.charge("population", network.flops(episodes))
                with ledger.charged("population"):
                    outputs = network(seen.reshape(count, episodes, -1))
            calls = 0
            return environment.act(outputs.flatten(0, 1))

        played = environment.rollout(policy, environment.seeds(episodes).repeat(count))
        return (-played.returns.reshape(count, episodes).mean(1)).tolist()

    def network(self, genomes: Sequence[Genome]) -> Network:
        """Return the networks of some genomes, which are evaluated as one."""
        return compiled(genomes, self.inputs, self.outputs)

    def _predictor(self) -> Callable[[Tensor], Tensor]:
        network = self.network([self.champion])
        return lambda inputs: network(inputs)[0]

    # Species.

    def distance(self, one: Genome, other: Genome) -> float:
        """Return delta of two genomes."""
        common = one.keys() & other.keys()
        last = min(max(one), max(other))
        alone = one.keys() ^ other.keys()
        beyond = sum(number > last for number in alone)
        larger = max(len(one), len(other))
        size = 1 if larger < SMALL else larger
        apart = sum(abs(one[number][2] - other[number][2]) for number in common) / max(len(common), 1)
        return self.excess * beyond / size + self.disjoint * (len(alone) - beyond) / size + self.difference * apart

    def _speciated(self, random: PythonRandom) -> list[list[int]]:
        """Return the places of the genomes of each species; `species` follows, without those that died out."""
        known = list(self.species)
        members: list[list[int]] = [[] for _ in known]
        for place, genome in enumerate(self.genomes):
            for kept, (representative, _, _) in zip(members, known, strict=True):
                if self.distance(genome, representative) < self.threshold:
                    kept.append(place)
                    break
            else:
                known.append((genome, math.inf, 0))
                members.append([place])
        alive = [place for place, group in enumerate(members) if group]
        self.species = [(self.genomes[random.choice(members[i])], *known[i][1:]) for i in alive]
        return [members[i] for i in alive]

    def _next(self, groups: list[list[int]], losses: list[float], random: PythonRandom) -> list[Genome]:
        """Return the genomes of the next generation."""
        best = min(losses)
        least = [min(losses[place] for place in group) for group in groups]
        fitness = self._fitness(losses, best)
        ages = [0 if low < kept else age + 1 for low, (_, kept, age) in zip(least, self.species, strict=True)]
        leading = least.index(best)
        shares = [
            sum(fitness[place] for place in group) / len(group) if i == leading or age < self.patience else 0.0
            for i, (group, age) in enumerate(zip(groups, ages, strict=True))
        ]
        self.species = [
            (one, min(low, kept), age) for (one, kept, _), low, age in zip(self.species, least, ages, strict=True)
        ]
        made: list[Genome] = []
        for group, count in zip(groups, apportioned(shares, self.population), strict=True):
            made += self._offspring(sorted(group, key=losses.__getitem__), count, losses, random)
        return made

    def _fitness(self, losses: list[float], best: float) -> list[float]:
        """Return the fitness of each genome, by which species share; a generation in which all are alike is flat."""
        if Capability.ENVIRONMENT in self.problem.offers:
            lowest = min(0.0, -max(losses))
            found = [-loss - lowest for loss in losses]
            return found if max(found) > 0 else [1.0] * len(losses)
        return [1.0 if math.isinf(best) else math.exp(best - loss) for loss in losses]

    def _offspring(self, ranked: list[int], count: int, losses: list[float], random: PythonRandom) -> list[Genome]:
        """Return so many children of a species, whose members come with the best first."""
        parents = ranked[: max(1, math.ceil(len(ranked) / 5))]
        made = [dict(self.genomes[ranked[0]])] if count and len(ranked) > 5 else []
        while len(made) < count:
            one, other = random.choice(parents), random.choice(parents)
            child = dict(self.genomes[one])
            if random.random() >= self.mutation_only:
                child = crossed(child, self.genomes[other], losses[one], losses[other], random)
            made.append(self._mutated(child, random))
        return made

    # Mutations.

    def _mutated(self, child: Genome, random: PythonRandom) -> Genome:
        if random.random() < self.add_unit:
            self._split(child, random)
        elif random.random() < self.add_connection:
            self._connect(child, random)
        elif random.random() < self.change_weights:
            for number, (source, target, weight, enabled) in child.items():
                change = random.uniform(-self.power, self.power)
                weight = change if random.random() < RENEWED else weight + change
                child[number] = (source, target, weight, enabled)
        return child

    def _split(self, child: Genome, random: PythonRandom) -> None:
        """Put a unit into an enabled connection, which is disabled."""
        places = [number for number, gene in child.items() if gene[3] and gene[0] != self.inputs - 1]
        if not places:
            return
        number = random.choice(places)
        source, target, weight, _ = child[number]
        unit = self.splits.get(number)
        if unit is None or unit in self._units_of(child):  # split before, and enabled again since
            unit = self.splits[number] = self.units
            self.units += 1
        child[number] = (source, target, weight, False)
        child[self._number(source, unit)] = (source, unit, 1.0, True)
        child[self._number(unit, target)] = (unit, target, weight, True)

    def _connect(self, child: Genome, random: PythonRandom) -> None:
        """Connect two units that are not, where no circle comes of it."""
        units = sorted(self._units_of(child))
        joined = {gene[:2] for gene in child.values()}
        targets = [unit for unit in units if unit >= self.inputs]
        outputs = range(self.inputs, self.inputs + self.outputs)
        for _ in range(20):
            source, target = random.choice(units), random.choice(targets)
            if source in outputs or (source, target) in joined or _leads(child, target, source):
                continue
            child[self._number(source, target)] = (source, target, random.uniform(-1, 1), True)
            return

    def _units_of(self, genome: Genome) -> set[int]:
        ends = {unit for gene in genome.values() for unit in gene[:2]}
        return ends | set(range(self.inputs + self.outputs))

    def artefacts(self) -> dict[str, Any]:
        """Return the connections of the best genome."""
        rows = [(number, *gene) for number, gene in sorted(self.champion.items())]
        names = ("innovation", "source", "target", "weight", "enabled")
        return {"champion": {name: list(column) for name, column in zip(names, zip(*rows, strict=True), strict=True)}}

    @classmethod
    def oracles(cls) -> tuple[Oracle, ...]:
        """Check the networks against plain loops, and that numbers stand for one connection each."""
        return (
            Oracle("all networks at once = each by itself, unit by unit", lambda: _from_loops(False), 1e-12),
            Oracle("not with disabled connections", lambda: _from_loops(True), 1e-3, differs=True),
            Oracle("a split connection hands on its weight, after a weight of 1", lambda: _split_error(0.7), 0.0),
            Oracle("an innovation number is one connection, and one only", lambda: _ambiguous_numbers(cls()), 0.0),
            Oracle("a genome is no distance from itself", lambda: _distance(cls(), 0.0), 1e-12),
            Oracle("shifted weights are .4 of the shift away", lambda: _distance(cls(), 0.5) - 0.2, 1e-12),
        )


def apportioned(shares: Sequence[float], seats: int) -> list[int]:
    """Return whole numbers in proportion to the shares that sum to `seats`, by largest remainders.

    >>> apportioned([1.0, 1.0, 2.0, 0.0], 5)
    [1, 1, 3, 0]
    """
    total = math.fsum(shares)
    exact = [share / total * seats for share in shares]
    given = [math.floor(part) for part in exact]
    rest = sorted(range(len(shares)), key=lambda i: given[i] - exact[i])
    for place in rest[: seats - sum(given)]:
        given[place] += 1
    return given


def crossed(one: Genome, other: Genome, loss: float, others: float, random: PythonRandom) -> Genome:
    """Return the child of two genomes of these losses."""
    if others < loss:
        one, other, loss, others = other, one, others, loss
    child: Genome = {}
    for number, gene in sorted(one.items()):
        there = other.get(number)
        if there is not None:
            both = gene[3] and there[3]
            gene = random.choice((gene, there))
            if not both:
                gene = (*gene[:3], random.random() >= DISABLED)
        child[number] = gene
    if loss == others:
        for number in sorted(other.keys() - one.keys()):
            gene = other[number]
            if not _leads(child, gene[1], gene[0]):  # no circle through genes of both
                child[number] = gene
    return dict(sorted(child.items()))


def _leads(genome: Genome, start: int, end: int) -> bool:
    """Return whether connections, disabled ones too, lead from a unit to another."""
    after: dict[int, list[int]] = {}
    for source, target, _, _ in genome.values():
        after.setdefault(source, []).append(target)
    waiting, seen = [start], {start}
    while waiting:
        unit = waiting.pop()
        if unit == end:
            return True
        for following in after.get(unit, ()):
            if following not in seen:
                seen.add(following)
                waiting.append(following)
    return False


@dataclass(frozen=True)
class Network:
    """P feed-forward networks side by side.

    Attributes:
        weights: (P, N, N), to and from; the first units are inputs and bias, then outputs.
        inputs: how many units are given, the bias included.
        outputs: how many are read.
        depth: connections on the longest path of any network.
    """

    weights: Tensor
    inputs: int
    outputs: int
    depth: int

    def flops(self, rows: int) -> float:
        """Return what an evaluation on so many rows costs: a product for each connection of the longest path."""
        count, size, _ = self.weights.shape
        return 2.0 * count * (size - self.inputs) * size * rows * self.depth

    def __call__(self, inputs: Tensor) -> Tensor:
        """Return 4.9 times the weighted sums of the outputs, (B, F) or (P, B, F) -> (P, B, C)."""
        weights = self.weights.to(inputs)
        given = torch.cat([inputs, torch.ones_like(inputs[..., :1])], -1).mT.expand(len(weights), -1, -1)
        kept = self.inputs
        states = torch.cat([given, given.new_zeros(len(weights), weights.shape[1] - kept, given.shape[2])], 1)
        sums = weights[:, kept:] @ states
        for _ in range(self.depth - 1):
            states = torch.cat([given, (SLOPE * sums).sigmoid()], 1)
            sums = weights[:, kept:] @ states
        return (SLOPE * sums[:, : self.outputs]).mT


def compiled(genomes: Sequence[Genome], inputs: int, outputs: int) -> Network:
    """Return the networks of some genomes: their enabled connections, each unit in a place of its own."""
    placed, depth = [], 1
    for genome in genomes:
        places = {unit: unit for unit in range(inputs + outputs)}
        entries = []
        for source, target, weight, enabled in genome.values():
            for unit in (source, target):
                places.setdefault(unit, len(places))
            if enabled:
                entries.append((places[target], places[source], weight))
        placed.append((len(places), entries))
        depth = max(depth, _depth(entries))
    size = max(count for count, _ in placed)
    index = [(p, to, source) for p, (_, entries) in enumerate(placed) for to, source, _ in entries]
    values = [weight for _, entries in placed for _, _, weight in entries]
    weights = torch.zeros(len(genomes), size, size, dtype=torch.float64, device="cpu")
    if index:
        weights[tuple(torch.tensor(index, device="cpu").T)] = torch.tensor(values, dtype=torch.float64, device="cpu")
    return Network(weights, inputs, outputs, depth)


def _depth(entries: Sequence[tuple[int, int, float]]) -> int:
    """Return the number of connections on the longest path; there are no circles."""
    before: dict[int, list[int]] = {}
    for target, source, _ in entries:
        before.setdefault(target, []).append(source)
    known: dict[int, int] = {}

    def above(unit: int) -> int:
        if unit not in known:
            known[unit] = max((1 + above(source) for source in before.get(unit, ())), default=0)
        return known[unit]

    return max((above(unit) for unit in before), default=1)


def _grown(learner: NEAT, steps: int = 15) -> tuple[NEAT, Batch]:
    """Return a learner whose networks have grown fast, on a small problem."""
    problem, batch = toy(seed=2)
    learner.add_unit, learner.add_connection = 0.3, 0.5
    set_up(learner, problem)
    for _ in range(steps):
        learner.step(batch)
    return learner, batch


def _from_loops(disabled: bool) -> float:
    """Return the largest difference of an output from that of a recursion over connections."""
    learner, batch = _grown(NEAT(30))
    found = learner.network(learner.genomes)(batch.inputs)
    worst = 0.0
    for genome, outputs in zip(learner.genomes, found, strict=True):
        for row in range(2):
            values = dict(enumerate([*batch.inputs[row].tolist(), 1.0]))

            def total(unit: int, genome: Genome = genome, values: dict[int, float] = values) -> float:
                return sum(
                    weight * (values[source] if source in values else 1 / (1 + math.exp(-SLOPE * total(source))))
                    for source, target, weight, enabled in genome.values()
                    if target == unit and (enabled or disabled)
                )

            for place in range(learner.outputs):
                worst = max(worst, abs(SLOPE * total(learner.inputs + place) - float(outputs[row, place])))
    return worst


def _split_error(weight: float) -> float:
    """Return what is wrong with the two connections of a split one, 0 where they weigh 1 and what it did."""
    learner = set_up(NEAT(2), toy()[0])
    genome = {number: (*gene[:2], weight, True) for number, gene in learner.genomes[0].items()}
    child = dict(genome)
    learner._split(child, PythonRandom(0))
    new = [child[number] for number in sorted(child.keys() - genome.keys())]
    old = [gene for number, gene in child.items() if number in genome and not gene[3]]
    into, out = sorted(new, key=lambda gene: gene[0])
    wrong = abs(into[2] - 1.0) + abs(out[2] - weight) + abs(len(old) - 1)
    return wrong + (old[0][0] != into[0]) + (old[0][1] != out[1]) + (into[1] != out[0])


def _ambiguous_numbers(learner: NEAT) -> float:
    """Return how many innovation numbers stand for two connections, or connections for two numbers."""
    _grown(learner)
    seen = {(number, gene[:2]) for genome in learner.genomes for number, gene in genome.items()}
    return float(2 * len(seen) - len({number for number, _ in seen}) - len({ends for _, ends in seen}))


def _distance(learner: NEAT, shift: float) -> float:
    """Return the distance of a genome from itself with all weights shifted."""
    genome = set_up(learner, toy()[0]).genomes[0]
    return learner.distance(genome, {number: (a, b, w + shift, on) for number, (a, b, w, on) in genome.items()})
