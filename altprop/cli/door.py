"""The Python door: one cell from overrides, as a data frame."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from hydra import compose, initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import open_dict
from omegaconf.errors import OmegaConfBaseException

from altprop.cli.application import cell_of, explain, quote_null, register_search_path
from altprop.errors import AltpropError
from altprop.harness.cell import run_cell

if TYPE_CHECKING:
    import pandas as pd


def run_overrides(overrides: list[str], config_dir: str | os.PathLike[str] | None) -> pd.DataFrame:
    """Compose, run and load one cell; see `altprop.run`."""
    register_search_path()
    extra = [] if config_dir is None else [f"hydra.searchpath=[file://{Path(config_dir).resolve()}]"]
    kept = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        with initialize_config_module("altprop.conf", version_base="1.3"):
            config = compose("config", [*map(quote_null, overrides), *extra], return_hydra_config=True)
            with open_dict(config):
                config.pop("hydra")
    except (HydraException, OmegaConfBaseException) as error:
        raise AltpropError(explain(error, overrides)) from error
    finally:
        GlobalHydra.instance().clear()
        if kept is not None:
            GlobalHydra.instance().initialize(kept)
    cell = cell_of(config, overrides)
    outcomes = run_cell(cell)
    from altprop.records.frame import load

    frame = load(cell.settings.runs_dir)
    keys = [outcome.key for outcome in outcomes]
    return frame[frame["key"].isin(keys)].reset_index(drop=True)
