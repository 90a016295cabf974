"""Alternatives to backpropagation by other libraries, where they can be imported: BioTorch, PCX and fflib.

They drag other versions in; put them into a folder of their own and on PYTHONPATH: `pip install --no-deps --target
peers biotorch fflib pcx jax==0.4.38 jaxlib==0.4.38 optax==0.2.5 equinox==0.11.12 jaxtyping wadler_lindig chex==0.1.90
absl-py ml_dtypes opt_einsum toolz`. JPC, the authors' energy-based-learning and the authors' forward-forward are on no
package index.

Each function returns a learner: (inputs (B, F), targets (B,)) -> one step, and inputs -> classes (B,).
"""

import contextlib
import importlib
import io
import os
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

LR = 0.001
Weights = Sequence[tuple[Tensor, Tensor]]
"""Weight (n, m) and bias (n,) of each layer, as the learner of ours begins with them."""


class Peer(NamedTuple):
    """A learner of another library.

    Attributes:
        learn: inputs (B, F), targets (B,) -> None, one step.
        predict: inputs (B, F) -> classes (B,).
        moved: () -> how far the weights of the forward pass are from where they began, relative to these.
    """

    learn: Callable[[Tensor, Tensor], None]
    predict: Callable[[Tensor], Tensor]
    moved: Callable[[], float] = lambda: float("nan")


def missing(name: str) -> str:
    """Return why a peer is left out; empty where it is there."""
    try:
        importlib.import_module(name)
    except ImportError as error:
        return f"{name} is left out: {error}"
    return ""


def biotorch(mode: str, weights: Weights, constrained: bool = False) -> Peer:
    """Return BioTorch's fa, dfa or usf under torch's Adam; `constrained` keeps the norm of each weight."""
    converter: Any = importlib.import_module("biotorch.module.biomodule")
    layers = [module for weight, _ in weights for module in (nn.Linear(*weight.mT.shape), nn.ReLU())][:-1]
    options = {"constrain_weights": constrained, "gradient_clip": False, "init": "xavier"}
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = {"type": mode, "options": options}
        model = converter.BioModule(nn.Sequential(*layers), mode=mode, layer_config=config, output_dim=10)
    linear = [module for module in model.modules() if isinstance(module, nn.Linear)]
    with torch.no_grad():
        for module, (weight, bias) in zip(linear, weights, strict=True):
            module.weight.copy_(weight)
            module.bias.copy_(bias)
            module.norm_initial_weights = torch.linalg.norm(module.weight)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=LR)

    def learn(inputs: Tensor, targets: Tensor) -> None:
        optimizer.zero_grad()
        functional.cross_entropy(model(inputs, targets, functional.cross_entropy), targets).backward()
        optimizer.step()

    def predict(inputs: Tensor) -> Tensor:
        model.eval()
        with torch.no_grad():
            found: Tensor = model(inputs).argmax(1)
        model.train()
        return found

    def moved() -> float:
        pairs = [(module.weight.detach(), weight) for module, (weight, _) in zip(linear, weights, strict=True)]
        return float(max((now - start).norm() / start.norm() for now, start in pairs))

    return Peer(learn, predict, moved)


def fflib(weights: Weights, threshold: float, lr: float) -> Peer:
    """Return fflib's forward-forward net; a label stands beside the inputs, and negatives have a wrong one."""
    linear: Any = importlib.import_module("fflib.nn.ff_linear")
    net: Any = importlib.import_module("fflib.nn.ff_net")
    probes: Any = importlib.import_module("fflib.probes.one_hot")
    generator = torch.Generator().manual_seed(0)
    layers = []
    for place, (weight, bias) in enumerate(weights[:-1]):
        wide = weight.shape[1] + (10 if place == 0 else 0)
        layer = linear.FFLinear(wide, len(weight), threshold, lr)
        with torch.no_grad():
            layer.weight.uniform_(-(10**-0.5), 10**-0.5, generator=generator)
            layer.weight[:, wide - weight.shape[1] :] = weight
            layer.bias.copy_(bias)
        layers.append(layer)
    model = net.FFNet(layers, None)
    probe = probes.TryAllClasses(lambda x, y: model(torch.cat([y, x], 1)), 10)

    def learn(inputs: Tensor, targets: Tensor) -> None:
        wrong = (targets + torch.randint(1, 10, targets.shape, generator=generator)) % 10
        pairs = [torch.cat([functional.one_hot(label, 10).float(), inputs], 1) for label in (targets, wrong)]
        model.run_train_combined(*pairs)

    def predict(inputs: Tensor) -> Tensor:
        with torch.no_grad():
            found: Tensor = probe.predict(inputs)
        return found

    return Peer(learn, predict)


def pcx(weights: Weights, steps: int, rate: float) -> Peer:
    """Return PCX's predictive coding net: activities descend the energy, with cross-entropy on top, then weights."""
    os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
    jax: Any = importlib.import_module("jax")
    optax: Any = importlib.import_module("optax")
    px: Any = importlib.import_module("pcx")
    pxc: Any = importlib.import_module("pcx.predictive_coding")
    pxf: Any = importlib.import_module("pcx.functional")
    pxnn: Any = importlib.import_module("pcx.nn")
    pxu: Any = importlib.import_module("pcx.utils")

    class Net(pxc.EnergyModule):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.layers = [pxnn.Linear(weight.shape[1], weight.shape[0]) for weight, _ in weights]
            self.vodes = [pxc.Vode() for _ in weights[:-1]] + [pxc.Vode(pxc.ce_energy)]
            self.vodes[-1].h.frozen = True
            for layer, (weight, bias) in zip(self.layers, weights, strict=True):
                layer.nn.weight.set(jax.numpy.asarray(weight.numpy()))
                layer.nn.bias.set(jax.numpy.asarray(bias.numpy()))

        def __call__(self, x: Any, y: Any) -> Any:
            for vode, layer in zip(self.vodes[:-1], self.layers[:-1], strict=True):
                x = vode(jax.nn.relu(layer(x)))
            self.vodes[-1](self.layers[-1](x))
            if y is not None:
                self.vodes[-1].set("h", y)
            return self.vodes[-1].get("u")

    values = pxc.VodeParam | pxc.VodeParam.Cache

    @pxf.vmap(pxu.M(values).to((None, 0)), in_axes=(0, 0), out_axes=0)
    def forward(x: Any, y: Any, *, model: Any) -> Any:
        return model(x, y)

    @pxf.vmap(pxu.M(values).to((None, 0)), in_axes=(0,), out_axes=(None, 0), axis_name="batch")
    def energy(x: Any, *, model: Any) -> Any:
        outputs = model(x, None)
        return jax.lax.psum(model.energy().sum(), "batch"), outputs

    free = pxu.M_hasnot(pxc.VodeParam, frozen=True).to([False, True])
    of_values = pxf.value_and_grad(free, has_aux=True)(energy)
    of_weights = pxf.value_and_grad(pxu.M(pxnn.LayerParam).to([False, True]), has_aux=True)(energy)

    @pxf.jit()
    def train(x: Any, y: Any, *, model: Any, optim_w: Any, optim_h: Any) -> None:
        with pxu.step(model, pxc.STATUS.INIT, clear_params=pxc.VodeParam.Cache):
            forward(x, y, model=model)
        optim_h.init(pxu.M_hasnot(pxc.VodeParam, frozen=True)(model))
        for _ in range(steps):
            with pxu.step(model, clear_params=pxc.VodeParam.Cache):
                _, found = of_values(x, model=model)
            optim_h.step(model, found["model"])
        optim_h.clear()
        with pxu.step(model, clear_params=pxc.VodeParam.Cache):
            _, found = of_weights(x, model=model)
        optim_w.step(model, found["model"], scale_by=1.0 / x.shape[0])

    @pxf.jit()
    def run(x: Any, y: Any, *, model: Any) -> Any:
        with pxu.step(model, pxc.STATUS.INIT, clear_params=pxc.VodeParam.Cache):
            return forward(x, y, model=model)

    px.RKG.seed(0)
    model = Net()
    zeros = jax.numpy.zeros((64, weights[0][0].shape[1]))
    with pxu.step(model, pxc.STATUS.INIT, clear_params=pxc.VodeParam.Cache):
        forward(zeros, jax.numpy.zeros((64, 10)), model=model)
    optim_w = pxu.Optim(lambda: optax.adam(LR), pxu.M(pxnn.LayerParam)(model))
    optim_h = pxu.Optim(lambda: optax.sgd(rate))

    def learn(inputs: Tensor, targets: Tensor) -> None:
        y = functional.one_hot(targets, 10).float().numpy()
        train(inputs.numpy(), y, model=model, optim_w=optim_w, optim_h=optim_h)

    def predict(inputs: Tensor) -> Tensor:
        model.clear_params(pxc.VodeParam)  # their rows are those of the last batch
        found = run(inputs.numpy(), jax.numpy.zeros((len(inputs), 10)), model=model)
        model.clear_params(pxc.VodeParam)
        return torch.as_tensor(found.argmax(1).tolist())

    return Peer(learn, predict)
