"""Mutants as data: one TOML file a family, one table a mutant.

    ["bias gradient forgotten"]
    file = "algorithms/backprop/manual_backprop.py"
    old = "= delta.sum(0)"
    new = "= torch.zeros_like(layer.z[0])"
    killers = ["oracles of manual_backprop"]

A killer is "oracles of NAME", the oracles of an algorithm, or the id of a test, which may be a whole file.
"""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDER = Path(__file__).with_name("families")


class Unusable(Exception):
    """A catalogue that cannot be used; the message is one line for its author."""


@dataclass(frozen=True)
class Mutant:
    """One realistic mistake.

    Attributes:
        family: stem of the file that declares it.
        name: what is wrong, in words.
        file: path in the repository.
        old: text that occurs exactly once in the file.
        new: what the mistake reads in its place.
        killers: "oracles of NAME" or test ids, tried in this order.
    """

    family: str
    name: str
    file: str
    old: str
    new: str
    killers: tuple[str, ...]

    @property
    def module(self) -> str:
        """Name under which the file is imported."""
        parts = self.file.removesuffix(".py").split("/")
        return ".".join(parts if parts[0] == "altprop" else ["altprop", *parts])

    def stale(self) -> str | None:
        """Return why the edit no longer applies, or None."""
        path = ROOT / self.file
        if not path.is_file():
            return f"there is no {self.file}"
        found = path.read_text().count(self.old)
        return None if found == 1 else f"its old text occurs {found} times in {self.file}"

    def source(self) -> str:
        """Return the text of the file with the mistake in it."""
        return (ROOT / self.file).read_text().replace(self.old, self.new)


def families(folder: Path = FOLDER) -> list[str]:
    """Return the names of all families that have a file."""
    return sorted(path.stem for path in folder.glob("*.toml"))


def load(chosen: Sequence[str] = (), folder: Path = FOLDER) -> list[Mutant]:
    """Return the mutants of the chosen families, or of all.

    Raises:
        Unusable: for an unknown family or a table with other keys than `Mutant` has.
    """
    known = families(folder)
    for family in chosen:
        if family not in known:
            raise Unusable(f"unknown family {family}; known are: {', '.join(known)}")
    found = []
    for family in chosen or known:
        for name, table in tomllib.loads((folder / f"{family}.toml").read_text()).items():
            if table.keys() != {"file", "old", "new", "killers"} or not table["killers"]:
                raise Unusable(f"{family}.toml, {name!r}: a mutant has file, old, new and killers")
            found.append(Mutant(family, name, **{**table, "killers": tuple(table["killers"])}))
    return found
