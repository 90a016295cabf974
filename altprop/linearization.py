"""Loss, gradient and curvature products of an objective on one kept graph."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from altprop.ledger import Ledger
from altprop.vectorized import differentiate, has_graph, leaf


class Linearization:
    """An objective around the present parameters; vectors are flat, (D,).

    The graph of the gradient is kept, so a Hessian-vector product is one more backward pass through it
    (Pearlmutter 1994), and a Gauss-Newton product two (Schraudolph 2002). Writing to the
    parameters (`assign`, an update) ends it: products then raise, for the graph no longer holds.

    Args:
        value: objective, a scalar with its graph.
        outputs: (B, C) or (T, B, C) with their graph.
        grads: of the objective, with their graph.
        params: in the order of the flat vectors.
        curvature: v, shaped like the outputs -> Hessian of the loss in the outputs times v.
        ledger: the ledger.
        rows: of the batch.

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
        curvature: Callable[[Tensor], Tensor],
        ledger: Ledger,
        rows: int,
    ) -> None:
        self.loss = value.detach()
        self.outputs = outputs.detach()
        self._graph_outputs, self._params = outputs, list(params)
        self._flat = torch.cat([g.flatten() for g in grads])
        self.gradient = self._flat.detach()
        self._curvature = curvature
        self._ledger, self._rows = ledger, rows
        self._pulled: tuple[Tensor, Tensor] | None = None

    def hvp(self, vector: Tensor) -> Tensor:
        """Return the Hessian times `vector`."""
        if not has_graph(self._flat):
            return torch.zeros_like(vector)
        with self._ledger.primitive("hvp", self._rows):
            return self._grad(self._flat, vector)

    def ggn_vp(self, vector: Tensor) -> Tensor:
        """Return the generalised Gauss-Newton matrix J^T H_L J times `vector`; a penalty is left out."""
        with self._ledger.primitive("hvp", self._rows):
            pushed = self._curvature(self._jacobian_product(vector))
            return self._grad(self._graph_outputs, pushed)

    def _jacobian_product(self, vector: Tensor) -> Tensor:
        """Return J v by differentiating u -> J^T u, which is linear (the double-backward trick)."""
        if self._pulled is None:
            # Once: a backward pass that all products share.
            with torch.enable_grad(), self._ledger.primitive("backward", self._rows):
                dual = leaf(torch.zeros_like(self._graph_outputs))
                pulled = differentiate(self._graph_outputs, self._params, dual, create_graph=True)
                self._pulled = dual, torch.cat([p.flatten() for p in pulled])
        dual, flat = self._pulled
        (product,) = differentiate(flat, [dual], vector, retain_graph=True)
        return product

    def _grad(self, value: Tensor, vector: Tensor) -> Tensor:
        found = differentiate(value, self._params, vector, retain_graph=True)
        return torch.cat([f.flatten() for f in found])
