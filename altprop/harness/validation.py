"""Mistakes in a command, told before a run is claimed and before anything heavy is imported.

Everything that configuration can get wrong is looked at here, for the command line, `altprop.run` and sweeps alike.
"""

from __future__ import annotations

import ast
import importlib.util
import os
import sys
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from altprop import catalogue, checks
from altprop.capabilities import Capability
from altprop.declared import Constructor, Named, Unknown, find_class
from altprop.errors import AltpropError, near
from altprop.resolve import arguments

CONF = Path(__file__).parents[1] / "conf"
PLUGIN_GROUPS = ("algorithm", "dropout", "task", "model")
HARNESS_GROUPS = ("budget", "probes", "trainer", "logger")
"""Groups that the harness reads itself; those of plugins are read by their classes."""
BASES = {
    "algorithm": "altprop.algorithm.Algorithm",
    "optimizer": "altprop.optim.factory.OptimizerFactory",
    "dropout": "altprop.noise.Noise",
    "task": "altprop.task.Task",
}
GIVEN = {"model": frozenset({"spec", "noise", "generator"}), "algorithm": frozenset({"optimizer"})}
"""Arguments that the harness hands to a constructor."""
PACKAGES = {"tensorboard": ("tensorboard", "tensorboardX"), "mlflow": ("mlflow",), "wandb": ("wandb",)}
"""Logger -> packages, one of which it needs."""
DRIVERS = ("/dev/nvidia0", "/proc/driver/nvidia/gpus", "/dev/dxg", "/dev/kfd", "/dev/nvhost-gpu", "/dev/nvgpu")
"""Files that a driver of NVIDIA, of Windows below Linux, of AMD or of a Jetson puts there."""
LIBRARY = "pytorch_optimizer"
LENGTHS = ("max_epochs", "max_steps", "epochs", "steps")
"""Names under which other tools set the length of a run -> it is a budget here."""


def validate(config: Mapping[str, Any]) -> None:
    """Check a resolved configuration.

    Raises:
        AltpropError: for the first mistake, in one sentence that says what to do.
    """
    _check_keys(config)
    for group in PLUGIN_GROUPS:
        part = config.get(group)
        if isinstance(part, Mapping):
            _check_part(group, part)
    algorithm = config.get("algorithm") or {}
    if isinstance(algorithm.get("optimizer"), Mapping):
        _check_part("optimizer", algorithm["optimizer"])
        _check_optimizer(algorithm["optimizer"])
    _check_packages(config)
    _check_currency(config)
    _check_devices(config)


def known_keys() -> frozenset[str]:
    """Return the top-level keys of a configuration: those of conf/config.yaml and its groups."""
    whole = _read(CONF / "config.yaml")
    groups = (name for item in whole["defaults"] if isinstance(item, dict) for name in item)
    return frozenset({*whole, *(name for name in groups if " " not in name)} - {"hydra", "defaults"})


def default_choice(group: str) -> str:
    """Return what conf/config.yaml chooses of a group, "" where it chooses nothing."""
    chosen = (
        item[group] for item in _read(CONF / "config.yaml")["defaults"] if isinstance(item, dict) and group in item
    )
    return str(next(chosen, ""))


def known_options(group: str) -> frozenset[str]:
    """Return the options of a group that the harness reads: those in its own files, and those that conf/debug sets."""
    entries = (_read(path) for path in sorted((CONF / group).glob("*.yaml")))
    debug = (_read(path).get(group) or {} for path in sorted((CONF / "debug").glob("*.yaml")))
    return frozenset(name for options in (*entries, *debug) for name in options)


def unknown_key(name: str, value: Any) -> str:
    """Return the sentence for a top-level key that nothing reads."""
    if name == "seed":
        return f"seed is no option; say seeds=[{value}] for one seed, seeds=N for 0 to N - 1"
    if name in LENGTHS:
        return _length(name, name, value)
    return f"{name} is no option; {near(name, known_keys())}"


def unknown_option(group: str, name: str, value: Any, known: Iterable[str], whose: str = "") -> str:
    """Return the sentence for an option of a group that nothing reads.

    Args:
        group, name, value: as in group.name=value.
        known: names of its options.
        whose: of which class it is no option.
    """
    if name in LENGTHS:
        return _length(f"{group}.{name}", name, value)
    of = f" of {whose}" if whose else ""
    return f"{group}.{name} is no option{of}; {near(name, known)}"


def _length(name: str, last: str, value: Any) -> str:
    currency = "epochs" if "epochs" in last else "steps"
    return f"{name} is no option; for the length of a run say budget.currency={currency} budget.amount={value}"


def _check_keys(config: Mapping[str, Any]) -> None:
    """Refuse keys that nothing reads: what was meant would silently not happen."""
    known = known_keys()
    for name in sorted(set(config) - known):
        raise AltpropError(unknown_key(name, config[name]))
    for group in HARNESS_GROUPS:
        given = config.get(group)
        if given is not None and not isinstance(given, Mapping):
            raise AltpropError(f"{group} must be one of {', '.join(catalogue.entries(group))}; got {given!r}")
        for name in sorted(set(map(str, given or {})) - known_options(group)):
            raise AltpropError(unknown_option(group, name, (given or {})[name], known_options(group)))


def _check_part(group: str, part: Mapping[str, Any]) -> None:
    """Check the options of a plugin against the constructor of its class, which is read and not imported.

    Where the source does not tell, nothing is said: the class itself is asked when it is built.
    """
    target = part.get("_target_")
    if target == "???" and group != "algorithm":  # which a cell looks at itself
        raise AltpropError(f"{group} has no _target_; give {group}._target_=package.module.Class")
    if target in (None, "???"):
        return
    base = BASES.get(group)
    try:
        kind = find_class(target)
        if base is not None and kind.derives_from(base) is False:
            raise AltpropError(f"_target_={target} is not a class of {base}; refused")
        constructor = kind.constructor()
        losses = kind.losses() if group == "task" else {}
    except Unknown:
        return
    given, options = GIVEN.get(group, frozenset()), arguments(part, group)
    if group == "algorithm":
        options.pop("optimizer", None)  # the harness builds it
    known = set(constructor.arguments) - given
    for name in sorted(set(options) - known):
        if not constructor.open or name in given:
            raise AltpropError(unknown_option(group, name, options[name], known, kind.node.name))
    for name in catalogue.left_open(part):
        raise AltpropError(f"{group}={part.get('name')} needs {group}.{name}; say {group}.{name}=...")
    for name in sorted(known - set(options)):
        if constructor.arguments[name].required:
            raise AltpropError(f"{group}={kind.node.name} needs {group}.{name}; say +{group}.{name}=...")
    if options.get("loss") is not None and losses:
        checks.check_name(options["loss"], f"{group}.loss", losses)
    _check_values(group, options, constructor)


def _check_values(group: str, options: Mapping[str, Any], constructor: Constructor) -> None:
    """Make the checks that a constructor makes of its arguments, then compare with their types."""
    for check in constructor.checks:
        function = getattr(checks, check.function, None)
        if function is None or check.argument not in options:
            continue
        if check.optional and options[check.argument] is None:
            continue
        if all(not isinstance(other, Named) or other.name in options for other in check.others):
            others = (options[other.name] if isinstance(other, Named) else other for other in check.others)
            function(options[check.argument], *others, **check.keywords)
    for name, argument in constructor.arguments.items():
        if name in options and not fits(argument.annotation, options[name]):
            words = in_words(argument.annotation)
            raise AltpropError(f"{group}.{name} must be {words}; got {options[name]!r}")


def _check_optimizer(part: Mapping[str, Any]) -> None:
    """Check what the optimizer's own class takes, or that the package that brings it is there."""
    path = str(part.get("optimizer"))
    if path.partition(".")[0] == LIBRARY and importlib.util.find_spec(LIBRARY) is None:
        raise AltpropError(
            f"optimizer={part.get('name', 'custom')} comes from {LIBRARY}, which is not installed; "
            "run: pip install 'altprop[optimizers]'"
        )
    if path == LIBRARY or "." not in path:
        return
    try:
        kind = find_class(path)
        own, recipe = kind.constructor(), find_class(BASES["optimizer"]).constructor()
    except Unknown:
        return
    options = {name: value for name, value in arguments(part).items() if name not in recipe.arguments}
    if part.get("momentum") is not None:  # checked by the recipe, and taken by some classes alone
        options["momentum"] = part["momentum"]
    known = set(own.arguments) - {"params", "model", "named_parameters"}
    for name in sorted(set(options) - known):
        if not own.open:
            raise AltpropError(unknown_option("optimizer", name, options[name], known, kind.node.name))
    _check_values("optimizer", options, own)


def _check_packages(config: Mapping[str, Any]) -> None:
    """Refuse a task or a logger whose package is not there."""
    task = config.get("task")
    for package, command in (catalogue.declares(task or {}, "packages") or {}).items():
        if importlib.util.find_spec(package) is None:
            raise AltpropError(
                f"task={(task or {}).get('name')} needs {package}, which is not installed; run: {command}"
            )
    kind = (config.get("logger") or {}).get("kind")
    if kind is None:
        return
    checks.check_name(kind, "logger.kind", checks.LOGGERS)
    needed = PACKAGES.get(kind, ())
    if needed and not any(importlib.util.find_spec(name) for name in needed):
        raise AltpropError(
            f"logger={kind} needs a package that is not there ({needed[0]}); pip install 'altprop[tracking]'"
        )


def _check_currency(config: Mapping[str, Any]) -> None:
    """Refuse a budget that a task can never spend."""
    if (config.get("budget") or {}).get("currency") != "episodes":
        return
    task = config.get("task") or {}
    offered = catalogue.task_offers(task)
    if offered is not None and Capability.ENVIRONMENT not in offered:
        words = f"task={task.get('name')} has no environment to have episodes in"
        raise AltpropError(f"{words}; say budget.currency=steps, or another but episodes")


def _check_devices(config: Mapping[str, Any]) -> None:
    """Refuse a GPU on a machine without a driver for one; where there is one, torch has the last word."""
    if (config.get("trainer") or {}).get("accelerator") not in ("gpu", "cuda"):
        return
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES", "0").strip() in ("", "-1")
    if hidden or (sys.platform == "linux" and not any(os.path.exists(path) for path in DRIVERS)):
        why = "CUDA_VISIBLE_DEVICES hides all" if hidden else "this machine has no driver of one"
        raise AltpropError(f"trainer=gpu needs a GPU and {why}; use trainer=cpu")


_KINDS: dict[str, tuple[Any, str]] = {
    "int": (int, "a whole number"),
    "float": ((int, float), "a number"),
    "bool": (bool, "true or false"),
    "str": (str, "text"),
    "None": (type(None), "null"),
    "Mapping": (Mapping, "a mapping"),
    "dict": (Mapping, "a mapping"),
    **dict.fromkeys(("list", "tuple", "Sequence", "List", "Tuple"), ((list, tuple), "a list")),
}
"""Type as it is written -> types of configuration that it takes, in words."""


def fits(annotation: ast.expr | None, value: Any) -> bool:
    """Return whether a configuration value has a type, as it is written in a signature; of others, whatever it is."""
    if isinstance(annotation, ast.BinOp):
        return fits(annotation.left, value) or fits(annotation.right, value)
    if isinstance(annotation, ast.Subscript):
        name = ast.unparse(annotation.value).rpartition(".")[2]
        if name == "Optional":
            return value is None or fits(annotation.slice, value)
        if name not in _KINDS:
            return True
        item = annotation.slice
        if isinstance(item, ast.Tuple) and len(item.elts) == 2 and ast.unparse(item.elts[1]) in ("...", "Ellipsis"):
            item = item.elts[0]
        held = isinstance(value, _KINDS[name][0])
        return held and (isinstance(value, Mapping) or all(fits(item, one) for one in value))
    kind = _KINDS.get(ast.unparse(annotation)) if annotation is not None else None
    if kind is None:
        return True
    return isinstance(value, kind[0]) and not (isinstance(value, bool) and kind[0] is not bool)


def in_words(annotation: ast.expr | None) -> str:
    """Return what a type takes.

    >>> in_words(ast.parse("int | Sequence[float] | None", mode="eval").body)
    'a whole number, a list of numbers or null'
    """
    if isinstance(annotation, ast.BinOp):
        left, right = in_words(annotation.left), in_words(annotation.right)
        return f"{left.replace(' or ', ', ')} or {right}"
    if isinstance(annotation, ast.Subscript):
        inner = in_words(annotation.slice)
        outer = _KINDS.get(ast.unparse(annotation.value), (None, ""))[1]
        return f"{outer} of {inner.removeprefix('a ')}s" if outer == "a list" and inner.endswith("number") else outer
    return _KINDS.get(ast.unparse(annotation), (None, "of another type"))[1] if annotation is not None else ""


@cache
def _read(path: Path) -> dict[str, Any]:
    return dict(yaml.safe_load(path.read_text()) or {})
