"""Steps of the gradient's length in directions that know nothing: what a learner's step size alone achieves."""

from collections.abc import Mapping

import torch
from torch import Tensor

from altprop import Batch, Capability, DirectionAlgorithm, Grads, Oracle
from altprop.testing import set_up, sgd, toy


class RandomDirection(DirectionAlgorithm):
    """In each layer a direction drawn uniformly from the sphere whose radius is the norm of that layer's gradient.

    For the gradient g of a layer (weight and bias together, n numbers) and x from N(0, I), it is |g| x / |x|.
    Its cosine with g has mean 0 and variance 1 / n. The gradient is computed (and charged) for its norms alone.

    Args:
        optimizer: how the direction becomes an update.
    """

    requires = frozenset({Capability.GRADIENT})

    def _direction(self, batch: Batch) -> tuple[Tensor, Grads]:
        loss, gradient = self.problem.gradient(batch, penalty=False)
        return loss, self.drawn(gradient)

    def drawn(self, gradient: Mapping[str, Tensor]) -> Grads:
        """Return a random direction with the norms that the gradient has, layer by layer."""
        free = {name: self.problem.random.normal(*value.shape) for name, value in gradient.items()}
        direction: Grads = {}
        for names in layers_of(gradient):
            scale = norm(gradient, names) / norm(free, names)
            direction.update({name: scale * free[name] for name in names})
        return {name: direction[name] for name in gradient}

    @classmethod
    def oracles(cls) -> tuple[Oracle, ...]:
        return (
            Oracle("norm of each layer = the gradient's", _norm_error, 1e-14),
            Oracle("mean cosine with the gradient, abs z over 400 draws", _mean_cosine_z, 4.0),
            Oracle("variance of the cosine = 1 / n, abs z over 400 draws", _cosine_variance_z, 4.0),
            Oracle("not the gradient's direction", _distance_from_gradient, 0.5, differs=True),
        )


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
    rule = set_up(RandomDirection(sgd()), problem)
    gradient = problem.gradient(batch)[1]
    return [rule.drawn(gradient) for _ in range(count)], gradient


def _norm_error() -> float:
    """Return the worst relative difference in the norm of a layer."""
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
    """Return the relative distance of one draw from the gradient, over all layers."""
    (direction,), gradient = _draws(1)
    difference = {name: direction[name] - gradient[name] for name in gradient}
    return float(norm(difference, list(gradient)) / norm(gradient, list(gradient)))
