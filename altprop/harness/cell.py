"""A cell: one learner on one workload, named, and nothing of it begun."""

from __future__ import annotations

import inspect
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from altprop import catalogue
from altprop.checks import check_flag, check_number, check_whole
from altprop.declared import Unknown, find_class
from altprop.errors import AltpropError
from altprop.harness.settings import Settings, read_seeds
from altprop.harness.validation import validate
from altprop.resolve import METADATA, TASK_METADATA

AXES = ("algorithm", "optimizer", "dropout", "task", "model")


@dataclass(frozen=True)
class Cell:
    """A cell, named and keyed, before anything heavy is imported.

    Attributes:
        config: the resolved configuration that matters, `optimizer` only where the algorithm takes one.
        axes: axis -> name.
        label: of the learner, with the options of it and of its model that were set by hand.
        workload: of the task, with the options of data and objective that were set by hand.
        overrides: as given, for the rerun command.
        settings: of the harness.
        full_yaml: the whole resolved configuration.
        declared: dotted option -> entry of the learner's `search:`.
        role: run, or trial or tuned in a tuning.
        about: what records say of the role.
        command: the whole command line that the cell is a part of, None where there was none.
        data: digest of the data that its key names, None where no key was made.
        folders: of further yaml files, given with --config-dir.
    """

    config: dict[str, Any]
    axes: dict[str, str]
    label: str
    workload: str
    overrides: tuple[str, ...]
    settings: Settings
    full_yaml: str
    declared: Mapping[str, Any] = field(default_factory=dict)
    role: str = "run"
    about: Mapping[str, Any] = field(default_factory=dict)
    command: str | None = None
    data: str | None = None
    folders: tuple[str, ...] = ()

    @property
    def control(self) -> bool:
        """Whether the learner is a control."""
        return bool(self.config["algorithm"].get("control", False))

    @property
    def unread(self) -> tuple[str, ...]:
        """Overrides that nothing reads: an optimizer, or an option of one, for a learner that takes none.

        In a sweep they are for the other learners.
        """
        if self.axes["optimizer"] != "none":
            return ()
        return tuple(o for o in self.overrides if o.lstrip("+~").partition("=")[0].partition(".")[0] == "optimizer")

    def rerun(self, seed: int) -> str:
        """Return the command that runs one seed again."""
        left = (
            "seeds",
            "runs_dir",
            "report",
            "report_dir",
            "title",
            "reference",
            "claims",
            "tune",
            "+tune",
            "tune_seeds",
        )
        kept = [o for o in self.overrides if o.split("=")[0] not in left and o not in self.unread]
        folders = [f"--config-dir={folder}" for folder in self.folders]
        return shlex.join(["altprop", *folders, *kept, f"seeds=[{seed}]"])


# What the yaml of a class says of it, and of no other class that is put in its place.
_CLAIMS = (
    *("name", "chance", "oracle", "baselines", "targets", "paper", "control", "reference", "search", "irrelevant"),
    *("equivalence_margin", "code"),
)


def _as_replaced(config: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Return a configuration in which a class that was put in place of a yaml's own has its own name, and no claims."""
    found = dict(config)
    for group in AXES:
        part = config.get(group)
        replaced = any(override.lstrip("+").startswith(f"{group}._target_=") for override in overrides)
        if replaced and isinstance(part, Mapping) and part.get("name") not in (None, "custom"):
            foreign = {*_CLAIMS, *_not_taken(part, group)}
            own = {name: value for name, value in part.items() if name not in foreign or _set(overrides, group, name)}
            found[group] = {"name": str(part.get("_target_")).rpartition(".")[2], **own}
    algorithm = found.get("algorithm")
    if isinstance(algorithm, Mapping) and isinstance(algorithm.get("optimizer"), Mapping):
        found["algorithm"] = {**algorithm, "optimizer": found["optimizer"]}
    return found


def _not_taken(part: Mapping[str, Any], group: str) -> set[str]:
    """Return the options of a yaml that the class in its place does not take; none where its code does not tell."""
    try:
        constructor = find_class(part.get("_target_")).constructor()
    except (AltpropError, Unknown):
        return set()
    known = {*constructor.arguments, "_target_", "optimizer", *(TASK_METADATA if group == "task" else METADATA)}
    return set() if constructor.open else set(part) - known


def _set(overrides: Sequence[str], group: str, option: str) -> bool:
    """Return whether an option was set by hand."""
    name = f"{group}.{option}"
    return any(override.lstrip("+").startswith((f"{name}=", f"{name}.")) for override in overrides)


def make_cell(
    config: Mapping[str, Any], overrides: Sequence[str], full_yaml: str = "", folders: Sequence[str] = ()
) -> Cell:
    """Check a resolved configuration and name what it is.

    Args:
        config: resolved, plain.
        overrides: as they were given.
        full_yaml: the whole configuration as text.
        folders: of further yaml files.

    Raises:
        AltpropError: for an unusable value.
    """
    config = _as_replaced(config, overrides)
    validate(config)
    if check_flag(config.get("quick", False), "quick"):
        config = _quick(config)
    settings = Settings.read(config)
    algorithm = dict(config["algorithm"] or {})
    target = algorithm.get("_target_")
    if not target or target == "???":
        raise AltpropError("algorithm has no _target_; give algorithm._target_=package.module.Class")
    if algorithm.get("name") in (None, "custom"):
        algorithm["name"] = str(target).rsplit(".", 1)[-1]
        if not _takes_optimizer(str(target)):
            algorithm.pop("optimizer", None)
    optimizer = algorithm.get("optimizer")
    dropout = config.get("dropout") or {"name": "none"}
    axes = {
        "algorithm": str(algorithm["name"]),
        "optimizer": str(optimizer.get("name", "custom")) if isinstance(optimizer, Mapping) else "none",
        "dropout": _named(dropout),
        "task": _named(_part(config, "task")),
        "model": _named(_part(config, "model")),
    }
    declared = _declared({"algorithm": algorithm, "optimizer": optimizer, "dropout": dropout})
    if isinstance(optimizer, Mapping):
        algorithm["optimizer"] = _without_search(optimizer)
    kept = {
        "algorithm": _without_search(algorithm),
        "dropout": _without_search(dropout),
        "task": {name: value for name, value in _part(config, "task").items() if name != "budget"},
        "model": dict(_part(config, "model")),
        "budget": dict(config["budget"]),
        "probes": dict(config.get("probes") or {}),
        "dtype": config.get("dtype", "float32"),
        # The number of processes is in the key only where it changes the bits.
        "trainer": {
            **{name: value for name, value in settings.trainer.items() if name in ("overfit_rows", "strategy")},
            **({"ranks": settings.ranks} if settings.ranks > 1 else {}),
        },
    }
    return Cell(
        config=kept,
        axes=axes,
        label=_label(axes, overrides, tuple(folders)),
        workload=_workload(axes, overrides, settings, kept["task"].get("irrelevant") or ()),
        overrides=tuple(overrides),
        settings=settings,
        full_yaml=full_yaml,
        declared=declared,
        folders=tuple(folders),
    )


def _quick(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the configuration of a first look: a tenth of the budget, three seeds, two trials of one."""
    budget = dict(config.get("budget") or {})
    tune = config.get("tune")
    return {
        **config,
        "budget": {**budget, "amount": check_number(budget.get("amount"), "budget.amount", above=0) / 10},
        "seeds": list(read_seeds(config.get("seeds", 1))[:3]),
        "tune": None if tune is None else min(2, check_whole(tune, "tune", 1)),
        "tune_seeds": 1,
    }


def _declared(parts: Mapping[str, Any]) -> dict[str, Any]:
    """Return dotted option -> entry of all `search:` blocks."""
    found: dict[str, Any] = {}
    for group, part in parts.items():
        block = part.get("search") or {} if isinstance(part, Mapping) else {}
        if not isinstance(block, Mapping):
            raise AltpropError(f"{group}.search must map options to ranges; got {block!r}")
        found |= {f"{group}.{option}": entry for option, entry in block.items()}
    return found


def _without_search(part: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out what no result depends on."""
    return {name: value for name, value in part.items() if name != "search"}


def _takes_optimizer(target: str) -> bool:
    """Ask a class without a yaml of its own; one that cannot be imported fails later, in its run, with its reason."""
    from altprop.algorithm import Algorithm
    from altprop.resolve import resolve_class

    try:
        return "optimizer" in inspect.signature(resolve_class(target, Algorithm)).parameters
    except AltpropError:
        return True


def _part(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = config.get(name)
    if not isinstance(value, Mapping):
        raise AltpropError(f"{name} is not set; choose one with {name}=NAME (altprop-list shows all)")
    return value


def _named(part: Mapping[str, Any]) -> str:
    """Return the name of a part: that of its class where a class was named in place of a yaml."""
    name = str(part.get("name", "custom"))
    return str(part["_target_"]).rpartition(".")[2] if name == "custom" and part.get("_target_") else name


def _options(overrides: Sequence[str], groups: Sequence[str], skip: Sequence[str] = ()) -> list[str]:
    found = []
    for override in overrides:
        name, _, value = override.lstrip("+~").partition("=")
        group, _, option = name.partition(".")
        if option and group in groups and name not in skip and not option.startswith("_"):
            found.append(f"{option}={value}")
    return sorted(found)


def _label(axes: Mapping[str, str], overrides: Sequence[str], folders: tuple[str, ...]) -> str:
    """Name a learner: "dfa+adam(lr=0.01)·dropout=standard"; a recipe goes by its own name, "residual"."""
    learner, optimizer = axes["algorithm"], axes["optimizer"]
    own = _options(overrides, ("algorithm",))
    label = learner + (f"({', '.join(own)})" if own else "")
    if optimizer != "none":
        options = _options(overrides, ("optimizer",))
        label += f"+{optimizer}" + (f"({', '.join(options)})" if options else "")
    if axes["dropout"] != "none":
        options = _options(overrides, ("dropout",))
        label += f"·dropout={axes['dropout']}" + (f"({', '.join(options)})" if options else "")
    recipe = next((o.partition("=")[2] for o in overrides if o.lstrip("+").startswith("recipe=")), None)
    if recipe is not None:
        own = _options(overrides, ("algorithm", "optimizer", "dropout", "model"))
        return recipe + (f"({', '.join(own)})" if own else "")
    return label + _model_label(axes, overrides, folders)


def _model_label(axes: Mapping[str, str], overrides: Sequence[str], folders: tuple[str, ...]) -> str:
    """Name a model that is not the task's own, or its options: what is swept in it is an axis of comparison."""
    options = ", ".join(_options(overrides, ("model",)))
    entry = catalogue.entries("task", folders).get(axes["task"])
    chosen = (
        axes["model"] != catalogue.default_model(entry) if entry else any(o.startswith("model=") for o in overrides)
    )
    if chosen:
        return f"·model={axes['model']}" + (f"({options})" if options else "")
    return f"·{options}" if options else ""


def _workload(axes: Mapping[str, str], overrides: Sequence[str], settings: Settings, irrelevant: Sequence[str]) -> str:
    """Name a workload: the task, with what changes its data or its objective where that is not its own."""
    parts = _options(overrides, ("task",), skip=[f"task.{name}" for name in irrelevant])
    if _options(overrides, ("budget",), skip=("budget.grid", "budget.block")):
        parts.append(f"{settings.budget.amount:.3g} {settings.budget.currency}".replace("_", " "))
    more = ("dtype=", "trainer.overfit_rows=", "trainer.precision=")
    parts += sorted(o.lstrip("+") for o in overrides if o.lstrip("+").startswith(more))
    parts += ["quick"] if settings.quick else []
    return axes["task"] + (f"[{', '.join(parts)}]" if parts else "")
