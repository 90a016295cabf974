"""Tasks on data of the user's: what is read, how it is split, what is measured, and what is said of what cannot be."""

import csv
import random
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from altprop.capabilities import Capability
from altprop.errors import AltpropError
from altprop.tables import open_table
from altprop.tasks.arrays import ArraysTask
from altprop.tasks.image_folder import ImageFolderTask
from altprop.tasks.own_data import class_metrics
from altprop.tasks.table import TableTask
from altprop.testing import toy

FLOWERS = """height,colour,garden,year,kind
1.5,red,a,2001-01-01,rose
2.5,blue,a,2001-02-01,rose
?,red,b,2001-03-01,tulip
3.5,blue,b,2001-04-01,rose
4.5,red,c,2001-05-01,tulip
5.5,green,c,2001-06-01,tulip
6.5,red,d,2001-07-01,rose
7.5,blue,d,2001-08-01,tulip
"""


@pytest.fixture
def flowers(tmp_path: Path) -> str:
    path = tmp_path / "flowers.csv"
    path.write_text(FLOWERS)
    return str(path)


def table(path: str, **options: object) -> TableTask:
    given = {"target": "kind", "missing": "fill", "text": "onehot", "drop": ["year"]}
    return TableTask(path=path, **{**given, **options})


def test_a_table_becomes_numbers(flowers: str) -> None:
    task = table(flowers, drop=["year", "garden"], validation="none", test_share=0.25)
    data = task.data()
    assert (len(data.train), len(data.tests["test"])) == (6, 2)
    assert task.spec.outputs == 2
    x = data.train.inputs
    assert abs(x[data.train.rows.tolist().index(2), 0]) < 1e-12  # a missing value is the mean of the rows that train
    assert x.mean(0)[0].abs() < 1e-12  # standardised by its own rows
    assert set(x[:, 1:].unique().tolist()) == {0.0, 1.0}
    assert torch.equal(x[:, 1:].sum(1), torch.ones(6).double())
    assert [FLOWERS.splitlines()[1 + row].endswith("tulip") for row in data.train.rows] == data.train.targets.tolist()
    assert task.offers == {Capability.SUPERVISED, Capability.CLASSES, Capability.VECTORS}
    assert task.reference.chance == 0.5
    assert data.source == f"flowers.csv: 8 lines, {x.shape[1]} inputs; kind (2 classes) is predicted"


def test_a_quantity_is_a_regression(flowers: str) -> None:
    task = table(flowers, target="height", drop=["year", "garden"], validation="none")
    split = task.data().tests["test"]
    assert task.loss.name == "half_squared_error"
    assert (task.metric, task.higher_is_better) == ("nmse", False)
    perfect = task.evaluate(lambda x: split.targets, split)
    assert (perfect["nmse"], perfect["r2"], perfect["mae"]) == (0, 1, 0)
    off = task.evaluate(lambda x: split.targets + 1, split)
    heights = [float(FLOWERS.splitlines()[1 + row].split(",")[0]) for row in task.data().train.rows]
    assert off["mae"] == pytest.approx(np.std(heights))
    assert off["mse"] == pytest.approx(np.var(heights))
    mean = task.evaluate(lambda x: torch.zeros_like(split.targets), split)
    assert task.reference.chance == mean["nmse"]


def test_groups_and_time_keep_splits_apart(flowers: str) -> None:
    data = table(flowers, group="garden", test_share=0.25, validation=0.3).data()
    gardens = [
        {FLOWERS.splitlines()[1 + row].split(",")[2] for row in split.rows.tolist()}
        for split in (data.train, data.validation, data.tests["test"])
    ]
    assert sorted(name for split in gardens for name in split) == ["a", "b", "c", "d"]
    data = table(flowers, time="year", drop=[], test_share=0.25, validation=0.3).data()
    assert [s.rows.tolist() for s in (data.train, data.validation, data.tests["test"])] == [
        [0, 1, 2, 3],
        [4, 5],
        [6, 7],
    ]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"target": "kin"}, "has no column kin; did you mean kind?"),
        ({"text": "error"}, "text in colour, garden; say task.text=onehot"),
        ({"missing": "error"}, r"values are missing in height \(1\); say task.missing=fill"),
        ({"kind": "regression"}, "the target kind holds text; say task.kind=classification"),
        ({"target": "year", "drop": []}, "has 8 classes in 8 lines"),
        ({"group": "garden", "time": "year"}, "give one of them"),
        ({"group": "kind", "target": "colour"}, "names 2 groups"),
        ({"drop": ["height", "colour", "garden", "year"]}, "has no column left to learn kind from"),
        ({"drop": ["hight"]}, "did you mean height?"),
        ({"missing": "mean"}, "unknown task.missing=mean"),
        ({"test_share": 1}, "task.test_share must be"),
        ({"metric": "f1"}, "task.metric=f1"),
        ({"loss": "mse"}, "allows task.loss=cross_entropy|one_hot"),
        ({"penalty": {"l3": 1}}, "task.penalty.l3 is no penalty; known are: l1, l2, max_norm"),
        ({"penalty": {"max_norm": 0}}, "task.penalty.max_norm must be a number above 0"),
    ],
)
def test_what_cannot_be_is_told(flowers: str, options: dict[str, object], words: str) -> None:
    with pytest.raises(AltpropError, match=words):
        table(flowers, **options)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "a first line that names at least two columns"),
        ("a,b\n", "and lines of values below"),
        ("a,a\n1,2\n", "the column name 'a' is empty or there twice"),
        ("a,b\n1,2\n1\n", "line 3 has 1 cells, and the first names 2 columns"),
        ("a,b\n1,2\n2,2\n", "the target b has 1 values"),
    ],
)
def test_what_is_no_table_is_told(tmp_path: Path, content: str, words: str) -> None:
    path = tmp_path / "t.csv"
    path.write_text(content)
    with pytest.raises(AltpropError, match=words):
        open_table(str(path), "b")
    path.write_bytes(b"a,b\n\xff\xfe,1\n")
    with pytest.raises(AltpropError, match="save it as CSV in UTF-8"):
        open_table(str(path), "b")


def test_a_table_is_read_without_torch(flowers: str) -> None:
    import subprocess

    code = (
        "import sys; from altprop.checks import check_table; "
        f"check_table({flowers!r}, 'kind', 'auto', 'fill', 'onehot', ['year'], None, None); "
        "assert not {'torch', 'numpy', 'pandas'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_imbalance_is_noticed(tmp_path: Path) -> None:
    path, draw = tmp_path / "rare.csv", random.Random(0)
    with path.open("w") as file:
        csv.writer(file).writerows([("x", "y"), *((draw.gauss(0, 1), int(i % 10 == 0)) for i in range(100))])
    task = table(str(path), target="y", drop=[])
    assert task.notes() == (
        "imbalanced classes: 90 % are 0, 10 % are 1; read balanced_accuracy and macro_f1 beside accuracy",
    )
    assert task.reference.chance == pytest.approx(0.9)
    assert table(str(path), target="y", drop=[], metric="balanced_accuracy").reference.chance == 0.5
    assert list(task.metrics) == ["balanced_accuracy", "macro_f1", "log_loss"]
    assert "log_loss" not in table(str(path), target="y", drop=[], loss="one_hot_squared_error").metrics


def test_metrics_of_classes_are_those_of_scikit_learn() -> None:
    from sklearn import metrics

    generator = torch.Generator().manual_seed(0)
    outputs, targets = torch.randn(50, 4, generator=generator), torch.randint(0, 3, (50,), generator=generator)
    found, said = class_metrics(outputs, targets), outputs.argmax(1)
    assert found["accuracy"] == pytest.approx(metrics.accuracy_score(targets, said))
    recall = metrics.recall_score(targets, said, average="macro", labels=[0, 1, 2])
    assert found["balanced_accuracy"] == pytest.approx(recall)
    assert found["macro_f1"] == pytest.approx(metrics.f1_score(targets, said, average="macro"))
    said = outputs[:, :2].argmax(1)  # the third class is never said
    f1 = metrics.f1_score(targets, said, average="macro", zero_division=0.0)
    never = outputs.clone()
    never[:, 2:] = -9.0
    assert class_metrics(never, targets)["macro_f1"] == pytest.approx(f1)
    loss = metrics.log_loss(targets, outputs.double().softmax(1), labels=[0, 1, 2, 3])
    assert found["log_loss"] == pytest.approx(loss)


def test_arrays(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    images, labels = draw.normal(size=(30, 6, 5)), np.arange(30) % 3
    np.savez(tmp_path / "own.npz", images=images, labels=labels)
    with pytest.raises(AltpropError, match=r"none of the arrays x, .*; say task.inputs= one of images, labels"):
        ArraysTask(path=str(tmp_path / "own.npz"))
    task = ArraysTask(path=str(tmp_path / "own.npz"), inputs="images")
    assert (task.spec.input_shape, task.spec.outputs, Capability.VECTORS in task.offers) == ((1, 6, 5), 3, False)
    assert len(task.data().tests["test"]) == 9
    np.save(tmp_path / "x.npy", images[:, 0])
    np.save(tmp_path / "y.npy", draw.normal(size=(30, 2)))
    task = ArraysTask(path=str(tmp_path / "x.npy"), target=str(tmp_path / "y.npy"))
    assert (task.spec.input_shape, task.spec.outputs, task.metric) == ((5,), 2, "nmse")
    with pytest.raises(AltpropError, match=r"say task\.target=FILE\.npy"):
        ArraysTask(path=str(tmp_path / "x.npy"))
    np.savez(tmp_path / "split.npz", x_train=images, y_train=labels, x_test=images[:7], y_test=labels[:7])
    data = ArraysTask(path=str(tmp_path / "split.npz"), validation="none").data()
    assert (len(data.train), data.tests["test"].rows.tolist()) == (30, list(range(30, 37)))
    np.savez(tmp_path / "bad.npz", x=np.full((9, 2), np.nan), y=labels[:9])
    with pytest.raises(AltpropError, match="not finite"):
        ArraysTask(path=str(tmp_path / "bad.npz"))
    np.savez(tmp_path / "evil.npz", x=np.array([{}] * 9, dtype=object), y=labels[:9])
    with pytest.raises(AltpropError, match="cannot be read"):
        ArraysTask(path=str(tmp_path / "evil.npz"))


def test_images(tmp_path: Path) -> None:
    from PIL import Image

    draw = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for place in range(5):
            Image.fromarray(draw.integers(0, 256, (9, 7, 3), dtype=np.uint8)).save(tmp_path / name / f"{place}.png")
    task = ImageFolderTask(path=str(tmp_path), size=4, colour="rgb", test_share=0.4)
    data = task.data()
    assert (task.spec.input_shape, task.spec.outputs) == ((3, 4, 4), 2)
    assert data.tests["test"].targets.tolist() == [0, 0, 1, 1]
    assert 0 <= data.train.inputs.min() < data.train.inputs.max() <= 1
    (tmp_path / "dog" / "0.png").write_bytes(b"no image")
    with pytest.raises(AltpropError, match=r"0.png is no image that can be read"):
        ImageFolderTask(path=str(tmp_path))
    with pytest.raises(AltpropError, match="at least two classes"):
        ImageFolderTask(path=str(tmp_path / "cat"))


def test_penalties_are_what_they_say() -> None:
    problem, _ = toy()
    iris = pytest.importorskip("altprop.tasks.iris").Iris
    params = {name: p.detach() + (p.dim() == 1) for name, p in problem.params.items()}
    weights = [p for name, p in params.items() if name.endswith("weight")]
    assert iris().penalty(params) is None
    assert iris(penalty={"l1": 0}).penalty(params) is None
    expected = 0.1 * sum(float(w.abs().sum()) for w in weights)
    assert float(iris(penalty={"l1": 0.1}).penalty(params)) == pytest.approx(expected)
    expected = 0.05 * sum(float(w.square().sum()) for w in weights)
    assert float(iris(penalty={"l2": 0.1}).penalty(params)) == pytest.approx(expected)
    expected = sum(max(0.0, float(row.norm()) - 0.9) ** 2 / 2 for w in weights for row in w)
    assert expected > 0.01
    assert float(iris(penalty={"max_norm": 0.9}).penalty(params)) == pytest.approx(expected)
    still = {name: torch.zeros_like(p).requires_grad_() for name, p in params.items()}
    iris(penalty={"max_norm": 1}).penalty(still).backward()
    assert all(p.grad is None or bool(p.grad.isfinite().all()) for p in still.values())
