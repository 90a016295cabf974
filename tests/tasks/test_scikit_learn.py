"""The tables that scikit-learn carries, read from its files."""

import subprocess
import sys

import numpy as np
import pytest
import sklearn.datasets

from altprop.errors import AltpropError
from altprop.tasks import scikit_learn
from altprop.tasks.scikit_learn import read_table


@pytest.mark.parametrize("loader", scikit_learn._FILES)
def test_a_table_is_scikit_learns_to_the_bit(loader: str) -> None:
    options = {"scaled": False} if loader == "load_diabetes" else {}
    inputs, targets = getattr(sklearn.datasets, loader)(return_X_y=True, **options)
    ours = read_table(loader)
    assert ours[0].dtype == inputs.dtype
    assert np.array_equal(ours[0], inputs)
    assert np.array_equal(ours[1], targets)


def test_a_file_that_is_gone_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(scikit_learn._FILES, "load_iris", ("no_such.csv",))
    with pytest.raises(AltpropError, match=r"the data need scikit-learn with its file datasets/data/no_such\.csv"):
        read_table("load_iris")


def test_a_task_does_not_import_scikit_learn() -> None:
    code = "import sys, altprop.tasks.digits as d; d.Digits().data(); print('sklearn' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
