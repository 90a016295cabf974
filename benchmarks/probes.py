"""What gradient health costs: whole runs with the probes of each tier at every block of 50 steps, against none."""

import logging
import warnings

import torch

from benchmarks.harness import STEPS, fitted
from benchmarks.timing import Table, interleave

TIERS = ("off", "basic", "standard", "full")
OPTIMIZERS = {"sgd": "torch.optim.SGD", "adam": "torch.optim.Adam"}


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
    return tables
