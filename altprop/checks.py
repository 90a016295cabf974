"""Checks of configuration values, without torch: the classes call them, and the harness before it imports torch."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from altprop.errors import AltpropError, near

# The names of the tables in altprop.models.parts and altprop.losses, and what those classes say; a test compares.
ACTIVATIONS = ("identity", "relu", "tanh", "sigmoid", "leaky_relu", "elu", "softplus", "gelu", "silu", "sign")
INITIALISATIONS = (
    "torch",
    "he_normal",
    "he_uniform",
    "glorot_normal",
    "glorot_uniform",
    "lecun_normal",
    "orthogonal",
    "small_normal",
    "unit_normal",
    "zeros",
)
NORMALISATIONS = ("none", "batch", "layer")
CELLS = ("rnn", "gru", "lstm")
LOSSES = ("cross_entropy", "half_squared_error", "mse", "binary_cross_entropy", "one_hot_squared_error")
LEAST_SQUARES_LOSSES = ("half_squared_error", "mse", "one_hot_squared_error")


def check_name(value: Any, option: str, known: Iterable[str]) -> str:
    """Return a value that must be one of the known names.

    Raises:
        AltpropError: with the near names.
    """
    names = tuple(known)
    if value not in names:
        raise AltpropError(f"unknown {option}={value}; {near(str(value), names)}")
    return str(value)


def check_widths(value: Any, option: str = "model.hidden") -> list[int]:
    """Return a list of layer widths.

    Raises:
        AltpropError: for a width below 1 or no whole number.
    """
    widths = list(value) if isinstance(value, Iterable) and not isinstance(value, str) else None
    if widths is None or any(isinstance(w, bool) or not isinstance(w, int) or w < 1 for w in widths):
        raise AltpropError(f"{option} must be a list of whole numbers of at least 1; got {value}")
    return widths


def check_sizes(value: Any, option: str, least: int = 1) -> list[int]:
    """Return whole numbers, from one or a list.

    Raises:
        AltpropError: for a number below `least` or no whole number.
    """
    sizes = list(value) if isinstance(value, (list, tuple)) else [value]
    if any(isinstance(n, bool) or not isinstance(n, int) or n < least for n in sizes):
        raise AltpropError(f"{option} must hold whole numbers of at least {least}; got {value}")
    return sizes


def check_number(value: Any, option: str, low: float, high: float = math.inf) -> float:
    """Return a number from low to high.

    Raises:
        AltpropError: for anything else, NaN too.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        limits = f"of at least {low:g}" if high == math.inf else f"from {low:g} to {high:g}"
        raise AltpropError(f"{option} must be a number {limits}; got {value!r}")
    return float(value)


def check_batch_size(value: Any, option: str = "task.batch_size") -> int | str:
    """Return a batch size: a whole number, or "full".

    Raises:
        AltpropError: for anything else.
    """
    if value == "full" or (isinstance(value, int) and not isinstance(value, bool) and value >= 1):
        return "full" if value == "full" else int(value)
    raise AltpropError(f"{option} must be a whole number of at least 1, or full; got {value!r}")


def check_validation(value: Any, option: str = "task.validation") -> float | None:
    """Return the share of the training rows that is held out, or None for "none".

    Raises:
        AltpropError: for anything else.
    """
    if value == "none":
        return None
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < 1:
        return float(value)
    raise AltpropError(f"{option} must be a share between 0 and 1, or none; got {value!r}")


def check_targets(value: Any, option: str = "task.targets") -> dict[str, float]:
    """Return target name -> value of the metric.

    Raises:
        AltpropError: for a target without a number.
    """
    if not isinstance(value, Mapping):
        raise AltpropError(f"{option} must map names to values of the metric; got {value!r}")
    return {str(name): check_number(target, f"{option}.{name}", -math.inf) for name, target in value.items()}


_CHECKS: dict[str, dict[str, Callable[[Any, str], Any]]] = {
    "model": {
        "hidden": check_widths,
        "channels": check_widths,
        "kernel": check_sizes,
        "stride": check_sizes,
        "padding": lambda v, o: check_sizes(v, o, 0),
        "image": check_widths,
        "cell": lambda v, o: check_name(v, o, CELLS),
        "activation": lambda v, o: check_name(v, o, ACTIVATIONS),
        "initialisation": lambda v, o: check_name(v, o, INITIALISATIONS),
        "normalisation": lambda v, o: check_name(v, o, NORMALISATIONS),
    },
    "task": {
        "batch_size": check_batch_size,
        "validation": check_validation,
        "targets": check_targets,
        "loss": lambda v, o: v if v is None else check_name(v, o, LOSSES),
    },
    "optimizer": {"lr": lambda v, o: v if v is None else check_number(v, o, 0.0)},
}


def check_part(config: Mapping[str, Any], group: str) -> None:
    """Check the options of one group that are known by name, for altprop's own classes.

    Raises:
        AltpropError: for the first unusable value.
    """
    if not str(config.get("_target_", "")).startswith("altprop."):
        return
    for option, check in _CHECKS[group].items():
        if option in config and config[option] is not None:
            check(config[option], f"{group}.{option}")
