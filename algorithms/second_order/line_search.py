"""Line searches: how far to go along a direction that descends."""

import math
from collections.abc import Callable
from dataclasses import dataclass


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
