"""Models of the user's: any `nn.Module`, and what it can be used for found out by trying.

Every module serves learners that need a gradient. One that is a chain of affine maps, normalisations and activations,
as an `nn.Sequential` or in an attribute `blocks`, is rebuilt from the same parameters as a `LayeredModel`, which serves
those that work layer by layer and takes noise; that its outputs stay the same is looked at.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from altprop.capabilities import MODEL_OFFERS, Capability
from altprop.data import ModelSpec
from altprop.errors import Refused
from altprop.models.base import Block, Dense, LayeredModel
from altprop.models.parts import ACTIVATIONS
from altprop.noise import Noise

_ACTIVATIONS: dict[type[nn.Module], tuple[str, Callable[[nn.Module], bool]]] = {
    nn.ReLU: ("relu", lambda m: True),
    nn.Tanh: ("tanh", lambda m: True),
    nn.Sigmoid: ("sigmoid", lambda m: True),
    nn.LeakyReLU: ("leaky_relu", lambda m: getattr(m, "negative_slope", None) == 0.01),
    nn.ELU: ("elu", lambda m: getattr(m, "alpha", None) == 1.0),
    nn.Softplus: ("softplus", lambda m: getattr(m, "beta", None) == 1.0 and getattr(m, "threshold", None) == 20.0),
    nn.GELU: ("gelu", lambda m: getattr(m, "approximate", None) == "none"),
    nn.SiLU: ("silu", lambda m: True),
    nn.SELU: ("selu", lambda m: True),
}
"""Modules that are activations of `altprop.models.parts`, and whether one has that one's constants."""
_NORMALISATIONS = (nn.BatchNorm1d, nn.LayerNorm)
_DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)
PROBED_ROWS = 3


class AdoptedChain(LayeredModel):
    """A chain that was rebuilt from the modules of another one, with the very same parameters."""

    def __init__(self, spec: ModelSpec, blocks: list[Block], noise: Noise | None) -> None:
        super().__init__(spec, blocks, noise)
        if not all(isinstance(block, Dense) and block.norm is None for block in blocks):
            return
        # What an instance offers beyond its class: manual_backprop and others read weights of dense blocks.
        vars(self)["offers"] = self.offers | {Capability.DENSE}


def adopt(model: nn.Module, spec: ModelSpec, noise: Noise | None, name: str) -> nn.Module:
    """Return a model of the user's as learners can use it, with what it can be used for in `offers`.

    Args:
        model: whose class says nothing of what it offers.
        spec: shapes that it must fit.
        noise: that it was given, or None.
        name: of the model, for sentences.

    Raises:
        Refused: where it takes other inputs, gives other outputs, or draws random numbers by itself.
    """
    for path, module in model.named_modules():
        if isinstance(module, _DROPOUTS) and module.p > 0:
            raise Refused(
                f"model {name} draws noise by itself, by {type(module).__name__} at {path}: no two learners would see "
                f"the same masks; leave it out and say dropout=standard dropout.p={module.p:g}"
            )
    example = _example(spec)
    expected = _outputs(model, example, spec, name)
    blocks = None if spec.sequence else _blocks(model)
    if blocks is not None:
        chain = AdoptedChain(spec, blocks, noise)
        if _same(chain, example, expected):
            return chain
    vars(model)["offers"] = MODEL_OFFERS | ({Capability.CURVATURE} if _twice_differentiable(model, example) else set())
    return model


def _example(spec: ModelSpec) -> Tensor:
    """Return inputs of a few rows, (B, ...) or (T, B, F), in the default dtype."""
    generator = torch.Generator(device="cpu").manual_seed(0)
    lead = (4, PROBED_ROWS) if spec.sequence else (PROBED_ROWS,)
    return torch.randn(*lead, *spec.input_shape, generator=generator, device="cpu")


def _outputs(model: nn.Module, example: Tensor, spec: ModelSpec, name: str) -> Tensor:
    """Run a model in evaluation mode, which leaves its buffers alone."""
    try:
        with torch.no_grad():
            outputs = copy.deepcopy(model).eval()(example)
    except Exception as error:  # the module may do anything
        words = " ".join(str(error).split())
        raise Refused(f"model {name} cannot take the task's inputs, {tuple(example.shape)}: {words}") from error
    lead = example.shape[: 2 if spec.per_step else 1] if not spec.sequence or spec.per_step else example.shape[1:2]
    if not isinstance(outputs, Tensor) or outputs.shape != (*lead, spec.outputs):
        got = tuple(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
        raise Refused(
            f"model {name} gives {got} for {lead[-1]} rows, and the task needs {(*lead, spec.outputs)}: take `spec` in "
            "its constructor and end in spec.outputs"
        )
    return outputs


def _same(chain: nn.Module, example: Tensor, expected: Tensor) -> bool:
    training = chain.training
    chain.eval()
    try:
        with torch.no_grad():
            found = chain(example)
    except (RuntimeError, ValueError):
        return False
    finally:
        chain.train(training)
    return found.shape == expected.shape and bool(torch.allclose(found, expected, rtol=1e-4, atol=1e-5))


def _twice_differentiable(model: nn.Module, example: Tensor) -> bool:
    """Return whether a Hessian-vector product of the squared outputs can be taken."""
    tried = copy.deepcopy(model).eval()
    params = [p for p in tried.parameters() if p.requires_grad]
    try:
        loss = tried(example).square().sum()
        first = torch.autograd.grad(loss, params, create_graph=True, allow_unused=True)
        slope = sum((g.sum() for g in first if g is not None), loss.new_zeros(()))
        torch.autograd.grad(slope, params, allow_unused=True)
    except (RuntimeError, NotImplementedError):
        return False
    return True


def _blocks(model: nn.Module) -> list[Block] | None:
    """Return the blocks of a chain, None for what is none: each an affine map, then a normalisation, an activation."""
    chain = model if isinstance(model, nn.Sequential) else getattr(model, "blocks", None)
    if not isinstance(chain, (nn.Sequential, nn.ModuleList)):
        return None
    owned = {id(p) for p in chain.parameters()}
    if any(id(p) not in owned for p in model.parameters()):
        return None
    leaves = list(_leaves(chain))
    if leaves and all(isinstance(leaf, Block) for leaf in leaves):
        return [leaf for leaf in leaves if isinstance(leaf, Block)]
    blocks: list[Block] = []
    flatten = False
    for leaf in leaves:
        if isinstance(leaf, nn.Identity) or (isinstance(leaf, _DROPOUTS) and not leaf.p):
            continue
        if isinstance(leaf, nn.Flatten):
            if blocks or leaf.start_dim != 1 or leaf.end_dim != -1:
                return None
            flatten = True
        elif isinstance(leaf, nn.Linear) and leaf.bias is not None:
            blocks.append(_dense(leaf, flatten and not blocks))
        elif not blocks or not _absorbed(blocks[-1], leaf):
            return None
    return blocks or None


def _leaves(chain: nn.Module) -> Iterable[nn.Module]:
    for module in chain.children():
        if isinstance(module, (nn.Sequential, nn.ModuleList)):
            yield from _leaves(module)
        else:
            yield module


def _dense(linear: nn.Linear, flatten: bool) -> Dense:
    generator = torch.Generator(device="cpu").manual_seed(0)
    block = Dense(linear.in_features, linear.out_features, generator=generator, flatten=flatten)
    block._parameters.update(linear._parameters)  # weight and bias, under the same names
    return block


def _absorbed(block: Block, leaf: nn.Module) -> bool:
    """Let a block end in a normalisation or an activation, and return whether it can."""
    if block.activation.name != "identity":
        return False
    if isinstance(leaf, _NORMALISATIONS) and block.norm is None:
        block.norm = leaf
        return True
    known = _ACTIVATIONS.get(type(leaf))
    if known is None or not known[1](leaf):
        return False
    block.activation = ACTIVATIONS[known[0]]
    return True
