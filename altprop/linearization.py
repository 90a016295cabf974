"""Loss, gradient and curvature products of an objective on one kept graph."""

from collections.abc import Sequence

import torch
from torch import Tensor

from altprop.ledger import Ledger
from altprop.losses import Loss


class Linearization:
    """An objective around the present parameters; vectors are flat, (D,).

    The graph of the gradient is kept, so a Hessian-vector product is one more backward pass through it
    (Pearlmutter 1994), and a Gauss-Newton product two (Schraudolph 2002).

    Attributes:
        loss: scalar, detached.
        gradient: (D,), detached.
        outputs: (B, C) or (T, B, C), detached.
    """

    def __init__(
        self,
        value: Tensor,
        outputs: Tensor,
        grads: Sequence[Tensor],
        params: Sequence[Tensor],
        loss: Loss,
        weights: Tensor | None,
        ledger: Ledger,
        rows: int,
    ) -> None:
        self.loss = value.detach()
        self.outputs = outputs.detach()
        self._graph_outputs, self._params = outputs, list(params)
        self._flat = torch.cat([g.flatten() for g in grads])
        self.gradient = self._flat.detach()
        self._loss, self._weights = loss, weights
        self._ledger, self._rows = ledger, rows
        self._pulled: tuple[Tensor, Tensor] | None = None

    def hvp(self, vector: Tensor) -> Tensor:
        """Return the Hessian times `vector`."""
        if not self._flat.requires_grad:
            return torch.zeros_like(vector)
        with self._ledger.primitive("hvp", self._rows):
            return self._grad(self._flat, vector)

    def ggn_vp(self, vector: Tensor) -> Tensor:
        """Return the generalised Gauss-Newton matrix J^T H_L J times `vector`."""
        with self._ledger.primitive("hvp", self._rows):
            pushed = self._curvature(self._jacobian_product(vector))
            return self._grad(self._graph_outputs, pushed)

    def _curvature(self, pushed: Tensor) -> Tensor:
        product = self._loss.curvature_product(self.outputs, pushed)
        if self._weights is None:
            return product / product[..., 0].numel()
        return product * self._weights[..., None] / self._weights.sum()

    def _jacobian_product(self, vector: Tensor) -> Tensor:
        """Return J v by differentiating u -> J^T u, which is linear (the double-backward trick)."""
        if self._pulled is None:
            with torch.enable_grad():
                dual = torch.zeros_like(self._graph_outputs, requires_grad=True)
                pulled = torch.autograd.grad(
                    self._graph_outputs, self._params, dual, create_graph=True, allow_unused=True, materialize_grads=True
                )
                self._pulled = dual, torch.cat([p.flatten() for p in pulled])
        dual, flat = self._pulled
        (product,) = torch.autograd.grad(flat, dual, vector, retain_graph=True, materialize_grads=True)
        return product

    def _grad(self, value: Tensor, vector: Tensor) -> Tensor:
        found = torch.autograd.grad(
            value, self._params, vector, retain_graph=True, allow_unused=True, materialize_grads=True
        )
        return torch.cat([f.flatten() for f in found])
