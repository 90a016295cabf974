"""Oracle checks: what the oracles of an algorithm measured, one document for each algorithm and state of its code."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from os import PathLike
from typing import Any, ClassVar, final

from altprop.records import encode
from altprop.records.documents import Document, load_documents, write_document
from altprop.records.folders import Folders
from altprop.records.source import source_hash


@dataclass(frozen=True)
class OracleResult:
    """What one oracle measured.

    Args:
        name: In words.
        error: The measured error, None where the oracle raised.
        tolerance: What it is compared with, None where the oracle raised.
        reason: The exception in one line with the place where it was raised; empty where there was none.
        seconds: How long it took.
        differs: Whether it is a negative control: it must differ from what the oracles are equal to.
    """

    name: str
    error: float | None
    tolerance: float | None
    reason: str = ""
    seconds: float = 0.0
    differs: bool = False

    @property
    def passed(self) -> bool:
        """Whether the error is within the tolerance, or beyond it for a negative control; NaN is neither.

        >>> (
        ...     OracleResult("equals backprop", 1e-16, 1e-12).passed,
        ...     OracleResult("not with random B", 1e-16, 0.05, differs=True).passed,
        ... )
        (True, False)
        """
        if self.error is None or self.tolerance is None:
            return False
        return self.error > self.tolerance if self.differs else self.error <= self.tolerance

    @property
    def sentence(self) -> str:
        """What is wrong, empty where nothing is."""
        if self.passed:
            return ""
        if self.error is None or self.tolerance is None:
            return f"the {self._kind} {self.name!r} raised {self.reason}"
        against = "which must exceed" if self.differs else "above its tolerance"
        return f"the {self._kind} {self.name!r} measures {self.error:.3g}, {against} {self.tolerance:.3g}"

    @property
    def _kind(self) -> str:
        return "negative control" if self.differs else "oracle"


@final
class OracleCheck(Document):
    """All that the oracles of one algorithm measured in one state of its code on one kind of machine."""

    folder: ClassVar[str] = "oracle_checks"
    fields: ClassVar[Mapping[str, type]] = {
        "algorithm": str,
        "target": str,
        "source": str,
        "code": str,
        "kernel": int,
        "problem": str,
        "oracles": list,
        "measured": dict,
        "provenance": dict,
    }

    @property
    def identity(self) -> tuple[str, ...]:
        return self.algorithm, self.target, self.source, self.fingerprint

    @classmethod
    def problem_of(cls, data: Mapping[str, Any]) -> str | None:
        for entry in data["oracles"]:
            if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
                return "an oracle of it has no name"
            figures = encode.revive([entry.get("error"), entry.get("tolerance")])
            if any(isinstance(x, bool) or not isinstance(x, (int, float, type(None))) for x in figures):
                return f"its oracle {entry['name']!r} holds no figures"
        return None

    @property
    def algorithm(self) -> str:
        """The name of the algorithm, as on the axis of a run."""
        return str(self.data["algorithm"])

    @property
    def target(self) -> str:
        """The import path of its class, as the configuration of a run names it."""
        return str(self.data["target"])

    @property
    def source(self) -> str:
        """The hash of the code and its oracles, from `source_of`."""
        return str(self.data["source"])

    @property
    def code(self) -> str:
        """The hash of the code alone, from `code_of`, which the runs of that code carry too."""
        return str(self.data["code"])

    @property
    def fingerprint(self) -> str:
        """The machine and versions that measured."""
        return str(self.data["provenance"].get("fingerprint") or "")

    @property
    def problem(self) -> str:
        """Why the algorithm could not say what its oracles are, in one line; empty where it could."""
        return str(self.data["problem"])

    @cached_property
    def oracles(self) -> tuple[OracleResult, ...]:
        """The oracles in the order in which the algorithm names them."""
        return tuple(_oracle(entry) for entry in self.data["oracles"])

    @property
    def failing(self) -> list[str]:
        """A sentence for everything that does not hold."""
        said = [oracle.sentence for oracle in self.oracles if not oracle.passed]
        return [f"oracles() raised {self.problem}", *said] if self.problem else said

    @property
    def settled(self) -> bool:
        """Whether it is worth keeping: an exception may have been the machine's and not the learner's."""
        return not self.problem and all(oracle.error is not None for oracle in self.oracles)


def code_of(target: str) -> str:
    """Return the hash (64 hex digits) of the code of an algorithm without its oracles, which its runs carry.

    Args:
        target: The import path of its class.

    Raises:
        AltpropError: The module does not exist or has no source.
    """
    return source_hash([target.rpartition(".")[0]])


def source_of(target: str) -> str:
    """Return the hash (64 hex digits) of all that an oracle check measures with; arguments as for `code_of`."""
    return source_hash([target.rpartition(".")[0]], oracles=True)


def file_name(algorithm: str, source: str) -> str:
    """Return the name of the file of an oracle check; what no file name may hold becomes an underscore.

    >>> file_name("dfa", "0123456789abcdef" * 4), file_name("../a b", "f" * 64)
    ('dfa-0123456789abcdef.json', '_a_b-ffffffffffffffff.json')
    """
    plain = re.sub(r"[^A-Za-z0-9._+=-]|\.\.+", "_", algorithm)
    return re.sub("__+", "_", plain)[:100] + f"-{source[:16]}.json"


def write_oracle_check(
    runs_dir: str | PathLike[str],
    algorithm: str,
    target: str,
    source: str,
    code: str,
    oracles: Iterable[OracleResult],
    provenance: Mapping[str, Any],
    finished: str,
    problem: str = "",
) -> OracleCheck:
    """Make an oracle check permanent, in place of an older one of the same code; a crash leaves the old or the new.

    Args:
        runs_dir: The folder of records.
        algorithm: As on the axis of a run.
        target: The import path of its class.
        source: The hash of its code and oracles, from `source_of`.
        code: The hash of its code alone, from `code_of`.
        oracles: What was measured.
        provenance: As in a run's record, with the kernel's number.
        finished: Date and time, as in a run's record.
        problem: Why there are no oracles to ask, if there is a reason.

    Raises:
        AltpropError: The disk is full or the folder cannot be written, in one line.
    """
    oracles = list(oracles)
    data = {
        "algorithm": algorithm,
        "target": target,
        "source": source,
        "code": code,
        "kernel": provenance["kernel"],
        "problem": problem,
        "oracles": [
            {
                "name": one.name,
                "error": one.error,
                "tolerance": one.tolerance,
                "control": one.differs,
                "passed": one.passed,
                "reason": one.reason,
                "seconds": one.seconds,
            }
            for one in oracles
        ],
        "measured": {"seconds": sum(one.seconds for one in oracles), "finished": finished},
        "provenance": dict(provenance),
    }
    return write_document(runs_dir, OracleCheck, file_name(algorithm, source), data)


def load_oracle_checks(runs: Folders = "runs") -> tuple[list[OracleCheck], list[str]]:
    """Return the merged oracle checks of folders of records, sorted by algorithm, class, code and fingerprint.

    The second list and the argument are as for `load_documents`.
    """
    return load_documents(OracleCheck, runs)


@dataclass(frozen=True)
class OracleCheckComparison:
    """Published oracle checks beside those of a rerun.

    Args:
        held: How many of the published oracle checks that hold, hold here as well.
        broken: A sentence for each that held and does not hold here.
        missing: Algorithm and oracle of each that was not measured here.
    """

    held: int
    broken: tuple[str, ...]
    missing: tuple[str, ...]

    def table(self) -> str:
        """Return it as plain text; empty where nothing was published."""
        total = self.held + len(self.broken) + len(self.missing)
        if not total:
            return ""
        lines = [f"{self.held} of {total} published oracle checks hold here as well."]
        lines += [f"  no longer: {sentence}" for sentence in self.broken]
        lines += [f"  not measured here: {name}" for name in self.missing]
        return "\n".join(lines)


def compare_oracle_checks(published: Folders, here: Folders) -> OracleCheckComparison:
    """Compare the verdicts of oracles of one name, of each algorithm the oracle check that was measured last.

    The errors themselves may differ with processor and versions.
    """
    mine, theirs = _latest(here), _latest(published)
    held, broken, missing = 0, [], []
    for algorithm, oracle_check in theirs.items():
        found = {one.name: one for one in mine[algorithm].oracles} if algorithm in mine else {}
        for oracle in (one for one in oracle_check.oracles if one.passed):
            again = found.get(oracle.name)
            if again is None:
                missing.append(f"{algorithm}: {oracle.name}")
            elif again.passed:
                held += 1
            else:
                broken.append(f"{algorithm}: {again.sentence}")
    return OracleCheckComparison(held, tuple(broken), tuple(missing))


def _latest(runs: Folders) -> dict[str, OracleCheck]:
    """Return algorithm -> the oracle check that was measured last, sorted by algorithm."""
    return {
        oracle_check.algorithm: oracle_check
        for oracle_check in sorted(load_oracle_checks(runs)[0], key=lambda one: (one.algorithm, one.finished))
    }


def _oracle(entry: Mapping[str, Any]) -> OracleResult:
    error, tolerance = encode.revive([entry.get("error"), entry.get("tolerance")])
    reason, seconds = str(entry.get("reason") or ""), float(entry.get("seconds") or 0.0)
    return OracleResult(entry["name"], error, tolerance, reason, seconds, bool(entry.get("control", False)))
