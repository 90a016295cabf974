"""What a class declares is read from its source, as Python would find it, and without importing it."""

import sys
from pathlib import Path

import pytest

from altprop import catalogue
from altprop.capabilities import Capability
from altprop.checks import LEAST_SQUARES_LOSSES, LOSSES
from altprop.declared import Unknown, Unset, find_class
from altprop.errors import AltpropError
from altprop.losses import LOSSES as KINDS
from altprop.resolve import resolve_class

MODULE = """
import math
import torch
from altprop import Algorithm, Capability, check_number
from altprop.models import mlp
from altprop.tasks.iris import Iris as Flowers

SOME = {Capability.GRADIENT}
LIMIT = 2.0 ** 3

class Base(Algorithm):
    requires = frozenset(SOME) | {Capability.LAYERED}

    def __init__(self, rate: float, *, scale: float = 1.0, **more):
        check_number(rate, "algorithm.rate", 0.0, LIMIT)
        if scale is not None:
            check_number(scale, "algorithm.scale", -math.inf)
        if rate > 1:
            check_number(scale, "algorithm.scale", 7.0)

class Narrow(Base):
    requires = Base.requires - {Capability.LAYERED}

    def __init__(self, width: int = 3, **others):
        super().__init__(0.5, **others)

class Model(mlp.MLP):
    pass

class Task(Flowers):
    offers = Flowers.offers | {Capability.LEAST_SQUARES}

class Computed(Base):
    requires = frozenset(sorted(SOME))

def function():
    pass

if torch:
    class Inside(Base):
        pass
"""


@pytest.fixture(autouse=True)
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "written.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)


@pytest.fixture(autouse=True)
def _never_imported(written: None) -> None:
    assert "written" not in sys.modules


def test_an_attribute_is_followed_through_bases_imports_and_sums() -> None:
    assert find_class("written.Base").attribute("requires") == {Capability.GRADIENT, Capability.LAYERED}
    assert find_class("written.Narrow").attribute("requires") == {Capability.GRADIENT}
    assert find_class("written.Inside").attribute("requires") == {Capability.GRADIENT, Capability.LAYERED}
    assert Capability.DENSE in find_class("written.Model").attribute("offers")
    assert find_class("written.Task").attribute("offers") >= {Capability.CLASSES, Capability.LEAST_SQUARES}
    with pytest.raises(Unknown):
        find_class("written.Computed").attribute("requires")
    with pytest.raises(Unset):
        find_class("written.Base").attribute("nothing")


def test_a_tasks_own_least_squares_loss_is_one_that_it_offers() -> None:
    learner = catalogue.entries("algorithm")["levenberg_marquardt"].values
    model = catalogue.entries("model")["mlp"].values
    for target, refused in (("written.Task", False), ("altprop.tasks.iris.Iris", True)):
        sentence = catalogue.refusal_of(("lm", "t", "mlp"), learner, {"_target_": target, "loss": "my_own"}, model)
        assert (sentence is not None) is refused


def test_a_constructor_takes_what_it_hands_on() -> None:
    base, narrow = find_class("written.Base").constructor(), find_class("written.Narrow").constructor()
    assert base.open
    assert (base.arguments["rate"].required, base.arguments["scale"].required) == (True, False)
    assert [(c.argument, c.others, c.optional) for c in base.checks] == [
        ("rate", ("algorithm.rate", 0.0, 8.0), False),
        ("scale", ("algorithm.scale", float("-inf")), True),
    ]
    assert set(narrow.arguments) == {"width", "scale"}
    assert [c.argument for c in narrow.checks] == ["scale"]


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("written.function", "is a function; name a class"),
        ("written.Narow", "written has no Narow; did you mean Narrow?"),
        ("nowhere.at.all.Rule", "cannot import nowhere"),
        ("altprop.nowhere.Rule", "cannot import altprop.nowhere"),
        ("Rule", "must be an import path"),
        (None, "must be an import path"),
    ],
)
def test_a_path_that_leads_nowhere_is_told(path: object, words: str) -> None:
    with pytest.raises(AltpropError, match=words.replace("?", r"\?")):
        find_class(path)


@pytest.mark.parametrize("group", ["algorithm", "task", "model"])
def test_every_plugin_of_ours_is_read_as_it_is(group: str) -> None:
    attributes = {"algorithm": ("requires", "kind"), "task": ("offers", "kinds", "losses"), "model": ("offers",)}
    for entry in catalogue.entries(group).values():
        path = entry.values["_target_"]
        if path != "???":
            kind = resolve_class(path, object)
            for attribute in attributes[group]:
                assert find_class(path).attribute(attribute) == getattr(kind, attribute), (path, attribute)


def test_the_table_of_losses_says_what_they_are() -> None:
    assert set(LOSSES) == set(KINDS)
    assert set(LEAST_SQUARES_LOSSES) == {name for name, kind in KINDS.items() if kind.least_squares}
