"""The hooks of a learner that yields directions."""

import torch

from altprop import Batch, DirectionAlgorithm, Grads
from altprop.testing import set_up, sgd, toy


class Gradient(DirectionAlgorithm):
    """Plain gradient descent."""

    def _direction(self, batch: Batch) -> tuple[torch.Tensor, Grads]:
        return self.problem.gradient(batch)


class Counted(Gradient):
    """Gradient descent that learns beside the model how far it went, and makes twice the update."""

    state = ("gone",)

    def _prepare(self, problem) -> None:
        self.gone = torch.zeros((), dtype=problem.dtype)

    def _update(self, direction: Grads) -> None:
        before = self.problem.flat()
        for _ in range(2):
            self.updater.apply(direction)
        self.gone = self.gone + (self.problem.flat() - before).norm()


def test_what_surrounds_the_update_is_the_rules_own():
    (first, batch), (second, _) = toy(), toy()
    start, counted = first.flat(), set_up(Counted(sgd()), second)
    loss = set_up(Gradient(sgd()), first).step(batch).loss
    assert torch.equal(counted.step(batch).loss, loss)
    torch.testing.assert_close(second.flat() - start, 2 * (first.flat() - start))
    torch.testing.assert_close(counted.state_dict()["gone"], (second.flat() - start).norm())
