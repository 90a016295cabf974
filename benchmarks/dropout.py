"""What dropout costs a step, draws and all, over the step without: altprop's and torch's own.

MLP 64-128-128-10, batch 64, SGD, rate .2 after both hidden layers. Our masks come from the run's own generator and
repeat bit for bit; `nn.Dropout` draws from torch's global one. The floor is the step without noise, and beside it the
draws of both masks and the products with them, forth and back, and nothing else: what no way to write it can save.
"""

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional

from altprop.algorithms.backprop.backprop import Backprop
from altprop.algorithms.dropout.gaussian import GaussianDropout
from altprop.algorithms.dropout.standard import StandardDropout
from altprop.noise import Noise
from altprop.optim import OptimizerFactory
from altprop.testing import toy
from benchmarks.timing import Table, interleave

STEPS = 100


def learner(noise: Noise | None) -> Callable[[], float]:
    """Return a function that takes steps of altprop's learner."""
    problem, batch = toy((64, 128, 128, 10), rows=64, activation="relu", noise=noise, dtype=torch.float32)
    rule = Backprop(OptimizerFactory("torch.optim.SGD", lr=0.01))
    rule.setup(problem)

    def go() -> float:
        for _ in range(STEPS):
            rule.step(batch)
        return STEPS

    return go


def floor() -> Callable[[], float]:
    """Return a function that takes steps without noise, and makes and applies two masks that nobody uses."""
    step, generator = learner(None), torch.Generator(device="cpu")
    values = torch.ones(64, 128)

    def go() -> float:
        step()
        for seed in range(2 * STEPS):
            draw = torch.rand(64, 128, generator=generator.manual_seed(seed), device="cpu")
            mask = draw.ge_(0.2).div_(0.8)
            _ = values * mask, values * mask
        return STEPS

    return go


def bare(*dropout: nn.Module) -> Callable[[], float]:
    """Return a function that takes steps of a plain torch loop."""
    hidden = [(nn.Linear(wide, 128), nn.ReLU(), *dropout) for wide in (64, 128)]
    net = nn.Sequential(*hidden[0], *hidden[1], nn.Linear(128, 10))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    x, y = torch.randn(64, 64), torch.randint(0, 10, (64,))

    def go() -> float:
        for _ in range(STEPS):
            optimizer.zero_grad()
            functional.cross_entropy(net(x), y).backward()
            optimizer.step()
        return STEPS

    return go


def run(rounds: int) -> list[Table]:
    """Measure; see the module."""
    torch.set_num_threads(1)
    ours = {
        "none": learner(None),
        "floor of standard": floor(),
        "standard": learner(StandardDropout(0.2)),
        "gaussian": learner(GaussianDropout(0.2)),
    }
    theirs = {"bare PyTorch loop": bare(), "bare loop, nn.Dropout": bare(nn.Dropout(0.2))}
    found = interleave(ours | theirs, rounds)
    title = f"dropout: a step of an MLP 64-128-128-10, batch 64, SGD; {rounds} rounds"
    return [
        Table(title, next(iter(ways)), "seconds a step", {way: found[way] for way in ways}) for ways in (ours, theirs)
    ]
