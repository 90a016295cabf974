"""Noise in the forward pass: where stochastic layers act and how their masks are drawn.

Masks are a function of (seed, step, phase, site, layer). So they are equal under every learning algorithm,
do not depend on the device, and `Problem.same_noise` repeats them simply by holding the phase.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar

import torch
from torch import Tensor, nn

from altprop.randomness import derive_seed

SITES = frozenset({"input", "unit", "weight", "state", "branch"})


# (site, layer, position, time) -> draw. Rows lead in every draw but those for weights, which all rows share.
Draws = dict[tuple[str, int, int, int], Tensor]


class NoiseClock:
    """Where in the run a mask stands.

    `step` counts steps, `phase` the evaluations of the objective within one step, `time` the elements of a sequence.
    While `hold` is active the phase stands still; afterwards it has moved on by one, however many evaluations ran
    inside.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.step = 0
        self.phase = 0
        self.time = 0
        self._held = False
        self._recorded: Draws | None = None
        self._replayed: Draws | None = None

    def begin_step(self, step: int) -> None:
        """Start the masks of a step."""
        self.step, self.phase = step, 0

    def advance(self) -> None:
        """End one evaluation of the objective: the next one draws new masks, unless held."""
        if not self._held:
            self.phase += 1

    @property
    def held(self) -> bool:
        """Whether masks repeat at present."""
        return self._held

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Repeat the masks of the present phase inside; nested holds are one."""
        if self._held:
            yield
            return
        self._held = True
        try:
            yield
        finally:
            self._held = False
            self.phase += 1

    @contextmanager
    def record(self) -> Iterator[Draws]:
        """Collect every draw made inside."""
        draws: Draws = {}
        self._recorded = draws
        try:
            yield draws
        finally:
            self._recorded = None

    @contextmanager
    def replay(self, draws: Draws) -> Iterator[None]:
        """Answer draws from a record, whose tensors may be vmapped over examples."""
        self._replayed = draws
        try:
            yield
        finally:
            self._replayed = None

    def uniform(self, shape: torch.Size, site: str, layer: int, position: int, like: Tensor) -> Tensor:
        """Draw U[0, 1) of `shape` for one site of one layer, on the device and in the dtype of `like`."""
        key = (site, layer, position, self.time)
        if self._replayed is not None:
            return self._replayed[key]
        seed = derive_seed(self.seed, self.step, self.phase, *key)
        generator = torch.Generator(device="cpu").manual_seed(seed)
        draw = torch.rand(shape, generator=generator, dtype=like.dtype, device="cpu").to(like.device)
        if self._recorded is not None:
            self._recorded[key] = draw
        return draw


class Noise(nn.Module, ABC):
    """Abstract noise. A kind names its `sites` and says in `_perturb` what happens there.

    A noise may own parameters (they are trained like others) and a `penalty()` that joins the objective.
    It is the identity in evaluation mode.
    """

    sites: ClassVar[frozenset[str]] = frozenset()

    def __init__(self) -> None:
        super().__init__()
        self.clock = NoiseClock(0)

    def bind(self, clock: NoiseClock) -> None:
        """Take the run's clock."""
        self.clock = clock

    def forward(self, x: Tensor, site: str, layer: int, shared: int = 0) -> Tensor:
        """Perturb `x` at a site of a layer.

        Args:
            x: values; the first `shared` dimensions see the same noise (a population over one batch).
            site: one of input, unit, weight, state, branch.
            layer: index of the block.
            shared: how many leading dimensions share their noise.

        Returns:
            A tensor shaped like `x`; `x` itself in evaluation mode or where this kind does not act.
        """
        if not self.training or site not in self.sites:
            return x
        return self._perturb(x, x.shape[shared:], site, layer)

    def over_time(self, x: Tensor, site: str, layer: int, start: int = 0) -> Tensor:
        """Perturb each element of sequences (T, B, ...) by draws of its own, keyed by its time.

        Args:
            x: values of the times start, start + 1, ..., so that a window sees the masks of the whole sequence.
            site, layer: as for `forward`.
            start: time of the first element.
        """
        if not self.training or site not in self.sites:
            return x
        steps, outer = [], self.clock.time
        try:
            for offset, value in enumerate(x.unbind(0)):
                self.clock.time = start + offset
                steps.append(self._perturb(value, value.shape, site, layer))
        finally:
            self.clock.time = outer
        return torch.stack(steps)

    @abstractmethod
    def _perturb(self, x: Tensor, shape: torch.Size, site: str, layer: int) -> Tensor:
        """Return the noisy `x`; draws have `shape`, which is `x.shape` without its shared dimensions."""

    def penalty(self) -> Tensor | None:
        """A term that joins the objective, or None."""
        return None


class MultiplicativeNoise(Noise):
    """Abstract noise that multiplies by a mask of mean 1, so that explicit rules can reuse the mask."""

    def mask(self, like: Tensor, site: str, layer: int) -> Tensor | None:
        """Return the mask that `forward` applies to a tensor like this one, or None where nothing acts."""
        if not self.training or site not in self.sites:
            return None
        return self._mask(like, like.shape, site, layer)

    def _perturb(self, x: Tensor, shape: torch.Size, site: str, layer: int) -> Tensor:
        return x * self._mask(x, shape, site, layer)

    @abstractmethod
    def _mask(self, like: Tensor, shape: torch.Size, site: str, layer: int) -> Tensor:
        """Return the mask of `shape`, in the dtype and on the device of `like`."""
