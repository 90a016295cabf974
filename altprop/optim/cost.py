"""What an update costs, for optimizers whose work differs from step to step."""

from collections.abc import Callable

import torch

from altprop.flops import CountingMode

WATCHED = 32
LONGEST_PERIOD = 15


class LbfgsMeter:
    """FLOPs of one step of torch's L-BFGS, from what it did: two inner products a stored pair and a few more.

    Args:
        optimizer: before its step.
        fresh_function: whether the objective changed since the last step, so that the pending pair is dropped.
    """

    def __init__(self, optimizer: torch.optim.LBFGS, fresh_function: bool) -> None:
        self._group = optimizer.param_groups[0]
        self._state = optimizer.state[self._group["params"][0]]
        self._iterations, self._pairs = self._state.get("n_iter", 0), len(self._state.get("old_dirs") or ())
        self._dropped = fresh_function and self._iterations > 0

    def flops(self, evaluations: int) -> float:
        """Return the FLOPs of the step that is over, which evaluated the objective so often after the first time."""
        products, pairs = 0, self._pairs
        for iteration in range(self._iterations, self._state["n_iter"]):
            if iteration:
                accepted = not (self._dropped and iteration == self._iterations)
                pairs = min(pairs + accepted, self._group["history_size"])
                products += 1 + accepted + 2 * pairs
            products += 1
        if self._group["line_search_fn"] is not None:
            products += evaluations
        size: int = sum(p.numel() for p in self._group["params"])
        return 2.0 * products * size


class CostMeter:
    """FLOPs of each update: counted over the first 32, predicted afterwards.

    Preconditioned optimizers do their costly work every so many steps (SOAP's and Sophia's every 10), which the
    ledger's few audits would miss or take for the rule. The first update, which may set things up, stands for itself.

    Attributes:
        seen: FLOPs of the first updates.
        updates: how many there were.
    """

    def __init__(self) -> None:
        self.seen: list[int] = []
        self.updates = 0

    def run(self, update: Callable[[], None], count: bool = True) -> float:
        """Do an update and return its FLOPs, predicted unless they may be counted."""
        self.updates += 1
        if count and len(self.seen) < WATCHED:
            mode = CountingMode()
            with mode:
                update()
            self.seen.append(sum(mode.flops.values()))
            return float(self.seen[-1])
        update()
        return self._predicted(self.updates - 1)

    def _predicted(self, index: int) -> float:
        """Return the FLOPs of update `index`, by the shortest period that fits what was seen, else the mean.

        >>> meter = CostMeter()
        >>> meter.seen = [9] + [1, 1, 5] * 10 + [1]
        >>> [meter._predicted(index) for index in (32, 33, 34)]
        [1.0, 5.0, 1.0]
        """
        rest = self.seen[1:] or self.seen or [0]
        for period in range(1, LONGEST_PERIOD + 1):
            if all(a == b for a, b in zip(rest, rest[period:], strict=False)):
                return float(rest[(index - 1) % period])
        return sum(rest) / len(rest)
