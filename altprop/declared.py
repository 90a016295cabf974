"""What a class declares, read from its source: no plugin is imported to list it, to refuse a cell or to check options.

Only what is written plainly is understood: class statements, imports, literals and sums of them. Whatever else a module
does, the answer is "unknown", and the class itself is asked when it is built.
"""

from __future__ import annotations

import ast
import math
import operator
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from altprop.capabilities import BatchMode, Capability, PredictorKind
from altprop.checks import LEAST_SQUARES_LOSSES
from altprop.errors import AltpropError, near
from altprop.modules import find_module

_ENUMERATIONS = {"Capability": Capability, "BatchMode": BatchMode, "PredictorKind": PredictorKind}
_NUMBERS = {"inf": math.inf, "pi": math.pi, "e": math.e}
_SETS = {"frozenset": frozenset, "set": set, "tuple": tuple, "list": list, "float": float}
_OPERATIONS = {
    ast.BitOr: operator.or_,
    ast.BitAnd: operator.and_,
    ast.Sub: operator.sub,
    ast.Add: operator.add,
    ast.Mult: operator.mul,
    ast.Pow: operator.pow,
    ast.Div: operator.truediv,
}
_EMPTY_BASES = {"abc.ABC", "typing.Generic", "typing.Protocol", "builtins.object"}
_modules: dict[Path, tuple[tuple[int, int], Module]] = {}


class Unknown(Exception):
    """What is asked for is not written plainly enough to be read."""


class Unset(Unknown):
    """None of the classes that can be read sets this attribute."""


def find_class(path: Any) -> Class:
    """Find the class statement that an import path such as package.module.Class leads to.

    Raises:
        AltpropError: for a path that leads nowhere, or to what is no class.
        Unknown: where the source does not tell.
    """
    if not isinstance(path, str) or "." not in path:
        raise AltpropError(f"_target_ must be an import path such as package.module.Class; got {path!r}")
    module_name, _, name = path.rpartition(".")
    try:
        module = _module(module_name)
    except Unknown:
        if find_module(module_name) is None:
            raise AltpropError(f"_target_={path}: cannot import {_missing(module_name)}") from None
        raise
    found = module.find(name)
    if isinstance(found, Class):
        return found
    if found is not None and isinstance(found.node, (ast.FunctionDef, ast.AsyncFunctionDef)):
        raise AltpropError(f"_target_={path} is a function; name a class")
    if found is not None or module.opaque:
        raise Unknown(path)
    raise AltpropError(f"_target_={path}: {module_name} has no {name}; {near(name, module.classes())}")


def _missing(name: str) -> str:
    """Return the first of a module and its parents that does not exist."""
    parts = name.split(".")
    prefixes = (".".join(parts[: n + 1]) for n in range(len(parts)))
    return next(prefix for prefix in prefixes if find_module(prefix) is None)


def _module(name: str) -> Module:
    """Parse a module; one file is parsed once a process."""
    path = _place(name, tuple(sys.path))
    status = path.stat()
    stamp = (status.st_mtime_ns, status.st_size)
    known = _modules.get(path)
    if known is None or known[0] != stamp:
        try:
            tree = ast.parse(path.read_bytes(), filename=str(path))
        except (SyntaxError, ValueError) as error:
            raise AltpropError(f"{path} is not valid Python: {error}") from error
        known = _modules[path] = (stamp, Module(name, tree, path.stem == "__init__"))
    return known[1]


@cache
def _place(name: str, search_path: tuple[str, ...]) -> Path:
    """Return the file of a module; `search_path` says for which it was looked up."""
    spec = find_module(name)
    path = Path(spec.origin) if spec is not None and spec.origin is not None else None
    if path is None or path.suffix != ".py" or not path.is_file():
        raise Unknown(name)
    return path


class Module:
    """The names that a module binds at its top level.

    Args:
        name: dotted.
        tree: its syntax.
        is_package: whether the file is an `__init__.py`.

    Attributes:
        opaque: whether it may bind names that are not seen: by `import *` or its own `__getattr__`.
    """

    def __init__(self, name: str, tree: ast.Module, is_package: bool) -> None:
        self.name = name
        self.opaque = False
        self._classes: dict[str, Class] = {}
        self._bound: dict[str, ast.AST | tuple[str, str | None]] = {}
        for statement in _statements(tree.body):
            self._bind(statement, is_package)

    def _bind(self, statement: ast.stmt, is_package: bool) -> None:
        if isinstance(statement, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            self._bound[statement.name] = statement
            self.opaque |= statement.name == "__getattr__"
        elif isinstance(statement, ast.Assign):
            self._bound |= {target.id: statement.value for target in statement.targets if isinstance(target, ast.Name)}
        elif isinstance(statement, ast.AnnAssign) and statement.value and isinstance(statement.target, ast.Name):
            self._bound[statement.target.id] = statement.value
        elif isinstance(statement, ast.Import):
            for alias in statement.names:
                whole = alias.name if alias.asname else alias.name.partition(".")[0]
                self._bound[alias.asname or whole] = (whole, None)
        elif isinstance(statement, ast.ImportFrom):
            base = statement.module or ""
            if statement.level:
                above = self.name.split(".")[: len(self.name.split(".")) - statement.level + is_package]
                base = ".".join([*above, *([base] if base else [])])
            for alias in statement.names:
                self.opaque |= alias.name == "*"
                self._bound[alias.asname or alias.name] = (base, alias.name)

    def classes(self) -> list[str]:
        """Return the names of its classes."""
        return [name for name, node in self._bound.items() if isinstance(node, ast.ClassDef)]

    def imported(self, name: str) -> str | None:
        """Return the dotted path from which a name was imported, "" for one of its own, None for no name at all."""
        bound = self._bound.get(name)
        if isinstance(bound, tuple):
            return bound[0] if bound[1] is None else f"{bound[0]}.{bound[1]}"
        return None if bound is None else ""

    def find(self, name: str, depth: int = 0) -> Class | Bound | None:
        """Follow a name to its class, to what else is bound to it, or to None for no such name.

        Raises:
            Unknown: where it leads into what has no source.
        """
        bound = self._bound.get(name)
        if isinstance(bound, ast.ClassDef):
            return self._classes.setdefault(name, Class(self, bound))
        if not isinstance(bound, tuple):
            return None if bound is None else Bound(self, bound)
        origin, member = bound
        if member is None or depth > 20:
            raise Unknown(name)
        source = _module(origin)
        found = source.find(member, depth + 1)
        if found is None and (source.opaque or find_module(f"{origin}.{member}") is not None):
            raise Unknown(name)
        return found

    def find_dotted(self, node: ast.AST) -> Class | Bound | None:
        """Follow a name, or a name in an imported module, such as `models.MLP`.

        Raises:
            Unknown: for anything else.
        """
        if isinstance(node, ast.Subscript):  # a generic base
            node = node.value
        if isinstance(node, ast.Name):
            return self.find(node.id)
        path = self.dotted(node)
        return _module(path.rpartition(".")[0]).find(path.rpartition(".")[2])

    def dotted(self, node: ast.AST) -> str:
        """Return the import path that a name or an attribute of an imported module spells.

        Raises:
            Unknown: for anything else.
        """
        if isinstance(node, ast.Subscript):
            node = node.value
        if isinstance(node, ast.Name):
            origin = self.imported(node.id)
            return origin if origin else f"{self.name}.{node.id}"
        if isinstance(node, ast.Attribute):
            return f"{self.dotted(node.value)}.{node.attr}"
        raise Unknown(ast.dump(node))

    def dotted_or_nothing(self, node: ast.AST) -> str:
        """Return the import path that an expression spells, "" where it spells none."""
        try:
            return self.dotted(node)
        except Unknown:
            return ""

    def value(self, node: ast.AST | None) -> Any:
        """Return the value of an expression made of literals, constants and members of enumerations.

        A class that is named stands for itself, as it is read: `Class`.

        Raises:
            Unknown: for anything else.
        """
        if isinstance(node, ast.Constant):
            return node.value
        if isinstance(node, (ast.Set, ast.Tuple, ast.List)):
            made = [self.value(item) for item in node.elts]
            return frozenset(made) if isinstance(node, ast.Set) else tuple(made)
        if isinstance(node, ast.Dict) and None not in node.keys:
            return {self.value(k): self.value(v) for k, v in zip(node.keys, node.values, strict=True)}
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            return -self.value(node.operand)
        if isinstance(node, ast.BinOp) and type(node.op) in _OPERATIONS:
            return _OPERATIONS[type(node.op)](self.value(node.left), self.value(node.right))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _SETS:
            return _SETS[node.func.id](*[self.value(argument) for argument in node.args])
        if isinstance(node, ast.Attribute):
            return self._member(node)
        if isinstance(node, ast.Name):
            found = self.find(node.id)
            if isinstance(found, Class):
                return found
            if isinstance(found, Bound):
                return found.module.value(found.node)
        raise Unknown(node and ast.dump(node))

    def _member(self, node: ast.Attribute) -> Any:
        """Return the value of `Capability.X`, `math.inf` or `Base.attribute`."""
        owner = node.value
        if isinstance(owner, ast.Name) and owner.id in _ENUMERATIONS:
            try:
                return _ENUMERATIONS[owner.id][node.attr]
            except KeyError:
                known = [member.name for member in _ENUMERATIONS[owner.id]]
                words = f"{self.name}: {owner.id}.{node.attr} is unknown; {near(node.attr, known)}"
                raise AltpropError(words) from None
        if isinstance(owner, ast.Name) and owner.id == "math" and node.attr in _NUMBERS:
            return _NUMBERS[node.attr]
        try:
            found = self.find_dotted(owner)
        except Unknown:  # no class, but a module that was imported
            found = self.find_dotted(node)
            if isinstance(found, Bound):
                return found.module.value(found.node)
        if isinstance(found, Class):
            return found.attribute(node.attr)
        raise Unknown(ast.dump(node))

    def names(self, node: ast.AST) -> tuple[Any, ...]:
        """Return the keys of a table, whatever it holds under them, or what else an expression lists.

        Raises:
            Unknown: where they are not written plainly.
        """
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "tuple" and len(node.args) == 1:
            node = node.args[0]
        found = self.find(node.id) if isinstance(node, ast.Name) else None
        module, node = (found.module, found.node) if isinstance(found, Bound) else (self, node)
        keys = node.keys if isinstance(node, ast.Dict) and None not in node.keys else None
        return tuple(module.value(node)) if keys is None else tuple(module.value(key) for key in keys)


@dataclass(frozen=True)
class Bound:
    """What a module binds to a name, other than a class.

    Attributes:
        module: in which it stands.
        node: the value, or the function.
    """

    module: Module
    node: ast.AST


@dataclass(frozen=True)
class Argument:
    """An argument of a constructor.

    Attributes:
        name: of the argument.
        annotation: its type as it is written, or None.
        required: whether it has no default.
        owner: module in which it is written.
    """

    name: str
    annotation: ast.expr | None
    required: bool
    owner: Module


@dataclass(frozen=True)
class Class:
    """A class statement.

    Attributes:
        module: in which it stands.
        node: its syntax.
    """

    module: Module
    node: ast.ClassDef

    @property
    def path(self) -> str:
        """Its import path."""
        return f"{self.module.name}.{self.node.name}"

    @cached_property
    def _bases(self) -> tuple[list[Class], list[str]]:
        """Return the bases that can be read, and the paths of those that cannot."""
        known, unknown = [], []
        for base in self.node.bases:
            try:
                found = self.module.find_dotted(base)
            except Unknown:
                found = None
            if isinstance(found, Class):
                known.append(found)
            else:
                unknown.append(self.module.dotted_or_nothing(base))
        return known, unknown

    @cached_property
    def lineage(self) -> tuple[Class, ...]:
        """Return the class and all its bases that can be read, the nearest first."""
        found = {self.path: self}
        for base in self._bases[0]:
            for one in base.lineage:
                found.pop(one.path, None)  # a base of several stands behind them all
                found[one.path] = one
        return tuple(found.values())

    @cached_property
    def strangers(self) -> frozenset[str]:
        """Return the paths of all bases that cannot be read, but for those that add nothing."""
        return frozenset(path for one in self.lineage for path in one._bases[1]) - _EMPTY_BASES

    def derives_from(self, path: str) -> bool | None:
        """Return whether a class is among its bases; None where that cannot be told."""
        if any(one.path == path for one in self.lineage):
            return True
        return None if any(not stranger.startswith("torch.") for stranger in self.strangers) else False

    def attribute(self, name: str) -> Any:
        """Return the value of a class attribute.

        Raises:
            Unknown: where it is not a plain value.
            Unset: where none of the classes sets it.
        """
        for one in self.lineage:
            for statement in _statements(one.node.body):
                if isinstance(statement, ast.Assign):
                    names = [target.id for target in statement.targets if isinstance(target, ast.Name)]
                    value: ast.expr | None = statement.value
                elif isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
                    names, value = [statement.target.id], statement.value
                elif isinstance(statement, (ast.FunctionDef, ast.ClassDef)):
                    names, value = [statement.name], None
                else:
                    continue
                if name in names and (value is not None or not isinstance(statement, ast.AnnAssign)):
                    return one.module.value(value)
        raise Unset(f"{self.path}.{name}")

    def losses(self) -> dict[str, bool]:
        """Return the losses of a task, the default first: name -> whether it is a sum of squares.

        Raises:
            Unknown: where they are not written plainly, as names or classes.
        """
        return dict(
            (given.attribute("name"), bool(given.attribute("least_squares")))
            if isinstance(given, Class)
            else (given, given in LEAST_SQUARES_LOSSES)
            for given in self.attribute("losses")
        )

    def constructor(self) -> Constructor:
        """Return what its constructor takes.

        Raises:
            Unknown: where none is written, such as for a dataclass.
        """
        return _constructor(self.lineage, bool(self.strangers))


@dataclass(frozen=True)
class Named:
    """An argument of the constructor, which is handed on.

    Attributes:
        name: of it.
    """

    name: str


@dataclass(frozen=True)
class Check:
    """A call of a function of `altprop.checks` on an argument, in a constructor.

    Attributes:
        function: its name.
        argument: name of the argument.
        others: its further arguments: values, or other arguments of the constructor.
        keywords: those that are named.
        optional: whether it is called only where the argument is not None.
    """

    function: str
    argument: str
    others: tuple[Any, ...]
    keywords: Mapping[str, Any]
    optional: bool


@dataclass(frozen=True)
class Constructor:
    """What a constructor takes.

    Attributes:
        arguments: name -> argument.
        checks: what it checks them with.
        open: whether it takes others too.
    """

    arguments: Mapping[str, Argument]
    checks: tuple[Check, ...]
    open: bool


def _constructor(lineage: Sequence[Class], strangers: bool) -> Constructor:
    """Read the first `__init__` of a lineage, and those to which it hands the arguments that it does not name."""
    for place, one in enumerate(lineage):
        if any("dataclass" in ast.dump(decorator) for decorator in one.node.decorator_list):
            raise Unknown(one.path)
        node = next((n for n in one.node.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"), None)
        if node is None:
            continue
        spec = node.args
        positional = [*spec.posonlyargs, *spec.args][1:]
        bare = len(positional) - len(spec.defaults)
        required = [*(i < bare for i in range(len(positional))), *(default is None for default in spec.kw_defaults)]
        arguments = {
            a.arg: Argument(a.arg, a.annotation, r, one.module)
            for a, r in zip([*positional, *spec.kwonlyargs], required, strict=True)
        }
        checks = tuple(_checks(node, one.module, arguments))
        if spec.kwarg is None:
            return Constructor(arguments, checks, False)
        above = _handed_on(node, spec.kwarg.arg)
        if above is None:
            return Constructor(arguments, checks, True)
        further = _constructor(lineage[place + 1 :], strangers)
        taken = set(list(further.arguments)[: len(above.args)]) | {k.arg for k in above.keywords}
        rest = {name: a for name, a in further.arguments.items() if name not in taken and name not in arguments}
        passed = (check for check in further.checks if check.argument in rest)
        return Constructor({**arguments, **rest}, (*checks, *passed), further.open)
    if strangers:
        raise Unknown(lineage[0].path)
    return Constructor({}, (), False)


def _handed_on(node: ast.FunctionDef, name: str) -> ast.Call | None:
    """Return the call `super().__init__(..., **name)`, or None where there is none."""
    for call in ast.walk(node):
        if (
            isinstance(call, ast.Call)
            and isinstance(call.func, ast.Attribute)
            and call.func.attr == "__init__"
            and any(k.arg is None and isinstance(k.value, ast.Name) and k.value.id == name for k in call.keywords)
        ):
            return call
    return None


def _checks(node: ast.FunctionDef, module: Module, arguments: Mapping[str, Argument]) -> Iterator[Check]:
    """Yield the calls of altprop's checks on an argument that a constructor makes in any case, or unless it is None."""
    for call, condition in _calls(node.body, None):
        subject = call.args[0] if call.args else None
        if not (isinstance(call.func, ast.Name) and isinstance(subject, ast.Name) and subject.id in arguments):
            continue
        origin, _, function = (module.imported(call.func.id) or "").rpartition(".")
        if origin not in ("altprop.checks", "altprop") or condition not in (None, subject.id):
            continue
        try:
            others = tuple(
                Named(a.id)
                if isinstance(a, ast.Name) and a.id in arguments
                else module.names(a)
                if (function, place) == ("check_name", 2)
                else module.value(a)
                for place, a in enumerate(call.args[1:], 1)
            )
            keywords = {str(k.arg): module.value(k.value) for k in call.keywords}
        except Unknown:
            continue  # the constructor will check it
        yield Check(function, subject.id, others, keywords, condition is not None)


def _calls(nodes: Sequence[ast.AST], condition: str | None) -> Iterator[tuple[ast.Call, str | None]]:
    """Yield calls with the argument that must not be None for them; "" for any other condition."""
    for node in nodes:
        if isinstance(node, (ast.Lambda, ast.FunctionDef, ast.For, ast.While, ast.Try, ast.comprehension)):
            continue
        if isinstance(node, ast.Call):
            yield node, condition
        if isinstance(node, (ast.If, ast.IfExp)):
            inside = [node.body, node.orelse] if isinstance(node, ast.IfExp) else [*node.body, *node.orelse]
            yield from _calls(inside, _not_none(node.test) if condition is None else "")
        else:
            yield from _calls(list(ast.iter_child_nodes(node)), condition)


def _not_none(test: ast.expr) -> str:
    """Return the name that a test compares with None, or ""."""
    if isinstance(test, ast.Compare) and isinstance(test.left, ast.Name) and len(test.ops) == 1:
        right = test.comparators[0]
        if isinstance(test.ops[0], (ast.Is, ast.IsNot)) and isinstance(right, ast.Constant) and right.value is None:
            return test.left.id
    return ""


def _statements(body: Sequence[ast.stmt]) -> Iterator[ast.stmt]:
    """Yield statements, those under `if` and `try` too."""
    for statement in body:
        yield statement
        if isinstance(statement, ast.If):
            yield from _statements([*statement.body, *statement.orelse])
        elif isinstance(statement, ast.Try):
            yield from _statements([*statement.body, *statement.orelse, *statement.finalbody])
