"""`altprop-reproduce NAME`: run a published report again and compare it figure by figure."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

DESCRIPTION = """Run the experiment of a published report again, with its further parts (NAME_...), into a folder of its
own, and say of every figure whether it is the same, within the stated spread or different, and whether bitwise equality
was to be expected. The oracle checks of its learners are measured again as well."""


def main(argv: Sequence[str] | None = None) -> None:
    """Run the console script; exit with 0 if all is reproduced, 1 if not, 2 for a mistake, 130 if interrupted."""
    parser = argparse.ArgumentParser(prog="altprop-reproduce", description=DESCRIPTION)
    parser.add_argument("name", help="a folder below reports/, such as tour, or a path to one")
    parser.add_argument("--reports", default="reports", help="where published reports lie (default: reports)")
    parser.add_argument("--runs", default=None, help="where the rerun goes (default: runs/reproduce-NAME)")
    parser.add_argument("--compare-only", action="store_true", help="compare what is there, run nothing")
    parser.add_argument("overrides", nargs="*", help="further overrides, such as hydra/launcher=joblib")
    options = parser.parse_intermixed_args(argv)
    sys.exit(reproduce(options.name, Path(options.reports), options.runs, options.overrides, options.compare_only))


def reproduce(name: str, reports: Path, runs: str | None, overrides: Sequence[str], compare_only: bool) -> int:
    """Rerun, compare, print the comparison, and return the exit code; see `main`."""
    from altprop.errors import AltpropError
    from altprop.records.compare import compare
    from altprop.records.oracle_checks import compare_oracle_checks

    folder = Path(name) if _records(Path(name)) else reports / name
    published = _records(folder)
    stem = folder.resolve().name
    here = Path(runs) if runs is not None else Path("runs") / f"reproduce-{stem}"
    try:
        if published is None:
            known = sorted(p.name for p in reports.iterdir() if _records(p)) if reports.is_dir() else []
            raise AltpropError(f"no published report at {folder}; there is: {', '.join(known) or 'none'}")
        code = 0
        if not compare_only:
            from altprop.cli.run import run, verify

            for experiment in _experiments(stem):
                command = ["-m", f"+experiment={experiment}", f"runs_dir={here}", "report=false", *overrides]
                code = run(command)
                if code not in (0, 1):
                    return code
            verify(here)
        comparison, oracle_checks = compare(published, here), compare_oracle_checks(published, here)
    except AltpropError as error:
        print(f"altprop-reproduce: {error}", file=sys.stderr)
        return 2
    print(comparison.table())
    if oracle_checks.table():
        print(f"\n{oracle_checks.table()}")
    return 0 if comparison.reproduced and not oracle_checks.broken else 1


def _experiments(name: str) -> list[str]:
    """Return the experiments of a report: the one of its name, and those of its further parts, NAME_..."""
    from altprop import catalogue

    known = catalogue.entries("experiment")
    return [name, *sorted(other for other in known if other.startswith(f"{name}_"))]


def _records(report: Path) -> Path | None:
    """Return where a published report has its records: in a folder, or packed."""
    return next((path for path in (report / "records", report / "records.tar.xz") if path.exists()), None)


if __name__ == "__main__":
    main()
