"""Search spaces that configuration declares, and quasi-random trials in them.

A space is part of a learner: it stands in the yaml of its algorithm, optimizer and noise, and is the same for every
workload. Trials are points of one scrambled Sobol sequence, so the first k of n trials are the k trials of a smaller
tuning, and learners with the same number of options are tried at the same places.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from altprop.errors import AltpropError, near

SCALES = ("linear", "log")
KINDS = ("float", "int")
SCRAMBLE = 20261124
"""Seed of the scrambling: one sequence for all tunings, so that trials are equal wherever spaces are."""


@dataclass(frozen=True)
class Dimension:
    """One option and the values that it may take: a range, or a list of choices.

    Attributes:
        name: dotted, as on the command line, such as optimizer.lr.
        low, high: ends of the range, both included.
        scale: linear or log: on which a trial's place is uniform.
        kind: float or int.
        choices: instead of a range.
    """

    name: str
    low: float = 0.0
    high: float = 0.0
    scale: str = "linear"
    kind: str = "float"
    choices: tuple[Any, ...] = ()

    @classmethod
    def read(cls, name: str, given: Any) -> Dimension:
        """Check and read one entry of `search:`.

        Raises:
            AltpropError: for what is no range and no list of choices, in one line.
        """
        where = f"search of {name}"
        if not isinstance(given, Mapping):
            raise AltpropError(f"{where} must be {{low: .., high: .., scale: log}} or {{choices: [..]}}; got {given!r}")
        unknown = sorted(set(map(str, given)) - {"low", "high", "scale", "type", "choices"})
        if unknown:
            raise AltpropError(
                f"{where}: {unknown[0]} is unknown; {near(unknown[0], ('low', 'high', 'scale', 'type', 'choices'))}"
            )
        if "choices" in given:
            choices = given["choices"]
            if len(given) > 1 or not isinstance(choices, Sequence) or isinstance(choices, str) or len(choices) < 2:
                raise AltpropError(f"{where}: choices must be a list of at least two values, and nothing beside it")
            return cls(name, choices=tuple(choices))
        low, high = given.get("low"), given.get("high")
        if not (_is_number(low) and _is_number(high) and low < high):  # type: ignore[operator]
            raise AltpropError(f"{where}: low must be a number below high; got low={low!r}, high={high!r}")
        scale, kind = str(given.get("scale", "linear")), str(given.get("type", "float"))
        if scale not in SCALES or kind not in KINDS:
            raise AltpropError(f"{where}: scale is one of {', '.join(SCALES)}, type one of {', '.join(KINDS)}")
        if scale == "log" and low <= 0:  # type: ignore[operator]
            raise AltpropError(f"{where}: a log scale needs low above 0; got {low!r}")
        return cls(name, float(low), float(high), scale, kind)  # type: ignore[arg-type]

    def at(self, place: float) -> Any:
        """Return the value at a place in [0, 1): numbers are rounded to 4 digits, so that they can be typed again.

        >>> Dimension("optimizer.lr", 1e-4, 1.0, "log").at(0.5)
        0.01
        >>> Dimension("algorithm.k2", choices=(5, 10, 20)).at(0.99)
        20
        """
        if self.choices:
            return self.choices[min(int(place * len(self.choices)), len(self.choices) - 1)]
        if self.kind == "int":
            return self._whole(place)
        value = self._between(self.low, self.high, place)
        return min(max(float(f"{value:.4g}"), self.low), self.high)

    def _whole(self, place: float) -> int:
        """Give each whole number the share of the scale that lies within one half of it."""
        low, high = math.ceil(self.low), math.floor(self.high)
        value = self._between(low - 0.5 if low > 0.5 or self.scale == "linear" else low, high + 0.5, place)
        return min(max(round(value), low), high)

    def _between(self, low: float, high: float, place: float) -> float:
        if self.scale == "log":
            return math.exp(math.log(low) + place * (math.log(high) - math.log(low)))
        return low + place * (high - low)

    def described(self) -> dict[str, Any]:
        """Return the entry as configuration and records spell it."""
        if self.choices:
            return {"choices": list(self.choices)}
        return {"low": self.low, "high": self.high, "scale": self.scale, "type": self.kind}


@dataclass(frozen=True)
class Space:
    """The options of a learner that a tuning searches, in the order of their names.

    Attributes:
        dimensions: one an option; none where there is nothing to search.
    """

    dimensions: tuple[Dimension, ...]

    @classmethod
    def read(cls, declared: Mapping[str, Any], fixed: Collection[str] = ()) -> Space:
        """Read `search:` of all parts of a learner.

        Args:
            declared: dotted name -> entry.
            fixed: names of options that were set by hand: they are not searched.

        Raises:
            AltpropError: for an entry that is no range and no list of choices.
        """
        found = [Dimension.read(name, entry) for name, entry in sorted(declared.items())]
        return cls(tuple(one for one in found if one.name not in fixed))

    def trials(self, number: int) -> list[dict[str, Any]]:
        """Return the values of trials 0 .. number - 1, dotted name -> value; the first ones never depend on `number`.

        Sobol (1967), scrambled as Owen (1998) and Matousek (1998) do, by `scipy.stats.qmc`.
        """
        if not self.dimensions:
            return []
        from scipy.stats import qmc

        sequence = qmc.Sobol(len(self.dimensions), scramble=True, rng=SCRAMBLE)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # its balance wants powers of 2; any number is asked for here
            places = sequence.random(number).tolist()
        return [{one.name: one.at(u) for one, u in zip(self.dimensions, row, strict=True)} for row in places]

    def described(self) -> dict[str, Any]:
        """Return name -> entry, as records hold it."""
        return {one.name: one.described() for one in self.dimensions}


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
