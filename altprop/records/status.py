"""How a run ended, as data: one member a way of ending, each with the sentence that the report prints."""

from __future__ import annotations

from enum import StrEnum
from typing import Self


class RunStatus(StrEnum):
    """The ways in which a run ends; the member's value is what `record.json` holds.

    What the same command does next follows from the member: a *final* run is not touched again, a *rerun* one starts
    anew, a *resume* one goes on from its checkpoint. Exactly one of the three is true.

    >>> RunStatus("reached_target").final, RunStatus.FAILED.rerun, RunStatus.INTERRUPTED.resume
    (True, True, True)
    >>> RunStatus.DIVERGED.sentence
    'The loss rose past the bound that the task sets.'
    """

    sentence: str
    _next: str

    def __new__(cls, value: str, sentence: str = "", then: str = "") -> Self:
        """Bind the value that is stored, the sentence for people, and what the same command does next."""
        member = str.__new__(cls, value)
        member._value_ = value
        member.sentence = sentence
        member._next = then
        return member

    COMPLETED = "completed", "The run spent its whole budget.", "keep"
    REACHED_TARGET = "reached_target", "The run stopped at its target before the budget was spent.", "keep"
    DIVERGED = "diverged", "The loss rose past the bound that the task sets.", "keep"
    NON_FINITE = "non_finite", "A loss or a parameter stopped being a finite number.", "keep"
    REFUSED = "refused", "The learner cannot run this task, by declaration.", "keep"
    OUT_OF_MEMORY = "out_of_memory", "The memory did not suffice.", "again"
    TIMED_OUT = "timed_out", "The time limit passed before the budget was spent.", "again"
    INTERRUPTED = "interrupted", "The run was stopped from outside and can be resumed.", "resume"
    FAILED = "failed", "An exception ended the run.", "again"

    @property
    def final(self) -> bool:
        """Whether the same command leaves this run as it is."""
        return self._next == "keep"

    @property
    def rerun(self) -> bool:
        """Whether the same command runs it again from the start."""
        return self._next == "again"

    @property
    def resume(self) -> bool:
        """Whether the same command goes on from its checkpoint."""
        return self._next == "resume"
