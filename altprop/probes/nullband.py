"""What alignment with the gradient chance alone gives: the null band of the cosine.

A layer's update is a product of its inputs and an error signal. Because inputs and slopes are shared with the gradient,
two such updates have a far wider cosine than two random directions in d dimensions. So the band is measured: for a
block with inputs a (n, in + 1, a constant 1 for the bias), slopes s (n, out) and output errors e (n, C), the updates

    u = a^T ((e R) * s),    R (C, out) standard normal,

are what a layer would do that hears the errors through a fresh random projection. The errors keep their order: with
permuted rows as well, 10 to 18 % of the updates of a fresh random feedback matrix fell outside the band of a trained
tanh net (64-128-128-10, digits) in place of 5 %.

Unit j sees u_j = T_j r_j with T_j = a^T (e * s_j). So one product gives all T_j, and a draw then costs C^2 a unit.
"""

import torch
from torch import Tensor

from altprop.models.base import Block, Dense

DRAWS = 1000
RANK = 32
ROWS = 64
GENERIC_DRAWS = 200


def measured_cosines(block: Block, x: Tensor, error: Tensor, gradient: Tensor, generator: torch.Generator) -> Tensor:
    """Return cosines between a block's gradient and updates from randomly projected errors.

    Args:
        block: in evaluation mode.
        x: its inputs, (n, ...).
        error: derivative of the loss in the model's outputs, (n, C).
        gradient: (d,), of the block's parameters in `named_parameters` order.
        generator: CPU generator of the draws.

    Returns:
        (K,), NaN where gradient or update vanish.
    """
    if isinstance(block, Dense) and block.norm is None and block.bias is not None:
        return _dense(block, x.flatten(1), reduced(error), gradient, generator)
    return _generic(block, x[:ROWS], error[:ROWS], gradient, generator)


def reduced(error: Tensor) -> Tensor:
    """Return (n, r) with r <= RANK whose random projections are distributed as those of `error` (n, C).

    Normal projections do not change under rotation, so the leading principal components serve; below RANK outputs
    nothing is cut off.
    """
    if error.shape[1] <= RANK:
        return error
    u, s, _ = torch.linalg.svd(error, full_matrices=False)
    return u[:, :RANK] * s[:RANK]


def _dense(block: Dense, x: Tensor, error: Tensor, gradient: Tensor, generator: torch.Generator) -> Tensor:
    n, c = error.shape
    out = block.weight.shape[0]
    split = block.weight.numel()
    a = torch.cat([x, x.new_ones(n, 1)], 1)
    g = torch.cat([gradient[:split].reshape(out, -1), gradient[split:, None]], 1)
    slopes = _slopes(block, x)
    signals = error[:, None, :] if slopes is None else slopes[:, :, None] * error[:, None, :]
    units = signals.shape[1]
    t = (a.T @ signals.reshape(n, units * c)).reshape(-1, units, c).permute(1, 0, 2)
    gram = t.transpose(1, 2) @ t
    m = torch.einsum("uic,ui->uc", t, g) if slopes is not None else g @ t[0]
    r = torch.randn(out, DRAWS, c, generator=generator, dtype=torch.float32, device="cpu").to(x)
    dot = torch.einsum("ukc,uc->k", r, m)
    square = ((r @ gram.expand(out, c, c)) * r).sum((0, 2))
    return dot / (square.clamp_min(0).sqrt() * gradient.norm())


def _slopes(block: Dense, x: Tensor) -> Tensor | None:
    """Return f'(z) (n, out), or None where the block is linear."""
    if block.activation.name == "identity":
        return None
    z = block.transform(x)
    return block.activation.slope(z, block.activation.function(z))


def _generic(block: Block, x: Tensor, error: Tensor, gradient: Tensor, generator: torch.Generator) -> Tensor:
    """Draw through autograd, for blocks with normalisation and convolutions; on fewer rows and with fewer draws."""
    parameters = list(block.parameters())
    with torch.enable_grad():
        y = block(x.detach())
    error = reduced(error)
    found = []
    for _ in range(GENERIC_DRAWS):
        r = torch.randn(error.shape[1], y[0].numel(), generator=generator, dtype=torch.float32, device="cpu").to(x)
        parts = torch.autograd.grad(y, parameters, (error @ r).reshape(y.shape), retain_graph=True, materialize_grads=True)
        u = torch.cat([part.flatten() for part in parts])
        found.append(torch.dot(u, gradient) / (u.norm() * gradient.norm()))
    return torch.stack(found).repeat(DRAWS // GENERIC_DRAWS)


def isotropic_cosines(d: int, generator: torch.Generator) -> Tensor:
    """Return cosines (K,) between a fixed and uniformly random directions in d dimensions."""
    first = torch.randn(DRAWS, generator=generator, dtype=torch.float64, device="cpu")
    if d == 1:
        return first.sign()
    # The square of the rest is a chi-square with d - 1 degrees of freedom: a Gamma of shape (d - 1) / 2.
    rest = 2 * torch._standard_gamma(torch.full_like(first, (d - 1) / 2), generator=generator)
    return first / (first.square() + rest).sqrt()


def isotropic_bound(d: int, share: float = 0.95) -> float:
    """Return c such that a random direction in d dimensions has abs(cosine) <= c with probability `share`.

    It is 1.96 / sqrt(d) for large d and exact for small d.

    >>> round(isotropic_bound(2), 3), round(isotropic_bound(10000) * 100, 2)
    (0.997, 1.96)
    """
    if d == 1:
        return 1.0
    angle = torch.linspace(0, torch.pi / 2, 200_001, dtype=torch.float64, device="cpu")
    mass = angle.sin().pow(d - 2).cumsum(0)
    return float(angle[int(torch.searchsorted(mass, (1 - share) * mass[-1]))].cos())


def band(cosines: Tensor, share: float = 0.95) -> tuple[float, float]:
    """Return the central band of a distribution that is symmetric around 0, from draws (K,).

    The draws and their mirror images are one sample: R and -R are equally likely.
    """
    bound = float(torch.quantile(cosines.abs(), share))
    return -bound, bound
