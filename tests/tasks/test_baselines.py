"""The baselines that a yaml states, computed again by scikit-learn."""

import numpy as np
import pytest
import torch
from sklearn.dummy import DummyClassifier, DummyRegressor
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor

CLASSIFIERS = {
    "linear": lambda: LogisticRegression(max_iter=10_000),
    "1-nn": lambda: KNeighborsClassifier(1),
    "majority": DummyClassifier,
}
REGRESSORS = {"linear": LinearRegression, "1-nn": lambda: KNeighborsRegressor(1), "mean": DummyRegressor}


# By the form of a task, whatever was drawn, and of texts: test_made.py, test_language.py and test_autoencoder.py
# in tests/tasks compute them.
BY_FORM = ("guess", "later_symbol", "unigram", "bigram", "bz2", "commonest", "pca")


def classify(model, data) -> float:
    model.fit(data.train.inputs.numpy(), data.train.targets.numpy().ravel())
    test = data.tests["test"]
    return float(model.score(test.inputs.numpy(), test.targets.numpy().ravel()))


def test_baselines_of_small_tasks(shipped, name) -> None:
    task = shipped.make(name)
    stated = task.reference.baselines
    if name in ("mnist", "fashion_mnist"):
        pytest.skip("60,000 images: in the slow test below")
    data = shipped.data(task)
    for kind, value in stated.items():
        if kind in BY_FORM:
            continue
        if kind == "always_one":
            outputs = torch.ones_like(data.tests["test"].targets)
            found = task.evaluate(lambda x, y=outputs: y, data.tests["test"])[task.metric]
            # 1,000 sequences: the standard error of the mean of (sum - 1)^2 is .0062.
            assert found == pytest.approx(value, abs=3 * 0.0062)
        elif task.metric == "accuracy":
            # logistic regression stops at a tolerance: one row of the test set may fall on the other side
            margin = 1.01 / len(data.tests["test"]) if kind == "linear" else 1e-6
            assert classify(CLASSIFIERS[kind](), data) == pytest.approx(value, abs=margin)
        else:
            model = REGRESSORS[kind]().fit(data.train.inputs.numpy(), data.train.targets.numpy())
            predicted = np.asarray(model.predict(data.tests["test"].inputs.numpy())).reshape(-1, 1)
            outputs = torch.from_numpy(predicted)
            found = task.evaluate(lambda x, y=outputs: y, data.tests["test"])[task.metric]
            assert found == pytest.approx(value, abs=1e-6)


def test_chance_is_what_the_simplest_predictor_has(shipped, name) -> None:
    figures = shipped.make(name).reference
    simple = [figures.baselines[k] for k in ("majority", "mean", "always_one") if k in figures.baselines]
    for value in simple:
        # digits and mnist1d state 1/10: the commonest training class is .101 and .089 of the test rows
        assert figures.chance == pytest.approx(value, abs=0.0111 if figures.chance == 0.1 else 5e-6)


@pytest.mark.slow
@pytest.mark.parametrize("images", ["mnist", "fashion_mnist"])
def test_baselines_of_the_image_tasks(shipped, images) -> None:
    task = shipped.make(images, validation="none")
    data = shipped.data(task)
    train, test = data.train, data.tests["test"]
    columns = [torch.cat([x.double(), torch.ones(len(x), 1)], 1) for x in (train.inputs, test.inputs)]
    targets = torch.nn.functional.one_hot(train.targets, 10).double()
    # lstsq on the normal equations' matrix: some pixels are always 0, so it is singular
    gram = columns[0].T @ columns[0]
    weights = torch.from_numpy(np.linalg.lstsq(gram.numpy(), (columns[0].T @ targets).numpy(), rcond=None)[0])
    linear = task.evaluate(lambda x: columns[1] @ weights, test)["accuracy"]
    assert linear == pytest.approx(task.reference.baselines["least_squares"], abs=2e-4)
    squares = train.inputs.square().sum(1)
    nearest = torch.cat([(squares - 2 * part @ train.inputs.T).argmin(1) for part in test.inputs.split(500)])
    right = (train.targets[nearest] == test.targets).double().mean()
    assert float(right) == pytest.approx(task.reference.baselines["1-nn"], abs=1e-4)
