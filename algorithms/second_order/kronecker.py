"""Kronecker factors of the curvature of dense and convolutional layers, for K-FAC and its relatives.

A layer with weight W (n, m) and bias b maps what it sees, a (m,), to z = [W b] [a 1]^T, at T places of an example that
share the weights (T = 1 in a dense layer, the positions of the kernel in a convolution). With g = dl/dz of an example's
loss l, [a 1]^T written as a from here on, and E the mean over the N examples,

    curvature of [W b]  =  E[(sum_t g_t a_t^T)(sum_t g_t a_t^T)^T]  ~  B x A  (Kronecker product, rows of [W b] first)

    expand:  A = E[sum_t a_t a_t^T],           B = E[sum_t g_t g_t^T] / T        (Grosse and Martens 2016)
    reduce:  A = E[mean_t a_t (mean_t a_t)^T],  B = E[(sum_t g_t)(sum_t g_t)^T]   (Eschenhagen et al. 2023)

Which g is meant decides which curvature it is:

    type-2:     the columns of a root of the loss's Hessian in the outputs, sent back: exactly the Gauss-Newton matrix
    mc:         the gradient for a target that is drawn from the model's own distribution: the Fisher in expectation
    empirical:  the gradient for the target of the data: the empirical Fisher, which is no curvature (Kunstner 2019)

All is written for one seed and for many that are stacked.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple, cast

import torch
from torch import Tensor
from torch.nn import functional

from altprop import Batch, Block, ChainWalk, Conv, Dense, Grads, Problem, Refused, check_name

VARIANTS = ("type-2", "mc", "empirical")
SHARINGS = ("expand", "reduce")


class Statistics(NamedTuple):
    """What one batch says of the layers.

    Attributes:
        seen: of each layer, [a 1], (N, T, m + 1).
        left, right: of each layer, (K, N, T, n), so that sum_k left_k right_k^T is the sum over examples of the
            curvature in z, divided by what the loss is divided by; K = 1, or the number of outputs for type-2.
        weights: (N,), 1 for rows whose target may be used, else 0.
    """

    seen: list[Tensor]
    left: list[Tensor]
    right: list[Tensor]
    weights: Tensor


class Factors(NamedTuple):
    """A, (m + 1, m + 1), and B, (n, n), of one layer."""

    a: Tensor
    b: Tensor


def refuse_other_layers(problem: Problem, algorithm: str) -> None:
    """Refuse a model with a layer whose weight has no such factors.

    Raises:
        Refused: for normalisation, whose gain and shift are no affine map of what they see.
    """
    for block in blocks_of(problem):
        if not isinstance(block, (Dense, Conv)) or block.norm is not None:
            raise Refused(
                f"{algorithm} has factors for dense and convolutional layers without normalisation; "
                "use model.normalisation=none"
            )


def blocks_of(problem: Problem) -> list[Block]:
    """Return the layers in order."""
    return [cast("Block", block) for block in problem.layered.blocks]


def names_of(problem: Problem) -> list[tuple[str, str]]:
    """Return the names of weight and bias of each layer, in order."""
    return [(f"blocks.{index}.weight", f"blocks.{index}.bias") for index in range(len(problem.layered.blocks))]


def matrices(problem: Problem, values: dict[str, Tensor]) -> list[Tensor]:
    """Return [W b], (n, m + 1), of each layer from tensors by parameter name."""
    return [torch.cat([values[w].flatten(1), values[b][:, None]], 1) for w, b in names_of(problem)]


def still(problem: Problem) -> list[Tensor]:
    """Return zeros (n, m + 1) for each layer."""
    return [
        torch.zeros_like(one) for one in matrices(problem, {name: p.detach() for name, p in problem.params.items()})
    ]


def no_factors(layers: Sequence[Tensor]) -> list["Factors"]:
    """Return A and B of zeros for layers (n, m + 1)."""
    return [Factors(*(one.new_zeros(size, size) for size in reversed(one.shape))) for one in layers]


def descended(
    problem: Problem,
    grads: Grads,
    velocities: Sequence[Tensor],
    preconditioned: Callable[[list[Tensor]], list[Tensor]],
    pace: tuple[float, float, float],
) -> Tensor:
    """Move by V <- momentum V - lr nu d, with d the preconditioned gradients, and return nu.

    Args:
        problem: with weights and biases.
        grads: by parameter name.
        velocities: V of each layer, (n, m + 1), which change.
        preconditioned: gradients of the layers (n, m + 1) -> d.
        pace: lr, momentum and trust, in nats (`clipped`). At nu = 0 something is not finite, and d counts as 0.
    """
    lr, momentum, trust = pace
    with torch.no_grad(), problem.ledger.primitive("update", 0):
        gradients = matrices(problem, grads)
        directions = preconditioned(gradients)
        clip = clipped(directions, gradients, lr, trust)
        for velocity, direction in zip(velocities, directions, strict=True):
            velocity.mul_(momentum).sub_(torch.where(clip > 0, direction, 0.0) * (lr * clip))
        move(problem, velocities)
    return clip


def move(problem: Problem, steps: Sequence[Tensor]) -> None:
    """Add a step (n, m + 1) to weight and bias of each layer."""
    params = problem.params
    with torch.no_grad():
        for (weight, bias), step in zip(names_of(problem), steps, strict=True):
            params[weight].add_(step[:, :-1].reshape(params[weight].shape))
            params[bias].add_(step[:, -1])
    problem.ledger.updates += 1


def statistics(problem: Problem, batch: Batch, variant: str, sharing: str) -> Statistics:
    """Run a batch through the layers and send back what the variant of the curvature is made of.

    Args:
        problem: whose model is a chain of dense and convolutional layers.
        batch: what the curvature is taken on.
        variant: of `VARIANTS`.
        sharing: of `SHARINGS`.
    """
    check_name(variant, "algorithm.fisher", VARIANTS)
    walk = problem.walk(batch)
    blocks = blocks_of(problem)
    outputs = walk.outputs
    if variant == "type-2":
        units = [torch.zeros_like(outputs) for _ in range(outputs.shape[1])]
        for place, unit in enumerate(units):
            unit[:, place] = 1
        left = _sent(walk, blocks, units, sharing)
        curved = torch.stack([problem.output_curvature(outputs, unit, batch) for unit in units])  # (C, N, C)
        right = [torch.einsum("cnd,dnti->cnti", curved, one) for one in left]
    else:
        # Outputs that are not finite have no distribution to draw from; their gradient is not finite all the same.
        finite = torch.nan_to_num(outputs, 0.0, 0.0, 0.0)
        drawn = replace(batch, targets=problem.sample_targets(finite)) if variant == "mc" else batch
        left = _sent(walk, blocks, [problem.output_gradient(outputs, drawn)], sharing)
        right = [problem.divisor(batch) * one for one in left]
    seen = [_reduced(seen_by(block, x), sharing, mean=True) for block, x in zip(blocks, walk.inputs, strict=True)]
    kept = torch.ones_like(outputs[:, 0]) if batch.labelled is None else batch.labelled.to(outputs.dtype)
    return Statistics(seen, left, right, kept)


def _sent(walk: ChainWalk, blocks: Sequence[Block], signals: Sequence[Tensor], sharing: str) -> list[Tensor]:
    """Return of each layer the signals at its pre-activations, (K, N, T, n)."""
    deltas = [walk.back(signal, parameters=False).deltas for signal in signals]
    found = []
    for index, block in enumerate(blocks):
        places = [_places(block, one[index]) for one in deltas]
        found.append(torch.stack([_reduced(one, sharing, mean=False) for one in places]))
    return found


def seen_by(block: Block, x: Tensor) -> Tensor:
    """Return what the weight of a layer is multiplied by, with a 1 for the bias, (N, T, m + 1)."""
    if isinstance(block, Conv):
        flat = x.reshape(x.shape[0], *block.input_shape)
        if block.dims == 1:
            places = functional.unfold(flat[:, :, None], (1, block.kernel), 1, (0, block.padding), (1, block.stride)).mT
        else:
            places = functional.unfold(flat, block.kernel, 1, block.padding, block.stride).mT
    else:
        places = x.flatten(1)[:, None]
    return torch.cat([places, torch.ones_like(places[..., :1])], -1)


def _places(block: Block, delta: Tensor) -> Tensor:
    """Return a cotangent of pre-activations as (N, T, n)."""
    return delta.flatten(2).mT if isinstance(block, Conv) else delta[:, None]


def _reduced(values: Tensor, sharing: str, *, mean: bool) -> Tensor:
    """Return values at places (N, T, .) as they are, or (N, 1, .) for `reduce`."""
    if sharing == "expand" or values.shape[1] == 1:
        return values
    return values.mean(1, keepdim=True) if mean else values.sum(1, keepdim=True)


def factors(found: Statistics) -> list[Factors]:
    """Return A and B of each layer."""
    rows = found.weights.sum().clamp(min=1)
    made = []
    for seen, left, right in zip(found.seen, found.left, found.right, strict=True):
        weighted = (seen * found.weights[:, None, None]).flatten(0, 1)
        a = weighted.mT @ seen.flatten(0, 1) / rows
        b = left.flatten(0, 2).mT @ right.flatten(0, 2) / seen.shape[1]
        made.append(Factors(a, (b + b.mT) / 2))
    return made


def scales(found: Statistics, bases: Sequence[Factors]) -> list[Tensor]:
    """Return the diagonal of each layer's curvature in a basis Q_B x Q_A, (n, m + 1).

    It is the mean square of the examples' gradients there, E[(Q_B^T (sum_t g_t a_t^T) Q_A)^2] (George et al. 2018).

    Args:
        found: of a batch.
        bases: (Q_A, Q_B) of each layer, eigenvectors in columns.
    """
    turned = found._replace(
        seen=[seen @ q_a for seen, (q_a, _) in zip(found.seen, bases, strict=True)],
        left=[left @ q_b for left, (_, q_b) in zip(found.left, bases, strict=True)],
        right=[right @ q_b for right, (_, q_b) in zip(found.right, bases, strict=True)],
    )
    return diagonals(turned)


def diagonals(found: Statistics) -> list[Tensor]:
    """Return the diagonal of each layer's curvature, (n, m + 1), the mean square of what `found` holds of examples."""
    made = []
    for a, on_left, on_right in zip(found.seen, found.left, found.right, strict=True):
        if a.shape[1] == 1:
            both = (on_left * on_right).sum(0)[:, 0]
            made.append(both.mT @ a[:, 0].square())
        else:
            made.append((_summed(on_left, a) * _summed(on_right, a)).sum((0, 1)))
    return made


def _summed(sent: Tensor, seen: Tensor) -> Tensor:
    """Return sum_t g_t a_t^T of each example and signal, (K, N, n, m + 1)."""
    return sent.mT @ seen


def averaged(old: Sequence[Factors], new: Sequence[Factors], keep: float) -> list[Factors]:
    """Return keep * old + (1 - keep) * new, layer by layer; factors that are not finite leave the old ones."""
    found = []
    for before, after in zip(old, new, strict=True):
        good = torch.isfinite(after.a.sum() + after.b.sum())
        mixed = (keep * x + (1 - keep) * y for x, y in zip(before, after, strict=True))
        found.append(Factors(*(torch.where(good, z, x) for x, z in zip(before, mixed, strict=True))))
    return found


def averaged_diagonals(old: Sequence[Tensor], new: Sequence[Tensor], keep: float) -> list[Tensor]:
    """Return keep * old + (1 - keep) * new, layer by layer; what is not finite leaves the old one."""
    return [torch.where(torch.isfinite(y.sum()), keep * x + (1 - keep) * y, x) for x, y in zip(old, new, strict=True)]


def split_damping(one: Factors, damping: float) -> tuple[Tensor, Tensor]:
    """Return what is added to the diagonals of A and of B: sqrt(damping) times pi, and over pi.

    pi^2 is the mean eigenvalue of A over that of B, which gives both the same share of their own scale (Martens and
    Grosse 2015, section 6.3); 1 where either is 0.
    """
    means = one.a.diagonal().mean(), one.b.diagonal().mean()
    ratio = torch.where((means[0] > 0) & (means[1] > 0), means[0] / means[1], torch.ones_like(means[0]))
    pi, root = ratio.sqrt(), damping**0.5
    return root * pi, root / pi


def damped_inverse(matrix: Tensor, damping: Tensor, old: Tensor) -> Tensor:
    """Return (matrix + damping I)^-1 by its Cholesky factor, or the old inverse where there is none."""
    unit = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
    factor, info = torch.linalg.cholesky_ex(matrix + damping * unit)
    # What failed may have a 0 on its diagonal, which the inversion would raise for.
    inverse = torch.cholesky_inverse(torch.where(info == 0, factor, unit))
    return torch.where((info == 0) & torch.isfinite(inverse.sum()), inverse, old)


def clipped(directions: Sequence[Tensor], gradients: Sequence[Tensor], lr: float, trust: float) -> Tensor:
    """Return the factor by which a step of lr along minus the directions is shortened, a scalar; 0 where one is NaN.

    With g the gradient and v = F^-1 g, the step lr v changes the model's distribution by 1/2 lr^2 v . F v = 1/2 lr^2
    v . g nats; the factor holds that below `trust` (Ba, Grosse and Martens 2017, section 5).
    """
    slopes = [(direction * gradient).sum() for direction, gradient in zip(directions, gradients, strict=True)]
    slope = torch.stack(slopes).sum()
    factor = (2 * trust / (lr**2 * slope).clamp(min=1e-30)).sqrt().clamp(max=1.0)
    return torch.where(torch.isfinite(slope), factor, torch.zeros_like(factor))
