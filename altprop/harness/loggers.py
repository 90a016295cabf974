"""Lightning's loggers by name, imported when chosen."""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from altprop.checks import LOGGERS, check_name
from altprop.errors import AltpropError

PROJECT = "altprop"


@contextlib.contextmanager
def open_logger(
    config: Mapping[str, Any], folder: Path, group: str, seed: int, about: Mapping[str, Any], rank: int = 0
) -> Iterator[Any]:
    """Yield a Lightning logger that knows its run, or None; end it with the run, so that the next has one of its own.

    Args:
        config: of conf/logger; `kind` is null, csv, tensorboard, mlflow or wandb.
        folder: of the run, in the folder of all runs.
        group: what the seeds of a cell have in common: learner and workload.
        seed: of the run.
        about: the run's configuration, logged as its hyperparameters.
        rank: of this process; the first one logs for all.

    Raises:
        AltpropError: for an unknown kind, or one whose package is absent.
    """
    kind = config.get("kind")
    if kind is None:
        yield None
        return
    check_name(kind, "logger.kind", LOGGERS)
    if rank > 0:
        yield _lightning().logger.DummyLogger()
        return
    with contextlib.ExitStack() as stack:
        try:
            logger = stack.enter_context(_START[str(kind)](config, folder, group, seed))
        except ModuleNotFoundError as error:
            package = error.name or kind
            hint = f"logger={kind} needs a package that is not there ({package}); pip install 'altprop[tracking]'"
            raise AltpropError(hint) from error
        logger.log_hyperparams(dict(_flat(about)))
        yield logger


@contextlib.contextmanager
def _csv(config: Mapping[str, Any], folder: Path, group: str, seed: int) -> Iterator[Any]:
    yield _lightning().CSVLogger(_logs(folder), name="csv")


@contextlib.contextmanager
def _tensorboard(config: Mapping[str, Any], folder: Path, group: str, seed: int) -> Iterator[Any]:
    # TensorBoard names a run by its folder.
    name = re.sub(r"[^\w.+=,()\[\] ·-]", "_", _name(group, seed))[:120]
    yield _lightning().TensorBoardLogger(_logs(folder), name="tensorboard", version=name, default_hp_metric=False)


@contextlib.contextmanager
def _mlflow(config: Mapping[str, Any], folder: Path, group: str, seed: int) -> Iterator[Any]:
    from filelock import FileLock

    importlib.import_module("mlflow")
    logging.getLogger("mlflow").setLevel(logging.WARNING)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    store = folder.resolve().parent
    uri = config.get("tracking_uri") or os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{store / 'mlflow.db'}"
    # Two processes that lay out one database at once break it.
    with FileLock(store / "mlflow.lock"):
        logger = _lightning().MLFlowLogger(
            experiment_name=PROJECT,
            run_name=_name(group, seed),
            tracking_uri=uri,
            artifact_location=(store / "mlflow").as_uri() if uri.startswith("sqlite:") else None,
        )
        logger.experiment  # noqa: B018  # creates the experiment
    yield logger


@contextlib.contextmanager
def _wandb(config: Mapping[str, Any], folder: Path, group: str, seed: int) -> Iterator[Any]:
    wandb = importlib.import_module("wandb")
    own = wandb.run is None  # a run that the caller began is his to end
    logger = _lightning().WandbLogger(
        project=config.get("project") or PROJECT,
        name=_name(group, seed),
        save_dir=_logs(folder),
        offline=bool(config.get("offline", True)),
        group=group[:128],  # the longest that it takes
        settings=wandb.Settings(silent=True),
    )
    ended = 1
    try:
        yield logger
        ended = 0
    finally:
        if own and wandb.run is not None:
            wandb.run.finish(exit_code=ended)


_START = {"csv": _csv, "tensorboard": _tensorboard, "mlflow": _mlflow, "wandb": _wandb}


def _flat(options: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield options under the dotted names that the command line knows, of characters that MLflow takes."""
    for name, value in options.items():
        dotted = prefix + re.sub(r"[^\w -]", "", str(name))
        if isinstance(value, Mapping):
            yield from _flat(value, f"{dotted}.")
        else:
            yield dotted, value


def _lightning() -> Any:
    return importlib.import_module("pytorch_lightning.loggers")


def _name(group: str, seed: int) -> str:
    return f"{group}, seed {seed}"


def _logs(folder: Path) -> Path:
    where = folder / "logs"
    where.mkdir(parents=True, exist_ok=True)
    return where
