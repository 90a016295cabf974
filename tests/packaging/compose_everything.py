"""Compose every config that altprop ships and print one JSON object: config -> null, or what went wrong.

Run by test_wheel.py inside the environment of the wheel, whose own resolvers it registers.
"""

import json
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Any

from hydra import compose, initialize_config_module
from hydra.errors import ConfigCompositionException, HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from altprop.harness.composition import register_search_path


def yaml_files(folder: Traversable, group: str = "") -> list[tuple[str, str]]:
    """Pairs (group, option) below a folder; the group of the folder itself is the empty string."""
    found = []
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.name):
        if entry.is_dir():
            found += yaml_files(entry, f"{group}/{entry.name}".lstrip("/"))
        elif entry.name.endswith(".yaml"):
            found.append((group, entry.name.removesuffix(".yaml")))
    return found


def compose_one(primary: str, group: str, option: str) -> Any:
    """Compose one option of one group, whether or not the group is in the defaults list; `null` needs the quotes."""
    try:
        return compose(primary, [f"{group}='{option}'"], return_hydra_config=True)
    except ConfigCompositionException as error:
        if "defaults list" not in str(error):
            raise
    return compose(primary, [f"+{group}='{option}'"], return_hydra_config=True)


def main() -> None:
    """Compose all and print the outcome."""
    found = yaml_files(files("altprop.conf"))
    (primary,) = [option for group, option in found if not group]
    outcome: dict[str, str | None] = {}
    register_search_path()
    with initialize_config_module("altprop.conf", version_base="1.3"):
        for group, option in found:
            try:
                config = compose_one(primary, group, option) if group else compose(primary, return_hydra_config=True)
                # Hydra fills in its own node only when a job runs; everything of ours must resolve now.
                OmegaConf.set_struct(config, False)
                del config["hydra"]
                OmegaConf.to_container(config, resolve=True)
                outcome[f"{group}/{option}"] = None
            except (HydraException, OmegaConfBaseException, ValueError) as error:
                outcome[f"{group}/{option}"] = f"{type(error).__name__}: {error}"
    print(json.dumps(outcome))


if __name__ == "__main__":
    main()
