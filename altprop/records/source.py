"""The hash of the code that a run depends on: syntax trees without comments and docstrings, with all that they import.

Nothing is imported to find it: modules are located as Python would locate them, parsed, and their import statements
followed inside altprop (and inside the plugin's own package). `if TYPE_CHECKING:` is not followed, nor are libraries:
their versions are in the provenance.
"""

from __future__ import annotations

import ast
import hashlib
import sys
from collections.abc import Iterable, Iterator
from importlib.machinery import ModuleSpec
from pathlib import Path

from altprop.errors import AltpropError
from altprop.exports import EXPORTS

LIBRARIES = frozenset({"deap", "numpy", "pytorch_lightning", "pytorch_optimizer", "scipy", "sklearn", "torch"})
"""Top-level packages whose version stands for their code; it is in the provenance, not in the key."""
_HOME = "altprop"
_SKIPPED_FIELDS = {"ctx", "kind", "type_comment", "type_ignores"}
_cache: dict[Path, tuple[tuple[int, int], str, tuple[str, ...]]] = {}


def source_hash(modules: Iterable[str]) -> str:
    """Return the hash (64 hex digits) of the code of `modules` and of all that they import inside altprop.

    For a module outside altprop the modules beside it in the same package count too. Order and repetition of
    `modules`, formatting, comments and docstrings change nothing; any other change of the code changes the hash.

    Args:
        modules: Dotted names; those of `LIBRARIES` enter by name alone.

    Raises:
        AltpropError: A module does not exist or has no source.
    """
    names = sorted(set(modules))
    parts = [f"{name}={digest}" for name, digest in sorted(_closure(names).items())]
    parts += [f"library {name}" for name in names if _top(name) in LIBRARIES]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _closure(names: Iterable[str]) -> dict[str, str]:
    """Return name -> hash of the syntax tree for `names` and everything that they import from known homes."""
    waiting = [name for name in names if _top(name) not in LIBRARIES]
    homes = {_HOME} | {_top(name) for name in waiting}
    found: dict[str, str] = {}
    for name in list(waiting):
        spec = _find(name)
        if spec is None:
            raise AltpropError(f"there is no module {name}; check the _target_ that names it")
        if spec.origin is None:
            raise AltpropError(
                f"module {name} has no source file, so its runs cannot be told apart: save it as a .py file"
            )
        if _top(name) != _HOME:
            waiting += _beside(name, spec)
    while waiting:
        name = waiting.pop()
        if (
            name in found or name == _HOME
        ):  # altprop/__init__.py is the front door to everything; the kernel number covers it.
            continue
        spec = _find(name)
        if spec is None or spec.origin is None or not Path(spec.origin).is_file():
            continue
        found[name], imported = _read(Path(spec.origin), name, spec.submodule_search_locations is not None)
        for wanted in imported:
            if _top(wanted) in homes or ("." not in name and _is_neighbour(wanted, Path(spec.origin))):
                homes.add(_top(wanted))
                waiting.append(wanted)
    return found


def _top(name: str) -> str:
    return name.partition(".")[0]


def _find(name: str) -> ModuleSpec | None:
    """Return where `name` lies, as the import system would find it, without importing its parents; None if nowhere."""
    loaded = getattr(sys.modules.get(name), "__spec__", None)
    if isinstance(loaded, ModuleSpec):
        return loaded
    if name == "__main__":
        file = getattr(sys.modules[name], "__file__", None)
        return ModuleSpec(name, None, origin=file)
    parent, _, _ = name.rpartition(".")
    where = None
    if parent:
        above = _find(parent)
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
    """Return the specification of a package without `__init__.py` in one of some folders."""
    places = [str(Path(folder, name.rpartition(".")[2])) for folder in above]
    found = [place for place in places if Path(place).is_dir()]
    if not found:
        return None
    spec = ModuleSpec(name, None, is_package=True)
    spec.submodule_search_locations = found
    return spec


def _beside(name: str, spec: ModuleSpec) -> list[str]:
    """Return the names of the modules in the package of a plugin's module, itself included."""
    package = name if spec.submodule_search_locations is not None else name.rpartition(".")[0]
    if not package or spec.origin is None:
        return []
    return [
        package if path.stem == "__init__" else f"{package}.{path.stem}"
        for path in Path(spec.origin).parent.glob("*.py")
    ]


def _is_neighbour(wanted: str, file: Path) -> bool:
    """Whether `wanted`, imported by the stand-alone module in `file`, lies in the same folder."""
    top = file.parent / _top(wanted)
    return top.with_name(top.name + ".py").is_file() or (top / "__init__.py").is_file()


def _read(path: Path, name: str, is_package: bool) -> tuple[str, tuple[str, ...]]:
    """Return the hash of a file's syntax tree and the names of all modules that it may import."""
    status = path.stat()
    stamp = (status.st_mtime_ns, status.st_size)
    known = _cache.get(path)
    if known is None or known[0] != stamp:
        raw = path.read_bytes()
        if path.suffix == ".py":
            try:
                tree = ast.parse(raw, filename=str(path))
            except (SyntaxError, ValueError) as error:
                raise AltpropError(f"{path} is not valid Python: {error}") from error
            digest, imported = (
                hashlib.sha256("".join(_tokens(tree)).encode()).hexdigest(),
                _imports(tree, name, is_package),
            )
        else:
            digest, imported = hashlib.sha256(raw).hexdigest(), ()
        known = _cache[path] = (stamp, digest, imported)
    return known[1], known[2]


def _tokens(node: ast.AST) -> Iterator[str]:
    """Yield a spelling of a syntax tree that leaves out positions and docstrings.

    It does not vary with the Python version where the tree does not: absent fields, which newer versions add to, are
    not written.
    """
    yield f"({type(node).__name__}"
    for field, value in ast.iter_fields(node):
        if isinstance(node, ast.Constant) and field == "value":
            yield f" {type(value).__name__}:{value!r}"
        elif field in _SKIPPED_FIELDS or value is None or value == []:
            continue
        elif isinstance(value, list):
            body = field == "body" and isinstance(
                node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
            )
            yield f" {field}["
            for entry in value[1:] if body and _is_docstring(value[0]) else value:
                if isinstance(entry, ast.AST):
                    yield from _tokens(entry)
                else:
                    yield f" {entry!r}"
            yield "]"
        elif isinstance(value, ast.AST):
            yield f" {field}="
            yield from _tokens(value)
        else:
            yield f" {field}={value!r}"
    yield ")"


def _is_docstring(statement: ast.stmt) -> bool:
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
    )


def _imports(tree: ast.Module, name: str, is_package: bool) -> tuple[str, ...]:
    """Return the dotted names that a module may import, at any depth of its code, in order."""
    names: dict[str, None] = {}
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            waiting += node.orelse
            continue
        if isinstance(node, ast.Import):
            names.update(dict.fromkeys(alias.name for alias in node.names))
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = name.split(".")[: len(name.split(".")) - node.level + is_package]
                base = ".".join([*above, *([base] if base else [])])
            # `from a import b` may mean the module a.b as well as the name b in a: what does not exist is passed over.
            names.update(dict.fromkeys([base, *(f"{base}.{alias.name}" for alias in node.names)]))
            if base == _HOME:  # The front door hands out names that live in other modules.
                names.update(dict.fromkeys(EXPORTS[alias.name] for alias in node.names if alias.name in EXPORTS))
        waiting += ast.iter_child_nodes(node)
    return tuple(names)
