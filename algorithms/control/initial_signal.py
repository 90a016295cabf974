"""An instrument in a learner's place: how nets at their initialisation hand a gradient down, and what theory says."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product
from typing import Any

import torch
from torch import Tensor

from altprop import Algorithm, Batch, Dense, Oracle, PredictorKind, Problem, check_whole
from altprop.testing import set_up, toy


class InitialSignal(Algorithm):
    r"""Measure slopes of gradients over depth at initialisation, for a grid of nets; train nothing.

    A net of L layers `z_l = W_l h_(l-1) + b_l`, `h_l = f(z_l)` (l = 1 .. L) of one width reads N(0, 1) inputs, and a
    random linear readout of N(0, 1/width) weights has N(0, 1) targets under half the squared error. Over l, the slope
    of `ln ||dL/dh_l||` by least squares is what one more layer adds to the logarithm of a gradient's size on its way
    up; below 0 a gradient grows on its way down. Beside it stand the slopes for `dL/dz_l` and for `dL/dW_l`.

    Mean-field theory of wide nets has, for weights of variance sigma_w^2 / width and biases of variance sigma_b^2,

        ||dL/dh_(l-1)||^2 = chi_l ||dL/dh_l||^2,      chi_l = sigma_w^2 E[f'(sqrt(q_l) z)^2],
        q_(l+1) = sigma_w^2 E[f(sqrt(q_l) z)^2] + sigma_b^2,      q_1 = sigma_w^2 + sigma_b^2,      z ~ N(0, 1),

    so the slope is -1/2 ln chi where q has settled; where it has not, the line is fitted to what the recursion says of
    each layer. Batch normalisation is beyond this theory, and so are layer and rms normalisation here: no number stands
    there. In wide relu nets under batch normalisation chi is pi / (pi - 1) > 1 for large batches: gradients explode.

    Args:
        activations, initialisations, normalisations: names, as for `model`; the grid is their product.
        depths: of the nets.
        width: units of each layer.
        rows: inputs.

    Raises:
        AltpropError: for an unknown name or a size below 2.

    Poole et al. 2016 (arXiv:1606.05340); Schoenholz et al. 2017 (arXiv:1611.01232); for batch normalisation Yang et al.
    2019 (arXiv:1902.08129). They state chi for independent weights on the way back, which is what holds here as well:
    the readout's targets are random.
    """

    kind = PredictorKind.MODEL

    def __init__(
        self,
        activations: Sequence[str] = ("sigmoid", "tanh", "relu"),
        initialisations: Sequence[str] = ("torch", "lecun_normal", "he_normal", "orthogonal"),
        normalisations: Sequence[str] = ("none", "batch", "layer"),
        depths: Sequence[int] = (2, 10, 50),
        width: int = 128,
        rows: int = 128,
    ) -> None:
        self.grid = list(product(activations, initialisations, normalisations))
        self.depths = [check_whole(depth, "algorithm.depths", 2) for depth in depths]
        self.width = check_whole(width, "algorithm.width", 2)
        self.rows = check_whole(rows, "algorithm.rows", 2)

    def _setup(self, problem: Problem) -> None:
        for names in self.grid:
            _net(names, 1, 2, torch.Generator(device="cpu"))  # an unknown name fails here

    def _step(self, batch: Batch | None) -> Tensor:
        assert batch is not None
        return self.problem.objective(batch)

    def artefacts(self) -> dict[str, Any]:
        """Return the table `signal`: a row a net, with its three slopes and that of theory, in units of ln a layer."""
        generator = torch.Generator(device="cpu").manual_seed(self.problem.random.seed)
        names = ("activation", "initialisation", "normalisation", "depth", "h", "z", "w", "theory")
        columns: dict[str, list[Any]] = {name: [] for name in names}
        for net, depth in product(self.grid, self.depths):
            slopes = slopes_of(net, depth, self.width, self.rows, generator)
            for name, value in zip(names, (*net, depth, *slopes), strict=True):
                columns[name].append(value)
        return {"signal": columns}

    @classmethod
    def oracles(cls) -> tuple[Oracle, ...]:
        explosion = -0.5 * math.log(math.pi / (math.pi - 1))
        return (
            Oracle("sigmoid, variance 1/n: the slope is -1/2 ln chi", lambda: _gap("sigmoid", "lecun_normal"), 0.02),
            Oracle("relu, variance 2/n: the slope is 0", lambda: _gap("relu", "he_normal", against=0.0), 0.02),
            Oracle("not so at variance 1/n", lambda: _gap("relu", "lecun_normal", against=0.0), 0.3, differs=True),
            Oracle(
                "relu under batch normalisation explodes by pi / (pi - 1) a layer",
                lambda: _gap("relu", "he_normal", "batch", against=explosion),
                0.02,
            ),
            Oracle("no weight of the task's model changes", _change, 0.0),
        )


def _net(names: tuple[str, str, str], depth: int, width: int, generator: torch.Generator) -> list[Dense]:
    """Return the layers of a net by its activation, initialisation and normalisation, in float64."""
    activation, initialisation, normalisation = names
    made = {"activation": activation, "initialisation": initialisation, "normalisation": normalisation}
    return [Dense(width, width, **made, generator=generator).double() for _ in range(depth)]  # type: ignore[arg-type]


def slopes_of(
    names: tuple[str, str, str], depth: int, width: int, rows: int, generator: torch.Generator
) -> tuple[float, float, float, float | None]:
    """Return the slopes over depth of ln ||dL/dh||, ln ||dL/dz|| and ln ||dL/dW||, and that of theory or None.

    Args:
        names: activation, initialisation and normalisation.
        depth, width, rows: of the net and its inputs.
        generator: on the CPU.
    """

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64, device="cpu")

    layers = _net(names, depth, width, generator)
    h, zs, hs = normal(rows, width), [], []
    with torch.enable_grad():
        for layer in layers:
            zs.append(layer.transform(h))
            hs.append(h := layer.respond(zs[-1]))
        loss = 0.5 * (h @ (normal(width, 10) / math.sqrt(width)) - normal(rows, 10)).square().sum()
        of = [*hs, *zs, *(layer.weight for layer in layers)]
        logs = [float(each.norm().log()) for each in torch.autograd.grad(loss, of)]
    at_h, at_z, at_w = (_slope(logs[start : start + depth]) for start in (0, depth, 2 * depth))
    return at_h, at_z, at_w, _theory(layers) if names[2] == "none" else None


def _theory(layers: Sequence[Dense]) -> float:
    """Return the slope that the recursion of q and chi gives, with the variances of the weights that were drawn."""
    z = (torch.arange(-4000, 4000, dtype=torch.float64, device="cpu") + 0.5) / 500
    density = torch.exp(-0.5 * z * z) / (500 * math.sqrt(2 * math.pi))
    q, logs = 1.0, [0.0]
    for layer in layers:
        of_weights = float(layer.weight.detach().square().mean()) * layer.weight.shape[1]
        q = of_weights * q + float(layer.bias.detach().square().mean())
        u = math.sqrt(q) * z
        y = layer.activation.function(u)
        chi = of_weights * float((layer.activation.slope(u, y).square() * density).sum())
        logs.append(logs[-1] - 0.5 * math.log(chi))
        q = float((y.square() * density).sum())  # of what the next layer reads
    return _slope(logs[1:])


def _slope(values: Sequence[float]) -> float:
    """Return the slope of the least-squares line through values at 0, 1, 2, ..."""
    places = torch.arange(len(values), dtype=torch.float64, device="cpu")
    places = places - places.mean()
    return float(places @ torch.tensor(values, dtype=torch.float64, device="cpu") / places.square().sum())


def _gap(*names: str, against: float | None = None, seeds: int = 10) -> float:
    """Return how far the mean slope of ln ||dL/dh|| lies from theory's at width 512 and depth 10."""
    activation, initialisation, normalisation = (*names, "none")[:3]
    made = [
        slopes_of(
            (activation, initialisation, normalisation), 10, 512, 64, torch.Generator(device="cpu").manual_seed(seed)
        )
        for seed in range(seeds)
    ]
    measured = sum(slopes[0] for slopes in made) / seeds
    told = sum(slopes[3] or 0.0 for slopes in made) / seeds if against is None else against
    return abs(measured - told)


def _change() -> float:
    """Return the largest change of a weight of the task's model over a step and a measurement."""
    problem, batch = toy()
    rule = set_up(InitialSignal(["tanh"], ["torch"], ["none"], [2], 4, 4), problem)
    before = problem.flat()
    rule.step(batch)
    rule.artefacts()
    return float((problem.flat() - before).abs().max())
