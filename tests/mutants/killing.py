"""Run a killer in this process, with or without a mutant in place of the module that it edits.

A mutant lives in memory alone: an import hook hands out its source, so the working tree stays as it is. This must be
a process that has not imported altprop yet (see `forks`).
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from types import CodeType, ModuleType
from typing import Any

import pytest

from .catalogue import ROOT, Mutant

ORACLES = "oracles of "


@dataclass(frozen=True)
class Outcome:
    """What killers found.

    Attributes:
        status: "killed", "survived", "crashed" where a killer met an error that is no failed check, or "broken" where
            the mutant cannot even be imported. Only the first counts as found by its test.
        by: the error; or the check that failed, written as a killer, so that it can be run again.
    """

    status: str
    by: str = ""


class _Loader(importlib.machinery.SourceFileLoader):
    """Loads a mutant's text under the real module's name and path."""

    def __init__(self, fullname: str, path: str, text: str) -> None:
        super().__init__(fullname, path)
        self._text = text

    def get_code(self, fullname: str) -> CodeType:
        # No bytecode is read or written.
        return compile(self._text, self.path, "exec", dont_inherit=True)


class _Finder(importlib.abc.MetaPathFinder):
    """Finds one module, and gives it a mutant's text."""

    def __init__(self, mutant: Mutant) -> None:
        self._module, self._text = mutant.module, mutant.source()

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != self._module:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is not None:
            assert spec.origin is not None
            spec.loader = _Loader(fullname, spec.origin, self._text)
        return spec


def try_mutant(mutant: Mutant) -> Outcome:
    """Put a mutant in place and let its killers try."""
    already = sorted(name for name in sys.modules if name.partition(".")[0] == "altprop")
    assert not already, f"a mutant would come too late: {already[0]} is imported"
    sys.meta_path.insert(0, _Finder(mutant))
    try:
        importlib.import_module(mutant.module)
    except Exception as error:
        return Outcome("broken", _told(error))
    return try_killers(mutant.killers)


def try_killers(killers: Iterable[str]) -> Outcome:
    """Return the first failed check of the killers; else their first error; else that all of them pass."""
    crash = None
    for killer in killers:
        outcome = _oracles(*_named(killer)) if killer.startswith(ORACLES) else _tests([killer])
        if outcome.status == "killed":
            return outcome
        if outcome.status == "crashed" and crash is None:
            crash = outcome
    return crash or Outcome("survived")


def try_stacked(checks: Sequence[str]) -> Outcome:
    """Return whether checks of one `source` all pass; tests run in one session."""
    return try_killers(checks) if checks[0].startswith(ORACLES) else _tests(checks)


def source(check: str) -> str:
    """Return what a check belongs to: its algorithm or its test file."""
    return _named(check)[0] if check.startswith(ORACLES) else check.partition("::")[0]


def _named(killer: str) -> tuple[str, str]:
    """Split "oracles of NAME: ORACLE" into the algorithm and one oracle of it, or "" for all."""
    name, _, oracle = killer.removeprefix(ORACLES).partition(": ")
    return name, oracle


def _told(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:150]}"


def _oracles(name: str, only: str) -> Outcome:
    """Run the oracles, or the only one asked for, of an algorithm by its name in `conf/algorithm`."""
    from altprop import catalogue

    module, _, kind = str(catalogue.entries("algorithm")[name].values["_target_"]).rpartition(".")
    oracles = [
        oracle for oracle in getattr(importlib.import_module(module), kind).oracles() if only in ("", oracle.name)
    ]
    if not oracles:
        return Outcome("crashed", f"{name} has no oracle {only}".rstrip())
    crash = None
    for oracle in oracles:
        try:
            error = oracle.measure()
        except Exception as problem:  # a mutant may do anything
            crash = crash or Outcome("crashed", f"{name}, {oracle.name}: {_told(problem)}")
            continue
        if not oracle.holds(error):
            return Outcome("killed", f"{ORACLES}{name}: {oracle.name}")
    return crash or Outcome("survived")


class _Watch:
    """A pytest plugin that stops at the first failed check and remembers the first error of another kind."""

    def __init__(self) -> None:
        self.passed = 0
        self.failed = ""
        self.crashed = ""

    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo[Any]) -> None:
        if call.excinfo is None:
            self.passed += call.when == "call"
        elif call.excinfo.errisinstance((AssertionError, pytest.fail.Exception)):
            self.failed = self.failed or item.nodeid
            item.session.shouldfail = "a check failed"
        elif not call.excinfo.errisinstance(pytest.skip.Exception):
            self.crashed = self.crashed or f"{item.nodeid}: {_told(call.excinfo.value)}"

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self.crashed = self.crashed or f"{report.nodeid}: {' '.join(report.longreprtext.split())[-200:]}"


def _tests(nodes: Sequence[str]) -> Outcome:
    """Run the tests of some ids, without the doctests, which read the source on the disk."""
    watch = _Watch()
    # Nobody reads how a check failed: pytest's own tracebacks took longer than the checks.
    options = ["-o", "addopts=", "--import-mode=importlib", "-p", "no:cacheprovider", "--disable-plugin-autoload"]
    options += ["--tb=native"]
    code = pytest.main([*options, f"--rootdir={ROOT}", *(str(ROOT / node) for node in nodes)], plugins=[watch])
    if watch.failed:
        return Outcome("killed", watch.failed)
    if watch.crashed or not watch.passed:
        return Outcome("crashed", watch.crashed or f"{nodes[0]}: no test ran (pytest ended with {int(code)})")
    return Outcome("survived")
