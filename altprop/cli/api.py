"""The Python interface: one cell from overrides, as a data frame."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from altprop.cli.application import cell_of, explain
from altprop.errors import AltpropError
from altprop.harness.cell import run_cell
from altprop.harness.composition import compose_cell

if TYPE_CHECKING:
    import pandas as pd


def run_overrides(overrides: list[str], config_dir: str | os.PathLike[str] | None) -> pd.DataFrame:
    """Compose, run and load one cell; see `altprop.run`."""
    try:
        config = compose_cell(overrides, None if config_dir is None else Path(config_dir))
    except (HydraException, OmegaConfBaseException, YAMLError) as error:
        raise AltpropError(explain(error, overrides)) from error
    cell = cell_of(config, overrides)
    outcomes = run_cell(cell)
    from altprop.records.frame import load

    frame = load(cell.settings.runs_dir)
    keys = [outcome.key for outcome in outcomes]
    return frame[frame["key"].isin(keys)].reset_index(drop=True)
