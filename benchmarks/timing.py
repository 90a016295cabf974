"""Interleaved timing: A B C A B C ..., one torch thread, medians of the ratios within a round."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass
class Table:
    """Times of several ways to do the same work.

    Attributes:
        title: what was measured.
        reference: the way that the others are compared with.
        unit: of a time, in words.
        rounds: way -> seconds, one a round.
    """

    title: str
    reference: str
    unit: str
    rounds: dict[str, list[float]]

    def ratios(self) -> dict[str, float]:
        """Return way -> median over the rounds of its time over the reference's."""
        base = self.rounds[self.reference]
        return {
            way: round(statistics.median(t / b for t, b in zip(times, base, strict=True)), 3)
            for way, times in self.rounds.items()
        }

    def text(self) -> str:
        """Return the table as plain text: median, ratio, and the middle half of the ratios."""
        base, ratios = self.rounds[self.reference], self.ratios()
        lines = [self.title, f"{'':34}{'median':>12}{'ratio':>8}{'middle half':>16}"]
        for way, times in self.rounds.items():
            shares = sorted(t / b for t, b in zip(times, base, strict=True))
            low, high = shares[len(shares) // 4], shares[-1 - len(shares) // 4]
            lines.append(
                f"{way:34}{statistics.median(times) * 1e6:9.0f} us{ratios[way]:8.2f}{f'{low:.2f} to {high:.2f}':>16}"
            )
        return "\n".join([*lines, f"a time is {self.unit}"])


def interleave(ways: dict[str, Callable[[], float]], rounds: int, warm: int = 2) -> dict[str, list[float]]:
    """Run every way once a round and return way -> seconds a unit of work, one a round.

    Args:
        ways: name -> function that does the work and returns how many units it did.
        rounds: how often.
        warm: rounds before, not counted.
    """
    found: dict[str, list[float]] = {name: [] for name in ways}
    for place in range(warm + rounds):
        for name, way in ways.items():
            started = time.perf_counter()
            units = way()
            elapsed = time.perf_counter() - started
            if place >= warm:
                found[name].append(elapsed / units)
    return found
