"""Line searches: how far to go along a direction that descends."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple


@dataclass(frozen=True)
class Found:
    """Where a search ended.

    Attributes:
        step: factor on the direction; 0 where no decrease was found.
        value: of the function there.
        first: value at the first trial, for the reduction ratio of a full step.
        evaluations: of the function.
    """

    step: float
    value: float
    first: float
    evaluations: int


@dataclass(frozen=True)
class Backtracking:
    """Shorten the step until the decrease is a fair share of what the slope promises (Armijo's condition).

    With phi(a) = f(theta + a d), a trial a is taken where

        phi(a) <= phi(0) + share * a * phi'(0),

    and is otherwise replaced by the minimum of the parabola through phi(0), phi'(0) and phi(a), kept between .1 a and
    .5 a (`shrink`). With `growth` above 1 a first trial that is taken is multiplied by it as long as the value falls:
    for directions without a length of their own, such as those of negative curvature.

    All trials must be of one function: call it inside `Problem.same_noise`.

    Args:
        share: of the promised decrease, between 0 and 1/2, so that Newton's full step passes on a quadratic.
        trials: the largest number of evaluations.
        shrink: bounds on the next trial over the present one.

    >>> found = Backtracking().search(lambda a: (a - 0.25) ** 2, 0.0625, -0.5)
    >>> found.step, found.value, found.evaluations
    (0.25, 0.0, 2)

    Paper: Armijo 1966; Nocedal and Wright, Numerical Optimization, 2nd edition, section 3.1 and 3.5.
    """

    share: float = 1e-4
    trials: int = 20
    shrink: tuple[float, float] = (0.1, 0.5)

    def search(
        self, phi: Callable[[float], float], value: float, slope: float, initial: float = 1.0, growth: float = 1.0
    ) -> Found:
        """Return a step that meets the condition.

        Args:
            phi: step -> value.
            value: phi(0).
            slope: phi'(0), negative.
            initial: first trial.
            growth: factor of expansion; 1 for none.

        Raises:
            ValueError: for a slope that does not descend.
        """
        if not slope < 0:
            raise ValueError(f"a line search needs a direction of descent; its slope is {slope}")
        step, first = initial, math.nan
        for trial in range(1, self.trials + 1):
            found = phi(step)
            first = found if trial == 1 else first
            if math.isfinite(found) and found <= value + self.share * step * slope:
                if trial == 1 and growth > 1:
                    return self._expand(phi, value, slope, Found(step, found, first, 1), growth)
                return Found(step, found, first, trial)
            step *= self._factor(found, value, slope * step)
        return Found(0.0, value, first, self.trials)

    def _factor(self, found: float, value: float, slope: float) -> float:
        low, high = self.shrink
        bend = found - value - slope
        if not (math.isfinite(bend) and bend > 0):
            return low if not math.isfinite(bend) else high
        return min(max(-slope / (2 * bend), low), high)

    def _expand(self, phi: Callable[[float], float], value: float, slope: float, best: Found, growth: float) -> Found:
        evaluations = best.evaluations
        while evaluations < self.trials:
            step = best.step * growth
            found = phi(step)
            evaluations += 1
            if not (found < best.value and found <= value + self.share * step * slope):
                break
            best = Found(step, found, best.first, evaluations)
        return Found(best.step, best.value, best.first, evaluations)


class _Trial(NamedTuple):
    """A step, the function there and its slope along the direction."""

    step: float
    value: float
    slope: float


@dataclass(frozen=True)
class StrongWolfe:
    """Find a step with a fair decrease and a slope that is flat enough, both ways (the strong Wolfe conditions).

        phi(a) <= phi(0) + share * a * phi'(0),    |phi'(a)| <= flat * |phi'(0)|

    Trials grow by cubic extrapolation until they bracket such a step, and cubic interpolation closes in on it; on a
    parabola the first such trial is its minimum. What is not finite ends a bracket. Where the trials run out, the best
    step that meets the first condition is taken, or none.

    All trials must be of one function: call it inside `Problem.same_noise`.

    Args:
        share: of the promised decrease, between 0 and 1/2.
        flat: above `share` and below 1: .9 after quasi-Newton steps, .1 for conjugate gradients; smaller is stricter.
        trials: the largest number of evaluations, each of the function and its slope.

    >>> found = StrongWolfe(flat=0.1).search(lambda a: ((a - 3.0) ** 2, 2 * (a - 3.0)), 9.0, -6.0)
    >>> round(found.step, 12), found.evaluations
    (3.0, 2)

    Paper: Nocedal and Wright, Numerical Optimization, 2nd edition, algorithms 3.5 and 3.6.
    """

    share: float = 1e-4
    flat: float = 0.9
    trials: int = 20

    def search(
        self, phi: Callable[[float], tuple[float, float]], value: float, slope: float, initial: float = 1.0
    ) -> Found:
        """Return a step that meets the conditions.

        Args:
            phi: step -> (value, slope).
            value: phi(0).
            slope: phi'(0), negative.
            initial: first trial.

        Raises:
            ValueError: for a slope that does not descend.
        """
        if not slope < 0:
            raise ValueError(f"a line search needs a direction of descent; its slope is {slope}")
        start = before = _Trial(0.0, value, slope)
        step, first = initial, math.nan
        for trial in range(1, self.trials + 1):
            here = _Trial(step, *phi(step))
            first = here.value if trial == 1 else first
            if self._rises(here, start) or (trial > 1 and here.value >= before.value):
                return self._close_in(phi, start, before, here, first, trial)
            if abs(here.slope) <= -self.flat * slope:
                return Found(here.step, here.value, first, trial)
            if here.slope >= 0:
                return self._close_in(phi, start, here, before, first, trial)
            grown = here.step - before.step
            step = min(max(_cubic(before, here, math.inf), here.step + 0.1 * grown), here.step + 9 * grown)
            before = here
        return Found(before.step, before.value, first, self.trials)

    def _close_in(
        self,
        phi: Callable[[float], tuple[float, float]],
        start: _Trial,
        low: _Trial,
        high: _Trial,
        first: float,
        used: int,
    ) -> Found:
        """Shrink a bracket: `low` is the best step so far that falls enough, and the slope there points to `high`."""
        for trial in range(used + 1, self.trials + 1):
            width = high.step - low.step
            guess = low.step + 0.1 * width
            if math.isfinite(high.value) and math.isfinite(high.slope):
                inner = sorted((low.step + 0.01 * width, high.step - 0.01 * width))
                guess = min(max(_cubic(low, high, low.step + 0.5 * width), inner[0]), inner[1])
            here = _Trial(guess, *phi(guess))
            if self._rises(here, start) or here.value >= low.value:
                high = here
                continue
            if abs(here.slope) <= -self.flat * start.slope:
                return Found(here.step, here.value, first, trial)
            if here.slope * width >= 0:
                high = low
            low = here
        return Found(low.step, low.value, first, self.trials)

    def _rises(self, here: _Trial, start: _Trial) -> bool:
        fair = start.value + self.share * here.step * start.slope
        return not (math.isfinite(here.slope) and here.value <= fair)


def _cubic(a: _Trial, b: _Trial, otherwise: float) -> float:
    """Return where the cubic through two values and slopes has its minimum (Nocedal and Wright, equation 3.59)."""
    width = b.step - a.step
    first = a.slope + b.slope - 3 * (a.value - b.value) / (a.step - b.step)
    square = first * first - a.slope * b.slope
    if not square >= 0:
        return otherwise
    second = math.copysign(math.sqrt(square), width)
    below = b.slope - a.slope + 2 * second
    found = b.step - width * (b.slope + second - first) / below if below != 0 else otherwise
    return found if math.isfinite(found) else otherwise


SEARCHES: dict[str, type[Backtracking] | type[StrongWolfe]] = {
    "strong_wolfe": StrongWolfe,
    "backtracking": Backtracking,
}
