"""Five random streams from one seed, so that no learner changes another's data, masks or initial weights.

All draws are made on the CPU and moved: the numbers of a run do not depend on the device.
"""

import hashlib
import random as python_random_module
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from altprop.vectorized import Members, Unstackable

STREAMS = ("initialisation", "order", "noise", "algorithm", "evaluation")


def derive_seed(*parts: object) -> int:
    """Return a 63-bit seed from any printable parts, the same on every platform.

    >>> derive_seed(0, "order") == derive_seed(0, "order") != derive_seed(1, "order")
    True
    """
    digest = hashlib.sha256("\x1f".join(str(part) for part in parts).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generator_for(*parts: object) -> torch.Generator:
    """Return a CPU generator seeded by `derive_seed(*parts)`."""
    return torch.Generator(device="cpu").manual_seed(derive_seed(*parts))


class Random:
    """Draws from one stream, with the problem's device and dtype filled in.

    Args:
        seed: of the stream.
        device: where the draws are put.
        dtype: of the real-valued draws.
    """

    def __init__(self, seed: int, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> None:
        self.generator = torch.Generator(device="cpu").manual_seed(seed)
        self.device = torch.device(device)
        self.dtype = dtype
        self._seed = seed
        self._python: python_random_module.Random | None = None
        self._numpy: np.random.RandomState | None = None

    def normal(self, *shape: int) -> Tensor:
        """Draw N(0, 1) of the given shape."""
        draw = torch.randn(shape, generator=self.generator, dtype=self.dtype, device="cpu")
        return draw.to(self.device)

    def uniform(self, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        """Draw from U[low, high) of the given shape."""
        draw = torch.rand(shape, generator=self.generator, dtype=self.dtype, device="cpu")
        return (draw if (low, high) == (0.0, 1.0) else low + (high - low) * draw).to(self.device)

    def rademacher(self, *shape: int) -> Tensor:
        """Draw -1 or +1 with equal probability."""
        draw = torch.randint(0, 2, shape, generator=self.generator, device="cpu")
        return (2 * draw - 1).to(device=self.device, dtype=self.dtype)

    def integers(self, low: int, high: int, *shape: int) -> Tensor:
        """Draw int64 from low (in) to high (out)."""
        return torch.randint(low, high, shape, generator=self.generator, device="cpu").to(self.device)

    def permutation(self, n: int) -> Tensor:
        """Draw a permutation of 0 .. n-1."""
        return torch.randperm(n, generator=self.generator, device="cpu").to(self.device)

    def multinomial(self, weights: Tensor, n: int, replacement: bool = True) -> Tensor:
        """Draw n indices with probabilities proportional to `weights` (K,) or (R, K)."""
        draw = torch.multinomial(weights.detach().cpu(), n, replacement, generator=self.generator)
        return draw.to(self.device)

    def each(self, function: Callable[..., Tensor], *values: Tensor) -> Tensor:
        """Return function(random, *values), for code that is not torch's: where seeds are stacked, seed by seed.

        Args:
            function: takes a `Random` and tensors, and returns a tensor of the same shape for all seeds.
            values: tensors.
        """
        return function(self, *values)

    @property
    def seed(self) -> int:
        """The seed of this stream, from which others are derived."""
        return self._seed

    @property
    def python_random(self) -> python_random_module.Random:
        """A `random.Random` of this stream, for code that takes one."""
        if self._python is None:
            self._python = python_random_module.Random(derive_seed(self._seed, "python"))
        return self._python

    @property
    def numpy_random(self) -> np.random.RandomState:
        """A legacy numpy generator of this stream, for code that takes one."""
        if self._numpy is None:
            self._numpy = np.random.RandomState(derive_seed(self._seed, "numpy") % 2**32)
        return self._numpy

    @contextmanager
    def as_global(self) -> Iterator[None]:
        """Let code that draws from global `random` and `numpy.random` (DEAP) draw from this stream.

        The global states are put back afterwards, whatever happens.
        """
        ours, theirs = self.python_random, python_random_module.getstate()
        numbers, others = self.numpy_random, np.random.get_state(legacy=False)
        python_random_module.setstate(ours.getstate())
        np.random.set_state(numbers.get_state(legacy=False))
        try:
            yield
        finally:
            ours.setstate(python_random_module.getstate())
            numbers.set_state(np.random.get_state(legacy=False))
            python_random_module.setstate(theirs)
            np.random.set_state(others)

    def state_dict(self) -> dict[str, Any]:
        """Return the stream's state in weights_only-safe types."""
        state: dict[str, Any] = {"generator": self.generator.get_state(), "python": None, "numpy": None}
        if self._python is not None:
            version, internal, gauss = self._python.getstate()
            state["python"] = [version, list(internal), gauss]
        if self._numpy is not None:
            raw: Any = self._numpy.get_state(legacy=False)
            inner = raw["state"]
            key = [int(word) for word in inner["key"]]
            state["numpy"] = [key, int(inner["pos"]), int(raw["has_gauss"]), float(raw["gauss"])]
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put a state of `state_dict` back."""
        self.generator.set_state(state["generator"])
        self._python = self._numpy = None
        if state["python"] is not None:
            version, internal, gauss = state["python"]
            self.python_random.setstate((version, tuple(internal), gauss))
        if state["numpy"] is not None:
            key, position, has_gauss, gauss = state["numpy"]
            self.numpy_random.set_state(("MT19937", np.array(key, dtype=np.uint32), position, has_gauss, gauss))


class StackedRandom(Random):
    """The streams of many members as one: each member draws from its own, as it would alone.

    Args:
        randoms: of the members.
        members: opened.
    """

    def __init__(self, randoms: Sequence[Random], members: Members) -> None:
        self.device, self.dtype = randoms[0].device, randoms[0].dtype
        self._randoms, self._members = list(randoms), members

    def _each(self, draw: Callable[[Random, int], Tensor]) -> Tensor:
        with self._members.outside():
            stacked = torch.stack([draw(random, place) for place, random in enumerate(self._randoms)])
        return self._members.one(stacked)

    def normal(self, *shape: int) -> Tensor:
        return self._each(lambda random, _: random.normal(*shape))

    def uniform(self, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        return self._each(lambda random, _: random.uniform(*shape, low=low, high=high))

    def rademacher(self, *shape: int) -> Tensor:
        return self._each(lambda random, _: random.rademacher(*shape))

    def integers(self, low: int, high: int, *shape: int) -> Tensor:
        return self._each(lambda random, _: random.integers(low, high, *shape))

    def permutation(self, n: int) -> Tensor:
        return self._each(lambda random, _: random.permutation(n))

    def multinomial(self, weights: Tensor, n: int, replacement: bool = True) -> Tensor:
        return self.each(lambda random, own: random.multinomial(own, n, replacement), weights)

    def each(self, function: Callable[..., Tensor], *values: Tensor) -> Tensor:
        every = [self._members.all(value) for value in values]
        return self._each(lambda random, place: function(random, *(value[place] for value in every)))

    @property
    def generator(self) -> torch.Generator:  # type: ignore[override]
        raise Unstackable("it draws from the stream's generator itself; `Random.each` gives it each seed's own")

    @property
    def seed(self) -> int:
        raise Unstackable("it derives seeds of its own from the stream's")

    @property
    def python_random(self) -> python_random_module.Random:
        raise Unstackable("it draws from Python's generator")

    @property
    def numpy_random(self) -> np.random.RandomState:
        raise Unstackable("it draws from numpy's generator")


class Streams:
    """The five streams of a run.

    Args:
        seed: of the run.
        device: where draws are put.
        dtype: of real-valued draws.
    """

    def __init__(self, seed: int, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> None:
        self.seed = seed
        self.initialisation = Random(derive_seed(seed, "initialisation"), device, dtype)
        self.order = Random(derive_seed(seed, "order"), device, dtype)
        self.noise_seed = derive_seed(seed, "noise")
        self.algorithm = Random(derive_seed(seed, "algorithm"), device, dtype)
        self.evaluation = Random(derive_seed(seed, "evaluation"), device, dtype)


def shuffled(items: Sequence[int], seed: int) -> list[int]:
    """Return the items in an order that depends on the seed alone."""
    order = torch.randperm(len(items), generator=generator_for(seed, "shuffle"), device="cpu")
    return [items[int(i)] for i in order]
