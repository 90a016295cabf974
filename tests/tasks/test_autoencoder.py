"""The autoencoder of the digits: what principal components leave, and a linear net that comes to them and not below."""

import pytest
import torch

from altprop.algorithms.second_order import dense
from altprop.algorithms.second_order.lbfgs import LBFGS
from altprop.data import TaskData
from altprop.models.mlp import MLP
from altprop.randomness import generator_for
from altprop.testing import make_problem, set_up


def components(data: TaskData, units: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the mean image of the training rows, (64,), and their first principal components, (units, 64)."""
    x = data.train.inputs
    return x.mean(0), torch.linalg.svd(x - x.mean(0), full_matrices=False)[2][:units]


def test_baseline_and_chance(shipped) -> None:
    task = shipped.make("digits_autoencoder")
    data = shipped.data(task)
    mean, axes = components(data)
    of_mean = task.evaluate(lambda x: mean.expand_as(x), data.tests["test"])
    of_axes = task.evaluate(lambda x: mean + (x - mean) @ axes.T @ axes, data.tests["test"])
    assert of_mean["unexplained"] == pytest.approx(task.reference.chance, abs=1e-6)
    assert of_axes["unexplained"] == pytest.approx(task.reference.baselines["pca"], abs=1e-6)
    way = task.reference.chance - task.reference.baselines["pca"]
    for name, share in (("50%", 0.5), ("90%", 0.9), ("99%", 0.99)):
        assert task.reference.targets[name] == pytest.approx(task.reference.chance - share * way, abs=1e-4)


def test_a_linear_net_cannot_come_below_the_principal_components(shipped) -> None:
    """At them it is at a minimum, and from elsewhere L-BFGS comes near and stays above."""
    task = shipped.make("digits_autoencoder")
    data = shipped.data(task)
    model = MLP(task.spec, [2], activation="identity", generator=generator_for(0)).double()
    problem = make_problem(model, "half_squared_error", train_size=len(data.train))
    rule, batch = set_up(LBFGS(), problem), data.train.whole()
    mean, axes = components(data, 2)
    x = data.train.inputs
    floor = 0.5 * float((x - mean - (x - mean) @ axes.T @ axes).square().sum(1).mean())
    for _ in range(150):
        rule.step(batch)
    assert 1 - 1e-12 <= float(problem.objective(batch)) / floor <= 1.05
    values = {"0.weight": axes, "0.bias": -axes @ mean, "1.weight": axes.T, "1.bias": mean}
    problem.assign(problem.flatten({f"blocks.{name}": value for name, value in values.items()}))
    loss, gradient, hessian = dense.hessian(problem, batch)
    assert float(loss) == pytest.approx(floor, rel=1e-12)
    assert float(gradient.norm()) <= 1e-12
    assert float(torch.linalg.eigvalsh(hessian)[0]) >= -1e-10
