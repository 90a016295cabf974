"""What the harness costs a step: a bare loop, altprop's blocks under Lightning, and Lightning's defaults.

MLP 64-128-128-10, batch 64, SGD, probes off; 5,000 steps a run, so that the fixed cost of a fit (some 40 ms) does not
hide in the step. The bare loop is what a person writes: shuffled indices, zero_grad,
loss.backward, optimizer.step.
"""

import logging
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from altprop.algorithms.backprop.backprop import Backprop
from altprop.capabilities import Capability
from altprop.data import ModelSpec, Source, Split, TaskData
from altprop.feed import EpochFeed
from altprop.harness.building import Parts
from altprop.harness.module import LearnerModule, make_trainer
from altprop.harness.settings import Settings
from altprop.harness.training_run import TrainingRun
from altprop.models.mlp import MLP
from altprop.optim import OptimizerFactory
from altprop.randomness import generator_for
from altprop.task import Task
from altprop.testing import make_problem
from benchmarks.timing import Table, interleave

ROWS, STEPS, SHORT = 2048, 5000, 300


class Drawn(Task):
    """Random rows, so that nothing but the step is measured."""

    offers = frozenset({Capability.SUPERVISED, Capability.CLASSES, Capability.VECTORS})
    spec = ModelSpec((64,), 10)

    def _load(self) -> Source:
        split = Split(X, Y, torch.arange(ROWS))
        return Source(split, {"test": split}, "drawn", "0" * 64)


X = torch.randn(ROWS, 64, generator=torch.Generator().manual_seed(0))
Y = torch.randint(0, 10, (ROWS,), generator=torch.Generator().manual_seed(1))


def network() -> nn.Sequential:
    """Return the plain torch model."""
    return nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10))


def bare(steps: int) -> Callable[[], float]:
    """Return the loop that a person writes."""
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def go() -> float:
        done = 0
        while done < steps:
            order = torch.randperm(ROWS)
            for start in range(0, ROWS, 64):
                rows = order[start : start + 64]
                optimizer.zero_grad()
                loss = functional.cross_entropy(model(X[rows]), Y[rows])
                loss.backward()
                optimizer.step()
                done += 1
                if done == steps:
                    break
        return steps

    return go


def training_run(steps: int, probes: str = "off", block: int = 50, optimizer: str = "torch.optim.SGD") -> TrainingRun:
    """Return a run of altprop on the same work, ready to fit."""
    settings = Settings.read(
        {
            "budget": {"currency": "flops", "amount": steps * 8.88e6, "grid": 2, "block": block, "divergence": 1e9},
            "probes": {"tier": probes, "rows": 256},
            "trainer": {"accelerator": "cpu", "checkpoint_seconds": 1e9},
        }
    )
    task = Drawn(validation="none")
    model = MLP(task.spec, (128, 128), generator=generator_for(0))
    problem = make_problem(model, "cross_entropy", offers=task.offers, train_size=ROWS)
    algorithm = Backprop(OptimizerFactory(optimizer, 0.01))
    algorithm.setup(problem)
    data = TaskData(task._load().train, None, {}, "drawn", "0" * 64)
    feed = EpochFeed(data.train, 64, algorithm.batch, 0)
    batch = data.train.batch(torch.arange(256))
    return TrainingRun(Parts(task, data, model, problem, algorithm, feed, batch, {}, 0), settings, 0)


def fitted(steps: int, **options: Any) -> Callable[[], float]:
    """Return altprop's run under its own lean Trainer: evaluations and fixed costs of `fit` included."""

    def go() -> float:
        run = training_run(steps, **options)
        module = LearnerModule(run, [(run, Path("unused.pt"))], 1e9)
        make_trainer({"accelerator": "cpu"}, None).fit(module)
        return run.parts.problem.ledger.steps

    return go


class Usual(pl.LightningModule):
    """The LightningModule of a tutorial."""

    def __init__(self) -> None:
        super().__init__()
        self.model = network()

    def training_step(self, batch: list[Tensor], index: int) -> Tensor:
        loss = functional.cross_entropy(self.model(batch[0]), batch[1])
        self.log("loss", loss)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def lightning_defaults(steps: int, folder: str) -> Callable[[], float]:
    """Return Lightning as it comes: DataLoader, logger, checkpoints; only its output is silenced."""

    def go() -> float:
        loader = DataLoader(TensorDataset(X, Y), batch_size=64, shuffle=True)
        trainer = pl.Trainer(
            max_steps=steps, accelerator="cpu", default_root_dir=folder, enable_progress_bar=False,
            enable_model_summary=False,
        )  # fmt: skip
        trainer.fit(Usual(), loader)
        return steps

    return go


def run(rounds: int, steps: int = STEPS) -> list[Table]:
    """Measure; see the module."""
    import tempfile

    torch.set_num_threads(1)
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    with warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
        warnings.simplefilter("ignore")
        ways = {
            "bare PyTorch loop": bare(steps),
            "altprop, blocks of 50": fitted(steps),
            "altprop, blocks of 8": fitted(steps, block=8),
            "Lightning's defaults": lightning_defaults(min(steps, SHORT), folder),
        }
        started = time.perf_counter()
        found = interleave(ways, rounds, warm=1)
        seconds = time.perf_counter() - started
    title = f"harness: a step of an MLP 64-128-128-10, batch 64, SGD; {rounds} rounds in {seconds:.0f} s"
    return [Table(title, "bare PyTorch loop", "seconds a step", found)]
