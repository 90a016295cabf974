"""Small problems in float64, for oracles, doctests and authors who try a rule."""

from collections.abc import Sequence

import torch
from torch import nn

from altprop.capabilities import Capability
from altprop.data import Batch, ModelSpec
from altprop.flops import count_flops
from altprop.ledger import Ledger
from altprop.losses import make_loss
from altprop.models.mlp import MLP
from altprop.models.point import Point
from altprop.models.recurrent import RecurrentModel
from altprop.noise import Noise, NoiseClock
from altprop.problem import Problem
from altprop.randomness import Random, derive_seed, generator_for


def make_problem(
    model: nn.Module,
    loss: str,
    *,
    seed: int = 0,
    offers: frozenset[Capability] = frozenset({Capability.SUPERVISED, Capability.VECTORS}),
    train_size: int = 0,
) -> Problem:
    """Wrap any model in a problem with fresh ledger and streams.

    Args:
        model: with a `spec` attribute.
        loss: name of a loss.
        seed: of the algorithm's and the noise stream.
        offers: capabilities of the task's side; the model's own are added.
        train_size: rows of the training split.
    """
    first = next(model.parameters())
    blocks = len(getattr(model, "blocks", (model,)))
    random = Random(derive_seed(seed, "algorithm"), first.device, first.dtype)
    spec: ModelSpec = model.spec  # type: ignore[assignment]
    made = make_loss(loss)
    extra = {Capability.LEAST_SQUARES} if made.least_squares else set()
    return Problem(
        model,
        made,
        spec,
        Ledger(blocks),
        random,
        NoiseClock(derive_seed(seed, "noise")),
        offers | model.offers | extra,  # type: ignore[operator]
        ("toy", type(model).__name__.lower()),
        train_size,
    )


def toy(
    sizes: Sequence[int] = (5, 7, 6, 3),
    *,
    rows: int = 8,
    activation: str = "tanh",
    loss: str = "cross_entropy",
    normalisation: str = "none",
    noise: Noise | None = None,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
) -> tuple[Problem, Batch]:
    """Return a small MLP problem and one batch of random data.

    Args:
        sizes: units of input, hidden layers and output.
        rows: of the batch.
        activation, loss, normalisation: names.
        noise: in the forward pass, or None.
        seed: of weights, data and streams.
        dtype: of everything.

    >>> problem, batch = toy()
    >>> loss, grads = problem.gradient(batch)
    >>> list(grads)[:2], batch.inputs.shape
    (['blocks.0.weight', 'blocks.0.bias'], torch.Size([8, 5]))
    """
    spec = ModelSpec((sizes[0],), sizes[-1])
    model = MLP(
        spec,
        list(sizes[1:-1]),
        activation=activation,
        normalisation=normalisation,
        initialisation="glorot_uniform",
        noise=noise,
        generator=generator_for(seed, "toy weights"),
    ).to(dtype)
    data = Random(derive_seed(seed, "toy data"), "cpu", dtype)
    inputs = data.normal(rows, sizes[0])
    targets = _targets(loss, data, (rows,), sizes[-1])
    classes = {Capability.CLASSES} if loss in _CLASS_LOSSES else set()
    offers = {Capability.SUPERVISED, Capability.VECTORS} | classes
    problem = make_problem(model, loss, seed=seed, offers=frozenset(offers), train_size=rows)
    with problem.evaluating():
        problem.ledger.measure_forward = lambda: count_flops(lambda: model(inputs[:1]))
        problem.ledger.forward_flops = problem.ledger.measure_forward()
    problem.ledger.epoch_samples = rows
    return problem, Batch(inputs, targets, torch.arange(rows, device="cpu"))


def toy_point(centre: Sequence[float], start: Sequence[float], *, seed: int = 0) -> tuple[Problem, Batch]:
    """Return 1/2 |theta - centre|^2 in float64 from a starting point, as a problem and its one batch.

    >>> problem, batch = toy_point([0.0, 0.0], [3.0, 4.0])
    >>> problem.objective(batch)
    tensor(12.5000, dtype=torch.float64)
    """
    spec = ModelSpec((0,), len(centre), start=tuple(start))
    problem = make_problem(Point(spec, generator=torch.Generator(device="cpu")), "half_squared_error", seed=seed)
    target = torch.tensor([list(centre)], dtype=torch.float64, device="cpu")
    return problem, Batch(target[:, :0], target, torch.zeros(1, dtype=torch.int64, device="cpu"))


def toy_sequence(
    cell: str = "rnn",
    *,
    steps: int = 7,
    rows: int = 4,
    inputs: int = 2,
    width: int = 5,
    outputs: int = 3,
    lengths: Sequence[int] | None = None,
    per_step: bool = False,
    loss: str = "half_squared_error",
    noise: Noise | None = None,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
) -> tuple[Problem, Batch]:
    """Return a small recurrent problem and one batch of random sequences.

    Args:
        cell: rnn, leaky_rnn, gru or lstm.
        steps, rows, inputs, width, outputs: T, B, F, units and C.
        lengths: valid elements of each row, which are masked beyond; None for T each.
        per_step: whether there is a target at each time.
        loss, noise, seed, dtype: as for `toy`.

    >>> problem, batch = toy_sequence("gru", lengths=[7, 3, 5, 1], per_step=True)
    >>> batch.inputs.shape, batch.targets.shape, batch.samples
    (torch.Size([7, 4, 2]), torch.Size([7, 4, 3]), 16)
    """
    model = RecurrentModel(
        ModelSpec((inputs,), outputs, sequence=True, per_step=per_step),
        cell,
        [width],
        initialisation="glorot_uniform",
        noise=noise,
        generator=generator_for(seed, "toy weights"),
    ).to(dtype)
    data = Random(derive_seed(seed, "toy data"), "cpu", dtype)
    x = data.normal(steps, rows, inputs)
    targets = _targets(loss, data, (steps, rows) if per_step else (rows,), outputs)
    classes = {Capability.CLASSES} if loss in _CLASS_LOSSES else set()
    problem = make_problem(model, loss, seed=seed, offers=frozenset({Capability.SUPERVISED} | classes), train_size=rows)
    mask = None
    if lengths is not None:
        mask = torch.arange(steps, device="cpu")[:, None] < torch.tensor(list(lengths), device="cpu")
    batch = Batch(x, targets, torch.arange(rows, device="cpu"), mask, torch.ones(rows, dtype=torch.bool, device="cpu"))
    with problem.evaluating():
        problem.ledger.measure_forward = lambda: count_flops(lambda: model(x[:, :1]))
        problem.ledger.forward_flops = problem.ledger.measure_forward()
    problem.ledger.epoch_samples = batch.samples
    return problem, batch


_CLASS_LOSSES = ("cross_entropy", "one_hot_squared_error", "hinge")


def _targets(loss: str, data: Random, shape: tuple[int, ...], outputs: int) -> torch.Tensor:
    """Draw targets of a shape, (*shape,) classes or (*shape, outputs) values, as the loss takes them."""
    if loss in _CLASS_LOSSES:
        return data.integers(0, outputs, *shape)
    values = data.normal(*shape, outputs)
    return (values > 0).to(values.dtype) if loss == "binary_cross_entropy" else values
