"""What a step with curvature costs: K-FAC and its kin against Adam, ours and the loop that a person writes.

An MLP 64-128-128-10 and the default small CNN, batch 64, cross-entropy, one thread; factors are made every 10 steps.
"""

import time
from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional

from altprop.algorithm import Algorithm
from altprop.algorithms.backprop.backprop import Backprop
from altprop.algorithms.second_order.diagonal_gauss_newton import DiagonalGaussNewton
from altprop.algorithms.second_order.ekfac import EKFAC
from altprop.algorithms.second_order.kfac import KFAC
from altprop.capabilities import Capability
from altprop.data import ModelSpec, Split
from altprop.models.cnn import CNN
from altprop.models.mlp import MLP
from altprop.optim import OptimizerFactory
from altprop.randomness import generator_for
from altprop.testing import make_problem
from benchmarks.harness import ROWS, X, Y
from benchmarks.timing import Table, interleave

STEPS = 60
OFFERS = frozenset({Capability.SUPERVISED, Capability.CLASSES, Capability.VECTORS})
BATCHES = [Split(X, Y, torch.arange(ROWS)).batch(torch.arange(start, start + 64)) for start in range(0, ROWS, 64)]


def stepping(net: str, rule: Algorithm) -> Callable[[], float]:
    """Return so many steps of a learner, without audits."""
    spec, generator = ModelSpec((64,), 10), generator_for(0)
    model = MLP(spec, (128, 128), generator=generator) if net == "MLP" else CNN(spec, generator=generator)
    problem = make_problem(model, "cross_entropy", offers=OFFERS, train_size=ROWS)
    rule.setup(problem)
    for batch in BATCHES[:11]:
        rule.step(batch)
    problem.ledger.auditing = False

    def go() -> float:
        for step in range(STEPS):
            rule.step(BATCHES[step % len(BATCHES)])
        return STEPS

    return go


def written_by_a_person(net: str) -> Callable[[], float]:
    """Return so many steps of `nn.Module`, `loss.backward` and `torch.optim.Adam` as they come."""
    layers: list[nn.Module] = [nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10)]
    if net == "CNN":
        convolutions = [nn.Conv2d(1, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU()]
        layers = [nn.Unflatten(1, (1, 8, 8)), *convolutions, nn.Flatten(), nn.Linear(128, 10)]
    model = nn.Sequential(*layers)
    optimizer = torch.optim.Adam(model.parameters())

    def go() -> float:
        for step in range(STEPS):
            batch = BATCHES[step % len(BATCHES)]
            optimizer.zero_grad()
            functional.cross_entropy(model(batch.inputs), batch.targets).backward()
            optimizer.step()
        return STEPS

    return go


def run(rounds: int) -> list[Table]:
    """Measure; see the module."""
    torch.set_num_threads(1)
    tables = []
    for net in ("MLP", "CNN"):
        loop = f"{net}: a bare loop with torch's Adam"
        ways = {
            loop: written_by_a_person(net),
            f"{net}: backprop, Adam": stepping(net, Backprop(OptimizerFactory("torch.optim.Adam", 0.001))),
            f"{net}: kfac, every 10": stepping(net, KFAC()),
            f"{net}: kfac, every 50": stepping(net, KFAC(every=50)),
            f"{net}: ekfac": stepping(net, EKFAC()),
            f"{net}: diagonal_gauss_newton": stepping(net, DiagonalGaussNewton()),
        }
        started = time.perf_counter()
        found = interleave(ways, rounds, warm=1)
        seconds = time.perf_counter() - started
        tables.append(
            Table(f"curvature: {net}, batch 64; {rounds} rounds in {seconds:.0f} s", loop, "seconds a step", found)
        )
    return tables
