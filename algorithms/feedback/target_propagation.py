"""Target propagation: each layer is told what it should have put out, through learned inverses of the layers above."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn

from altprop import (
    Batch,
    Block,
    Capability,
    DirectionAlgorithm,
    Grads,
    OptimizerFactory,
    Oracle,
    Problem,
    Updater,
    check_name,
    check_number,
    check_whole,
)
from altprop.algorithms.feedback.feedback_alignment import chain
from altprop.testing import relative_error, set_up, sgd, toy

FIRST_TARGETS = ("hidden", "output")
INVERSE_LOSSES = ("reconstruction", "difference")


class Inverse(nn.Module):
    """A learned inverse g(h) = s(V h + c) of a block f; s is the activation of the block below, whose output it gives.

    Args:
        below, block: dense blocks, one above the other; g inverts the upper one.
        problem: whose stream draws V, uniform between -1 and 1 over the root of its inputs; c starts at 0.
    """

    def __init__(self, below: Block, block: Block, problem: Problem) -> None:
        super().__init__()
        inputs, outputs = block.weight.shape
        bound = 1 / math.sqrt(inputs)
        self.weight = nn.Parameter(problem.random.uniform(outputs, inputs, low=-bound, high=bound))
        self.bias = nn.Parameter(torch.zeros_like(self.weight.detach()[:, 0]))
        self._activation = below.activation.function

    def forward(self, h: Tensor) -> Tensor:
        """Return g(h), (B, outputs)."""
        return self._activation(nn.functional.linear(h, self.weight, self.bias))


class TargetPropagation(DirectionAlgorithm):
    r"""Give every hidden layer a target through learned inverses, and let it come closer to it by itself.

    With h_l = f_l(h_(l-1)) the output of layer l, l = 1 .. L, (B, n_l), g_l the inverse of f_l and L_i the loss of a
    row, the targets t_l of each row are

        first:       t_(L-1) = h_(L-1) - step dL_i/dh_(L-1),  or  t_L = h_L - step dL_i/dh_L,
        difference:  t_(l-1) = h_(l-1) + g_l(t_l) - g_l(h_l),    vanilla:  t_(l-1) = g_l(t_l),

    and the layers learn, each alone, from

        L_l = mean over rows of |f_l(h_(l-1)) - t_l|^2,    the output layer from the loss itself.

    Before each update of the layers the inverses learn, with s ~ N(0, noise^2 I) and u = h_(l-1) + s,

        reconstruction:  mean over rows of |g_l(f_l(u)) - u|^2,
        difference:      mean over rows of |h_(l-1) + g_l(v) - g_l(h_l) - u|^2 / noise^2,

    where v is what u becomes on its way up to where the first target stands and down again to layer l, as targets go
    down (the inverses on that way are held fixed). With exact inverses of an invertible linear net, targets differ
    from outputs by Gauss-Newton's step; with the difference loss trained inverses give that step in general.

    Args:
        optimizer: the optimizer axis, with its own state for layers and inverses; directions are no gradients, so
            closures are refused.
        difference: whether targets carry the correction for an inexact inverse, or are the vanilla ones.
        first_target: hidden, where the gradient goes back through W_L, the one transposed weight of this rule; or
            output, where it does not, and the output layer has an inverse too.
        step: of the first target, against the gradient of a row's own loss.
        inverse_loss: reconstruction or difference.
        noise: standard deviation of s, above 0.
        inverse_steps: updates of the inverses a batch.

    Raises:
        AltpropError: for an unknown name or a number out of range.

    Paper: Lee, Zhang, Fischer and Bengio, Difference Target Propagation, ECML 2015 (first_target=hidden,
    reconstruction); Bartunov et al. 2018 (first_target=output); Meulemans et al., A Theoretical Framework for Target
    Propagation, NeurIPS 2020 (the difference loss; its weight decay on V is left out, and it goes up to the output).
    Lee's layers have a learning rate each; here all have the optimizer's, and `step` is in units of the row's loss,
    whatever the batch.
    """

    requires = frozenset({Capability.GRADIENT, Capability.LAYERED, Capability.CHAIN, Capability.DENSE})
    state = ("inverses", "inverse_updater")

    def __init__(
        self,
        optimizer: OptimizerFactory,
        difference: bool = True,
        first_target: str = "hidden",
        step: float = 0.5,
        inverse_loss: str = "reconstruction",
        noise: float = 0.3,
        inverse_steps: int = 1,
    ) -> None:
        super().__init__(optimizer)
        self.difference = bool(difference)
        self.first_target = check_name(first_target, "algorithm.first_target", FIRST_TARGETS)
        self.step_size = check_number(step, "algorithm.step", above=0.0)
        self.inverse_loss = check_name(inverse_loss, "algorithm.inverse_loss", INVERSE_LOSSES)
        self.noise = check_number(noise, "algorithm.noise", above=0.0)
        self.inverse_steps = check_whole(inverse_steps, "algorithm.inverse_steps", 1)

    def _prepare(self, problem: Problem) -> None:
        blocks = chain(problem)
        top = len(blocks) - (self.first_target == "hidden")
        made = [Inverse(below, block, problem) for below, block in pairwise(blocks[:top])]
        self.inverses = nn.ModuleList(made)
        self.inverse_updater: Updater | None = None
        if made:  # with one hidden layer its target is the first
            self.inverse_updater = problem.updater(self._optimizer, self.inverses, direction="other")
        self._outputs: list[Tensor] = []

    def _direction(self, batch: Batch) -> tuple[Tensor, Grads]:
        problem = self.problem
        walk = problem.walk(batch)
        loss, error = problem.output_loss(walk.outputs, batch), problem.output_gradient(walk.outputs, batch)
        outputs, last, rows = walk.block_outputs, len(walk.inputs) - 1, problem.divisor(batch)
        # A row's own gradient: that of the mean over the rows that count, times their number.
        slope = rows * error
        if self.first_target == "hidden" and last > 0:
            slope = walk.send(last, walk.delta(last, slope))
        self._outputs = outputs[: len(self.inverses) + 1]
        targets = self.targets(self._outputs, slope) if last > 0 else []
        signals = [2 / rows * (h - t) for h, t in zip(outputs[:last], targets[:last], strict=True)]
        return loss, walk.pull([*signals, error]).parameters

    def targets(self, outputs: Sequence[Tensor], slope: Tensor) -> list[Tensor]:
        """Return t_l, shaped like h_l, for the outputs h_1, h_2, ... up to where the first target stands.

        Args:
            outputs: h_l, (B, n_l) each.
            slope: (B, n), the gradient of each row's loss in the last of them.
        """
        with self._working("targets", slope):
            return self._downwards(outputs, outputs[-1] - self.step_size * slope)

    def _downwards(self, outputs: Sequence[Tensor], target: Tensor, start: int = 0) -> list[Tensor]:
        """Return the targets of the layers from `start` on, whose uppermost is given."""
        found = [target]
        for place in range(len(self.inverses) - 1, start - 1, -1):
            inverse = self.inverses[place]
            back = inverse(found[0])
            found.insert(0, outputs[place] + (back - inverse(outputs[place + 1])) if self.difference else back)
        return found

    @contextmanager
    def _working(self, name: str, like: Tensor) -> Iterator[None]:
        """Count what is computed inside by the rows, and leave no graph."""
        with self.problem.ledger.work(name, per="example", examples=len(like)), torch.no_grad():
            yield

    def _update(self, direction: Grads) -> None:
        outputs, self._outputs = self._outputs, []
        if self.inverse_updater is not None:
            for _ in range(self.inverse_steps):
                self.inverse_updater.apply(self.inverse_gradient(outputs))
        self.updater.apply(direction)

    def inverse_gradient(self, outputs: Sequence[Tensor]) -> Grads:
        """Return the gradients of the inverses' losses, one draw of noise each, by their names in `inverses`.

        Args:
            outputs: h_1, h_2, ... up to where the first target stands, (B, n_l) each.
        """
        found: Grads = {}
        for place in range(len(self.inverses)):
            h = outputs[place]
            u = h + self.noise * self.problem.random.normal(*h.shape)
            for name, value in self._inverse_gradient(place, outputs, u).items():
                found[f"{place}.{name}"] = value
        return found

    def _inverse_gradient(self, place: int, outputs: Sequence[Tensor], u: Tensor) -> Grads:
        pull, inverse = self.problem.pull, self.inverses[place]
        blocks = chain(self.problem)[place + 1 : len(self.inverses) + 1]
        with self.problem.uncounted.kept_buffers(), self._working("inverses", u):
            if self.inverse_loss == "reconstruction":
                seen = blocks[0](u)
            else:
                above = u
                for block in blocks:
                    above = block(above)
                seen = self._downwards(outputs, above, place + 1)[0]
        back, vjp = pull(inverse, seen)
        if self.inverse_loss == "reconstruction":
            return vjp(2 / len(u) * (back - u), inputs=False).parameters
        rest, vjp_of_rest = pull(inverse, outputs[place + 1])
        signal = 2 / (len(u) * self.noise**2) * (outputs[place] + back - rest - u)
        there, here = vjp(signal, inputs=False).parameters, vjp_of_rest(-signal, inputs=False).parameters
        return {name: value + here[name] for name, value in there.items()}

    @classmethod
    def oracles(cls) -> tuple[Oracle, ...]:
        """Check the targets under exact and inexact inverses, and the gradients of all losses."""

        def rule(**options: bool | str | float) -> "TargetPropagation":
            return cls(sgd(), **options)  # type: ignore[arg-type]

        return (
            Oracle("exact inverses: targets are the Gauss-Newton step", lambda: _from_gauss_newton(rule()), 1e-12),
            Oracle(
                "vanilla ones too", lambda: _from_gauss_newton(rule(difference=False, first_target="output")), 1e-12
            ),
            Oracle("not inexact ones", lambda: _from_gauss_newton(rule(), exact=False), 0.05, differs=True),
            Oracle("no slope: no target differs from its output", lambda: _at_rest(rule()), 0.0),
            Oracle("not without the difference", lambda: _at_rest(rule(difference=False)), 0.05, differs=True),
            Oracle("layers descend their own losses", lambda: _off_local_losses(rule()), 1e-13),
            Oracle("reconstruction: inverses descend their own", lambda: _off_inverse_losses(rule()), 1e-13),
            Oracle(
                "difference: too",
                lambda: _off_inverse_losses(rule(inverse_loss="difference", first_target="output")),
                1e-13,
            ),
            Oracle(
                "not that of the other",
                lambda: _off_inverse_losses(rule(), "difference"),
                0.05,
                differs=True,
            ),
        )


def _outputs(rule: TargetPropagation, batch: Batch) -> list[Tensor]:
    """Return h_1, h_2, ... up to where the first target stands."""
    return rule.problem.walk(batch).block_outputs[: len(rule.inverses) + 1]


def _from_gauss_newton(rule: TargetPropagation, exact: bool = True) -> float:
    """Return how far targets of a square linear net are from where W_top .. W_(l+1) (t_l - h_l) = t_top - h_top."""
    problem, batch = toy((4, 4, 4, 4, 4), activation="identity")
    set_up(rule, problem)
    weights = [block.weight.detach() for block in chain(problem)]
    for inverse, block in zip(rule.inverses, chain(problem)[1:], strict=False):
        if exact:
            turned = torch.linalg.inv(block.weight.detach())
            cast("Inverse", inverse).weight.data.copy_(turned)
            cast("Inverse", inverse).bias.data.copy_(-turned @ block.bias.detach())
    outputs = _outputs(rule, batch)
    targets = rule.targets(outputs, problem.random.normal(*outputs[-1].shape))
    worst, product = 0.0, torch.eye(4, dtype=problem.dtype)
    for place in reversed(range(len(outputs))):
        needed = torch.linalg.solve(product, (targets[-1] - outputs[-1]).T).T
        worst = max(worst, float((targets[place] - outputs[place] - needed).norm() / needed.norm()))
        product = product @ weights[place]
    return worst


def _at_rest(rule: TargetPropagation) -> float:
    """Return the largest difference of a target from its output where the first target is the output."""
    problem, batch = toy((5, 7, 6, 6, 3))
    outputs = _outputs(set_up(rule, problem), batch)
    targets = rule.targets(outputs, torch.zeros_like(outputs[-1]))
    return max(float((t - h).abs().max()) for t, h in zip(targets, outputs, strict=True))


def _off_local_losses(rule: TargetPropagation) -> float:
    """Return the relative error of the direction against autograd of each layer's own loss on a detached input."""
    problem, batch = toy((5, 7, 6, 6, 3))
    outputs = _outputs(set_up(rule, problem), batch)
    (slope,) = torch.autograd.grad(
        batch.rows * problem.output_loss(chain(problem)[-1](outputs[-1].requires_grad_()), batch), outputs[-1]
    )
    outputs[-1] = outputs[-1].detach()
    targets = rule.targets(outputs, slope)
    total = problem.output_loss(chain(problem)[-1](outputs[-1]), batch)
    for block, x, target in zip(chain(problem), [batch.inputs, *outputs], targets, strict=False):
        total = total + (block(x) - target).square().sum() / batch.rows
    slopes = torch.autograd.grad(total, list(problem.params.values()))
    return relative_error(rule.direction(batch)[1], dict(zip(problem.params, slopes, strict=True)))


def _off_inverse_losses(rule: TargetPropagation, claimed: str | None = None) -> float:
    """Return the relative error of the inverses' gradients against autograd of their losses on the same draws."""
    problem, batch = toy((5, 7, 6, 6, 3))
    outputs = _outputs(set_up(rule, problem), batch)
    stream = problem.random.state_dict()
    found = rule.inverse_gradient(outputs)
    problem.random.load_state_dict(stream)
    total = torch.zeros_like(problem.flat()[0])
    for place, (inverse, h) in enumerate(zip(rule.inverses, outputs, strict=False)):
        u = h + rule.noise * problem.random.normal(*h.shape)
        if (claimed or rule.inverse_loss) == "reconstruction":
            total = total + (inverse(chain(problem)[place + 1](u).detach()) - u).square().sum() / batch.rows
            continue
        t = u
        for block in chain(problem)[place + 1 : len(outputs)]:
            t = block(t)
        for k in range(len(outputs) - 2, place, -1):
            t = outputs[k] + rule.inverses[k](t) - rule.inverses[k](outputs[k + 1])
        again = h + inverse(t.detach()) - inverse(outputs[place + 1])
        total = total + (again - u).square().sum() / (batch.rows * rule.noise**2)
    names, values = zip(*rule.inverses.named_parameters(), strict=True)
    return relative_error(found, dict(zip(names, torch.autograd.grad(total, values), strict=True)))
