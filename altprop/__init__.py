"""Identical tasks under interchangeable learning algorithms.

>>> import altprop
>>> sorted(name for name in altprop.__all__ if not name.startswith("_"))
['load', 'load_trace', 'run']
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from os import PathLike

    import pandas as pd

__version__ = "0.1.0"
__all__ = ["__version__", "load", "load_trace", "run"]


def run(overrides: Sequence[str] = (), *, config_dir: str | PathLike[str] | None = None) -> pd.DataFrame:
    """Run one cell as the command line would, and return its rows.

    Args:
        overrides: as on the command line, such as `["task=digits", "algorithm=dfa", "seeds=3"]`; no sweeps.
        config_dir: a folder of yours with further algorithm/, task/ ... yaml files.

    Returns:
        One row a seed, with the columns of `load`.

    Raises:
        AltpropError: for a mistake in the overrides, in one line.
    """
    from altprop.cli.api import run_overrides

    return run_overrides(list(overrides), config_dir)


def load(runs: str | PathLike[str] | Iterable[str | PathLike[str]] = "runs") -> pd.DataFrame:
    """Return one row a run: see `altprop.records.frame.load`."""
    from altprop.records.frame import load as load_frame

    return load_frame(runs)


def load_trace(runs: str | PathLike[str] | Iterable[str | PathLike[str]] = "runs") -> pd.DataFrame:
    """Return evaluations and probes in long form: see `altprop.records.frame.load_trace`."""
    from altprop.records.frame import load_trace as load_frame

    return load_frame(runs)
