"""Small models of the zoo in float64, each with a batch."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from altprop.data import ModelSpec
from altprop.models.base import LayeredModel
from altprop.models.cnn import CNN
from altprop.models.mlp import MLP
from altprop.models.residual import ResidualCNN, ResidualMLP
from altprop.models.shortcut import ShortcutMLP
from altprop.noise import MultiplicativeNoise, NoiseClock
from altprop.randomness import generator_for


class Everywhere(MultiplicativeNoise):
    """Multiplies by U(.5, 1.5) at each site named."""

    sites = frozenset({"input", "unit", "weight", "state", "branch"})

    def __init__(self, *sites: str, seed: int = 3) -> None:
        super().__init__()
        self.acts = frozenset(sites or self.sites)
        self.bind(NoiseClock(seed))

    def _mask(self, like, shape, site, layer):
        if site not in self.acts:
            return torch.ones(shape, dtype=like.dtype)
        return 0.5 + self.clock.uniform(shape, site, layer, 0, like)


# name -> (class, input shape, options).
LAYERED: dict[str, tuple[type[LayeredModel], tuple[int, ...], dict[str, Any]]] = {
    "mlp": (MLP, (6,), {"hidden": [5, 4]}),
    "mlp on images": (MLP, (2, 3, 2), {"hidden": [5, 4]}),
    "linear": (MLP, (6,), {"hidden": []}),
    "shortcut_mlp": (ShortcutMLP, (6,), {"hidden": [3, 4]}),
    "shortcut_mlp on images": (ShortcutMLP, (2, 3, 2), {"hidden": [3, 4]}),
    "residual_mlp": (ResidualMLP, (6,), {"hidden": [5, 5, 4, 4]}),
    "residual_cnn": (ResidualCNN, (2, 7, 5), {"channels": [3, 3], "stride": [2, 1]}),
    "cnn on vectors": (CNN, (36,), {"channels": [3, 4]}),
    "cnn on signals": (CNN, (2, 11), {"channels": [3, 4], "kernel": [5, 3], "stride": [2, 3]}),
    "cnn on images": (CNN, (2, 7, 5), {"channels": [3, 4], "padding": [0, 1]}),
}


def build(name: str, noise: Any = None, **options: Any) -> tuple[LayeredModel, torch.Tensor]:
    """Return a model of three outputs and 7 rows of inputs."""
    kind, shape, own = LAYERED[name]
    given = {"activation": "tanh", **own, **options}
    if kind is MLP and not own["hidden"]:
        given.pop("activation")
    model = kind(ModelSpec(shape, 3), noise=noise, generator=generator_for("zoo", name), **given).double()
    return model, torch.randn(7, *shape, generator=generator_for("inputs", name), dtype=torch.float64)


@pytest.fixture
def zoo() -> Callable[..., tuple[LayeredModel, torch.Tensor]]:
    return build


@pytest.fixture
def everywhere() -> type[Everywhere]:
    return Everywhere


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "layered" in metafunc.fixturenames:
        metafunc.parametrize("layered", LAYERED)
