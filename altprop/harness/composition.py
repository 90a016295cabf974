"""Hydra's side of a cell: where configuration is looked for, and how choices are spelled so that Hydra takes them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from hydra import compose, initialize_config_module
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import DictConfig, OmegaConf, open_dict

from altprop import catalogue
from altprop.errors import AltpropError, near

_NAMELESS = re.compile("null|true|false|[0-9.]*", re.IGNORECASE)
"""What Hydra reads as no text, and so as no name of a choice."""


class PluginSearchPath(SearchPathPlugin):
    """Adds the config packages of installed plugins to Hydra's search path."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Append the folder of each distribution in the group altprop.plugins that can be found."""
        for name, folder, problem in catalogue.search_folders():
            if name != "altprop" and folder is not None and problem is None:
                search_path.append(f"altprop-plugin-{name}", f"file://{folder}")


def register_search_path() -> None:
    """Make Hydra know the plugins' folders and `${repeat:VALUE,TIMES}`, a list; harmless when called again."""
    Plugins.instance().register(PluginSearchPath)
    OmegaConf.register_new_resolver("repeat", lambda value, times: [value] * times, replace=True)


def compose_cell(overrides: Sequence[str], config_dir: str | Path | None = None) -> DictConfig:
    """Compose the configuration of one cell outside a command, whatever Hydra is doing around.

    Args:
        overrides: as on the command line, no sweeps.
        config_dir: a folder with further algorithm/, task/ ... yaml files.

    Raises:
        HydraException: for what Hydra does not take.
    """
    register_search_path()
    extra = [] if config_dir is None else [f"hydra.searchpath=[file://{Path(config_dir).resolve()}]"]
    kept = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        with initialize_config_module("altprop.conf", version_base="1.3"):
            config = compose("config", [*map(spell, overrides), *extra], return_hydra_config=True)
            with open_dict(config):
                config.pop("hydra")
            return config
    finally:
        GlobalHydra.instance().clear()
        if kept is not None:
            GlobalHydra.instance().initialize(kept)


def spell(argument: str, config_dirs: Sequence[str] = ()) -> str:
    """Write an override so that Hydra reads what was meant.

    `+tune=` sets what is there. A bare `null` would mean "no such group", and a glob would take it for that and
    `custom` for an algorithm: both are spelled out.

    Args:
        argument: one override.
        config_dirs: folders given on the command line, which a glob looks into as well.

    >>> spell("algorithm=null,dfa")
    "algorithm='null',dfa"
    >>> spell("algorithm=glob(*_direction)")
    'algorithm=random_direction'

    Raises:
        AltpropError: for a group that is set to what is no name.
    """
    if argument.startswith("+tune="):
        return argument[1:]  # it stands in the configuration, and Hydra would refuse to add it
    if argument.startswith(("task.penalty.", "task.examples=", "task.smoothing=")):
        return f"++{argument}"  # no yaml needs to say that a task has none
    group, _, value = argument.partition("=")
    nameless = "=" in argument and _NAMELESS.fullmatch(value) and argument != "algorithm=null"
    if nameless and (known := catalogue.entries(group.lstrip("+"), tuple(config_dirs))):
        raise AltpropError(f"{argument} names nothing; {near(value, known)}")  # Hydra would end with a traceback
    if "glob(" in argument and group in ("algorithm", "task", "model"):
        return _expanded(argument, group, config_dirs)
    if group != "algorithm":
        return argument
    given = argument.removeprefix("algorithm=").split(",")
    return "algorithm=" + ",".join("'null'" if name == "null" else name for name in given)


def _expanded(argument: str, group: str, config_dirs: Sequence[str]) -> str:
    """Replace a glob over a group by the names of those that need nothing of their user."""
    try:
        value = OverridesParser.create().parse_override(argument).value()
    except HydraException:
        return argument  # Hydra says what is wrong with it
    if not isinstance(value, Glob):
        return argument
    known = catalogue.entries(group, tuple(config_dirs)).items()
    names = value.filter([name for name, one in known if not one.problem and not catalogue.left_open(one.values)])
    return spell(f"{group}=" + ",".join(names)) if names else argument
