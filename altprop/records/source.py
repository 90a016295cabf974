"""The hash of the code that a run depends on: syntax trees without comments and docstrings, with all that they import.

The rule for a run. Roots are the modules of its algorithm, noise, task and model, and `altprop.problem`; also
`altprop.optim` where the cell takes an optimizer, and the module of its probes where they are on. From there imports
are followed inside altprop and inside a plugin's own package, but not those under `if TYPE_CHECKING:`, and never into
what no step calls (`_NEVER`); the kernel's own imports of optim and probes count only where these are roots. What a
class needs for its oracles alone is left out: its `oracles`, and the private definitions and the imports of its module
that nothing else there uses. The rule for an oracle check: the algorithm's module with its oracles, and imports of
`altprop.testing`, optim and probes followed like all others. The harness has no part in either: the number `KERNEL`
stands for it in the keys.

Nothing is imported to find the code: modules are located as Python would locate them, parsed, and their import
statements read. Libraries are not followed: their versions are in the provenance.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Callable, Iterable, Mapping
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

from altprop.errors import AltpropError
from altprop.exports import EXPORTS
from altprop.modules import find_module

LIBRARIES = frozenset({"deap", "numpy", "pytorch_lightning", "pytorch_optimizer", "scipy", "sklearn", "torch"})
"""Top-level packages whose version stands for their code; it is in the provenance, not in the key."""
_HOME = "altprop"
_NEVER = ("catalogue", "cli", "conformance", "harness", "records", "report", "testing")
"""Modules and packages of altprop that no step of a run calls."""
_GATED = ("optim", "probes")
"""Packages that a run depends on where they are among its roots, or where a plugin imports them itself."""
_PLUGINS = ("algorithms", "tasks")
"""Packages of altprop that hold plugins; the rest is the kernel."""
_WITH_DOCSTRING = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
_SKIPPED_FIELDS = {"ctx", "kind", "type_comment", "type_ignores"}
_cache: dict[tuple[Path, bool], tuple[tuple[int, int], str, tuple[str, ...]]] = {}


def source_hash(modules: Iterable[str], oracles: bool = False) -> str:
    """Return the hash (64 hex digits) of the code of `modules` and of all that they import inside altprop.

    For a module outside altprop the modules beside it in the same package count too. Order and repetition of
    `modules`, formatting, comments and docstrings change nothing; any other change of the code changes the hash.

    Args:
        modules: Dotted names; those of `LIBRARIES` enter by name alone.
        oracles: Whether the code is that of an oracle check and not of a run.

    Raises:
        AltpropError: A module does not exist or has no source.
    """
    names = sorted(set(modules))
    parts = [f"{name}={digest}" for name, digest in sorted(_closure(names, oracles).items())]
    parts += [f"library {name}" for name in names if _top(name) in LIBRARIES]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _closure(names: Iterable[str], oracles: bool = False) -> dict[str, str]:
    """Return name -> hash of the syntax tree for `names` and everything that they import from known homes."""
    waiting = [name for name in names if _top(name) not in LIBRARIES]
    homes = {_HOME} | {_top(name) for name in waiting}
    open_ = {part for part in _GATED if oracles or any(_within(name, (part,)) for name in waiting)}
    closed = tuple(part for part in (*_NEVER, *_GATED) if not (part in open_ or (oracles and part == "testing")))
    found: dict[str, str] = {}
    for name in list(waiting):
        spec = find_module(name)
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
        if name in found or name == _HOME:  # altprop/__init__.py hands out what lies elsewhere and is followed there.
            continue
        spec = find_module(name)
        if spec is None or spec.origin is None or not Path(spec.origin).is_file():
            continue
        found[name], imported = _read(Path(spec.origin), name, spec.submodule_search_locations is not None, oracles)
        kernel = _top(name) == _HOME and not _within(name, _PLUGINS)
        for wanted in imported:
            if _within(wanted, closed if kernel else tuple(part for part in closed if part not in _GATED)):
                continue
            if _top(wanted) in homes or ("." not in name and _is_neighbour(wanted, Path(spec.origin))):
                homes.add(_top(wanted))
                waiting.append(wanted)
    return found


def _within(name: str, parts: tuple[str, ...]) -> bool:
    """Return whether a module is one of some parts of altprop or lies in one."""
    return name.startswith(tuple(f"{_HOME}.{part}." for part in parts)) or name in {f"{_HOME}.{p}" for p in parts}


def _top(name: str) -> str:
    return name.partition(".")[0]


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
    """Return whether `wanted`, imported by the stand-alone module in `file`, lies in the same folder."""
    top = file.parent / _top(wanted)
    return top.with_name(top.name + ".py").is_file() or (top / "__init__.py").is_file()


def _read(path: Path, name: str, is_package: bool, oracles: bool) -> tuple[str, tuple[str, ...]]:
    """Return the hash of a file's syntax tree and the names of all modules that it may import."""
    status = path.stat()
    stamp = (status.st_mtime_ns, status.st_size)
    known = _cache.get((path, oracles))
    if known is None or known[0] != stamp:
        raw = path.read_bytes()
        if path.suffix == ".py":
            try:
                tree = ast.parse(raw, filename=str(path))
            except (SyntaxError, ValueError) as error:
                raise AltpropError(f"{path} is not valid Python: {error}") from error
            if b"TYPE_CHECKING" in raw:
                tree = _ForTypeCheckers().visit(tree)
            if not oracles:
                _leave_out_oracles(tree)
            digest = hashlib.sha256(_spelling(tree).encode()).hexdigest()
            imported = _imports(tree, name, is_package)
        else:
            digest, imported = hashlib.sha256(raw).hexdigest(), ()
        known = _cache[path, oracles] = (stamp, digest, imported)
    return known[1], known[2]


class _ForTypeCheckers(ast.NodeTransformer):
    """Takes out `if TYPE_CHECKING:`, whose body never runs, and leaves its `else`."""

    def visit_If(self, node: ast.If) -> Any:
        self.generic_visit(node)
        test = node.test.attr if isinstance(node.test, ast.Attribute) else getattr(node.test, "id", "")
        return node.orelse if test == "TYPE_CHECKING" else node


def _leave_out_oracles(tree: ast.Module) -> None:
    """Take `oracles` out of a module's classes, and the private definitions and imports that nothing else there uses.

    A definition is private where its name begins with an underscore: no other module may use it.
    """
    oracles: list[ast.AST] = []
    for kind in tree.body:
        if isinstance(kind, ast.ClassDef):
            oracles += [entry for entry in kind.body if isinstance(entry, ast.FunctionDef) and entry.name == "oracles"]
            kind.body = [entry for entry in kind.body if entry not in oracles]
    if not oracles:
        return
    private = {name: entry for entry in tree.body if (name := _defined(entry)).startswith("_")}
    reached = _reached(oracles, private)
    others = [entry for entry in tree.body if not isinstance(entry, (ast.Import, ast.ImportFrom))]
    used = _reached([entry for entry in others if private.get(_defined(entry)) is not entry], private)
    used |= _reached([entry for name, entry in private.items() if name not in reached], private)
    alone = reached - used
    gone = [entry for name, entry in private.items() if name in alone]
    tree.body = [entry for entry in tree.body if entry not in gone]
    for entry in tree.body:
        if isinstance(entry, (ast.Import, ast.ImportFrom)):
            entry.names = [one for one in entry.names if (one.asname or _top(one.name)) not in alone]
    tree.body = [entry for entry in tree.body if getattr(entry, "names", True)]


def _defined(statement: ast.stmt) -> str:
    """Return the one name that a function, a class or a plain assignment defines, empty for any other statement."""
    if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        return statement.name
    targets = statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
    return targets[0].id if len(targets) == 1 and isinstance(targets[0], ast.Name) else ""


def _reached(start: Iterable[ast.AST], private: Mapping[str, ast.stmt]) -> set[str]:
    """Return all names that some code uses, and those used by the private definitions among them, and so on."""
    found: set[str] = set()
    waiting = list(start)
    while waiting:
        for node in ast.walk(waiting.pop()):
            # A text may be a name too: an annotation in quotes, or what getattr is given.
            name = node.id if isinstance(node, ast.Name) else node.value if isinstance(node, ast.Constant) else None
            if isinstance(name, str) and name not in found:
                found.add(name)
                waiting += [private[name]] if name in private else []
    return found


def _spelling(tree: ast.AST) -> str:
    """Return a spelling of a syntax tree that leaves out positions and docstrings.

    It does not vary with the Python version where the tree does not: absent fields, which newer versions add to, are
    not written.
    """
    parts: list[str] = []
    _spell(tree, parts.append)
    return "".join(parts)


def _spell(node: ast.AST, write: Callable[[str], None]) -> None:
    """Write the parts of a spelling; each command spells half a megabyte of code, so this is no generator."""
    write(f"({type(node).__name__}")
    for field in node._fields:
        value = getattr(node, field, None)
        if field == "value" and isinstance(node, ast.Constant):
            write(f" {type(value).__name__}:{value!r}")
        elif value is None or field in _SKIPPED_FIELDS or value == []:
            continue
        elif isinstance(value, ast.AST):
            write(f" {field}=")
            _spell(value, write)
        elif isinstance(value, list):
            write(f" {field}[")
            body = field == "body" and isinstance(node, _WITH_DOCSTRING)
            for entry in value[1:] if body and _is_docstring(value[0]) else value:
                if isinstance(entry, ast.AST):
                    _spell(entry, write)
                else:
                    write(f" {entry!r}")
            write("]")
        else:
            write(f" {field}={value!r}")
    write(")")


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
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == _HOME:
            names.update(dict.fromkeys([EXPORTS[node.attr]] if node.attr in EXPORTS else []))
        waiting += ast.iter_child_nodes(node)
    return tuple(names)
