"""Hand mutants: a module's source with one edit, executed apart from the real one."""

import inspect
import sys
import types
from collections.abc import Callable
from types import ModuleType

import pytest


def mutate(module: ModuleType, old: str, new: str) -> ModuleType:
    """Return a copy of `module` in which the only occurrence of `old` reads `new`."""
    source = inspect.getsource(module)
    assert source.count(old) == 1, f"{old!r} occurs {source.count(old)} times in {module.__name__}"
    mutant = types.ModuleType(module.__name__ + ".mutant")
    sys.modules[mutant.__name__] = mutant  # dataclasses look their module up
    try:
        exec(compile(source.replace(old, new), mutant.__name__, "exec"), mutant.__dict__)
    finally:
        del sys.modules[mutant.__name__]
    return mutant


@pytest.fixture(name="mutate")
def _mutate() -> Callable[[ModuleType, str, str], ModuleType]:
    return mutate
