"""What the parts of a problem see of it: derivatives, walks in time and updaters import no `Problem`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch
    from torch import Tensor, nn

    from altprop.data import Batch, ModelSpec
    from altprop.ledger import Ledger
    from altprop.noise import NoiseClock
    from altprop.objective import Objective
    from altprop.randomness import Random


class Workspace(Protocol):
    """The side of a `Problem` that its own parts need.

    Attributes:
        model, spec, device, dtype: as in `Problem`.
        ledger: that counts the work.
        clock: of the noise masks.
        random: the algorithm's own stream.
        uncounted: the objective as mathematics.
        progress: share of the budget that is spent.
        heard: what an updater of the whole model is given, where somebody listens.
    """

    model: Any
    spec: ModelSpec
    device: torch.device
    dtype: torch.dtype
    ledger: Ledger
    clock: NoiseClock
    random: Random
    uncounted: Objective
    progress: float
    heard: dict[str, Tensor] | None

    @property
    def params(self) -> Mapping[str, nn.Parameter]:
        """Name -> parameter, the live tensors of the model."""

    @property
    def layered(self) -> Any:
        """The model, for what walks over its blocks."""

    @property
    def plain_chain(self) -> bool:
        """See `Problem.plain_chain`."""

    def named_parameters(self) -> tuple[tuple[str, ...], tuple[nn.Parameter, ...]]:
        """Return names and live parameters, looked up once a structure."""

    def unflatten(self, flat: Tensor) -> dict[str, Tensor]:
        """Return name -> view of `flat` (..., D) shaped (..., *parameter)."""

    def outputs(self, batch: Batch) -> Tensor:
        """Return the model's outputs on a batch, counted as one forward."""

    def refuse_batch_norm(self, what: str) -> None:
        """Refuse what needs each row to have an output of its own, where batch normalisation ties rows together."""

    def structure_changed(self) -> None:
        """See `Problem.structure_changed`."""

    def look_up(self) -> None:
        """See `Problem.look_up`."""
