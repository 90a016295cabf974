"""The page that stands in a folder: which runs it shows, and whether it is still what a new one would be."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from altprop.records.cards import CardRecord
from altprop.records.claims import ClaimsRecord
from altprop.records.oracle_checks import OracleCheck
from altprop.records.timing import Timing
from altprop.version import __version__

NAME = "made_from.json"


@dataclass(frozen=True)
class Standing:
    """What a page was made from.

    Attributes:
        keys: of the runs that it shows.
        digest: of the files and the options that it was made from.
    """

    keys: frozenset[str]
    digest: str

    def write(self, out: Path) -> None:
        """Note it beside the page in a folder."""
        text = json.dumps({"keys": sorted(self.keys), "digest": self.digest}, indent=1)
        (out / NAME).write_text(text + "\n", encoding="utf-8")


def standing(out: Path) -> Standing | None:
    """Return what the page in a folder was made from; None where there is no page, or nobody noted it."""
    try:
        found = json.loads((out / NAME).read_text(encoding="utf-8"))
        known = Standing(frozenset(found["keys"]), str(found["digest"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return known if (out / "report.html").is_file() else None


def present(runs: Path, keys: Collection[str], options: dict[str, Any]) -> Standing:
    """Return what a page of runs would be made from now: their records, what lies beside them, and this very code.

    Args:
        runs: folder of the records.
        keys: of the runs.
        options: of the page.
    """
    told = [json.dumps(options, sort_keys=True, default=str), __version__]
    told += [f"{path.name} {path.stat().st_size} {path.stat().st_mtime_ns}" for path in _files(runs, keys)]
    return Standing(frozenset(keys), hashlib.sha256("\n".join(told).encode()).hexdigest())


def _files(runs: Path, keys: Collection[str]) -> Iterator[Path]:
    yield from (path for path in sorted(Path(__file__).parent.rglob("*")) if path.suffix in (".py", ".js", ".css"))
    yield from (path for key in sorted(keys) if (path := runs / key / "record.json").is_file())
    for folder in (OracleCheck.folder, CardRecord.folder, ClaimsRecord.folder, Timing.folder):
        yield from sorted((runs / folder).glob("*.json"))


def place_for(runs: Path, keys: Collection[str]) -> Path:
    """Return where the page of a command goes: to `report`, unless a page stands there of runs that it does not show.

    The larger page stays as it is then, and the command's goes to `report-last`.
    """
    known = standing(runs / "report")
    others = [] if known is None else [key for key in known.keys - set(keys) if (runs / key / "record.json").is_file()]
    return runs / ("report-last" if others else "report")
