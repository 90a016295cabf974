"""Classical test functions of optimisation, from their standard starts to their published minima."""

import math
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.func import grad, jacrev, vmap

from altprop import check_name
from altprop.tasks.points import PointLoss, PointTask, View, start_of

FORMS = ("function", "residuals")
Coordinates = tuple[Tensor, ...]
"""Each coordinate of a point, a scalar."""


class Classic(NamedTuple):
    """A sum of squares, f(x) = sum_i r_i(x)^2.

    Attributes:
        residuals: coordinates -> the r_i, or tensors of several.
        start: the standard one.
        minimum: the least value of f.
        view: what is drawn of a function of two coordinates, where their scales allow a picture.
    """

    residuals: Callable[[Coordinates], list[Tensor]]
    start: tuple[float, ...]
    minimum: float = 0.0
    view: View | None = None


def _like(values: Any, x: Tensor) -> Tensor:
    """Return numbers as a tensor of the dtype and on the device of another."""
    return torch.as_tensor(values, dtype=torch.float64, device="cpu").to(x.device, x.dtype)


def _helical(x: Coordinates) -> list[Tensor]:
    half = torch.where(x[0] < 0, 0.5, 0.0).to(x[0].dtype)
    angle = torch.atan(x[1] / x[0]) / (2 * math.pi) + half
    return [10 * (x[2] - 10 * angle), 10 * ((x[0].square() + x[1].square()).sqrt() - 1), x[2]]


def _bard(x: Coordinates) -> list[Tensor]:
    y = _like([0.14, 0.18, 0.22, 0.25, 0.29, 0.32, 0.35, 0.39, 0.37, 0.58, 0.73, 0.96, 1.34, 2.10, 4.39], x[0])
    u = _like(range(1, 16), x[0])
    return [y - (x[0] + u / ((16 - u) * x[1] + torch.minimum(u, 16 - u) * x[2]))]


def _gaussian(x: Coordinates) -> list[Tensor]:
    half = [0.0009, 0.0044, 0.0175, 0.0540, 0.1295, 0.2420, 0.3521]
    t = _like([(8 - i) / 2 for i in range(1, 16)], x[0])
    return [x[0] * torch.exp(-x[1] * (t - x[2]).square() / 2) - _like([*half, 0.3989, *half[::-1]], x[0])]


def _box(x: Coordinates) -> list[Tensor]:
    t = _like([0.1 * i for i in range(1, 11)], x[0])
    return [torch.exp(-t * x[0]) - torch.exp(-t * x[1]) - x[2] * (torch.exp(-t) - torch.exp(-10 * t))]


def _kowalik_osborne(x: Coordinates) -> list[Tensor]:
    y = _like([0.1957, 0.1947, 0.1735, 0.1600, 0.0844, 0.0627, 0.0456, 0.0342, 0.0323, 0.0235, 0.0246], x[0])
    u = _like([4, 2, 1, 0.5, 0.25, 0.167, 0.125, 0.1, 0.0833, 0.0714, 0.0625], x[0])
    return [y - x[0] * (u.square() + u * x[1]) / (u.square() + u * x[2] + x[3])]


def _brown_dennis(x: Coordinates) -> list[Tensor]:
    t = _like([i / 5 for i in range(1, 21)], x[0])
    first, second = x[0] + t * x[1] - torch.exp(t), x[2] + x[3] * torch.sin(t) - torch.cos(t)
    return [first.square() + second.square()]


def _jennrich_sampson(x: Coordinates) -> list[Tensor]:
    i = _like(range(1, 11), x[0])
    return [2 + 2 * i - (torch.exp(i * x[0]) + torch.exp(i * x[1]))]


def _biggs(x: Coordinates) -> list[Tensor]:
    t = _like([0.1 * i for i in range(1, 14)], x[0])
    y = torch.exp(-t) - 5 * torch.exp(-10 * t) + 3 * torch.exp(-4 * t)
    return [x[2] * torch.exp(-t * x[0]) - x[3] * torch.exp(-t * x[1]) + x[5] * torch.exp(-t * x[4]) - y]


CLASSICS: dict[str, Classic] = {
    "freudenstein_roth": Classic(
        lambda x: [
            -13 + x[0] + ((5 - x[1]) * x[1] - 2) * x[1],
            -29 + x[0] + ((x[1] + 1) * x[1] - 14) * x[1],
        ],
        (0.5, -2.0),
        view=((-1.0, 13.0), (-4.0, 6.0)),
    ),
    "powell_badly_scaled": Classic(
        lambda x: [1e4 * x[0] * x[1] - 1, torch.exp(-x[0]) + torch.exp(-x[1]) - 1.0001], (0.0, 1.0)
    ),
    "brown_badly_scaled": Classic(lambda x: [x[0] - 1e6, x[1] - 2e-6, x[0] * x[1] - 2], (1.0, 1.0)),
    "beale": Classic(
        lambda x: [y - x[0] * (1 - x[1] ** i) for i, y in enumerate((1.5, 2.25, 2.625), 1)],
        (1.0, 1.0),
        view=((0.0, 4.0), (-1.0, 1.5)),
    ),
    "jennrich_sampson": Classic(_jennrich_sampson, (0.3, 0.4), 124.36218235561473, ((0.0, 0.5), (0.0, 0.5))),
    "helical_valley": Classic(_helical, (-1.0, 0.0, 0.0)),
    "bard": Classic(_bard, (1.0, 1.0, 1.0), 0.008214877306578963),
    "gaussian": Classic(_gaussian, (0.4, 1.0, 0.0), 1.1279327696188e-08),
    "box_3d": Classic(_box, (0.0, 10.0, 20.0)),
    "powell_singular": Classic(
        lambda x: [
            x[0] + 10 * x[1],
            math.sqrt(5) * (x[2] - x[3]),
            (x[1] - 2 * x[2]).square(),
            math.sqrt(10) * (x[0] - x[3]).square(),
        ],
        (3.0, -1.0, 0.0, 1.0),
    ),
    "wood": Classic(
        lambda x: [
            10 * (x[1] - x[0].square()),
            1 - x[0],
            math.sqrt(90) * (x[3] - x[2].square()),
            1 - x[2],
            math.sqrt(10) * (x[1] + x[3] - 2),
            (x[1] - x[3]) / math.sqrt(10),
        ],
        (-3.0, -1.0, -3.0, -1.0),
    ),
    "kowalik_osborne": Classic(_kowalik_osborne, (0.25, 0.39, 0.415, 0.39), 0.0003075056038492),
    "brown_dennis": Classic(_brown_dennis, (25.0, 5.0, -5.0, -1.0), 85822.20162635628),
    "biggs_exp6": Classic(_biggs, (1.0, 2.0, 1.0, 1.0, 1.0, 1.0)),
    # Not of the collection: x^2 - y^2 + y^4 + 1/4, as squares; a saddle at 0, minima at (0, +-1/sqrt 2).
    "saddle": Classic(lambda x: [x[0], x[1].square() - 0.5], (1.0, 0.001), view=((-1.5, 1.5), (-1.5, 1.5))),
}


class ClassicalFunction(PointLoss):
    """f(theta) = sum_i r_i(theta)^2 of a classical problem, with derivatives by torch.func.

    Args:
        classic: the problem.
        form: of the curvature in the outputs, which are theta: `function` for the Hessian of f, `residuals` for 2 J^T J
            with J the Jacobian of the residuals, so that Gauss-Newton is what it is for least squares.
    """

    name = "classical"

    def __init__(self, classic: Classic, form: str = "function") -> None:
        self.classic, self.minimum, self.form = classic, classic.minimum, form

    def value(self, theta: Tensor) -> Tensor:
        """Return f at one point (D,), a scalar."""
        residuals = self.classic.residuals(theta.unbind(0))
        return torch.stack([r.square().sum() for r in residuals]).sum()

    def residuals(self, theta: Tensor) -> Tensor:
        """Return the r_i at one point (D,), (M,)."""
        return torch.cat([r.reshape(-1) for r in self.classic.residuals(theta.unbind(0))])

    def per_element(self, outputs: Tensor, targets: Tensor) -> Tensor:
        found: Tensor = vmap(self.value)(outputs.reshape(-1, outputs.shape[-1]))
        return found.reshape(outputs.shape[:-1])

    def gradient(self, outputs: Tensor, targets: Tensor) -> Tensor:
        found: Tensor = vmap(grad(self.value))(outputs.reshape(-1, outputs.shape[-1]))
        return found.reshape(outputs.shape)

    def curvature_product(self, outputs: Tensor, vector: Tensor) -> Tensor:
        def along(theta: Tensor, direction: Tensor) -> Tensor:
            if self.form == "residuals":
                j: Tensor = jacrev(self.residuals)(theta)
                return 2 * (j.mT @ (j @ direction))
            product: Tensor = grad(lambda t: grad(self.value)(t).dot(direction))(theta)
            return product

        flat = (outputs.reshape(-1, outputs.shape[-1]), vector.reshape(-1, outputs.shape[-1]))
        found: Tensor = vmap(along)(*flat)
        return found.reshape(outputs.shape)


class Classical(PointTask):
    """A problem of More, Garbow and Hillstrom's collection, or a saddle, from its standard start.

    The functions are element-wise, so they cost 0 FLOPs by the field's convention: budgets count forward-equivalents.
    Rosenbrock's function is a task of its own, and the ellipsoid is `task=quadratic task.condition=1e6`.

    Args:
        function: a name of `CLASSICS`.
        start: a number for all coordinates, or one for each; by default the standard start.
        form: function or residuals: whether Gauss-Newton products are those with the Hessian of f, or with 2 J^T J of
            the residuals (`ClassicalFunction`), with which gauss_newton solves Levenberg and Marquardt's system.
        common: see `PointTask`.

    Raises:
        AltpropError: for an unknown name, or a start of another length.

    Paper: More, Garbow and Hillstrom 1981, Testing unconstrained optimization software, doi:10.1145/355934.355936.
    """

    losses: ClassVar[tuple[str, ...]] = ("classical",)

    def __init__(self, *, function: str = "beale", start: Any = None, form: str = "function", **common: Any) -> None:
        self.form = check_name(form, "task.form", FORMS)
        self.classic = CLASSICS[check_name(function, "task.function", tuple(CLASSICS))]
        begin = start_of(start, len(self.classic.start), self.classic.start)
        super().__init__(
            begin, f"the function {function} of More, Garbow and Hillstrom", view=self.classic.view, **common
        )

    def _make_loss(self, name: str) -> ClassicalFunction:
        return ClassicalFunction(self.classic, self.form)
