"""Every model in conf/model: what its yaml says is what its class does."""

import inspect
from pathlib import Path

import pytest
import torch
import yaml
from torch import nn

import altprop
from altprop import catalogue
from altprop.data import ModelSpec
from altprop.errors import AltpropError
from altprop.randomness import generator_for
from altprop.resolve import arguments, build, resolve_class

CONF = Path(altprop.__file__).parent / "conf" / "model"
FILES = {path.stem: path for path in sorted(CONF.glob("*.yaml")) if "???" not in path.read_text()}
SPECS = {
    "point": ModelSpec((2,), 2, start=(0.0, 1.0)),
    **dict.fromkeys(("rnn", "leaky_rnn", "gru", "lstm"), ModelSpec((2,), 3, sequence=True)),
}


def read(name):
    """Return a model's yaml, with what it would take from the task left to the class."""
    values = yaml.safe_load(FILES[name].read_text())
    return {k: v for k, v in values.items() if not (isinstance(v, str) and v.startswith("${"))}


def test_the_zoo_is_here():
    assert set(FILES) >= {"mlp", "linear", "cnn", "shortcut_mlp", "rnn", "gru", "lstm", "point"}


@pytest.mark.parametrize("name", FILES)
def test_a_yaml_says_what_its_class_does(name):
    values = read(name)
    kind = resolve_class(values["_target_"], nn.Module)
    assert values["name"] == name
    assert FILES[name].read_text().startswith("# ")
    assert catalogue.model_offers(values) == kind.offers  # read without importing it
    defaults = {k: p.default for k, p in inspect.signature(kind).parameters.items()}
    assert set(arguments(values)) <= set(defaults)


@pytest.mark.parametrize("name", FILES)
def test_a_yaml_builds(name):
    spec = SPECS.get(name, ModelSpec((16,), 3))
    model = build(read(name), nn.Module, "model", spec=spec, noise=None, generator=generator_for(0))
    x = torch.zeros(4, 5, 2) if spec.sequence else torch.zeros(5, *spec.input_shape)
    assert model(x).shape == (5, spec.outputs)


@pytest.mark.parametrize("name", FILES)
def test_an_unknown_option_is_told_the_near_ones(name):
    spec = SPECS.get(name, ModelSpec((16,), 3))
    with pytest.raises(AltpropError, match=r"model.initialization is no option of .*"):
        build({**read(name), "initialization": "torch"}, nn.Module, "model", spec=spec, generator=generator_for(0))
