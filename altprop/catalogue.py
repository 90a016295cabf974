"""What can be chosen, read from yaml alone: no plugin is imported to list, hint or refuse."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import yaml

from altprop.capabilities import (
    OUTPUT_KINDS,
    Capability,
    PredictorKind,
    evaluated_as,
    kind_refusal,
    parse_capabilities,
    parse_kinds,
    refusal,
)
from altprop.errors import AltpropError

PLUGIN_GROUP = "altprop.plugins"
# Names of `altprop.losses` that are sums of squares, spelled here because that module imports torch (a test compares).
LEAST_SQUARES_LOSSES = frozenset({"mse", "half_squared_error", "one_hot_squared_error"})


@dataclass(frozen=True)
class Entry:
    """One yaml of a group.

    Attributes:
        name: stem of the file.
        group: algorithm, task, model, ...
        summary: its first comment line.
        values: its content, unresolved.
        origin: distribution or folder it came from.
        problem: why it cannot be used, or None.
    """

    name: str
    group: str
    summary: str
    values: Mapping[str, Any] = field(default_factory=dict)
    origin: str = "altprop"
    problem: str | None = None

    def capabilities(self, key: str) -> frozenset[Capability]:
        """Return the capabilities under `requires` or `offers`."""
        return parse_capabilities(self.values.get(key) or ())

    @property
    def kind(self) -> PredictorKind:
        """What an algorithm learns to predict: `predictor:`, by default outputs."""
        return predictor_kind(self.values)

    @property
    def kinds(self) -> tuple[PredictorKind, ...]:
        """What a task evaluates: `evaluates:`, by default outputs and points."""
        return evaluated_kinds(self.values)


def predictor_kind(algorithm: Mapping[str, Any]) -> PredictorKind:
    """Return what an algorithm's configuration says that it learns to predict.

    Raises:
        AltpropError: for a name that is no kind.
    """
    return parse_kinds([algorithm.get("predictor") or PredictorKind.OUTPUT])[0]


def evaluated_kinds(task: Mapping[str, Any]) -> tuple[PredictorKind, ...]:
    """Return what a task's configuration says that it evaluates.

    Raises:
        AltpropError: for a name that is no kind.
    """
    return parse_kinds(task.get("evaluates") or OUTPUT_KINDS)


def plugin_packages() -> dict[str, str]:
    """Return distribution name -> config package, from the metadata of installed distributions."""
    return {point.name: point.value for point in sorted(entry_points(group=PLUGIN_GROUP), key=lambda p: p.name)}


def _folder(package: str) -> Path:
    """Find the folder of a package; nothing of it is imported, nor any package that it lies in."""
    top, *below = package.replace(":", ".").split(".")
    spec = importlib.util.find_spec(top)
    for location in (spec.submodule_search_locations or ()) if spec else ():
        folder = Path(location, *below)
        if folder.is_dir():
            return folder
    raise AltpropError(f"plugin config package {package} is not found")


def search_folders(extra: Iterable[str | Path] = ()) -> list[tuple[str, Path | None, str | None]]:
    """Return (origin, folder, problem) of every place that configuration is taken from."""
    found: list[tuple[str, Path | None, str | None]] = [("altprop", Path(__file__).parent / "conf", None)]
    for name, package in plugin_packages().items():
        try:
            found.append((name, _folder(package), None))
        except Exception as error:  # a broken plugin is a row, not a crash
            found.append((name, None, f"{type(error).__name__}: {error}"))
    found.extend((str(folder), Path(folder), None) for folder in extra)
    return found


def read_entry(path: Path, group: str, origin: str) -> Entry:
    """Read one yaml; an unreadable one becomes an entry with a problem."""
    try:
        text = path.read_text()
        comments = [line.lstrip("# ").strip() for line in text.splitlines() if line.startswith("#")]
        summary = next((line for line in comments if not line.startswith("@package")), "")
        values = yaml.safe_load(text) or {}
        if not isinstance(values, dict):
            raise ValueError("it holds no mapping")
        entry = Entry(path.stem, group, summary, values, origin)
        for key in ("requires", "offers"):
            entry.capabilities(key)
        _ = entry.kind, entry.kinds
        return entry
    except (OSError, ValueError, yaml.YAMLError, AltpropError) as error:
        return Entry(path.stem, group, "", {}, origin, f"{path.name}: {error}".splitlines()[0])


@cache
def entries(group: str, extra: tuple[str, ...] = ()) -> dict[str, Entry]:
    """Return name -> entry of a group, from altprop, plugins and further folders."""
    found: dict[str, Entry] = {}
    for origin, folder, problem in search_folders(extra):
        if folder is None:
            if group == "algorithm":
                found[origin] = Entry(origin, group, "", {}, origin, problem)
            continue
        for path in sorted((folder / group).glob("*.yaml")):
            found.setdefault(path.stem, read_entry(path, group, origin))
    return found


def default_model(task: Entry) -> str:
    """Return the model that a task names as its default."""
    for item in task.values.get("defaults") or ():
        if isinstance(item, dict):
            for key, value in item.items():
                if "/model" in str(key):
                    return str(value)
    return "mlp"


def offers(task: Entry, model: Entry | None) -> frozenset[Capability]:
    """Return what a task with a model offers under the loss that its yaml names."""
    both = task.capabilities("offers")
    if task.values.get("loss") in LEAST_SQUARES_LOSSES:
        both |= {Capability.LEAST_SQUARES}
    return both | model.capabilities("offers") if model is not None else both


def why_not(algorithm: Entry, task: Entry, models: Mapping[str, Entry]) -> str | None:
    """Return the sentence that refuses an algorithm on a task with its default model, or None."""
    if algorithm.problem or task.problem:
        return algorithm.problem or task.problem
    model = default_model(task)
    try:
        return kind_refusal(algorithm.name, algorithm.kind, task.name, task.kinds) or refusal(
            algorithm.name, algorithm.capabilities("requires"), task.name, model, offers(task, models.get(model))
        )
    except AltpropError as error:
        return str(error)


def suggest(
    requires: Iterable[Capability], extra: tuple[str, ...] = (), kind: PredictorKind = PredictorKind.OUTPUT
) -> str:
    """Return "task=NAME" for the first task whose default model offers all of `requires`, or an empty string.

    Args:
        requires: what the task and its model must offer.
        extra: further folders.
        kind: what the task must evaluate.
    """
    needed, models = set(requires), entries("model", extra)
    for task in entries("task", extra).values():
        if task.problem or evaluated_as(kind, task.kinds) is None:
            continue
        if needed <= offers(task, models.get(default_model(task))):
            return f"task={task.name}"
    return ""
