"""A cell: one learner on one workload. Its seeds are run here, those that have no record yet."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from altprop import catalogue
from altprop.capabilities import Capability, parse_capabilities, refusal
from altprop.checks import check_part
from altprop.errors import AltpropError, Refused
from altprop.harness.settings import Settings
from altprop.harness.validation import validate
from altprop.records import key as keys
from altprop.records import source
from altprop.records.status import RunStatus

MIN_STACKED_SEEDS = 4
"""Seeds from which on running them as one pays."""
AXES = ("algorithm", "optimizer", "dropout", "task", "model")


@dataclass(frozen=True)
class Cell:
    """A cell, named and keyed, before anything heavy is imported.

    Attributes:
        config: the resolved configuration that matters, `optimizer` only where the algorithm takes one.
        axes: axis -> name.
        label: of the learner, with the options that were set by hand.
        workload: of the task, with the options that were set by hand.
        overrides: as given, for the rerun command.
        settings: of the harness.
        full_yaml: the whole resolved configuration.
        declared: dotted option -> entry of the learner's `search:`.
        role: run, or trial or tuned in a tuning.
        about: what records say of the role.
        command: the whole command line that the cell is a part of, None where there was none.
        data: digest of the data that its key names, None where no key was made.
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

    @property
    def control(self) -> bool:
        """Whether the learner is a control."""
        return bool(self.config["algorithm"].get("control", False))

    def rerun(self, seed: int) -> str:
        """Return the command that runs one seed again."""
        left = ("seeds", "runs_dir", "report", "report_dir", "title", "reference", "tune", "+tune")
        kept = [o for o in self.overrides if o.split("=")[0] not in left]
        return shlex.join(["altprop", *kept, f"seeds=[{seed}]"])


def make_cell(config: Mapping[str, Any], overrides: Sequence[str], full_yaml: str = "") -> Cell:
    """Check a resolved configuration and name what it is.

    Raises:
        AltpropError: for an unusable value.
    """
    validate(config)
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
        "dropout": str(dropout.get("name", "custom")),
        "task": str(_part(config, "task").get("name", "custom")),
        "model": str(_part(config, "model").get("name", "custom")),
    }
    for group in ("task", "model"):
        check_part(_part(config, group), group)
    if isinstance(optimizer, Mapping):
        check_part(optimizer, "optimizer")
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
        label=_label(axes, overrides),
        workload=_workload(axes, overrides, settings, kept["task"].get("irrelevant") or ()),
        overrides=tuple(overrides),
        settings=settings,
        full_yaml=full_yaml,
        declared=declared,
    )


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
    resolve, contract = importlib.import_module("altprop.resolve"), importlib.import_module("altprop.algorithm")
    try:
        return "optimizer" in inspect.signature(resolve.resolve_class(target, contract.Algorithm)).parameters
    except AltpropError:
        return True


def _part(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = config.get(name)
    if not isinstance(value, Mapping):
        raise AltpropError(f"{name} is not set; choose one with {name}=NAME (altprop-list shows all)")
    return value


def _options(overrides: Sequence[str], groups: Sequence[str], skip: Sequence[str] = ()) -> list[str]:
    found = []
    for override in overrides:
        name, _, value = override.lstrip("+~").partition("=")
        group, _, option = name.partition(".")
        if option and group in groups and name not in skip and not option.startswith("_"):
            found.append(f"{option}={value}")
    return sorted(found)


def _label(axes: Mapping[str, str], overrides: Sequence[str]) -> str:
    """Name a learner: "dfa+adam(lr=0.01)·dropout=standard"."""
    learner, optimizer = axes["algorithm"], axes["optimizer"]
    own = _options(overrides, ("algorithm",))
    label = learner + (f"({', '.join(own)})" if own else "")
    if optimizer != "none":
        options = _options(overrides, ("optimizer",))
        label += f"+{optimizer}" + (f"({', '.join(options)})" if options else "")
    if axes["dropout"] != "none":
        options = _options(overrides, ("dropout",))
        label += f"·dropout={axes['dropout']}" + (f"({', '.join(options)})" if options else "")
    return label


def _workload(axes: Mapping[str, str], overrides: Sequence[str], settings: Settings, irrelevant: Sequence[str]) -> str:
    """Name a workload: the task, with model and options where they are not its own."""
    entry = catalogue.entries("task").get(axes["task"])
    default = catalogue.default_model(entry) if entry else None
    parts = [] if axes["model"] == default else [axes["model"]]
    parts += _options(overrides, ("task", "model"), skip=[f"task.{name}" for name in irrelevant])
    if _options(overrides, ("budget",), skip=("budget.grid", "budget.block")):
        parts.append(f"{settings.budget.amount:.3g} {settings.budget.currency}".replace("_", " "))
    parts += sorted(o.lstrip("+") for o in overrides if o.lstrip("+").startswith(("dtype=", "trainer.overfit_rows=")))
    return axes["task"] + (f"[{', '.join(parts)}]" if parts else "")


def refuse(cell: Cell) -> str | None:
    """Return the sentence that refuses a cell from yaml alone, or None. The class is asked again when it is set up."""
    names = {group: cell.axes[group] for group in ("algorithm", "task", "model")}
    task, model = cell.config["task"], cell.config["model"]
    requires = parse_capabilities(cell.config["algorithm"].get("requires") or ())
    offered = parse_capabilities([*(task.get("offers") or ()), *(model.get("offers") or ())])
    if task.get("loss") in catalogue.LEAST_SQUARES_LOSSES:
        offered |= {Capability.LEAST_SQUARES}
    if not task.get("offers") and not model.get("offers"):
        return None  # a plugin without yaml: its class is asked
    if requires - offered == {Capability.LEAST_SQUARES} and Capability.SUPERVISED in offered:
        hint = f"task.loss={'one_hot_squared_error' if Capability.CLASSES in offered else 'half_squared_error'}"
    else:
        hint = catalogue.suggest(requires)
    return refusal(names["algorithm"], requires, names["task"], names["model"], offered, hint)


def sources(cell: Cell) -> str:
    """Return the hash of the code that defines the cell's parts.

    Raises:
        AltpropError: for a module that cannot be found.
    """
    modules = {"altprop.problem"}
    for part in (cell.config["algorithm"], cell.config["dropout"], cell.config["task"], cell.config["model"]):
        target = part.get("_target_")
        if target:
            modules.add(str(target).rpartition(".")[0])
    if cell.axes["optimizer"] != "none":
        modules.add("altprop.optim")
    if cell.settings.probes != "off":
        modules.add(f"altprop.probes.{cell.settings.probes}")
    return source.source_hash(modules)


@dataclass(frozen=True)
class Outcome:
    """How one run of a cell ended in this command.

    Attributes:
        label, workload, seed: which.
        status: of the record.
        reason: its sentence.
        executed: whether it ran now (False: the record was there, or another worker has it).
        test: the metric on the test set, or None.
        metric: its name.
        key: of the record.
        role: of the run.
        objective: what a search minimises: the final validation metric, negated where more is better, or None.
    """

    label: str
    workload: str
    seed: int
    status: str
    reason: str
    executed: bool
    test: float | None = None
    metric: str | None = None
    key: str | None = None
    role: str = "run"
    objective: float | None = None


def run_cell(cell: Cell) -> list[Outcome]:
    """Run a cell: its seeds, and before them a tuning where `tune=` asks for one.

    Raises:
        KeyboardInterrupt: after the run at hand was saved so that it can be resumed.
        AltpropError: where no record can be written at all.
    """
    if cell.settings.tune and refuse(cell) is None:
        tuning = importlib.import_module("altprop.harness.tuning")
        return tuning.run_tuning(cell)  # type: ignore[no-any-return]
    return run_seeds(cell)


def run_seeds(cell: Cell) -> list[Outcome]:
    """Run the seeds of a cell that have no final record; the only place where seeds are looped over.

    Raises:
        KeyboardInterrupt: after the run at hand was saved so that it can be resumed.
        AltpropError: where no record can be written at all.
    """
    from altprop.harness.data import data_digest
    from altprop.records.store import RunStore

    store = RunStore(cell.settings.runs_dir)
    s = cell.settings
    try:
        code = sources(cell)
        problem = None
    except Exception as error:
        code, problem = "unavailable", error
    # A run that never begins needs no data.
    loaded = data_digest(cell.config["task"], s) if problem is None and refuse(cell) is None else ""
    cell = replace(cell, data=loaded)
    cell_key = keys.cell_key(cell.config, code, loaded, s.device_type, s.precision, s.threads)
    named = {seed: keys.run_key(cell_key, seed) for seed in s.seeds}
    fresh = _run_stacked(cell, named, cell_key, store) if problem is None and refuse(cell) is None else frozenset()
    outcomes = []
    for seed, key in named.items():
        settled = store.settled(key)
        if settled is not None:
            outcomes.append(_outcome(cell, seed, settled.data, executed=seed in fresh))
            continue
        importlib.import_module("altprop.harness.runner")  # seconds of imports, before the claim
        lease = store.claim(key)
        if lease is None:
            outcomes.append(_elsewhere(cell, seed, key))
            continue
        with lease:
            settled = store.settled(key)
            if settled is not None:
                outcomes.append(_outcome(cell, seed, settled.data, executed=False))
                continue
            data = _run(cell, seed, key, cell_key, store, problem)
        outcomes.append(_outcome(cell, seed, data, executed=True))
        if data["status"] == RunStatus.INTERRUPTED:
            raise KeyboardInterrupt
    return outcomes


def _run_stacked(cell: Cell, named: Mapping[int, str], cell_key: str, store: Any) -> frozenset[int]:
    """Run those seeds as one that can, and return them.

    Raises:
        KeyboardInterrupt: after they were saved so that they can be resumed.
    """
    s = cell.settings
    plain = not (s.isolate or s.ranks > 1 or s.device_type != "cpu" or s.trainer.get("profiler"))
    if not (s.stack_seeds and plain and s.budget.currency != "seconds" and cell.axes["dropout"] == "none"):
        return frozenset()
    if s.logger.get("kind") is not None:
        return frozenset()
    waiting = {
        seed: key
        for seed, key in named.items()
        if store.settled(key) is None and not (store.path(key) / "checkpoint.pt").exists()
    }
    if len(waiting) < MIN_STACKED_SEEDS:
        return frozenset()
    stacking = importlib.import_module("altprop.harness.stacking")
    with contextlib.ExitStack() as leases:
        for seed, key in list(waiting.items()):
            lease = store.claim(key)
            if lease is None:
                del waiting[seed]
            else:
                leases.enter_context(lease)
        if len(waiting) < MIN_STACKED_SEEDS or not stacking.run_stacked(cell, waiting, cell_key, store):
            return frozenset()
    ended = {seed: store.read(key) for seed, key in waiting.items()}
    if any(record is None or record.status is RunStatus.INTERRUPTED for record in ended.values()):
        raise KeyboardInterrupt
    return frozenset(ended)


def _run(cell: Cell, seed: int, key: str, cell_key: str, store: Any, problem: Exception | None) -> dict[str, Any]:
    runner = importlib.import_module("altprop.harness.runner")
    sentence = refuse(cell)
    if problem is not None or sentence is not None:
        failure = problem if problem is not None else Refused(sentence)
        data: dict[str, Any] = runner.commit_without_run(cell, seed, key, cell_key, store, failure)
    elif cell.settings.isolate or cell.settings.ranks > 1:
        isolation = importlib.import_module("altprop.harness.isolation")
        data = isolation.run_isolated(cell, seed, key, cell_key, store)
    else:
        data = runner.run_seed(cell, seed, key, cell_key, store)
    return data


def _elsewhere(cell: Cell, seed: int, key: str) -> Outcome:
    return Outcome(
        cell.label, cell.workload, seed, "running", "another worker has this run", False, key=key, role=cell.role
    )


def _outcome(cell: Cell, seed: int, data: Mapping[str, Any], executed: bool) -> Outcome:
    result = data.get("result") or {}
    evaluated = result.get("validation") if data["status"] in (RunStatus.COMPLETED, RunStatus.REACHED_TARGET) else None
    return Outcome(
        cell.label,
        cell.workload,
        seed,
        str(data["status"]),
        str(data["reason"]),
        executed,
        result.get("test"),
        result.get("metric"),
        str(data["key"]),
        cell.role,
        None if evaluated is None else -evaluated if result.get("higher_is_better", True) else evaluated,
    )
