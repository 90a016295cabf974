"""The harness's own settings, checked before anything heavy is imported."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from altprop.checks import check_flag, check_name, check_number, check_whole
from altprop.errors import AltpropError
from altprop.harness.memory import read_bytes
from altprop.records.claims import read_claims

CURRENCIES = ("steps", "epochs", "samples", "episodes", "evaluations", "forward_equivalents", "flops", "seconds")
TIERS = ("off", "basic", "standard", "full")
DTYPES = ("float32", "float64")
ACCELERATORS = ("cpu", "gpu", "cuda")
STRATEGIES = ("auto", "ddp")
PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")
"""Lightning's names of those that act on a step: models are built in `dtype`, whatever Lightning's other ones say."""
PROFILERS = ("simple", "advanced", "pytorch")


@dataclass(frozen=True)
class Budget:
    """How much a run may spend; see conf/budget/default.yaml."""

    currency: str
    amount: float
    grid: int
    block: int
    stop_at_target: bool
    divergence: float
    patience: int | None = None

    @classmethod
    def read(cls, config: Mapping[str, Any]) -> Budget:
        """Check and read `budget`."""
        return cls(
            check_name(config.get("currency"), "budget.currency", CURRENCIES),
            check_number(config.get("amount"), "budget.amount", above=0),
            check_whole(config.get("grid"), "budget.grid", 1),
            check_whole(config.get("block"), "budget.block", 1),
            check_flag(config.get("stop_at_target", False), "budget.stop_at_target"),
            check_number(config.get("divergence"), "budget.divergence", above=1),
            None if config.get("patience") is None else check_whole(config["patience"], "budget.patience", 1),
        )


@dataclass(frozen=True)
class Settings:
    """What the harness itself reads of a cell's configuration."""

    budget: Budget
    seeds: tuple[int, ...]
    dtype: str
    probes: str
    probe_rows: int
    trainer: Mapping[str, Any]
    logger: Mapping[str, Any]
    runs_dir: Path
    isolate: bool
    timeout: float | None
    memory: int | None = None
    tune: int = 0
    tune_seeds: int = 1
    stack_seeds: bool = True
    quick: bool = False

    @property
    def device_type(self) -> str:
        """Either cpu or cuda."""
        return "cuda" if self.trainer.get("accelerator") in ("gpu", "cuda") else "cpu"

    @property
    def ranks(self) -> int:
        """Number of processes that share a run."""
        return int(self.trainer.get("devices", 1)) if self.trainer.get("strategy") == "ddp" else 1

    @property
    def rank(self) -> int:
        """This process among them; Lightning reads the same variable."""
        return int(os.environ.get("LOCAL_RANK", "0")) if self.ranks > 1 else 0

    @property
    def threads(self) -> int:
        """Number of torch's threads."""
        return int(self.trainer.get("threads", 1))

    @property
    def precision(self) -> str:
        """Precision in the key: the trainer's, with the dtype."""
        return f"{self.trainer.get('precision', '32-true')}/{self.dtype}"

    @classmethod
    def read(cls, config: Mapping[str, Any]) -> Settings:
        """Check and read the configuration of a cell.

        Raises:
            AltpropError: for the first unusable value, in one line.
        """
        probes = config.get("probes") or {}
        tier = probes.get("tier", "basic")
        timeout, memory = config.get("timeout"), read_bytes(config.get("memory"))
        isolate = check_flag(config.get("isolate", False), "isolate")
        check_flag(config.get("report", True), "report")
        read_claims(config.get("claims"))
        task = config.get("task") or {}
        if task.get("validation") == "none" and (config.get("budget") or {}).get("stop_at_target"):
            raise AltpropError("budget.stop_at_target needs a validation split; task.validation=none has none")
        if (config.get("budget") or {}).get("patience") is not None and task.get("validation") == "none":
            raise AltpropError("budget.patience waits for validation data; task.validation=none leaves none")
        if config.get("tune") and task.get("validation") == "none":
            raise AltpropError("tune= chooses on validation data; task.validation=none leaves none")
        return cls(
            budget=Budget.read(config.get("budget") or {}),
            seeds=read_seeds(config.get("seeds", 1)),
            dtype=check_name(config.get("dtype", "float32"), "dtype", DTYPES),
            probes=check_name("off" if tier is False else tier, "probes.tier", TIERS),
            probe_rows=check_whole(probes.get("rows", 256), "probes.rows", 1),
            trainer=_checked_trainer(config.get("trainer") or {}),
            logger=dict(config.get("logger") or {}),
            runs_dir=Path(str(config.get("runs_dir") or "runs")),
            isolate=isolate or timeout is not None or memory is not None,
            timeout=None if timeout is None else check_number(timeout, "timeout", above=0),
            memory=memory,
            stack_seeds=check_flag(config.get("stack_seeds", True), "stack_seeds"),
            tune=0 if config.get("tune") is None else check_whole(config["tune"], "tune", 1),
            tune_seeds=check_whole(config.get("tune_seeds", 1), "tune_seeds", 1),
            quick=check_flag(config.get("quick", False), "quick"),
        )


def _checked_trainer(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return conf/trainer's options as they are, checked."""
    accelerator = check_name(options.get("accelerator", "cpu"), "trainer.accelerator", ACCELERATORS)
    strategy = check_name(options.get("strategy", "auto"), "trainer.strategy", STRATEGIES)
    precision = str(options.get("precision", "32-true"))
    if precision.startswith("64"):
        raise AltpropError(f"trainer.precision={precision} would change nothing; say dtype=float64")
    check_name(precision, "trainer.precision", PRECISIONS)
    if precision == "16-mixed" and accelerator == "cpu":
        raise AltpropError("trainer.precision=16-mixed needs a GPU; say trainer.precision=bf16-mixed")
    check_whole(options.get("threads", 1), "trainer.threads", 1)
    check_number(options.get("checkpoint_seconds", 20), "trainer.checkpoint_seconds", 0)
    if check_whole(options.get("devices", 1), "trainer.devices", 1) > 1 and strategy != "ddp":
        raise AltpropError("trainer.devices above 1 share a run; say trainer=ddp, or -m for cells side by side")
    if options.get("overfit_rows") is not None:
        check_whole(options["overfit_rows"], "trainer.overfit_rows", 1)
    if options.get("profiler") is not None:
        check_name(options["profiler"], "trainer.profiler", PROFILERS)
    return dict(options)


def read_seeds(value: Any) -> tuple[int, ...]:
    """Return the seeds that `seeds=` names: a count or a list.

    >>> read_seeds(3), read_seeds([5, 7])
    ((0, 1, 2), (5, 7))
    """
    if isinstance(value, (list, tuple)):
        seeds = tuple(check_whole(seed, "seeds", 0) for seed in value)
        if not seeds or len(set(seeds)) != len(seeds):
            raise AltpropError(f"seeds must be a list of different whole numbers; got {list(value)}")
        return seeds
    return tuple(range(check_whole(value, "seeds", 1)))
