"""What pytorch_optimizer's Shampoo, SOAP, AdaHessian and Sophia do, where toy versions of them go wrong."""

import pytest
import torch
from torch import Tensor, nn

from altprop.optim.foreign import named_class

pytest.importorskip("pytorch_optimizer")

G = torch.randn(6, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def power(matrix: Tensor, exponent: float) -> Tensor:
    """Return a power of a positive definite matrix."""
    values, q = torch.linalg.eigh(matrix)
    return q @ torch.diag(values**exponent) @ q.T


@pytest.mark.parametrize(("exponent", "holds"), [(-1 / 4, True), (-1 / 2, False), (-1 / 8, False)])
def test_shampoo_takes_the_fourth_root_on_either_side_of_a_matrix(exponent: float, holds: bool) -> None:
    """L^(-1/4) G R^(-1/4) with L = G G^T + eps I and R = G^T G + eps I (Gupta, Koren and Singer 2018)."""
    p = nn.Parameter(torch.zeros(6, 4, dtype=torch.float64))
    optimizer = named_class("shampoo")([p], lr=1.0, preconditioning_compute_steps=1)
    p.grad = G.clone()
    optimizer.step()
    left, right = (m + 1e-6 * torch.eye(len(m), dtype=m.dtype) for m in (G @ G.T, G.T @ G))
    expected = -power(left, exponent) @ G @ power(right, exponent)
    error = float((p.detach() - expected).norm() / expected.norm())
    assert (error <= 1e-10) == holds


def test_soap_keeps_its_first_moment_in_the_parameters_own_space() -> None:
    """It is turned into the present basis at each step, so a change of basis cannot leave it in the one before."""
    p = nn.Parameter(torch.zeros(6, 4, dtype=torch.float64))
    optimizer = named_class("soap")([p], lr=0.01, betas=(0.9, 0.95), precondition_frequency=1)
    moment = torch.zeros_like(p)
    for step in range(6):
        gradient = G.roll(step, 0)
        p.grad = gradient.clone()
        optimizer.step()
        # The first step only makes the basis.
        moment = moment if step == 0 else 0.9 * moment + 0.1 * gradient
    assert torch.allclose(optimizer.state[p]["exp_avg"], moment, rtol=0, atol=1e-14)


H = torch.tensor([0.5, 3.0, -2.0], dtype=torch.float64)


def stepped(name: str, steps: int, **options: object) -> tuple[Tensor, Tensor]:
    """Return where an optimizer comes to on 1/2 sum_i H_i x_i^2, and the places that it saw, (steps, 3).

    Signs as probes give the diagonal of a diagonal Hessian exactly.
    """
    p = nn.Parameter(torch.tensor([1.0, -2.0, 0.003], dtype=torch.float64))
    optimizer = named_class(name)([p], hessian_distribution="rademacher", **options)
    seen = []
    for _ in range(steps):
        seen.append(p.detach().clone())
        (p.grad,) = torch.autograd.grad(0.5 * (H * p.square()).sum(), p, create_graph=True)
        optimizer.step()
    return p.detach(), torch.stack(seen)


def test_adahessian_is_newtons_step_by_magnitudes_and_keeps_the_mean_of_squares() -> None:
    """m / sqrt(v), both without bias, of the gradient and of the squared diagonal (Yao et al. 2021, equation 9)."""
    first, seen = stepped("adahessian", 1, lr=1.0)
    assert torch.allclose(first, seen[0] - H * seen[0] / H.abs(), rtol=1e-12, atol=1e-15)
    last, seen = stepped("adahessian", 3, lr=0.1, betas=(0.8, 0.9))
    weights = torch.tensor([0.2 * 0.8**2, 0.2 * 0.8, 0.2], dtype=torch.float64)[:, None] / (1 - 0.8**3)
    assert torch.allclose(last, seen[2] - 0.1 * (weights * H * seen).sum(0) / H.abs(), rtol=1e-12)


def test_sophia_clips_momentum_over_what_curves_upwards() -> None:
    """clip(m / max(h, eps), p), with h an average of the diagonals of every k-th step (Liu et al. 2023, algorithm 3).

    In the paper's letters gamma is p and the learning rate p times ours. Where the curvature is negative a step has the
    full length p.
    """
    last, seen = stepped("sophiah", 4, lr=1.0, betas=(0.9, 0.5), p=0.3, update_period=2)
    moment, curvature = torch.zeros_like(H), torch.zeros_like(H)
    x = seen[0]
    for step in range(4):
        moment = 0.9 * moment + 0.1 * H * x
        curvature = 0.5 * curvature + 0.5 * H if step % 2 == 0 else curvature
        x = x - (moment / curvature.clamp(min=1e-12)).clamp(-0.3, 0.3)
    assert torch.allclose(last, x, rtol=1e-12)
    assert float((seen[1] - seen[0])[2].abs()) == 0.3
