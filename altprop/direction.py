"""The base of learners that yield a direction for each batch; the optimizer axis makes the update of it."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar, final

from torch import Tensor

from altprop.algorithm import Algorithm

if TYPE_CHECKING:
    from torch import nn

    from altprop.data import Batch
    from altprop.derivatives import Grads
    from altprop.optim import OptimizerFactory, Updater
    from altprop.problem import Problem


class DirectionAlgorithm(Algorithm):
    """Abstract learner that gives what stands for the gradient; its author writes `_direction` and nothing else.

    The base owns the updater. It applies the direction, runs optimizers that evaluate the objective several times in a
    step under one noise, and adds the noise's own term of the objective. `_prepare` is there for what is drawn or
    allocated once, `_update` for a rule that learns more than the model; the names in `state` of a subclass come in
    addition to the updater.

    Class attributes:
        gradient_is_exact: whether the direction is the gradient of the whole objective, the noise's term included, as
            `Problem.gradient` gives it. Only then may an optimizer evaluate the objective or differentiate again
            (L-BFGS, AdaHessian); with any other direction it is refused.

    Args:
        optimizer: how the direction becomes an update.
    """

    gradient_is_exact: ClassVar[bool] = False
    state: ClassVar[tuple[str, ...]] = ("updater",)

    updater: Updater

    def __init__(self, optimizer: OptimizerFactory) -> None:
        self._optimizer = optimizer

    # What an author writes.

    @abstractmethod
    def _direction(self, batch: Batch) -> tuple[Tensor, Grads]:
        """Return (loss, name -> direction) on a batch, at the present parameters and before any update.

        Unless the gradient is exact, both leave out the noise's own term. Everything in here sees one noise.
        """

    def _prepare(self, problem: Problem) -> None:
        """Draw and allocate what lives as long as the run, and raise `Refused` for what cannot run."""

    def _trained(self, problem: Problem) -> nn.Module:
        """Return the module whose parameters the directions are of, by their names in it: by default the model."""
        model: nn.Module = problem.model
        return model

    def _update(self, direction: Grads) -> None:
        """Make the update; a rule that learns beside the model (feedback weights) writes what happens around it."""
        self.updater.apply(direction)

    # Final.

    @final
    def _setup(self, problem: Problem) -> None:
        kind = "gradient" if self.gradient_is_exact else "other"
        self.updater = problem.updater(self._optimizer, self._trained(problem), direction=kind)
        self._prepare(problem)

    @final
    def _step(self, batch: Batch | None) -> Tensor:
        assert batch is not None  # `step` has refused to go on without one.
        updater = self.updater
        if updater.wants_closure:
            return self._search(batch)
        if updater.wants_graph:
            loss, direction = self.problem.gradient(batch, create_graph=True)
        else:
            loss, direction = self.direction(batch)
        self._update(direction)
        return loss

    @final
    def direction(self, batch: Batch) -> tuple[Tensor, Grads]:
        """Return (objective, name -> what stands for its gradient), and change no parameter."""
        if self.gradient_is_exact:
            return self._direction(batch)
        problem = self.problem
        with problem.same_noise():
            loss, direction = self._direction(batch)
            penalty = problem.penalty()
        if penalty is None:
            return loss, direction
        value, slopes = penalty
        names = {id(p): name for name, p in problem.params.items()}
        own = {name: slopes[names[id(p)]] for name, p in self._trained(problem).named_parameters()}
        return loss + value, {name: one + own[name] for name, one in direction.items()}

    def _search(self, batch: Batch) -> Tensor:
        """Step an optimizer that evaluates the objective several times: one function throughout."""
        problem = self.problem
        noisy = getattr(problem.model, "noise", None) is not None
        whole = len(batch.index) >= problem.train_size
        with problem.same_noise():
            loss, direction = self._direction(batch)
            self.updater.apply(
                direction,
                evaluate=lambda graph: problem.gradient(batch, create_graph=graph),
                loss=loss,
                fixed=whole and not noisy,
            )
        return loss
