"""Checks of configuration values, without torch: constructors call them, and the harness reads those calls before."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Iterable, Mapping
from typing import Any

from altprop.errors import AltpropError, near

# The names of tables in altprop.models.parts, losses, optim.schedule and harness.loggers; a test compares.
ACTIVATIONS = ("identity", "relu", "tanh", "sigmoid", "leaky_relu", "elu", "selu", "softplus", "gelu", "silu", "sign")
INITIALISATIONS = (
    "torch",
    "he_normal",
    "he_uniform",
    "glorot_normal",
    "glorot_uniform",
    "lecun_normal",
    "orthogonal",
    "critical",
    "lsuv",
    "identity",
    "small_normal",
    "unit_normal",
    "zeros",
)
NORMALISATIONS = ("none", "batch", "layer", "group", "rms", "weight")
CELLS = ("rnn", "leaky_rnn", "gru", "lstm")
LOGGERS = ("csv", "tensorboard", "mlflow", "wandb")
SCHEDULES = ("constant", "linear", "cosine", "step", "exponential")
LOSSES = (
    "cross_entropy",
    "half_squared_error",
    "mse",
    "binary_cross_entropy",
    "one_hot_squared_error",
    "hinge",
    "huber",
)
PENALTIES = ("l1", "l2", "max_norm")
KINDS = ("auto", "classification", "regression")
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


def check_number(
    value: Any,
    option: str,
    low: float = -math.inf,
    high: float = math.inf,
    *,
    above: float = -math.inf,
    below: float = math.inf,
) -> float:
    """Return a finite number within limits.

    A constructor that calls this, or another check of this module, on an argument with plain limits is read before a
    run: a bad value is told at once, without importing the class.

    Args:
        value: to check.
        option: its name, such as algorithm.scale.
        low, high: limits that it may take.
        above, below: limits that it must not take.

    Raises:
        AltpropError: for anything else, NaN and infinity too.
    """
    number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if not (number and low <= value <= high and above < value < below):
        bounds = ((f"of at least {low:g}", low), (f"above {above:g}", above))
        ceilings = ((f"at most {high:g}", high), (f"below {below:g}", below))
        limits = " and ".join(text for text, limit in (*bounds, *ceilings) if math.isfinite(limit))
        if math.isfinite(low) and math.isfinite(high):
            limits = f"from {low:g} to {high:g}"
        raise AltpropError(f"{option} must be {f'a number {limits}'.strip()}; got {value!r}")
    return float(value)


def check_whole(value: Any, option: str, low: int, high: float = math.inf) -> int:
    """Return a whole number from low to high.

    Raises:
        AltpropError: for anything else.
    """
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        limits = f"of at least {low}" if high == math.inf else f"from {low} to {high}"
        raise AltpropError(f"{option} must be a whole number {limits}; got {value!r}")
    return value


def check_flag(value: Any, option: str) -> bool:
    """Return true or false.

    Raises:
        AltpropError: for anything else; a word would count as true.
    """
    if not isinstance(value, bool):
        raise AltpropError(f"{option} must be true or false; got {value!r}")
    return value


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


def check_penalty(value: Any, option: str = "task.penalty") -> dict[str, float]:
    """Return penalty name -> its factor, or its limit; factors of 0 are left out.

    Raises:
        AltpropError: for an unknown name or a value that is no number of at least 0.
    """
    if not isinstance(value, Mapping):
        raise AltpropError(f"{option} must map {', '.join(PENALTIES)} to numbers; got {value!r}")
    for name in value:
        if name not in PENALTIES:
            raise AltpropError(f"{option}.{name} is no penalty; {near(str(name), PENALTIES)}")
    if "max_norm" in value:
        check_number(value["max_norm"], f"{option}.max_norm", above=0.0)
    amounts = {name: check_number(value[name], f"{option}.{name}", 0.0) for name in PENALTIES if name in value}
    return {name: amount for name, amount in amounts.items() if amount}


def check_table(path: Any, target: Any, kind: Any, missing: Any, text: Any, drop: Any, group: Any, time: Any) -> None:
    """Read a table of a user's as `altprop.tables.open_table` does, so that what is wrong with it is told before a run.

    Raises:
        AltpropError: for what is wrong with it or with an option.
    """
    _lazily("tables").open_table(
        check_text(path, "task.path"),
        check_text(target, "task.target"),
        check_name(kind, "task.kind", KINDS),
        check_name(missing, "task.missing", ("error", "fill", "drop")),
        check_name(text, "task.text", ("error", "onehot", "drop")),
        [str(name) for name in drop],
        None if group is None else check_text(group, "task.group"),
        None if time is None else check_text(time, "task.time"),
    )


def check_text(value: Any, option: str) -> str:
    """Return a text that is not empty, such as a path or a name; a number is taken for its digits.

    Raises:
        AltpropError: for anything else.
    """
    if isinstance(value, bool) or not isinstance(value, (str, int)) or value in ("", "???"):
        raise AltpropError(f"{option} must be given; say {option}=...")
    return str(value)


def check_arrays(path: Any, inputs: Any, target: Any) -> None:
    """Look whether the files of arrays are there: see `altprop.own_files.look_for_arrays`.

    Raises:
        AltpropError: for what is not there.
    """
    _lazily("own_files").look_for_arrays(check_text(path, "task.path"), inputs, target)


def check_images(path: Any) -> None:
    """Look whether a folder holds folders of images, one a class, and whether Pillow is there to read them.

    Raises:
        AltpropError: for what is not there.
    """
    _lazily("own_files").class_folders(check_text(path, "task.path"))
    if importlib.util.find_spec("PIL") is None:
        raise AltpropError("task=images needs Pillow; pip install 'altprop[images]'")


def _lazily(module: str) -> Any:
    """Import a module that few checks need; it is named in a text, so that its code is in the key of no other run."""
    return importlib.import_module(f"altprop.{module}")
