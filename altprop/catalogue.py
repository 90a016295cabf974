"""What can be chosen, read from yaml and from the source of classes: no plugin is imported to list, hint or refuse."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import yaml

from altprop.capabilities import DERIVATIVES, Capability, PredictorKind, evaluated_as, kind_refusal, refusal, together
from altprop.checks import LEAST_SQUARES_LOSSES
from altprop.declared import Unknown, find_class
from altprop.errors import AltpropError

PLUGIN_GROUP = "altprop.plugins"
IN_THE_CLASS = ("requires", "offers", "predictor", "evaluates")
"""What a plugin's class says, and its yaml must not say again."""


@dataclass(frozen=True)
class Entry:
    """One yaml of a group.

    Attributes:
        name: stem of the file.
        group: algorithm, task, model, ...
        summary: its first comment line.
        values: its content, unresolved.
        origin: distribution or folder it came from.
        problem: why its yaml cannot be used, or None.
    """

    name: str
    group: str
    summary: str
    values: Mapping[str, Any] = field(default_factory=dict)
    origin: str = "altprop"
    problem: str | None = None

    @cached_property
    def trouble(self) -> str | None:
        """Why it cannot be used: for its yaml, or for what its class declares; or None."""
        try:
            _ = requires(self.values), task_offers(self.values), evaluated_kinds(self.values)
            return self.problem
        except AltpropError as error:
            return str(error)


def left_open(part: Mapping[str, Any]) -> list[str]:
    """Return the options that a yaml leaves to its user, who alone knows them: `path: ???`."""
    return [str(name) for name, value in part.items() if value == "???"]


def declares(part: Mapping[str, Any], attribute: str) -> Any:
    """Return an attribute of the class that a configuration names, read from its source.

    Returns:
        Its value, or None where the class does not set it or the source does not tell.

    Raises:
        AltpropError: for a `_target_` that leads to no class.
    """
    if part.get("_target_") in (None, "???"):
        return None
    try:
        return find_class(part["_target_"]).attribute(attribute)
    except Unknown:
        return None


def requires(algorithm: Mapping[str, Any]) -> frozenset[Capability]:
    """Return what the class of an algorithm requires; nothing where its source does not tell."""
    return frozenset(declares(algorithm, "requires") or ())


def predictor_kind(algorithm: Mapping[str, Any]) -> PredictorKind:
    """Return what the class of an algorithm learns to predict; outputs where its source does not tell."""
    return declares(algorithm, "kind") or PredictorKind.OUTPUT


def evaluated_kinds(task: Mapping[str, Any]) -> tuple[PredictorKind, ...]:
    """Return what the class of a task evaluates; everything where its source does not tell."""
    return tuple(declares(task, "kinds") or PredictorKind)


def offers(task: Mapping[str, Any], model: Mapping[str, Any]) -> frozenset[Capability]:
    """Return what a task and a model offer; everything where a source does not tell."""
    of_task, of_model = task_offers(task), model_offers(model)
    return frozenset(Capability) if of_task is None or of_model is None else together(of_task, of_model)


def task_offers(task: Mapping[str, Any]) -> frozenset[Capability] | None:
    """Return what the class of a task offers, with what its loss is; None where its source does not tell."""
    said = declares(task, "offers")
    if said is None:
        return None
    losses = _losses(task)
    loss = task.get("loss") or next(iter(losses), "")
    squares = losses.get(loss, loss in LEAST_SQUARES_LOSSES)
    return frozenset(said) | ({Capability.LEAST_SQUARES} if squares else set())


def _losses(task: Mapping[str, Any]) -> Mapping[str, bool]:
    """Return the losses of a task, name -> whether it is a sum of squares; none where its source does not tell."""
    try:
        return find_class(task.get("_target_")).losses()
    except Unknown:
        return {}


def model_offers(model: Mapping[str, Any]) -> frozenset[Capability] | None:
    """Return what the class of a model offers; None for one that does not say, which is found out when it is built."""
    try:
        return frozenset(find_class(model.get("_target_")).attribute("offers"))
    except Unknown:
        return None


@cache
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


def parse_yaml(text: str) -> Any:
    """Return what a yaml text holds, read by libyaml where PyYAML was built with it: a tenth of the time."""
    return yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))


def read_entry(path: Path, group: str, origin: str) -> Entry:
    """Read one yaml; an unreadable one becomes an entry with a problem."""
    try:
        text = path.read_text()
        comments = [line.lstrip("# ").strip() for line in text.splitlines() if line.startswith("#")]
        summary = next((line for line in comments if not line.startswith("@package")), "")
        values = parse_yaml(text) or {}
        if not isinstance(values, dict):
            raise ValueError("it holds no mapping")
        for key in IN_THE_CLASS:
            if key in values:
                raise AltpropError(f"{key} stands in the class alone; leave it out here")
        return Entry(path.stem, group, summary, values, origin)
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


def why_not(algorithm: Entry, task: Entry, models: Mapping[str, Entry]) -> str | None:
    """Return the sentence that refuses an algorithm on a task with its default model, or None."""
    if algorithm.trouble or task.trouble:
        return algorithm.trouble or task.trouble
    model = default_model(task)
    try:
        return refusal_of(
            (algorithm.name, task.name, model), algorithm.values, task.values, models[model].values, suggesting=False
        )
    except (AltpropError, KeyError) as error:
        return str(error)


def refusal_of(
    names: tuple[str, str, str],
    algorithm: Mapping[str, Any],
    task: Mapping[str, Any],
    model: Mapping[str, Any],
    extra: tuple[str, ...] = (),
    *,
    suggesting: bool = True,
) -> str | None:
    """Return the sentence that refuses a cell, or None; its classes are asked again when they are built.

    Args:
        names: of algorithm, task and model.
        algorithm, task, model: their configurations.
        extra: further folders.
        suggesting: whether to say what to try instead.

    Raises:
        AltpropError: for a `_target_` that leads to no class.
    """
    kind, needed, offered = predictor_kind(algorithm), requires(algorithm), offers(task, model)
    kinds = evaluated_kinds(task)
    hint = ""
    if suggesting and needed - offered and needed - offered <= DERIVATIVES and declares(model, "differentiable_with"):
        hint = declares(model, "differentiable_with")
    elif suggesting and needed - offered == {Capability.LEAST_SQUARES} and Capability.SUPERVISED in offered:
        hint = f"task.loss={'one_hot_squared_error' if Capability.CLASSES in offered else 'half_squared_error'}"
    elif suggesting and (needed - offered or evaluated_as(kind, kinds) is None):
        hint = suggest(needed, extra, kind)
    return kind_refusal(names[0], kind, names[1], kinds, hint) or refusal(names[0], needed, *names[1:], offered, hint)


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
        if task.trouble or left_open(task.values) or default_model(task) not in models:
            continue
        served = evaluated_as(kind, evaluated_kinds(task.values)) is not None
        if served and needed <= offers(task.values, models[default_model(task)].values):
            return f"task={task.name}"
    return ""
