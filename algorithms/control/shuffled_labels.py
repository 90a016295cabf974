"""Backpropagation on shuffled labels: what a table shows of a learner that has nothing to learn."""

from dataclasses import replace

import torch
from torch import Tensor

from altprop import Batch, Capability, DirectionAlgorithm, Feed, Grads, Oracle, Refused
from altprop.feed import MappedFeed
from altprop.randomness import generator_for
from altprop.testing import set_up, sgd, step_error, toy


class ShuffledLabels(DirectionAlgorithm):
    """The exact gradient, on training rows that have each other's labels by a permutation of the run's own seed.

    Inputs, label frequencies, batch order and cost are those of backpropagation; what is gone is that the labels
    belong to the inputs. So validation and test must end at chance. Where they do not, labels leak: through the
    split, the metric or the harness (Zhang et al. 2017 use the same labels to show what a network can memorise).

    Args:
        optimizer: how the gradient becomes an update.
    """

    requires = frozenset({Capability.GRADIENT, Capability.SUPERVISED})
    gradient_is_exact = True

    def _wrap_feed(self, feed: Feed) -> Feed:
        """Give the rows each other's targets, by one permutation for the whole run.

        It is of all rows at once: a row then keeps its own target as often as any other row has it. Shuffling inside
        each batch of B anew would leave it there one time in B, which many epochs average into a signal.
        """
        split = feed.split
        whole = split.whole()
        if split.mask is not None and whole.per_step:
            raise Refused("sequences of unequal length cannot take each other's targets at each time step")
        order = torch.randperm(len(split), generator=generator_for(feed.seed, "labels"), device="cpu")
        rows = 1 if whole.per_step else 0
        targets = split.targets.index_select(rows, order.to(split.targets.device))
        return MappedFeed(feed, lambda batch: replace(batch, targets=targets.index_select(rows, batch.index)))

    def _direction(self, batch: Batch) -> tuple[Tensor, Grads]:
        return self.problem.gradient(batch)

    @classmethod
    def oracles(cls) -> tuple[Oracle, ...]:
        return (
            Oracle("a step of SGD = minus lr times the gradient on the labels given", _step_error, 1e-16),
            Oracle("not the gradient on the rows' own labels", lambda: _step_error(own=True), 1e-3, differs=True),
        )


def _step_error(lr: float = 0.1, *, own: bool = False) -> float:
    """Return the largest difference of a parameter from theta - lr dE/dtheta after a step on shifted labels."""
    problem, batch = toy()
    fed = Batch(batch.inputs, torch.roll(batch.targets, 1, 0), batch.index)
    expected = problem.flat() - lr * problem.flatten(problem.gradient(batch if own else fed)[1])
    return step_error(set_up(ShuffledLabels(sgd(lr)), problem), fed, expected)
