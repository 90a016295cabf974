"""The Python interface: one cell from overrides, and records as data frames."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

Folder = str | os.PathLike[str]


def run(overrides: str | Sequence[str] = (), *, config_dir: Folder | None = None) -> pd.DataFrame:
    """Run one cell as the command line would, and return its rows.

    Args:
        overrides: as on a command line, as `["task=digits", "algorithm=dfa", "seeds=3"]`; a string is one; no sweeps.
        config_dir: a folder of yours with further algorithm/, task/ ... yaml files.

    Returns:
        One row a seed, with the columns of `load`.

    Raises:
        AltpropError: for a mistake in the overrides, in one line.
    """
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    from altprop.cli.application import cell_of, explain
    from altprop.errors import AltpropError
    from altprop.harness.commands import run_cell
    from altprop.harness.composition import compose_cell

    given = [overrides] if isinstance(overrides, str) else list(overrides)
    try:
        config = compose_cell(given, None if config_dir is None else Path(config_dir))
    except (HydraException, OmegaConfBaseException, YAMLError) as error:
        raise AltpropError(explain(error, given)) from error
    cell = cell_of(config, given, [] if config_dir is None else [str(Path(config_dir).resolve())])
    keys = [outcome.key for outcome in run_cell(cell)]
    frame = load(cell.settings.runs_dir)
    return frame[frame["key"].isin(keys)].reset_index(drop=True)


def load(runs: Folder | Iterable[Folder] = "runs") -> pd.DataFrame:
    """Return one row a run: see `altprop.records.frame.load`."""
    from altprop.records.frame import load as load_frame

    return load_frame(runs)


def load_trace(runs: Folder | Iterable[Folder] = "runs") -> pd.DataFrame:
    """Return evaluations and probes in long form: see `altprop.records.frame.load_trace`."""
    from altprop.records.frame import load_trace as load_frame

    return load_frame(runs)
