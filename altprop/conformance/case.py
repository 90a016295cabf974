"""A small real problem for a learner under examination, built as the harness would build it."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
import yaml
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from altprop import catalogue
from altprop.algorithm import Algorithm, StepResult
from altprop.capabilities import Capability, PredictorKind, evaluated_as
from altprop.errors import AltpropError, near
from altprop.harness.building import Parts, build_parts
from altprop.harness.cell import make_cell
from altprop.harness.composition import compose_cell
from altprop.resolve import resolve_class

# The smallest tasks first; any other that offers what is required comes after them.
PREFERRED = ("iris", "diabetes", "adding", "quadratic")
SMALL = {
    "iris": ("task.batch_size=8", "model.hidden=[5,4]", "model.activation=tanh"),
    "diabetes": ("task.batch_size=8", "model.hidden=[4]", "model.activation=tanh"),
    "adding": (
        "task.batch_size=4",
        "task.length=4",
        "task.samples=50",
        "task.test_samples=20",
        "model.hidden=[8]",
    ),
}
# An override that puts a value where one is, as against one that chooses or takes away.
_VALUE = re.compile(r"(dtype|[+]?\w+[.][\w.]+)=")


class NotApplicable(Exception):
    """A rule that does not apply to this target, and why."""


@dataclass(frozen=True)
class Target:
    """A learner under examination.

    Attributes:
        name: of the yaml, or of the class.
        overrides: that select it.
        requires: capabilities that its class says.
        config_dir: a folder with further yaml files, or None.
        control: whether it is a control, which need not learn.
        kind: what it learns to predict, from the yaml, or from the class.
    """

    name: str
    overrides: tuple[str, ...]
    requires: frozenset[Capability]
    config_dir: str | None = None
    control: bool = False
    kind: PredictorKind = PredictorKind.OUTPUT

    @property
    def folders(self) -> tuple[str, ...]:
        """The folders of further yaml files, as the catalogue takes them."""
        return () if self.config_dir is None else (self.config_dir,)


def find_target(text: str, config_dir: str | None = None) -> Target:
    """Return what `altprop-check TEXT` examines: a name from the listing, or `package.module:Class`.

    Raises:
        AltpropError: for neither.
    """
    known = catalogue.entries("algorithm", () if config_dir is None else (config_dir,))
    if text in known and text != "custom":
        entry = known[text]
        if entry.problem:
            raise AltpropError(f"algorithm={text}: {entry.problem}")
        requires = catalogue.requires(entry.values)
        control = bool(entry.values.get("control"))
        return Target(
            text, (f"algorithm={text}",), requires, config_dir, control, catalogue.predictor_kind(entry.values)
        )
    path = text.replace(":", ".")
    if "." not in path or not all(part.isidentifier() for part in path.split(".")):
        raise AltpropError(f"{text} is no algorithm and no package.module:Class; {near(text, known)}")
    kind = resolve_class(path, Algorithm)  # type: ignore[type-abstract]
    overrides = ("algorithm=custom", f"algorithm._target_={path}")
    return Target(kind.__name__, overrides, kind.requires, config_dir, kind=kind.kind)


def target_path(target: Target) -> str:
    """Return the import path of the class of a target, as its runs name it.

    Raises:
        AltpropError: for what cannot be composed.
    """
    return str(composed(target.overrides, target.config_dir)["algorithm"]["_target_"])


def suitable_task(
    requires: frozenset[Capability],
    offering: frozenset[Capability] = frozenset(),
    folders: tuple[str, ...] = (),
    kind: PredictorKind = PredictorKind.OUTPUT,
) -> str | None:
    """Return the smallest task that evaluates `kind` and, with its default model, offers all of both sets, or None."""
    tasks, models = catalogue.entries("task", folders), catalogue.entries("model", folders)
    order = [name for name in PREFERRED if name in tasks] + [name for name in tasks if name not in PREFERRED]
    for name in order:
        task, model = tasks[name], models.get(catalogue.default_model(tasks[name]))
        if (
            task.trouble
            or model is None
            or catalogue.left_open(task.values)
            or evaluated_as(kind, catalogue.evaluated_kinds(task.values)) is None
        ):
            continue
        if requires | offering <= catalogue.offers(task.values, model.values):
            return name
    return None


def on_task(name: str) -> tuple[str, ...]:
    """Return the overrides that choose a task and make it small."""
    return (f"task={name}", *SMALL.get(name, ()))


def smallest(target: Target) -> tuple[str, ...]:
    """Return the overrides of the smallest task that the target can run.

    Raises:
        AltpropError: where there is none.
    """
    name = suitable_task(target.requires, folders=target.folders, kind=target.kind)
    if name is None:
        needs = ", ".join(sorted(c.phrase for c in target.requires))
        raise AltpropError(f"no task offers what {target.name} requires: {needs}")
    return on_task(name)


@cache
def _chosen(choices: tuple[str, ...], config_dir: str | None) -> DictConfig:
    return compose_cell(choices, config_dir)


@cache
def _composed(overrides: tuple[str, ...], config_dir: str | None) -> Any:
    """Let Hydra compose what is chosen, once, and put values in afterwards: it takes longer than a hundred steps."""
    choices = tuple(override for override in overrides if not _VALUE.match(override))
    config = deepcopy(_chosen(choices, config_dir))
    for key, _, value in (override.partition("=") for override in overrides if override not in choices):
        OmegaConf.update(config, key.removeprefix("+"), yaml.safe_load(value), force_add=key.startswith("+"))
    return OmegaConf.to_container(config, resolve=True)


def composed(overrides: tuple[str, ...], config_dir: str | None) -> Any:
    """Return a copy of a composed and resolved configuration.

    Raises:
        AltpropError: for what cannot be composed.
    """
    try:
        return deepcopy(_composed(overrides, config_dir))
    except (HydraException, OmegaConfBaseException) as error:
        raise AltpropError(" ".join(str(error).split())) from error


def make(target: Target, *more: str, seed: int = 0, dtype: str = "float64") -> Parts:
    """Build the target on its smallest task, or on the one that `more` chooses.

    Args:
        target: what is examined.
        more: further overrides.
        seed: of the run.
        dtype: of the run.
    """
    task = () if any(o.startswith("task=") for o in more) else smallest(target)
    overrides = (*target.overrides, *task, f"dtype={dtype}", *more)
    return build_parts(make_cell(composed(overrides, target.config_dir), overrides), seed)


def steps(parts: Parts, count: int, start: int = 0, horizon: int = 40) -> list[StepResult]:
    """Take so many steps from a position of the feed, as if the budget were `horizon` steps; end where it is done."""
    results = []
    for position in range(start, start + count):
        results.append(parts.algorithm.step(parts.feed.batch(position)))
        parts.problem.progress = min(1.0, (position + 1) / horizon)
        if results[-1].done:
            break
    return results


def done(results: Sequence[StepResult]) -> bool:
    """Return whether the last of some steps was a learner's last: no run takes another one."""
    return bool(results) and results[-1].done


def snapshot(parts: Parts) -> dict[str, Any]:
    """Return all that a learner has become: weights, buffers, declared state, stream, counts.

    Raises:
        NotApplicable: where its state cannot be saved, which is a rule of its own.
    """
    try:
        return {"problem": parts.problem.state_dict(), "algorithm": parts.algorithm.state_dict()}
    except (AltpropError, AttributeError) as error:
        raise NotApplicable(f"its state cannot be saved: {error}") from error


def reloaded(saved: dict[str, Any]) -> dict[str, Any]:
    """Return a snapshot as a file gives it back."""
    file = io.BytesIO()
    torch.save(saved, file)
    file.seek(0)
    found: dict[str, Any] = torch.load(file, weights_only=True)
    return found


def difference(a: Any, b: Any, path: str = "", tolerance: float = 0.0) -> str | None:
    """Return the path of the first difference between two snapshots, or None.

    Args:
        a, b: snapshots.
        path: of them in a larger one.
        tolerance: of numbers that are not whole, relative to the largest of their tensor; 0 for a difference in bits.

    >>> difference({"w": [1.0, 2.0]}, {"w": [1.0, 2.5]})
    '.w[1]'
    """
    if isinstance(a, torch.Tensor) or isinstance(b, torch.Tensor):
        same = isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor) and a.shape == b.shape and a.dtype == b.dtype
        return None if same and _equal(a, b, tolerance) else path
    if isinstance(a, dict) and isinstance(b, dict):
        if list(a) != list(b):
            return path
        return next((d for key in a if (d := difference(a[key], b[key], f"{path}.{key}", tolerance)) is not None), None)
    if isinstance(a, Sequence) and isinstance(b, Sequence) and not isinstance(a, str):
        if len(a) != len(b):
            return path
        pairs = enumerate(zip(a, b, strict=True))
        return next((d for i, (x, y) in pairs if (d := difference(x, y, f"{path}[{i}]", tolerance)) is not None), None)
    if isinstance(a, float) and isinstance(b, float):
        exact = [torch.tensor(value, dtype=torch.float64) for value in (a, b)]
        return None if _equal(exact[0], exact[1], tolerance) else path
    return None if a == b else path


def _equal(a: torch.Tensor, b: torch.Tensor, tolerance: float) -> bool:
    same = (a == b) | ((a != a) & (b != b))
    if tolerance and a.is_floating_point():
        same |= (a - b).abs() <= tolerance * a.abs().max()
    return bool(same.all())


Rule = Callable[[Target], str | None]


def by_name(*rules: Rule) -> dict[str, Rule]:
    """Return function name -> rule."""
    return {rule.__name__: rule for rule in rules}


def config_folder(text: str) -> str:
    """Return a folder of further yaml files as an absolute path.

    Raises:
        AltpropError: where there is none.
    """
    if not Path(text).is_dir():
        raise AltpropError(f"--config-dir: there is no folder {text}")
    return str(Path(text).resolve())


def refuse_unless_given(group: str, entry: catalogue.Entry, overrides: Sequence[str]) -> None:
    """Refuse to examine what needs an option of its user that is not among the overrides.

    Raises:
        AltpropError: with the option.
    """
    for option in catalogue.left_open(entry.values):
        if not any(one.lstrip("+").startswith(f"{group}.{option}=") for one in overrides):
            raise AltpropError(f"{group}={entry.name} needs {group}.{option}; say {group}.{option}=...")
