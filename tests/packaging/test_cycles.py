"""No module of altprop imports itself by a detour, lazy imports counted, and none but plugins is imported by string."""

import ast
from pathlib import Path

import pytest

grimp = pytest.importorskip("grimp", reason="grimp comes with import-linter, in the extra dev")
ROOT = Path(__file__).resolve().parents[2]
# Plugins are found by their configured path; third-party packages that may be absent are named where they are missed.
# Checks name what reads a user's files, so that its code is in the key of no other run; it imports errors alone.
BY_STRING = {"__init__.py", "checks.py", "resolve.py", "harness/loggers.py"}


def test_no_cycle() -> None:
    graph = grimp.build_graph("altprop", cache_dir=None)
    open_modules = set(graph.modules)
    while leaves := {m for m in open_modules if not graph.find_modules_directly_imported_by(m) & open_modules}:
        open_modules -= leaves
    # What is left imports something that is left: cycles, and what stands above them.
    while roots := {m for m in open_modules if not graph.find_modules_that_directly_import(m) & open_modules}:
        open_modules -= roots
    assert not open_modules, f"these import each other in a circle: {sorted(open_modules)}"


def test_no_import_by_string() -> None:
    found = set()
    for path in (ROOT / "altprop").rglob("*.py"):
        inside = path.relative_to(ROOT / "altprop")
        if inside.parts[0] in ("algorithms", "conf", "tasks"):
            continue
        if any(_imports_by_string(node) for node in ast.walk(ast.parse(path.read_text()))):
            found.add(inside.as_posix())
    assert found == BY_STRING


def _imports_by_string(node: ast.AST) -> bool:
    name = getattr(node, "attr", None) or getattr(node, "id", None) or getattr(node, "name", None)
    return name in {"import_module", "__import__"}
