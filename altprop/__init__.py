"""Identical tasks under interchangeable learning algorithms.

All that the author of a plugin needs is here, and is imported when it is first asked for:

>>> from altprop import Algorithm, Batch, Capability, DirectionAlgorithm, Oracle, Problem, Task
>>> import altprop
>>> altprop.DirectionAlgorithm.__module__
'altprop.direction'
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from altprop.exports import EXPORTS
from altprop.version import __version__

if TYPE_CHECKING:
    from altprop.algorithm import Algorithm, StepResult
    from altprop.capabilities import BatchMode, Capability, PredictorKind
    from altprop.chain import ChainWalk
    from altprop.checks import check_name, check_number, check_whole
    from altprop.cli.api import load, load_trace, run
    from altprop.data import Batch, Descriptor, Feed, Ground, ModelSpec, Panel, Reference, Source, Split
    from altprop.derivatives import Grads
    from altprop.direction import DirectionAlgorithm
    from altprop.environment import Environment, Rollout
    from altprop.errors import AltpropError, Refused, UnusableData
    from altprop.losses import Loss
    from altprop.models.base import Block, Dense, LayeredModel
    from altprop.models.circuit import CircuitModel, Gate
    from altprop.models.cnn import Conv
    from altprop.models.recurrent import Cell, RecurrentModel
    from altprop.noise import MixingNoise, MultiplicativeNoise, Noise, Places
    from altprop.optim import OptimizerFactory, Updater
    from altprop.oracle import Oracle
    from altprop.problem import Problem
    from altprop.randomness import Random
    from altprop.recurrence import Window
    from altprop.task import Task

__all__ = [
    "Algorithm",
    "AltpropError",
    "Batch",
    "BatchMode",
    "Block",
    "Capability",
    "Cell",
    "ChainWalk",
    "CircuitModel",
    "Conv",
    "Dense",
    "Descriptor",
    "DirectionAlgorithm",
    "Environment",
    "Feed",
    "Gate",
    "Grads",
    "Ground",
    "LayeredModel",
    "Loss",
    "MixingNoise",
    "ModelSpec",
    "MultiplicativeNoise",
    "Noise",
    "OptimizerFactory",
    "Oracle",
    "Panel",
    "Places",
    "PredictorKind",
    "Problem",
    "Random",
    "RecurrentModel",
    "Reference",
    "Refused",
    "Rollout",
    "Source",
    "Split",
    "StepResult",
    "Task",
    "UnusableData",
    "Updater",
    "Window",
    "__version__",
    "check_name",
    "check_number",
    "check_whole",
    "load",
    "load_trace",
    "run",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for: `import altprop` alone loads nothing heavy."""
    if name == "report":  # a package that can be called
        return importlib.import_module("altprop.report")
    if name not in EXPORTS:
        raise AttributeError(f"module 'altprop' has no attribute {name!r}")
    value = getattr(importlib.import_module(EXPORTS[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *EXPORTS})
