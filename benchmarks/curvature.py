"""What curvature costs: steps of K-FAC and its kin against Adam, products with the Hessian, its largest eigenvalue.

An MLP 64-128-128-10 and the default small CNN, batch 64, cross-entropy, one thread; factors are made every 10 steps.
Other libraries stand beside ours where they can be imported (`benchmarks.peers.curvature`), or it is said why not.
"""

import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
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
from altprop.probes.full import largest_eigenvalue
from altprop.problem import Problem
from altprop.randomness import generator_for
from altprop.testing import make_problem
from benchmarks.harness import ROWS, X, Y
from benchmarks.peers import curvature
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


def plain(net: str) -> nn.Module:
    """Return a net of torch's own modules."""
    layers: list[nn.Module] = [nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10)]
    if net == "CNN":
        convolutions = [nn.Conv2d(1, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU()]
        layers = [nn.Unflatten(1, (1, 8, 8)), *convolutions, nn.Flatten(), nn.Linear(128, 10)]
    return nn.Sequential(*layers)


def written_by_a_person(net: str) -> Callable[[], float]:
    """Return so many steps of `nn.Module`, `loss.backward` and `torch.optim.Adam` as they come."""
    model = plain(net)
    optimizer = torch.optim.Adam(model.parameters())

    def go() -> float:
        for step in range(STEPS):
            batch = BATCHES[step % len(BATCHES)]
            optimizer.zero_grad()
            functional.cross_entropy(model(batch.inputs), batch.targets).backward()
            optimizer.step()
        return STEPS

    return go


def of_peers(net: str) -> dict[str, Callable[[], float]]:
    """Return K-FAC by other libraries, as far as they are there."""
    ways: dict[str, Callable[[], float]] = {}
    for name, kfac in (("curvlinops", curvature.curvlinops_kfac), ("asdl", curvature.asdl_kfac)):
        reason = curvature.missing(name)
        if reason:
            print(reason)
            continue
        ways[f"{net}: {name}'s kfac, every {curvature.EVERY}"] = partial(kfac(plain(net), BATCHES), STEPS)
    return ways


def trained() -> tuple[Problem, nn.Module]:
    """Return the MLP after some steps of Adam, as a problem and as torch's own modules."""
    model = MLP(ModelSpec((64,), 10), (128, 128), generator=generator_for(0))
    problem = make_problem(model, "cross_entropy", offers=OFFERS, train_size=ROWS)
    rule = Backprop(OptimizerFactory("torch.optim.Adam", 0.001))
    rule.setup(problem)
    for batch in BATCHES * 5:
        rule.step(batch)
    problem.ledger.auditing = False
    other = plain("MLP")
    with torch.no_grad():
        for theirs, ours in zip(other.parameters(), problem.params.values(), strict=True):
            theirs.copy_(ours)
    return problem, other


def repeated(work: Callable[[], object], times: int = STEPS) -> Callable[[], float]:
    """Return so many calls of a function as one."""

    def go() -> float:
        for _ in range(times):
            work()
        return times

    return go


def with_the_hessian(rounds: int) -> list[Table]:
    """Measure a product with the Hessian of a batch, and its largest eigenvalue."""
    problem, other = trained()
    batch = BATCHES[0]
    here = problem.linearize(batch)
    v = torch.randn(len(here.gradient), generator=generator_for(1))
    made = 0

    def product(vector: Tensor) -> Tensor:
        nonlocal made
        made += 1
        return here.hvp(vector)

    def passes() -> None:
        functional.cross_entropy(other(batch.inputs), batch.targets).backward()

    exact = largest_eigenvalue(here.hvp, v, 100, 1e-7)
    for close in (1e-3, 1e-4):
        made = 0
        found = largest_eigenvalue(product, v, 100, close)
        print(f"Lanczos to a residual of {close:g}: {made} products, off by {abs(found / exact - 1):.0e}")
    base, lanczos = "forward and backward, torch", "ours, to a residual of 1e-3"
    hvps = {base: repeated(passes), "ours, on a kept graph": repeated(lambda: here.hvp(v))}
    tops = {lanczos: repeated(lambda: largest_eigenvalue(here.hvp, v), 1)}
    reason = curvature.missing("curvlinops")
    if reason:
        print(reason)
    else:
        operator = curvature.curvlinops_hessian(other, batch)
        hvps["curvlinops"] = repeated(lambda: operator @ v)
        tops["scipy's eigsh over curvlinops"] = repeated(lambda: curvature.eigsh(operator, v), 1)
        theirs, count = curvature.eigsh(operator, v)
        print(f"scipy's eigsh: {count} products, off by {abs(theirs / exact - 1):.0e}")
    return [
        Table("curvature: a product with the Hessian, batch 64", base, "seconds", interleave(hvps, rounds, 1)),
        Table("curvature: the Hessian's largest eigenvalue", lanczos, "seconds", interleave(tops, rounds, 1)),
    ]


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
            **of_peers(net),
        }
        started = time.perf_counter()
        found = interleave(ways, rounds, warm=1)
        seconds = time.perf_counter() - started
        tables.append(
            Table(f"curvature: {net}, batch 64; {rounds} rounds in {seconds:.0f} s", loop, "seconds a step", found)
        )
    return tables + with_the_hessian(rounds)
