"""What a command does with a cell."""

from __future__ import annotations

from altprop.harness.cell import Cell
from altprop.harness.execution import run_seeds
from altprop.harness.planning import Outcome, refuse


def run_cell(cell: Cell) -> list[Outcome]:
    """Run a cell: its seeds, and before them a tuning where `tune=` asks for one.

    Raises:
        KeyboardInterrupt: after the run at hand was saved so that it can be resumed.
        AltpropError: where no record can be written at all.
    """
    if cell.settings.tune and refuse(cell) is None:
        from altprop.harness.tuning import run_tuning

        return run_tuning(cell)
    return run_seeds(cell)
