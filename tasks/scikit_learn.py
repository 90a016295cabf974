"""The tables that scikit-learn carries, read from its files: to import it takes a second, and no step needs it."""

import importlib.util
from pathlib import Path

import numpy as np

from altprop import AltpropError
from altprop.tasks.common import Array

_FILES = {
    "load_breast_cancer": ("breast_cancer.csv",),
    "load_diabetes": ("diabetes_data_raw.csv.gz", "diabetes_target.csv.gz"),
    "load_digits": ("digits.csv.gz",),
    "load_iris": ("iris.csv",),
    "load_wine": ("wine_data.csv",),
}
"""Function of `sklearn.datasets` -> the files that it reads, whose last column is the target."""


def read_table(loader: str) -> tuple[Array, Array]:
    """Return the inputs (N, F) and targets (N,) that a function of `sklearn.datasets` gives, bit for bit, as float64.

    Raises:
        AltpropError: where the installed scikit-learn has no such file.
    """
    columns = np.column_stack([_read(name) for name in _FILES[loader]])
    return np.ascontiguousarray(columns[:, :-1]), columns[:, -1].copy()


def _read(name: str) -> Array:
    spec = importlib.util.find_spec("sklearn")  # the package is found, and not imported
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        path = Path(folder, "datasets", "data", name)
        if path.is_file():
            # Plain .csv files begin with a line of counts and names; the diabetes files separate by spaces.
            return np.loadtxt(
                path,
                delimiter=None if name.startswith("diabetes") else ",",
                skiprows=1 if path.suffix == ".csv" else 0,
            )
    raise AltpropError(f"the data need scikit-learn with its file datasets/data/{name}: pip install scikit-learn")
