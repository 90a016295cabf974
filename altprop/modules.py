"""Where modules lie, found without importing anything; and how a great many are imported."""

from __future__ import annotations

import contextlib
import gc
import sys
from collections.abc import Iterator
from importlib.machinery import ModuleSpec
from pathlib import Path


def find_module(name: str) -> ModuleSpec | None:
    """Return where a module lies, as the import system would find it, None if nowhere; its parents are not imported."""
    loaded = getattr(sys.modules.get(name), "__spec__", None)
    if isinstance(loaded, ModuleSpec):
        return loaded
    if name == "__main__":
        file = getattr(sys.modules[name], "__file__", None)
        return ModuleSpec(name, None, origin=file)
    parent, _, _ = name.rpartition(".")
    where = None
    if parent:
        above = find_module(parent)
        where = None if above is None else above.submodule_search_locations
        if where is None:
            return None
    for finder in sys.meta_path:
        find = getattr(finder, "find_spec", None)
        try:
            spec = find(name, where) if find is not None else None
        except KeyError:  # a folder without __init__.py asks for its parent, which is not imported
            spec = _folder(name, [] if where is None else list(where))
        if isinstance(spec, ModuleSpec):
            return spec
    return None


def _folder(name: str, above: list[str]) -> ModuleSpec | None:
    """Return where a package without `__init__.py` lies in one of some folders."""
    places = [Path(folder, name.rpartition(".")[2]) for folder in above]
    found = [str(place) for place in places if place.is_dir()]
    if not found:
        return None
    spec = ModuleSpec(name, None, is_package=True)
    spec.submodule_search_locations = found
    return spec


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """Import without garbage collection, which would walk over thousands of new modules again and again.

    What was imported counts as old afterwards, so that no early collection walks over it either.
    """
    on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if gc.get_freeze_count() == 0:  # whoever froze objects keeps them frozen
            gc.freeze()
            gc.unfreeze()  # into the oldest generation
        if on:
            gc.enable()
