"""Monte Carlo prediction: several passes under noise, their mean and how far they lie apart."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from altprop.losses import Loss


@dataclass(frozen=True)
class MonteCarlo:
    """A predictor that averages K noisy passes; it stands where any predictor stands.

    With p_k what the outputs of pass k stand for (probabilities, or else the outputs themselves), it predicts

        mean = 1/K sum_k p_k,    variance = 1/(K - 1) sum_k (p_k - mean)^2.

    Args:
        passes: inputs -> outputs of all passes, (K, ..., C).
        loss: whose predictions are averaged.

    Gal and Ghahramani 2016, arXiv:1506.02142, equations 5 and 6 without the noise of the targets.
    """

    passes: Callable[..., Tensor]
    loss: Loss

    def __call__(self, x: Tensor, **named: Any) -> Tensor:
        """Return the outputs whose prediction is the mean, (..., C)."""
        return self.loss.averaged(self.passes(x, **named))

    def moments(self, x: Tensor, **named: Any) -> tuple[Tensor, Tensor | None]:
        """Return mean and variance of the predictions, both (..., C); no variance of a single pass."""
        passes = self.passes(x, **named)
        return self.loss.prediction(passes).mean(0), spread(self.loss, passes)


def spread(loss: Loss, passes: Tensor) -> Tensor | None:
    """Return the variance of predictions over passes (K, ..., C), which is (..., C); None of a single one."""
    return loss.prediction(passes).var(0) if len(passes) > 1 else None
