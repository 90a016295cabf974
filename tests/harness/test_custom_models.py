"""Modules of the user's as models: what they can be used for is found out, and said where it is not enough."""

import pytest
import torch
from torch import Tensor, nn

from altprop.capabilities import Capability
from altprop.conformance.case import composed, find_target, make
from altprop.data import ModelSpec
from altprop.errors import Refused
from altprop.harness.cell import make_cell
from altprop.harness.planning import sources
from altprop.models.base import Dense
from altprop.models.custom import adopt
from altprop.noise import Noise
from altprop.randomness import generator_for

SPEC = ModelSpec((4,), 3)
CHAIN = {Capability.GRADIENT, Capability.CURVATURE, Capability.LAYERED, Capability.CHAIN}
MINE = "test_custom_models"


class Plain(nn.Module):
    """A net as torch's tutorials write it, with its own sizes."""

    def __init__(self, width: int = 6, outputs: int = 3) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, width), nn.Linear(width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.second(torch.relu(self.first(x)))
        return y


class Stacked(nn.Sequential):
    """A Sequential."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__(
            nn.Flatten(), nn.Sequential(nn.Linear(spec.input_shape[0], 6), nn.LayerNorm(6), nn.Tanh()), nn.Linear(6, 3)
        )


class WithBlocks(nn.Module):
    """It says of what it is a chain."""

    def __init__(self, *, twisted: bool = False) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)])
        self.twisted = twisted

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return 2 * x if self.twisted else x


class OfBlocks(nn.Module):
    """Its blocks are altprop's."""

    def __init__(self) -> None:
        super().__init__()
        generator = generator_for(0, "blocks")
        self.blocks = nn.Sequential(
            Dense(4, 5, activation="tanh", generator=generator), Dense(5, 3, generator=generator)
        )

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.blocks(x)
        return y


class Deaf(Plain):
    """It takes a noise and leaves it out."""

    def __init__(self, noise: Noise | None = None) -> None:
        super().__init__()


@pytest.mark.parametrize(
    ("model", "offers"),
    [
        (Plain(), {Capability.GRADIENT, Capability.CURVATURE}),
        (Stacked(SPEC), CHAIN),
        (WithBlocks(), CHAIN | {Capability.DENSE}),
        (WithBlocks(twisted=True), {Capability.GRADIENT, Capability.CURVATURE}),
        (OfBlocks(), CHAIN | {Capability.DENSE}),
        (nn.Sequential(nn.Linear(4, 3, bias=False)), {Capability.GRADIENT, Capability.CURVATURE}),
        (nn.Sequential(nn.Linear(4, 3), nn.Softmax(1)), {Capability.GRADIENT, Capability.CURVATURE}),
        (nn.Sequential(nn.Linear(4, 3), nn.LeakyReLU(0.3)), {Capability.GRADIENT, Capability.CURVATURE}),
    ],
)
def test_what_a_module_offers_is_found_out(model: nn.Module, offers: set[Capability]) -> None:
    x, values = torch.randn(5, 4), [p.detach().clone() for p in model.parameters()]
    expected = model(x)
    adopted = adopt(model, SPEC, None, "Mine")
    assert set(adopted.offers) == offers
    assert all(torch.equal(a, b) for a, b in zip(adopted.parameters(), values, strict=True))
    torch.testing.assert_close(adopted(x), expected)


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (nn.Linear(5, 3), r"model Mine cannot take the task's inputs, \(3, 4\): mat1 and mat2"),
        (Plain(outputs=2), r"model Mine gives \(3, 2\) for 3 rows, and the task needs \(3, 3\): take `spec`"),
        (nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.3)), "draws noise by itself, by Dropout at 1: .* dropout.p=0.3"),
    ],
)
def test_what_does_not_fit_is_told(model: nn.Module, words: str) -> None:
    with pytest.raises(Refused, match=words):
        adopt(model, SPEC, None, "Mine")


def test_learners_run_it_or_are_refused() -> None:
    def made(name: str, kind: str, *more: str, seed: int = 0):
        chosen = ("task=iris", "model=custom", f"model._target_={MINE}.{kind}", *more)
        return make(find_target(name), *chosen, seed=seed)

    assert made("backprop", "Plain").problem.names == ("iris", "Plain")
    first, again, other = (made("newton_cg", "Plain", "+model.width=5", seed=s).problem.flat() for s in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    made("dfa", "Stacked", "dropout=standard")
    made("manual_backprop", "WithBlocks")
    with pytest.raises(Refused, match="needs a model made of blocks and a model that is a plain chain"):
        made("dfa", "Plain")
    with pytest.raises(Refused, match="model Plain takes no noise"):
        made("backprop", "Plain", "dropout=standard")
    with pytest.raises(Refused, match="model Deaf takes a noise and does not keep it as `noise`; use dropout=none"):
        made("backprop", "Deaf", "dropout=standard")


def test_its_cell_is_named_by_its_class_and_keyed_by_what_adopts_it(monkeypatch: pytest.MonkeyPatch) -> None:
    given = ("task=iris", "model=custom", "model._target_=bare_models.Bare")
    cell = make_cell(composed(given, None), given)
    assert cell.label == "backprop+adam·model=Bare"
    before = sources(cell)
    monkeypatch.setattr("altprop.catalogue.model_offers", lambda model: frozenset())
    assert sources(cell) != before
