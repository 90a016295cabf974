"""A small real problem for a learner under examination, built as the harness would build it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf, open_dict

from altprop import catalogue
from altprop.algorithm import StepResult
from altprop.capabilities import Capability
from altprop.errors import AltpropError
from altprop.harness.building import Parts, build_parts
from altprop.harness.cell import Cell, make_cell

# The smallest tasks first; any other that offers what is required comes after them.
PREFERRED = ("iris", "diabetes", "adding", "quadratic")
SMALL = {
    "iris": ["task.batch_size=8", "model.hidden=[5,4]", "model.activation=tanh"],
    "diabetes": ["task.batch_size=8", "model.hidden=[4]", "model.activation=tanh"],
    "adding": ["task.batch_size=4", "task.length=8", "task.samples=50", "task.test_samples=20"],
}


@dataclass(frozen=True)
class Target:
    """What is examined.

    Attributes:
        name: of the yaml, or of the class.
        overrides: that select it.
        requires: capabilities from the yaml, or from the class.
        config_dir: a folder with further yaml files, or None.
        control: whether it is a control, which need not learn.
    """

    name: str
    overrides: tuple[str, ...]
    requires: frozenset[Capability]
    config_dir: str | None = None
    control: bool = False


def find_target(text: str, config_dir: str | None = None) -> Target:
    """Return what `altprop-check TEXT` examines: a name from the listing, or `package.module:Class`.

    Raises:
        AltpropError: for neither.
    """
    folders = () if config_dir is None else (config_dir,)
    known = catalogue.entries("algorithm", folders)
    if text in known:
        entry = known[text]
        if entry.problem:
            raise AltpropError(f"algorithm={text}: {entry.problem}")
        name = "'null'" if text == "null" else text
        return Target(
            text, (f"algorithm={name}",), entry.capabilities("requires"), config_dir, bool(entry.values.get("control"))
        )
    path = text.replace(":", ".")
    if "." not in path:
        from altprop.resolve import near

        raise AltpropError(f"{text} is no algorithm and no package.module:Class; {near(text, known)}")
    from altprop.algorithm import Algorithm
    from altprop.resolve import resolve_class

    kind = resolve_class(path, Algorithm)  # type: ignore[type-abstract]
    return Target(kind.__name__, ("algorithm=custom", f"algorithm._target_={path}"), kind.requires, config_dir)


def suitable_task(target: Target) -> tuple[str, list[str]]:
    """Return the smallest task that offers what the target requires, with overrides that make it smaller.

    Raises:
        AltpropError: where no task does.
    """
    folders = () if target.config_dir is None else (target.config_dir,)
    tasks, models = catalogue.entries("task", folders), catalogue.entries("model", folders)
    order = [name for name in PREFERRED if name in tasks] + [name for name in tasks if name not in PREFERRED]
    for name in order:
        offered = catalogue.offers(tasks[name], models.get(catalogue.default_model(tasks[name])))
        if target.requires <= offered:
            return name, [f"task={name}", *SMALL.get(name, [])]
    needs = ", ".join(sorted(target.requires))
    raise AltpropError(f"no task offers what {target.name} requires: {needs}")


@cache
def _compose(overrides: tuple[str, ...], config_dir: str | None) -> Any:
    extra = [] if config_dir is None else [f"hydra.searchpath=[file://{Path(config_dir).resolve()}]"]
    kept = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        with initialize_config_module("altprop.conf", version_base="1.3"):
            config = compose("config", [*overrides, *extra], return_hydra_config=True)
            with open_dict(config):
                config.pop("hydra")
            return OmegaConf.to_container(config, resolve=True)
    finally:
        GlobalHydra.instance().clear()
        if kept is not None:
            GlobalHydra.instance().initialize(kept)


def make(target: Target, *more: str, seed: int = 0, dtype: str = "float64") -> Parts:
    """Build the target on its smallest task.

    Args:
        target: what is examined.
        more: further overrides.
        seed: of the run.
        dtype: of the run.
    """
    from altprop.cli.application import register_search_path

    register_search_path()
    _, task = suitable_task(target)
    given = {o.partition("=")[0]: o for o in [*target.overrides, *task, f"dtype={dtype}", *more]}
    overrides = tuple(given.values())
    cell: Cell = make_cell(_compose(overrides, target.config_dir), overrides)
    return build_parts(cell, seed)


def steps(parts: Parts, count: int, start: int = 0, before: Callable[[], None] | None = None) -> list[StepResult]:
    """Take so many steps from a position of the feed."""
    results = []
    for position in range(start, start + count):
        if before is not None:
            before()
        results.append(parts.algorithm.step(parts.feed.batch(position)))
        parts.problem.progress = min(1.0, (position + 1) / 40)
    return results


def snapshot(parts: Parts) -> dict[str, Any]:
    """Return all that a learner has become: weights, buffers, declared state, stream, counts."""
    return {
        "problem": parts.problem.state_dict(),
        "algorithm": parts.algorithm.state_dict(),
    }


def difference(a: Any, b: Any, path: str = "") -> str | None:
    """Return the path of the first difference in bits between two snapshots, or None."""
    if isinstance(a, torch.Tensor) or isinstance(b, torch.Tensor):
        same = isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor) and a.shape == b.shape and a.dtype == b.dtype
        return None if same and torch.equal(a.nan_to_num(), b.nan_to_num()) else path
    if isinstance(a, dict) and isinstance(b, dict):
        if list(a) != list(b):
            return path
        return next((d for key in a if (d := difference(a[key], b[key], f"{path}.{key}"))), None)
    if isinstance(a, Sequence) and isinstance(b, Sequence) and not isinstance(a, str):
        if len(a) != len(b):
            return path
        pairs = enumerate(zip(a, b, strict=True))
        return next((d for i, (x, y) in pairs if (d := difference(x, y, f"{path}[{i}]"))), None)
    return None if a == b or (a != a and b != b) else path
