"""What pytorch_optimizer's Shampoo and SOAP do, where toy versions of them go wrong."""

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
