"""Steps of the gradient's length in directions that know nothing: what a learner's step size alone achieves."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from altprop.algorithm import Algorithm
from altprop.capabilities import Capability
from altprop.optim import OptimizerFactory
from altprop.problem import Grads, Problem
from altprop.task import Batch
from altprop.testing import toy


class RandomDirection(Algorithm):
    """In each layer a direction drawn uniformly from the sphere whose radius is the norm of that layer's gradient.

    For the gradient g of a layer (weight and bias together, n numbers) and x from N(0, I), it is |g| x / |x|.
    Its cosine with g has mean 0 and variance 1 / n. The gradient is computed (and charged) for its norms alone.

    Args:
        optimizer: how the direction becomes an update.
    """

    requires = frozenset({Capability.GRADIENT})
    state = ("updater",)

    def __init__(self, optimizer: OptimizerFactory) -> None:
        self._optimizer = optimizer

    def _setup(self, problem: Problem) -> None:
        self.updater = problem.updater(self._optimizer, direction="other")

    def _step(self, batch: Batch | None) -> Tensor:
        assert batch is not None
        loss, gradient = self.problem.gradient(batch)
        self.updater.apply(self.direction(gradient))
        return loss

    def direction(self, gradient: Mapping[str, Tensor]) -> Grads:
        """Return a random direction with the norms that the gradient has, layer by layer."""
        drawn = {name: self.problem.random.normal(*value.shape) for name, value in gradient.items()}
        direction: Grads = {}
        for names in layers_of(gradient):
            scale = norm(gradient, names) / norm(drawn, names)
            direction.update({name: scale * drawn[name] for name in names})
        return {name: direction[name] for name in gradient}

    @classmethod
    def oracles(cls) -> dict[str, Callable[[], tuple[float, float]]]:
        return {
            "norm of each layer = the gradient's": lambda: (_norm_error(), 1e-14),
            "mean cosine with the gradient, abs z over 400 draws": lambda: (_mean_cosine_z(), 4.0),
            "variance of the cosine = 1 / n, abs z over 400 draws": lambda: (_cosine_variance_z(), 4.0),
            "not the gradient's direction": lambda: (_distance_from_gradient(), 0.5),
        }


def layers_of(named: Mapping[str, Tensor]) -> list[list[str]]:
    """Return parameter names by the module that holds them.

    >>> layers_of(dict.fromkeys(["blocks.0.weight", "blocks.0.bias", "blocks.1.weight"]))
    [['blocks.0.weight', 'blocks.0.bias'], ['blocks.1.weight']]
    """
    groups: dict[str, list[str]] = {}
    for name in named:
        groups.setdefault(name.rpartition(".")[0], []).append(name)
    return list(groups.values())


def norm(named: Mapping[str, Tensor], names: list[str]) -> Tensor:
    """Return the norm of some tensors as one vector."""
    return torch.stack([named[name].square().sum() for name in names]).sum().sqrt()


def _draws(count: int) -> tuple[list[Grads], Grads]:
    problem, batch = toy()
    rule = RandomDirection(OptimizerFactory("torch.optim.SGD", lr=0.1))
    rule.setup(problem)
    gradient = problem.gradient(batch)[1]
    return [rule.direction(gradient) for _ in range(count)], gradient


def _norm_error() -> float:
    """Worst relative difference in the norm of a layer."""
    (direction,), gradient = _draws(1)
    return max(float((norm(direction, n) / norm(gradient, n) - 1).abs()) for n in layers_of(gradient))


def _cosines(count: int = 400) -> tuple[Tensor, int]:
    """Return cosines of draws with the gradient in the first layer, (count,), and that layer's size."""
    draws, gradient = _draws(count)
    names = layers_of(gradient)[0]
    reference = torch.cat([gradient[name].flatten() for name in names])
    flat = torch.stack([torch.cat([draw[name].flatten() for name in names]) for draw in draws])
    return (flat @ reference) / (flat.norm(dim=1) * reference.norm()), reference.numel()


def _mean_cosine_z() -> float:
    cosines, size = _cosines()
    return float(cosines.mean().abs() * (len(cosines) * size) ** 0.5)


def _cosine_variance_z() -> float:
    cosines, size = _cosines()
    # The fourth moment of a cosine on the sphere is 3 / (n (n + 2)).
    spread = (3 / (size * (size + 2)) - 1 / size**2) ** 0.5
    return float((cosines.square().mean() - 1 / size).abs() / spread * len(cosines) ** 0.5)


def _distance_from_gradient() -> float:
    """Relative distance of one draw from the gradient, over all layers."""
    (direction,), gradient = _draws(1)
    difference = {name: direction[name] - gradient[name] for name in gradient}
    return float(norm(difference, list(gradient)) / norm(gradient, list(gradient)))
