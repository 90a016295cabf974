"""`altprop-report [RUNS...]`: build the page from records, and nothing but records."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

DESCRIPTION = """Build one self-contained page from the records of runs: verdict, convergence, gradient health, cost and
failures, in HTML and Markdown, with every figure as SVG and the raw data as CSV beside it."""


def main(argv: Sequence[str] | None = None) -> None:
    """Run the console script; exit with 0 where the report lies where it says, 2 for a mistake."""
    parser = argparse.ArgumentParser(prog="altprop-report", description=DESCRIPTION)
    parser.add_argument(
        "runs", nargs="*", default=["runs"], metavar="RUNS", help="folders or archives of records (default: runs)"
    )
    parser.add_argument("--out", default="report", metavar="DIR", help="where the report goes (default: report)")
    parser.add_argument("--title", default=None, help="heading of the page")
    parser.add_argument("--reference", default=None, metavar="LEARNER", help="whom all others are compared with")
    parser.add_argument(
        "--publish", action="store_true", help="make a small report to publish, its records beside it in one archive"
    )
    parser.add_argument("--format", default="html,md", help="html, md or both, with a comma (default: html,md)")
    parser.add_argument("--open", action="store_true", help="open the page in the browser")
    options = parser.parse_args(argv)
    formats = options.format.split(",")
    given = (options.runs, options.out, options.title, formats, options.reference, options.publish)
    code = report(*given)
    if options.open and code == 0:
        import webbrowser

        name = "report.html" if "html" in formats else "report.md"
        if not webbrowser.open(Path(options.out, name).resolve().as_uri()):
            print("altprop-report: no browser was found; open the file above", file=sys.stderr)
    sys.exit(code)


def report(
    runs: Sequence[str],
    out: str,
    title: str | None,
    formats: Sequence[str],
    reference: str | None = None,
    publish: bool = False,
) -> int:
    """Build the report and print where it lies; see `main`."""
    from altprop.errors import AltpropError
    from altprop.report.build import TITLE, build

    try:
        folders = [Path(folder) for folder in runs]
        chosen = [name.strip() for name in formats if name.strip()]
        place = build(folders, Path(out), title or TITLE, chosen, reference=reference, publish=publish)
    except AltpropError as error:
        print(f"altprop-report: {error}", file=sys.stderr)
        return 2
    print(f"report: {place}")
    return 0


if __name__ == "__main__":
    main()
