"""The Hydra side of `altprop`: search path, composition errors in one line, and the job of one cell."""

from __future__ import annotations

import math
import os
import re
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from altprop import catalogue
from altprop.declared import Unknown, find_class
from altprop.errors import AltpropError, near
from altprop.harness.cell import Cell, make_cell
from altprop.harness.commands import run_cell
from altprop.harness.composition import register_search_path, spell
from altprop.harness.planning import Outcome
from altprop.harness.sweep import SweepLog, begin, report_cell
from altprop.harness.validation import (
    GIVEN,
    HARNESS_GROUPS,
    PLUGIN_GROUPS,
    default_choice,
    known_keys,
    known_options,
    unknown_key,
    unknown_option,
)

GROUPS = ("algorithm", "optimizer", "dropout", "task", "model", "budget", "probes", "trainer", "logger")
# Hydra's own plugins, and the extra that brings each.
EXTRAS = {"submitit": "slurm", "ray": "ray", "optuna": "tune"}


def start(arguments: list[str]) -> None:
    """Hand the command line to Hydra.

    Raises:
        AltpropError: for a mistake in it, in one line with near names.
        KeyboardInterrupt: where a run was interrupted and saved.
    """
    register_search_path()
    _refuse_flags(arguments)
    before, full = sys.argv, os.environ.get("HYDRA_FULL_ERROR")
    spelled = [spell(a, _config_dirs(arguments)) for a in arguments]
    sys.argv = [before[0] if before else "altprop", *_for_each_cell(spelled)]
    os.environ["HYDRA_FULL_ERROR"] = "1"  # raise, and do not print and exit
    try:
        _application()
    except (HydraException, OmegaConfBaseException, YAMLError) as error:
        raise AltpropError(explain(error, arguments)) from error
    finally:
        sys.argv = before
        if full is None:
            os.environ.pop("HYDRA_FULL_ERROR", None)


def _for_each_cell(arguments: list[str]) -> list[str]:
    """Write an option of a part as a choice of one in a sweep, so that it is asked of the cells alone.

    Hydra composes a sweep's configuration once without its choices, where `algorithm=genetic,snes algorithm.sigma=1`
    would be an option that the default algorithm lacks.
    """
    if not {"-m", "--multirun"} & set(arguments) or any(a.startswith("hydra/sweeper=") for a in arguments):
        return arguments
    return [_of_one(a) if a.partition(".")[0] in PLUGIN_GROUPS else a for a in arguments]


def _of_one(argument: str) -> str:
    """Return an override as a choice of one, where Hydra then hands on the same text: null and quotes it does not."""
    name, _, value = argument.partition("=")
    chosen, parser = f"{name}=choice({value})", OverridesParser.create()
    try:
        if parser.parse_override(argument).is_sweep_override():
            return argument
        handed_on = list(parser.parse_override(chosen).sweep_string_iterator())
    except HydraException:
        return argument
    return chosen if handed_on == [value] else argument


def _refuse_flags(arguments: Sequence[str]) -> None:
    """Refuse an option that is written as a flag, of which Hydra would print all that it knows."""
    for argument in arguments:
        name, given, value = argument.removeprefix("--").partition("=")
        if argument.startswith("--") and name.partition(".")[0] in known_keys():
            raise AltpropError(f"{argument} is no flag; say {name}={value if given else '...'}")


def explain(error: Exception, overrides: Sequence[str]) -> str:
    """Turn Hydra's words into one line that says what to do."""
    words = " ".join(str(error).split("\n\nSet the environment")[0].split())
    for override in overrides:
        group, _, value = override.lstrip("+").partition("=")
        extra = EXTRAS.get(value.partition("_")[0])
        if extra and group in ("hydra/launcher", "hydra/sweeper") and f"'{group}/{value}'" in words:
            return f"{override} needs a package that is not there; pip install 'altprop[{extra}]'"
        entries = catalogue.entries(group.partition("@")[0], tuple(_config_dirs(overrides)))
        for entry in (entries.get(part.strip("'\"")) for part in value.split(",")):
            if entry is not None and entry.problem:
                return f"{group}={entry.name}: {entry.problem}"
    unknown = _NOT_FOUND.search(words)
    if unknown is not None:
        return f"{unknown[1]}={unknown[2]} is unknown; {near(unknown[2], unknown[3].split())}"
    absent = re.search(r"Could not override '([\w.@]+)'", words)
    if absent is not None:
        return _absent(absent[1], overrides)
    bare = next((o for o in overrides if "=" not in o and not o.startswith(("-", "~"))), None)
    if bare is not None and "missing EQUAL" in words:
        group = next((group for group in GROUPS if bare in catalogue.entries(group)), "")
        meant = f"{group}={bare}" if group else f"{bare if bare in known_keys() else 'name'}=..."
        return f"{bare} is no override; say {meant}"
    return words


_NOT_FOUND = re.compile(r"Could not find '([\w/]+)/([^/']+)' Available options in '[\w/]+': (.*?) Config search path")


def _absent(name: str, overrides: Sequence[str]) -> str:
    """Return the sentence for a key that no yaml holds: whether it can be added at all, and what else was meant."""
    value = next((o.partition("=")[2] for o in overrides if o.startswith(f"{name}=")), "...")
    group, _, option = name.partition(".")
    if group not in known_keys():
        return unknown_key(group, value)
    if group in HARNESS_GROUPS and option not in known_options(group):
        return unknown_option(group, option, value, known_options(group))
    for chosen in _chosen(group, overrides):
        whose, taken = _taken(group, chosen, overrides)
        if whose and option.partition(".")[0] not in taken:
            return unknown_option(group, option, value, taken, whose)
    return f"{name} stands in no yaml of this {group}; if it is an option all the same, say +{name}={value}"


def _chosen(group: str, overrides: Sequence[str]) -> list[str]:
    """Return what was chosen of a group: one name, or those of a sweep."""
    given = next((o.partition("=")[2] for o in reversed(overrides) if o.startswith(f"{group}=")), "")
    return [name.strip("'\" ") for name in given.split(",")] if given else [default_choice(group)]


def _taken(group: str, chosen: str, overrides: Sequence[str]) -> tuple[str, frozenset[str]]:
    """Return the class of a part by its name and its options; "" where its source does not tell."""
    entry = catalogue.entries(group, tuple(_config_dirs(overrides))).get(chosen)
    try:
        kind = find_class(entry.values.get("_target_")) if entry is not None and group in PLUGIN_GROUPS else None
        constructor = None if kind is None else kind.constructor()
    except (AltpropError, Unknown):
        return "", frozenset()
    if kind is None or constructor is None or constructor.open:
        return "", frozenset()
    return kind.node.name, frozenset(constructor.arguments) - GIVEN.get(group, frozenset())


def _config_dirs(overrides: Sequence[str]) -> list[str]:
    found = [o.partition("=")[2] for o in overrides if o.startswith("--config-dir=")]
    places = [i for i, o in enumerate(overrides[:-1]) if o in ("--config-dir", "-cd")]
    return found + [overrides[i + 1] for i in places]


@hydra.main(version_base="1.3", config_path="pkg://altprop.conf", config_name="config")
def _application(config: DictConfig) -> float:
    """Run one cell and return what a sweeper that searches minimises: the mean of the runs' objectives.

    It never raises but for an interrupt: a raised job would silence the end of a sweep.
    """
    started = time.perf_counter()
    hydra_config = HydraConfig.get()
    overrides = list(hydra_config.overrides.task)
    multirun = "MULTIRUN" in str(hydra_config.mode)
    try:
        folders = [source.path for source in hydra_config.runtime.config_sources if source.provider == "command-line"]
        cell = replace(cell_of(config, overrides, folders, swept=multirun), command=_command())
    except AltpropError as error:
        if not multirun:
            _tell(error)
            return math.inf
        choices = hydra_config.runtime.choices
        label, task = str(choices.get("algorithm", "?")), str(choices.get("task", "?"))
        report_cell([Outcome(label, task, 0, "failed", str(error), False)], time.perf_counter() - started)
        _tell(error)
        return math.inf
    try:
        begin(f"{cell.label} on {cell.workload}")
        outcomes = run_cell(cell)
    except AltpropError as error:  # no record can be written: the folder is missing, full or not ours
        _tell(error)
        return math.inf
    report_cell(outcomes, time.perf_counter() - started)
    evaluated = [outcome.objective for outcome in outcomes if outcome.role == "run"]
    return statistics.fmean(math.inf if value is None else value for value in evaluated) if evaluated else math.inf


def _command() -> str | None:
    log = SweepLog.open()
    return None if log is None else log.command()


def _tell(error: AltpropError) -> None:
    """Leave a mistake on the log: a raised job would silence the end of a sweep, and workers have no other voice."""
    log = SweepLog.open()
    if log is None:
        raise error
    log.write({"kind": "mistake", "text": str(error)})


def cell_of(config: DictConfig, overrides: Sequence[str], folders: Sequence[str] = (), *, swept: bool = False) -> Cell:
    """Resolve a composed configuration and check it.

    Args:
        config: composed.
        overrides: as they were given.
        folders: of further yaml files.
        swept: whether the cell is one of a sweep, whose overrides may be for others of its cells.

    Raises:
        AltpropError: for an unresolvable or unusable value, and for an override that nothing reads.
    """
    try:
        plain: Any = OmegaConf.to_container(config, resolve=True)
    except OmegaConfBaseException as error:
        raise AltpropError(" ".join(str(error).split())) from error
    assert isinstance(plain, Mapping)
    plain = {name: value for name, value in plain.items() if name != "hydra"}
    cell = make_cell(plain, overrides, OmegaConf.to_yaml(OmegaConf.create(plain), sort_keys=True), folders)
    if cell.unread and not swept:
        raise AltpropError(f"{cell.axes['algorithm']} takes no optimizer; leave {' '.join(cell.unread)} out")
    return cell
