"""Optimizers from outside torch: pytorch_optimizer by name, and randomness that is kept out of the global state."""

import random
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import nn

from altprop.errors import AltpropError, near
from altprop.randomness import Random

LIBRARY = "pytorch_optimizer"

# What optimizers ask of a step, where their yaml does not say it.
KNOWN_NEEDS: dict[str, frozenset[str]] = {
    **dict.fromkeys(("LBFGS", "AliG", "BSAM", "EmoNavi", "EmoFact", "EmoLynx"), frozenset({"closure"})),
    **dict.fromkeys(("AdaHessian", "SophiaH"), frozenset({"graph"})),
}

# Classes of the library that raise on anything but matrices.
MATRICES_ONLY = frozenset({"SpectralSphere"})

# Names of the library that cannot run here, and why.
UNFIT = {
    "lomo": "it updates inside its own backward pass; use sgd",
    "adalomo": "it updates inside its own backward pass; use adafactor",
    "distributedmuon": "it needs several processes; use muon",
}


def library() -> ModuleType:
    """Import pytorch_optimizer.

    Raises:
        AltpropError: where it is not installed.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import pytorch_optimizer
    except ModuleNotFoundError as error:
        raise AltpropError(
            f"this optimizer comes from {LIBRARY}, which is not installed; run: pip install 'altprop[optimizers]'"
        ) from error
    module: ModuleType = pytorch_optimizer
    return module


def named_class(algorithm: Any) -> type[torch.optim.Optimizer]:
    """Return the class of pytorch_optimizer with that name, in any case.

    Raises:
        AltpropError: for an unknown name, or one that cannot run here.
    """
    module = library()
    known = module.get_supported_optimizers()
    if not algorithm:
        raise AltpropError("optimizer=pytorch_optimizer needs optimizer.algorithm, such as lion, adan or soap")
    name = str(algorithm).lower()
    if name in UNFIT:
        raise AltpropError(f"optimizer.algorithm={name} cannot run here: {UNFIT[name]}")
    if name not in known:
        raise AltpropError(f"unknown optimizer.algorithm={algorithm}; {near(name, known)}")
    kind: type[torch.optim.Optimizer] = module.load_optimizer(name)
    return kind


def create(module: nn.Module, algorithm: str, options: dict[str, Any]) -> torch.optim.Optimizer:
    """Build an optimizer of pytorch_optimizer on a module; a weight decay leaves biases out, as the library does."""
    with warnings.catch_warnings():
        # It warns that muon's groups are guessed from names.
        warnings.simplefilter("ignore")
        optimizer: torch.optim.Optimizer = library().create_optimizer(module, algorithm, **options)
    return optimizer


class IsolatedRandomState:
    """Give code that draws from global random states a stream of its own, and puts those states back.

    torch's states are always swapped (3 us), Python's and numpy's (.1 ms) only for classes whose module uses them.

    Args:
        kinds: classes of the optimizers.
        device: on which they draw.
    """

    def __init__(self, kinds: Sequence[type], device: torch.device) -> None:
        self._generators = [torch.default_generator]
        if device.type == "cuda":
            index: int | None = device.index
            self._generators.append(
                torch.cuda.default_generators[torch.cuda.current_device() if index is None else index]
            )
        used = [id(value) for kind in kinds for value in vars(sys.modules[kind.__module__]).values()]
        self._plain = id(random) in used or id(np) in used

    @contextmanager
    def __call__(self, seed: int) -> Iterator[None]:
        """Draw from streams of this seed inside."""
        kept = [generator.get_state() for generator in self._generators]
        for generator in self._generators:
            generator.manual_seed(seed)
        try:
            with Random(seed).as_global() if self._plain else nullcontext():
                yield
        finally:
            for generator, state in zip(self._generators, kept, strict=True):
                generator.set_state(state)
