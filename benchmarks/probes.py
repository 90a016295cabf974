"""What gradient health costs: wall time of whole runs with basic probes at every block of 50, against none."""

import logging
import warnings

import torch

from benchmarks.harness import STEPS, fitted
from benchmarks.timing import Table, interleave


def run(rounds: int) -> list[Table]:
    """Measure; see the module."""
    torch.set_num_threads(1)
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adam = "torch.optim.Adam"
        ways = {
            "probes=off": fitted(STEPS),
            "probes=basic": fitted(STEPS, probes="basic"),
            "adam, probes=off": fitted(STEPS, optimizer=adam),
            "adam, probes=basic": fitted(STEPS, probes="basic", optimizer=adam),
        }
        found = interleave(ways, rounds, warm=1)
    table = Table(
        "probes: MLP 64-128-128-10, batch 64, probe batch 256, a probe a block", "probes=off", "seconds a step", found
    )
    ratio = sorted(a / b for a, b in zip(found["adam, probes=basic"], found["adam, probes=off"], strict=True))
    table.notes.append(f"adam with probes over adam without: {ratio[len(ratio) // 2]:.2f}")
    return table
