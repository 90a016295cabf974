"""The Lightning side: a module whose training step is a block of steps, its loader and its checkpoints."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from altprop.harness.stacked_runs import StackedRuns
from altprop.harness.training_run import TrainingRun
from altprop.modules import uncollected
from altprop.records.files import sync_folder

with uncollected():
    import pytorch_lightning as pl
    from pytorch_lightning.plugins.io import TorchCheckpointIO

logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)

CHECKPOINT_KEY = "altprop"


class BlockCounter:
    """Optimizer-shaped, steps once a block: Lightning counts a step only through an optimizer."""

    def __init__(self) -> None:
        self.param_groups: list[dict[str, Any]] = []
        self.defaults: dict[str, Any] = {}
        self.state: dict[Any, Any] = {}

    def step(self, closure: Any = None) -> None:
        """Count one block."""

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Leave the gradients: learners clean up after themselves."""

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: there is no state."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take nothing: there is no state."""


class BlockLoader:
    """Yield tokens without end. The run knows its own position, so a resumed fit goes on exactly there."""

    def __iter__(self) -> Iterator[int]:
        while True:
            yield 0


class LearnerModule(pl.LightningModule):
    """One run as a LightningModule. The learner's model is no submodule: Lightning would flip its mode.

    Args:
        training_run: of the run, or several runs stacked.
        checkpoints: each run's run and the file that its checkpoints go to.
        checkpoint_seconds: between checkpoints; 0 for every block.
    """

    def __init__(
        self,
        training_run: TrainingRun | StackedRuns,
        checkpoints: Sequence[tuple[TrainingRun, Path]],
        checkpoint_seconds: float,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.training_run = training_run
        self._checkpoints, self._interval = list(checkpoints), checkpoint_seconds
        self._saving = self._checkpoints[0][0]
        self._saved_at = -1.0
        self._logged = 0
        # DistributedDataParallel wraps no module without a parameter; this one is never used.
        self.token = torch.nn.Parameter(torch.zeros(1, device="cpu")) if training_run.settings.ranks > 1 else None

    def configure_optimizers(self) -> Any:
        """Return what counts blocks."""
        return BlockCounter()

    def train_dataloader(self) -> Any:
        """Return the endless loader of tokens."""
        return BlockLoader()

    def on_train_start(self) -> None:
        """Evaluate the untrained learner."""
        self.training_run.begin()
        self._log()
        if self.training_run.over:
            self.trainer.should_stop = True

    def training_step(self, token: int, index: int) -> None:
        """Run one block, log what it wrote down, and save where that is due."""
        training_run = self.training_run
        if training_run.over or training_run.stop_requested:
            self.trainer.should_stop = True
            return
        training_run.block()
        self.optimizers().step()  # type: ignore[union-attr]
        self._log()
        if training_run.over or training_run.stop_requested:
            self.trainer.should_stop = True
        if not training_run.over:
            self._maybe_save()

    def _maybe_save(self) -> None:
        now = self.training_run.wall_seconds
        if self._saved_at < 0:
            self._saved_at = 0.0 if self._interval else -1.0
        if self.training_run.stop_requested or now - self._saved_at >= self._interval:
            for training_run, path in self._checkpoints:
                if not training_run.over:
                    self._saving = training_run
                    self.trainer.save_checkpoint(path)
            self._saved_at = now

    def _log(self) -> None:
        if self.trainer.logger is None:
            return
        rows, self._logged = self.training_run.trace[self._logged :], len(self.training_run.trace)
        for row in rows:
            numbers = _numbers(row)
            if numbers:
                self.trainer.logger.log_metrics(numbers, step=int(row["step"]))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add all that an exact resume needs."""
        checkpoint[CHECKPOINT_KEY] = self._saving.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Put it back."""
        self._saving.load_state_dict(checkpoint[CHECKPOINT_KEY])


def _numbers(row: dict[str, Any]) -> dict[str, float]:
    kind = row["kind"]
    if kind == "evaluation":
        return {f"{row['split']}/{name}": value for name, value in row["metrics"].items()}
    if kind == "train" and row["loss"] is not None:
        return {"train/loss": row["loss"], **{f"train/{k}": v for k, v in row["scalars"].items()}}
    if kind == "probe":
        return {f"probe/{k}": v for k, v in row["values"].items() if isinstance(v, (int, float))}
    return {}


class AtomicCheckpointIO(TorchCheckpointIO):
    """Write a checkpoint beside its place, then renames: a crash leaves the old one or the new one, whole."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Save atomically and durably."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_name(path.name + ".new")
        with fresh.open("wb") as file:
            torch.save(checkpoint, file)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
        sync_folder(path.parent)


def make_trainer(options: dict[str, Any], logger: Any) -> pl.Trainer:
    """Return a lean Trainer: no progress bar, sanity check or checkpoint callback of its own.

    Args:
        options: of conf/trainer.
        logger: a Lightning logger, or None.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pl.Trainer(
            accelerator=options.get("accelerator", "cpu"),
            devices=options.get("devices", 1),
            strategy=options.get("strategy", "auto"),
            precision=options.get("precision", "32-true"),
            profiler=options.get("profiler"),
            max_epochs=-1,
            logger=logger if logger is not None else False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,
            plugins=[AtomicCheckpointIO()],
        )
