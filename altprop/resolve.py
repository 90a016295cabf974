"""Build values from configuration, but only classes of the expected base.

Hydra would call any `_target_`, torch.load included. Here a path must resolve to a class of the expected base before
anything is called.
"""

import importlib
import inspect
from collections.abc import Mapping
from typing import Any, TypeVar

from altprop.errors import AltpropError, near

T = TypeVar("T")

# Keys of a plugin's yaml that describe it and are not arguments of its class.
METADATA = frozenset({"name", "control", "reference", "search", "paper", "irrelevant", "code"})
# What a task's yaml says for others: defaults of its model and budget.
TASK_METADATA = METADATA | {"hidden", "activation", "budget", "equivalence_margin"}


def resolve_class(path: Any, base: type[T]) -> type[T]:
    """Import `package.module.Class` and check that it is a concrete class of the expected base.

    Raises:
        AltpropError: for a path that does not import, is no class, or is of another base.
    """
    if not isinstance(path, str) or "." not in path:
        raise AltpropError(f"_target_ must be an import path such as package.module.Class; got {path!r}")
    module_name, _, name = path.rpartition(".")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise AltpropError(f"_target_={path}: cannot import {error.name}") from error
    except Exception as error:
        words = f"importing {module_name} raised {type(error).__name__}: {error}"
        raise AltpropError(f"_target_={path}: {words}") from error
    found = getattr(module, name, None)
    if found is None:
        classes = [key for key, value in vars(module).items() if inspect.isclass(value) and issubclass(value, base)]
        raise AltpropError(f"_target_={path}: {module_name} has no {name}; {near(name, classes)}")
    if not inspect.isclass(found) or not issubclass(found, base):
        raise AltpropError(f"_target_={path} is not a class of {base.__module__}.{base.__qualname__}; refused")
    if inspect.isabstract(found):
        raise AltpropError(f"_target_={path} is abstract; name one of its subclasses")
    return found


def arguments(config: Mapping[str, Any], what: str = "") -> dict[str, Any]:
    """Return the constructor arguments that a plugin's configuration holds."""
    metadata = TASK_METADATA if what == "task" else METADATA
    return {key: value for key, value in config.items() if key not in metadata and key != "_target_"}


def build(config: Mapping[str, Any], base: type[T], what: str, **extra: Any) -> T:
    """Build one value of configuration.

    Args:
        config: plain mapping with `_target_` and arguments.
        base: class that the target must derive from.
        what: how to call it in messages, such as "model".
        extra: arguments that the harness fills in.

    Raises:
        AltpropError: for a wrong target or wrong arguments, before or while the class is built.
    """
    if "_target_" not in config:
        raise AltpropError(f"{what} has no _target_; choose {what}=NAME or {what}._target_=package.module.Class")
    kind = resolve_class(config["_target_"], base)
    given = {**arguments(config, what), **extra}
    signature = inspect.signature(kind)
    takes_any = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in signature.parameters.values())
    unknown = [] if takes_any else sorted(set(given) - set(signature.parameters))
    if unknown:
        hint = near(unknown[0], signature.parameters)
        raise AltpropError(f"{what}.{unknown[0]} is no option of {kind.__name__}; {hint}")
    missing = [
        name
        for name, p in signature.parameters.items()
        if p.default is inspect.Parameter.empty
        and p.kind in (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
        and name not in given
    ]
    if missing:
        raise AltpropError(f"{what}={kind.__name__} needs {what}.{missing[0]}")
    try:
        return kind(**given)
    except (TypeError, ValueError) as error:
        raise AltpropError(f"{what}={kind.__name__}: {error}") from error
