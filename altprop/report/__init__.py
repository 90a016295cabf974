"""From records to statistics, figures and one page.

`altprop.report.build.build` is the door. Nothing here imports torch or the harness: a report is built from records
alone, on any machine. The package can be called: `altprop.report(frame)` makes the page of runs of another tool.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd


class _CallableModule(ModuleType):
    """This package as a function."""

    def __call__(
        self, frame: pd.DataFrame, out: Path | str = "report", title: str | None = None, reference: str | None = None
    ) -> Path:
        """Make the page of runs in long form, a row a value, and return where it lies.

        Args:
            frame: with the columns learner, seed, metric and value, and step, task, split (train, validation, test),
                seconds, samples and flops where they are known; `higher_is_better` for a metric whose name does not
                tell.
            out: folder to write to.
            title: heading of the page.
            reference: the learner with which all others are compared.

        Raises:
            AltpropError: for a frame that cannot be read as runs.
        """
        from altprop.records.foreign import convert_frame
        from altprop.report.build import TITLE, build

        with tempfile.TemporaryDirectory(prefix="altprop-records-") as folder:
            convert_frame(frame, Path(folder))
            return build([folder], out, title or TITLE, reference=reference)


_this: Any = sys.modules[__name__]
_this.__class__ = _CallableModule
