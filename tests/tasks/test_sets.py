"""Sets that come from elsewhere: sizes, published figures, and what their options change."""

import hashlib
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.linear_model import LinearRegression
from sklearn.preprocessing import PolynomialFeatures
from sklearn.svm import SVC

from altprop.errors import AltpropError
from altprop.tasks.diabetes import Diabetes
from altprop.tasks.digits import Digits
from altprop.tasks.iris import Iris
from altprop.tasks.japanese_vowels import SHA256, JapaneseVowels
from altprop.tasks.mackey_glass import MackeyGlass, series
from altprop.tasks.mnist1d import Mnist1d
from altprop.tasks.reber import Reber
from altprop.tasks.sunspots import Sunspots


def ols(task, data, split) -> dict[str, float]:
    model = LinearRegression().fit(data.train.inputs.numpy(), data.train.targets.numpy())
    return task.evaluate(lambda x: torch.from_numpy(model.predict(x.numpy())), split)


def test_digits_is_the_half_split_of_scikit_learns_example() -> None:
    data = Digits(validation="none").data()
    test = data.tests["test"]
    assert (len(data.train), len(test)) == (898, 899)
    assert data.train.inputs.max() == 1.0
    machine = SVC(gamma=0.001).fit(16 * data.train.inputs.numpy(), data.train.targets.numpy())
    assert machine.score(16 * test.inputs.numpy(), test.targets.numpy()) == pytest.approx(0.969, abs=5e-4)


def test_digits_in_float32_is_the_same_in_another_process() -> None:
    code = (
        "import torch; from altprop.tasks.digits import Digits; data = Digits().data().to(torch.device('cpu'),"
        " torch.float32); print(data.train.digest(), data.split_digest(), data.sha256)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    data = Digits().data().to(torch.device("cpu"), torch.float32)
    assert done.stdout.split() == [data.train.digest(), data.split_digest(), data.sha256]


def test_digits_keep_their_hash_and_hold_out() -> None:
    assert Digits().data().sha256 == "562232acc926f170368da1ffcd39c62c50b9474d97f15572b53ea5b962726d3d"
    rows = Digits().data().validation.rows.tolist()
    assert (len(rows), rows[:5]) == (179, [12, 17, 20, 23, 31])


def test_mnist1d_is_the_authors_set_and_options_change_it() -> None:
    data = Mnist1d().data()
    everything = torch.cat([data.train.inputs, data.validation.inputs, data.tests["test"].inputs])
    assert everything.shape == (5000, 40)
    assert float(everything.mean()) == pytest.approx(0, abs=1e-9)
    assert float(everything.std(correction=0)) == pytest.approx(1, abs=1e-9)
    other = Mnist1d(shuffled=True, baselines={"linear": 0.3})
    assert other.reference.baselines == {}
    assert other.data().sha256 != data.sha256
    moved, straight = other.data().tests["test"].inputs[0], data.tests["test"].inputs[0]
    assert moved.tolist() != straight.tolist()
    assert sorted(moved.tolist()) == pytest.approx(sorted(straight.tolist()))


def test_diabetes_least_squares_in_sample() -> None:
    task = Diabetes(in_sample=True)
    data = task.data()
    found = ols(task, data, data.tests["test"])
    assert len(data.train) == 442
    assert found["mse"] == pytest.approx(2859.696348, abs=1e-6)
    assert found["nmse"] * 5929.884896910383 == pytest.approx(found["mse"], abs=1e-6)


def test_diabetes_scales_by_rows_that_may_be_trained_on_alone() -> None:
    source = Diabetes()._load()
    assert (len(source.train), len(source.tests["test"])) == (331, 111)
    for values in (source.train.inputs, source.train.targets):
        assert values.mean(0).abs().max() < 1e-12
        assert (values.std(0, correction=0) - 1).abs().max() < 1e-12
    assert source.tests["test"].inputs.mean(0).abs().max() > 0.02
    assert Diabetes(test_seed=1, baselines={"linear": 0.5}).reference.baselines == {}
    assert Diabetes(test_seed=1)._load().tests["test"].rows.tolist() != source.tests["test"].rows.tolist()


def test_tables_hold_out_test_rows_in_proportion() -> None:
    source = Iris()._load()
    assert torch.bincount(source.tests["test"].targets).tolist() == [15, 15, 15]
    assert not set(source.train.rows.tolist()) & set(source.tests["test"].rows.tolist())
    assert source.train.inputs.mean(0).abs().max() < 1e-12
    assert Iris(test_seed=1)._load().tests["test"].rows.tolist() != source.tests["test"].rows.tolist()


def test_sunspots_linear_autoregression() -> None:
    pytest.importorskip("statsmodels", reason="the extra `data` is not installed")
    task = Sunspots(validation="none")
    data = task.data()
    assert (len(data.train), len(data.tests["test"]), len(data.tests["late"])) == (209, 35, 24)
    assert data.train.rows.tolist() == list(range(1712, 1921))
    splits = (data.train, data.tests["test"], data.tests["late"])
    found = [ols(task, data, split)["nmse"] for split in splits]
    assert np.abs(np.array(found) - [0.1319, 0.1296, 0.3679]).max() < 1e-4


def test_sunspots_are_those_of_an_autoregression_by_statsmodels() -> None:
    """Another program on the raw series: the variance of what is left over the training years."""
    pytest.importorskip("statsmodels", reason="the extra `data` is not installed")
    from statsmodels.datasets import sunspots
    from statsmodels.tsa.ar_model import AutoReg

    series = sunspots.load().data["SUNACTIVITY"].to_numpy()[: 1980 - 1700]
    fitted = AutoReg(series[: 1921 - 1700], lags=12).fit()
    assert np.square(fitted.resid).mean() / series.var() == pytest.approx(0.1319, abs=1e-4)


def test_mackey_glass_has_the_figures_of_simple_predictors() -> None:
    """Persistence .813, polynomials of degree 1, 3 and 6 .433, .0505 and .0125 in units of the test's deviation."""
    task = MackeyGlass(validation="none")
    data = task.data()
    train, test = data.train, data.tests["test"]
    x = series(1124)
    assert train.rows.tolist() == list(range(118, 618))
    assert np.sqrt(np.mean((x[618:1118] - x[624:1124]) ** 2)) / x[624:1124].std() == pytest.approx(0.813, abs=5e-4)
    for degree, expected in ((1, 0.4325), (3, 0.0505), (6, 0.0125)):
        seen, unseen = (PolynomialFeatures(degree).fit_transform(split.inputs) for split in (train, test))
        weights = np.linalg.lstsq(seen, train.targets.numpy(), rcond=None)[0]
        outputs = torch.from_numpy(unseen @ weights)
        assert task.evaluate(lambda _, y=outputs: y, test)["ndei"] == pytest.approx(expected, abs=5e-5)


def test_mackey_glass_follows_its_equation() -> None:
    """Central differences of the series itself, at whole times far from the start."""
    x = series(400)
    slope = (x[302:392] - x[300:390]) / 2
    delayed = x[301 - 17 : 391 - 17]
    assert np.abs(slope - (0.2 * delayed / (1 + delayed**10) - 0.1 * x[301:391])).max() < 4e-3


def test_sunspots_windows_are_the_years_before() -> None:
    pytest.importorskip("statsmodels", reason="the extra `data` is not installed")
    data = Sunspots().data()
    train = data.train
    assert train.inputs[13, :11].tolist() == train.inputs[12, 1:].tolist()
    assert train.inputs[13, -1] == train.targets[12, 0]
    assert data.validation.rows.tolist() == list(range(1879, 1921))


def test_sunspots_without_its_package_says_what_to_install(monkeypatch) -> None:
    from altprop.errors import AltpropError
    from altprop.tasks.sunspots import _source

    monkeypatch.setitem(sys.modules, "statsmodels.datasets.sunspots", None)
    _source.cache_clear()
    with pytest.raises(AltpropError, match=r"task sunspots needs statsmodels: pip install 'altprop\[data\]'"):
        Sunspots().data()


def test_hash_depends_on_values_shapes_and_types() -> None:
    from altprop.tasks.common import sha256_of

    values = np.arange(4.0)
    assert sha256_of(values) == sha256_of(values.copy()[::1])
    others = [values + 1e-12 * (values == 3), values.reshape(2, 2), values.astype(np.float32)]
    assert len({sha256_of(v) for v in [values, *others]}) == 4
    assert sha256_of(values.astype(">f8")) == sha256_of(values)
    assert sha256_of(values)[:8] == hashlib.sha256(b"(4,)<f8" + values.tobytes()).hexdigest()[:8]


def _vowels(lengths: list[int], draw: np.random.Generator) -> str:
    rows = [[",".join(f"{v:.6f}" for v in draw.normal(k, 1 + k, n)) for k in range(12)] for n in lengths]
    return "@dimensions 12\n@data\n" + "\n".join(":".join([*row, str(1 + i % 9)]) for i, row in enumerate(rows)) + "\n"


@pytest.fixture
def vowels(tmp_path, monkeypatch) -> JapaneseVowels:
    """The task on planted files of the published form."""
    texts = {name: _vowels([7, 9, 8] * 9, np.random.default_rng(i)) for i, name in enumerate(SHA256)}
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
        monkeypatch.setitem(SHA256, name, hashlib.sha256(text.encode()).hexdigest())
    return JapaneseVowels(path=str(tmp_path))


def test_japanese_vowels_are_read_as_they_stand(vowels) -> None:
    source = vowels._load()
    train, test = source.train, source.tests["test"]
    assert train.inputs.shape == (9, 27, 12)
    assert train.mask.sum(0).tolist() == [7, 9, 8] * 9
    assert train.targets.tolist() == list(range(9)) * 3
    inside = train.inputs[train.mask]
    assert inside.mean(0).abs().max() < 1e-12
    assert (inside.std(0, correction=0) - 1).abs().max() < 1e-12
    assert test.inputs[test.mask].mean(0).abs().max() > 0.01
    raw = np.random.default_rng(0)
    first = np.array([raw.normal(k, 1 + k, 7) for k in range(12)]).T.round(6)
    steps = (first[1:] - first[:-1]) / (train.inputs[1:7, 0] - train.inputs[:6, 0]).numpy()
    assert np.ptp(steps, axis=0).max() < 1e-6  # one scale a channel


def test_japanese_vowels_of_other_files_are_refused(vowels, tmp_path) -> None:
    (tmp_path / "JapaneseVowels_TEST.ts").write_text((tmp_path / "JapaneseVowels_TRAIN.ts").read_text())
    with pytest.raises(AltpropError, match="is not the published file"):
        vowels.data()
    with pytest.raises(AltpropError, match=r"pip install 'altprop\[timeseries\]'"):
        JapaneseVowels(path=str(tmp_path / "nowhere")).data()


def test_whatever_stands_in_the_padding_is_never_seen(vowels, monkeypatch) -> None:
    """Not by a learner and not by a metric, NaN neither; with a target at the end and at each time."""
    for task in (vowels, Reber(samples=20, test_samples=10)):
        source = task._load()
        expected = task.data()

        def poisoned(split):
            targets = split.targets
            if targets.dim() == 2:
                targets = torch.where(split.mask, targets, 10**6)
            return replace(split, inputs=torch.where(split.mask[..., None], split.inputs, torch.nan), targets=targets)

        tests = {name: poisoned(split) for name, split in source.tests.items()}
        other = replace(source, train=poisoned(source.train), tests=tests)
        monkeypatch.setattr(task, "_load", lambda other=other: other)
        found = task.data()
        for ours, theirs in zip((found.train, found.validation), (expected.train, expected.validation), strict=True):
            assert ours.digest() == theirs.digest()
        assert found.tests["test"].digest() == expected.tests["test"].digest()
