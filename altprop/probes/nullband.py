"""What alignment with the gradient chance alone gives: the null band of the cosine.

A layer's update is a product of its inputs and an error signal. Because inputs and slopes are shared with the gradient,
two such updates have a far wider cosine than two random directions in d dimensions. So the band is measured: with
output errors e (n, C) and J the derivative of a block's outputs (n, out) in its parameters, the updates

    u = J^T (e R),    R (C, out) standard normal,

are what a block would do that hears the errors through a fresh random projection. The errors keep their order: with
permuted rows as well, 10 to 18 % of the updates of a fresh random feedback matrix fell outside the band of a trained
tanh net (64-128-128-10, digits) in place of 5 %.

u . gradient = R . M with M = e^T J gradient, so R = z M / |M| + S with S orthogonal to M, and a stratified normal z
places the quantiles well with few draws. u = z u_M + u_S is linear, so one S serves several z. In a dense block with
inputs a and slopes s unit j has u_j = T_j r_j with T_j = a^T (e s_j), and one product gives all T_j; elsewhere u is a
backward pass.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from altprop.models.base import Block, Dense

DRAWS = 128
PRODUCTS = 64  # S in a dense block
PASSES = 32  # S elsewhere: each is a backward pass
RANK = 32


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
    if isinstance(block, Dense) and block.norm is None:
        return _dense(block, x.flatten(1), _reduced(error), gradient, generator)
    return _by_autograd(block, x, error, gradient, generator)


def _reduced(error: Tensor) -> Tensor:
    """Return (n, r), r <= RANK, the leading principal components of `error` (n, C): normal R do not feel a rotation.

    Where `error` is not finite there are none, and it stays as it is: a probe must not end a run.
    """
    if error.shape[1] <= RANK or not bool(error.isfinite().all()):
        return error
    u, values, _ = torch.linalg.svd(error, full_matrices=False)
    leading: Tensor = u[:, :RANK] * values[:RANK]
    return leading


def _dense(block: Dense, x: Tensor, error: Tensor, gradient: Tensor, generator: torch.Generator) -> Tensor:
    (n, c), (out, inputs) = error.shape, block.weight.shape
    a = torch.cat([x, x.new_ones(n, 1)], 1)
    g = torch.cat([gradient[: out * inputs].reshape(out, inputs), gradient[out * inputs :, None]], 1)
    z = block.transform(x)
    slopes = block.activation.slope(z, block.activation.function(z))
    t = (a.T @ (slopes[:, :, None] * error[:, None, :]).reshape(n, out * c)).reshape(-1, out, c).permute(1, 0, 2)
    m = (g[:, None, :] @ t)[:, 0]
    size = m.norm()
    m = m / size
    gram = t.transpose(1, 2) @ t
    towards = (m[:, None, :] @ gram)[:, 0]
    s = torch.randn(PRODUCTS, out, c, generator=generator, dtype=torch.float32, device="cpu").to(x)
    s -= (s * m).sum((1, 2), keepdim=True) * m
    s = s.transpose(0, 1)
    cross = (s * towards[:, None]).sum((0, 2))
    return _cosines((towards * m).sum(), cross, ((s @ gram) * s).sum((0, 2)), size / gradient.norm(), generator)


def _by_autograd(block: Block, x: Tensor, error: Tensor, gradient: Tensor, generator: torch.Generator) -> Tensor:
    parameters = list(block.parameters())
    sizes = [p.numel() for p in parameters]
    tangents = [g.reshape(p.shape) for g, p in zip(gradient.split(sizes), parameters, strict=True)]
    with torch.enable_grad():
        y = block(x.detach())
        dual = torch.zeros_like(y, requires_grad=True)
        # J^T dual is linear in dual, so its derivative along the gradient is J times the gradient.
        pulled = torch.autograd.grad(y, parameters, dual, create_graph=True, materialize_grads=True)
    (along,) = torch.autograd.grad(pulled, dual, tangents, materialize_grads=True)

    def update(r: Tensor) -> Tensor:
        signal = (error @ r).reshape(y.shape)
        found = torch.autograd.grad(y, parameters, signal, retain_graph=True, materialize_grads=True)
        return torch.cat([f.flatten() for f in found])

    m = error.T @ along.flatten(1)
    size = m.norm()
    m = m / size
    towards = update(m)
    crosses, squares = [], []
    for _ in range(PASSES):
        draw = torch.randn(m.shape, generator=generator, dtype=torch.float32, device="cpu").to(m)
        across = update(draw - (draw * m).sum() * m)
        crosses.append(torch.dot(towards, across))
        squares.append(torch.dot(across, across))
    square = torch.dot(towards, towards)
    return _cosines(square, torch.stack(crosses), torch.stack(squares), size / gradient.norm(), generator)


def _cosines(towards: Tensor, cross: Tensor, across: Tensor, slope: Tensor, generator: torch.Generator) -> Tensor:
    """Return z slope / |z u_M + u_S| (K,) for stratified z.

    Args:
        towards: u_M . u_M, a scalar.
        cross: u_M . u_S of each S, (k,).
        across: u_S . u_S of each S, (k,).
        slope: |M| / |gradient|, a scalar.
        generator: of the order of the z.
    """
    z = stratified_normal(generator).to(cross)
    cross, across = cross.repeat(DRAWS // len(cross)), across.repeat(DRAWS // len(across))
    square: Tensor = z * z * towards + 2 * z * cross + across
    return z * slope / square.clamp_min(0).sqrt()


def stratified_normal(generator: torch.Generator) -> Tensor:
    """Return K normal values, one from the middle of each of K equally likely intervals, in random order."""
    middle = (torch.arange(DRAWS, dtype=torch.float64, device="cpu") + 0.5) / DRAWS
    values: Tensor = torch.special.ndtri(middle)
    return values[torch.randperm(DRAWS, generator=generator, device="cpu")]


def isotropic_cosines(d: int, generator: torch.Generator) -> Tensor:
    """Return cosines (K,) between a fixed and uniformly random directions in d dimensions."""
    first = torch.randn(DRAWS, generator=generator, dtype=torch.float64, device="cpu")
    if d == 1:
        return first.sign()
    # The square of the rest is a chi-square with d - 1 degrees of freedom: a Gamma of shape (d - 1) / 2.
    rest = 2 * torch._standard_gamma(torch.full_like(first, (d - 1) / 2), generator=generator)
    cosines: Tensor = first / (first.square() + rest).sqrt()
    return cosines


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


def bound(cosines: NDArray[np.float64], share: float = 0.95) -> float:
    """Return c such that `share` of the draws (K,) has abs(cosine) <= c.

    The draws and their mirror images are one sample: R and -R are equally likely.
    """
    sizes = np.sort(np.abs(cosines))
    place = share * (len(sizes) - 1)
    below = int(place)
    return float(sizes[below] + (place - below) * (sizes[min(below + 1, len(sizes) - 1)] - sizes[below]))
