"""The figures that the project promises on digits, at the task's own budget."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from altprop.harness.building import Parts, build_parts
from altprop.harness.cell import make_cell
from altprop.harness.composition import compose_cell
from altprop.harness.training_run import TrainingRun

FULL = ["budget.currency=flops", "budget.amount=2.0e9", "budget.grid=20", "budget.block=50", "model.hidden=[100]"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "bound"),
    [
        (["task.validation=none", "budget.amount=4.0e9"], 0.94),  # observed mean .9459
        ([], 0.93),  # observed .9433
        (["algorithm=dfa"], 0.90),  # observed .9404
    ],
)
def test_digits_over_ten_seeds(run: Callable[..., Any], options: list[str], bound: float) -> None:
    rows = run(*FULL, *options, "seeds=10")
    assert (rows.status == "completed").all()
    assert rows.test.mean() >= bound, rows.test.tolist()


def trained(seed: int, *overrides: str) -> Parts:
    """Run a cell to its end outside Lightning and return its parts."""
    from omegaconf import OmegaConf

    given = [*overrides, "dtype=float64", "budget.currency=epochs", "budget.amount=15", "probes=off"]
    plain: Any = OmegaConf.to_container(compose_cell(given), resolve=True)
    cell = make_cell({name: value for name, value in plain.items() if name != "hydra"}, given)
    training_run = TrainingRun(build_parts(cell, seed), cell.settings, seed)
    training_run.begin()
    while not training_run.over:
        training_run.block()
    return training_run.parts


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_manual_backprop_is_backprop_with_sgd_run_for_run(momentum: float) -> None:
    optimizer = "optimizer=sgd" if momentum == 0 else "optimizer=momentum"
    for seed in range(3):
        by_hand = trained(seed, "algorithm=manual_backprop", "algorithm.lr=0.05", f"algorithm.momentum={momentum}")
        by_torch = trained(seed, optimizer, "optimizer.lr=0.05")
        assert by_hand.problem.ledger.steps == by_torch.problem.ledger.steps == 180
        for (name, a), b in zip(by_hand.model.named_parameters(), by_torch.model.parameters(), strict=True):
            torch.testing.assert_close(a, b, atol=1e-10, rtol=0, msg=f"{name}, seed {seed}")  # observed 4e-15
