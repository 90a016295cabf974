"""The progress of a sweep: a table of learners and tasks in a terminal, a line for each finished cell elsewhere."""

from __future__ import annotations

import sys
import threading
import time
from typing import TYPE_CHECKING, Any, Self

from altprop.harness.planning import Outcome
from altprop.harness.sweep import FAILURES, SweepLog, median_of, on_terminal, states

if TYPE_CHECKING:
    from rich.live import Live
    from rich.table import Table

_AROUND = 8
"""Lines of a terminal that are no learners: the head of the table, its foot, and room to see where one is."""


class Progress:
    """Show the progress of a command's cells, in whatever process they run, as they put it on the log.

    A context manager around the command; callbacks cannot hold it, because launchers pickle them.
    """

    def __init__(self) -> None:
        self._place = 0  # on the log; it moves with its content
        self._start: dict[str, Any] = {}
        self._cells: list[list[Outcome]] = []
        self._live: Live | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="progress of the cells", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._thread.join()
        self._show()
        if self._live is not None:
            self._live.update(self._table(sys.maxsize))
            self._live.vertical_overflow = "visible"
            self._live.stop()

    def _follow(self) -> None:
        while not self._ended.wait(0.5):
            self._show()

    def _show(self) -> None:
        log = SweepLog.open()
        if log is None:
            return
        rows, self._place = log.behind(self._place)
        for row in rows:
            if row["kind"] == "start" and row["relayed"] and on_terminal():
                self._start = row
            elif row["kind"] == "cell" and self._start:
                self._cells.append([Outcome(**one) for one in row["outcomes"]])
            elif row["kind"] == "line" and not self._start:
                print(row["text"], file=sys.stderr, flush=True)
        if self._start and self._live is None:
            from rich.console import Console
            from rich.live import Live

            self._live = Live(console=Console(stderr=True), auto_refresh=False)
            self._live.start()
        if self._live is not None:
            self._live.update(self._table(self._live.console.height - _AROUND), refresh=True)

    def _table(self, room: int) -> Table:
        """Return learners down and tasks across, of more than there is room for the latest; below them what is left."""
        from rich.table import Table
        from rich.text import Text

        said: dict[str, dict[str, Text]] = {}
        reasons = ""
        for cell in self._cells:
            runs = [one for one in cell if one.role != "trial"] or cell
            broken = next((one.reason for one in runs if one.status in FAILURES), "")
            style = "red" if broken else "dim" if runs[0].status == "refused" else ""
            line = said.pop(runs[0].label, {})
            said[runs[0].label] = line | {runs[0].workload: Text(f"{states(runs)}{median_of(runs)}", style)}
            reasons += f"\n{runs[0].label} on {runs[0].workload}: {broken[:200]}" if broken else ""
        done, total = len(self._cells), int(self._start["cells"])
        left = (time.time() - self._start["time"]) / max(done, 1) * (total - done)
        ahead = f", {left // 60:.0f}:{left % 60:02.0f} left" if 0 < done < total else ""
        table = Table("learner", caption=Text(f"{done} of {total} cells{ahead}{reasons}"), caption_justify="left")
        tasks = dict.fromkeys(task for line in said.values() for task in line)
        for task in tasks:
            table.add_column(Text(task))
        for label, line in list(said.items())[-max(room, 1) :]:
            table.add_row(Text(label), *(line.get(task, Text("")) for task in tasks))
        return table
