"""What the family's oracles share: how fast an error falls with the size of a disturbance."""

import math
from collections.abc import Callable, Sequence


def order(error: Callable[[float], float], sizes: Sequence[float]) -> float:
    """Return the slope of log error against log size, by least squares: 1 for O(h), 2 for O(h^2).

    >>> round(order(lambda h: 3 * h**2, (0.1, 0.03, 0.01)), 6)
    2.0
    """
    x = [math.log(size) for size in sizes]
    y = [math.log(error(size)) for size in sizes]
    centre, mean = sum(x) / len(x), sum(y) / len(y)
    spread = sum((one - centre) ** 2 for one in x)
    return sum((one - centre) * (two - mean) for one, two in zip(x, y, strict=True)) / spread
