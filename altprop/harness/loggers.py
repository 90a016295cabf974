"""Lightning's loggers by name, imported when chosen."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from altprop.errors import AltpropError
from altprop.harness.settings import choice

KINDS = ("csv", "tensorboard", "mlflow", "wandb")


def make_logger(config: Mapping[str, Any], folder: Path, name: str) -> Any:
    """Return a Lightning logger, or None.

    Args:
        config: of conf/logger; `kind` is null, csv, tensorboard, mlflow or wandb.
        folder: of the run.
        name: label of the run.

    Raises:
        AltpropError: for an unknown kind, or one whose package is absent.
    """
    kind = config.get("kind")
    if kind is None:
        return None
    choice(kind, "logger.kind", KINDS)
    loggers = importlib.import_module("pytorch_lightning.loggers")
    where = folder / "logs"
    where.mkdir(parents=True, exist_ok=True)
    try:
        if kind == "csv":
            return loggers.CSVLogger(where, name="csv")
        if kind == "tensorboard":
            return loggers.TensorBoardLogger(where, name="tensorboard")
        if kind == "mlflow":
            uri = config.get("tracking_uri") or f"sqlite:///{(where / 'mlflow.db').resolve()}"
            return loggers.MLFlowLogger(experiment_name="altprop", run_name=name, tracking_uri=uri)
        offline = bool(config.get("offline", True))
        return loggers.WandbLogger(project=config.get("project", "altprop"), name=name, save_dir=where, offline=offline)
    except ModuleNotFoundError as error:
        hint = (
            f"logger={kind} needs a package that is not there ({error.name or kind}); pip install 'altprop[tracking]'"
        )
        raise AltpropError(hint) from error
