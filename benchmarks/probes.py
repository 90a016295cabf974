"""What gradient health costs: whole runs with the probes of each tier at every block of 50 steps, against none.

The floor of the basic tier is a bare loop that does at every block, beside its 50 steps, what the figures are made of:
a gradient on the probe batch, one on the batch of the step, and the loss on the probe batch after it.
"""

import logging
import warnings
from collections.abc import Callable

import torch
from torch.nn import functional

from benchmarks.harness import STEPS, X, Y, fitted, network
from benchmarks.timing import Table, interleave

TIERS = ("off", "basic", "standard", "full")
PROBED = 256
"""Rows of the probe batch."""
OPTIMIZERS = {"sgd": "torch.optim.SGD", "adam": "torch.optim.Adam"}


def loop(steps: int, probed: bool) -> Callable[[], float]:
    """Return a bare loop of SGD, with or without what a basic probe needs at every block of 50 steps."""
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def gradient(rows: slice) -> None:
        optimizer.zero_grad()
        functional.cross_entropy(model(X[rows]), Y[rows]).backward()

    def go() -> float:
        for step in range(steps):
            rows = slice(64 * (step % 32), 64 * (step % 32) + 64)
            if probed and step % 50 == 0:
                gradient(slice(PROBED))
                gradient(rows)
            gradient(rows)
            optimizer.step()
            if probed and step % 50 == 0:
                with torch.no_grad():
                    functional.cross_entropy(model(X[:PROBED]), Y[:PROBED])
        return steps

    return go


def run(rounds: int, steps: int = STEPS) -> list[Table]:
    """Measure; see the module."""
    torch.set_num_threads(1)
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    tables = []
    for name, optimizer in OPTIMIZERS.items():
        ways = {f"{name}, probes={tier}": fitted(steps, probes=tier, optimizer=optimizer) for tier in TIERS}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = interleave(ways, rounds, warm=1)
        title = f"probes: {name}, MLP 64-128-128-10, batch 64, probe batch 256, a probe a block"
        tables.append(Table(title, next(iter(ways)), "seconds a step", found))
    ways = {"bare loop": loop(steps, False), "floor of basic": loop(steps, True)}
    title = "what a basic probe is made of, in a bare loop of SGD"
    return [*tables, Table(title, next(iter(ways)), "seconds a step", interleave(ways, rounds, warm=1))]
