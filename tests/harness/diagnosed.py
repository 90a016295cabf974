"""A planted learner that measures itself: the same steps as its twin, and diagnostics of every kind."""

from typing import Any

import torch
from rules import Honest
from torch import Tensor

from altprop import Batch


class Silent(Honest):
    """The twin without diagnostics. What it draws in a step shows whether anybody drew before."""

    def _step(self, batch: Batch | None) -> Tensor:
        assert batch is not None
        loss, grads = self.problem.gradient(batch)
        factor = 1 + 0.1 * self.problem.random.uniform()
        self.updater.apply({name: factor * grad for name, grad in grads.items()})
        return loss


class Diagnosed(Silent):
    """It draws, passes forward and backward, and gives numbers, a gap and what is no number at all."""

    def _probe(self, batch: Batch) -> Any:
        problem = self.problem
        _, grads = problem.gradient(batch)
        return {
            "radius": torch.linalg.matrix_norm(next(iter(problem.params.values())), 2),
            "slope": problem.flatten(grads) @ problem.random.normal(problem.flat().numel()),
            "steps": problem.ledger.steps,
            "gap": float("nan"),
            "word": "text",
            "vector": torch.ones(3),
            "alignment": 7.0,
        }


class Unnamed(Honest):
    def _probe(self, batch: Batch) -> Any:
        return 3.0


class Undecomposed(Honest):
    def _probe(self, batch: Batch) -> Any:
        return {"radius": torch.linalg.cholesky(torch.zeros(2, 2)).sum()}
