"""The base of models that are quantum circuits: gates whose angles can be shifted one occurrence at a time."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar, NamedTuple, final

from torch import Tensor, nn

from altprop.capabilities import Capability
from altprop.errors import AltpropError


class Gate(NamedTuple):
    """One occurrence of a gate that a parameter turns; a parameter may turn several.

    Attributes:
        parameter: name in the model.
        element: place in the flattened parameter.
    """

    parameter: str
    element: int = 0


class CircuitModel(nn.Module, ABC):
    """Abstract circuit. An author names its `gates` and takes every angle from `angle` in the forward pass.

    Class attributes:
        flops_per_run: FLOPs of one run on one example, or None where torch's own are counted: a simulator in torch.
    """

    offers: ClassVar[frozenset[Capability]] = frozenset({Capability.GRADIENT, Capability.CURVATURE, Capability.CIRCUIT})
    flops_per_run: ClassVar[float | None] = None
    _shift: tuple[int, float] | None = None

    @abstractmethod
    def gates(self) -> tuple[Gate, ...]:
        """Return the occurrences of gates with a parameter, in the order in which they act."""

    @final
    def angle(self, occurrence: int) -> Tensor:
        """Return the angle of a gate occurrence, a scalar, shifted where that is asked for."""
        gate = self.gates()[occurrence]
        value = self.get_parameter(gate.parameter).flatten()[gate.element]
        return value + self._shift[1] if self._shift is not None and self._shift[0] == occurrence else value

    @final
    @contextmanager
    def shifted(self, occurrence: int, shift: float) -> Iterator[None]:
        """Shift the angle of one gate occurrence inside, by so many radians.

        Raises:
            AltpropError: for an occurrence that is not there.
        """
        if not 0 <= occurrence < len(self.gates()):
            raise AltpropError(f"gate {occurrence} is not there: the circuit has {len(self.gates())}")
        outer, self._shift = self._shift, (occurrence, shift)
        try:
            yield
        finally:
            self._shift = outer
