"""MeZO: zeroth-order descent in place; the noise is drawn anew from its seed wherever it is needed, never stored."""

from functools import partial
from types import MappingProxyType

import torch
from torch import Tensor

from altprop import Algorithm, Batch, Oracle, PredictorKind, Problem, Random, StepResult, check_number, check_whole
from altprop.algorithms.perturbation.points import finite, refresh_statistics
from altprop.testing import cosine, monte_carlo, set_up, toy

SEEDS = 2**62


class MeZO(Algorithm):
    """Walk along the noise that was tried, one way, then the other, by the difference that it made.

    A step draws a seed s, and z(s), N(0, 1) like all D parameters, follows from it, one parameter after the other:

        theta += epsilon z(s);     above = L(theta)
        theta -= 2 epsilon z(s);   below = L(theta)
        theta += epsilon z(s);     theta -= lr (above - below) / (2 epsilon) z(s),

    all in place. With `samples` K this is done for K seeds at the theta where the step began, and the moves are
    averaged. Beside the weights it holds the noise of one parameter at a time, K seeds and K differences: no graph, no
    direction, no optimizer, no state. Both points of a pair see one batch and one noise. Going back leaves the rounding
    of three additions in theta. The mean move is lr times the gradient, with the bias and the variance of
    `weight_perturbation` with two sides.

    Args:
        lr: learning rate; what is stable falls as 1 / D. There is no optimizer axis, for that would hold what MeZO does
            without.
        epsilon: size of the perturbation, in units of the parameters.
        samples: K; a step costs 2 K evaluations.

    Raises:
        AltpropError: for values outside these.

    Paper: Malladi, Gao, Nichani, Damian, Lee, Chen and Arora 2023, Fine-tuning language models with just forward passes
    (arXiv:2305.17333), algorithm 1, MeZO-SGD; epsilon is theirs. The learning rate is for training from scratch, theirs
    of 1e-6 for the fine-tuning of large models.
    """

    kind = PredictorKind.MODEL
    exempt = MappingProxyType(
        {
            "changes_nothing_without_an_error": (
                "at a minimum the two sides differ by a term of order epsilon^3, and that times the noise is a step"
            ),
            "beats_the_controls": (
                "what learning rate is stable falls with the number of parameters, and there is no optimizer to adapt: "
                "the default is for thousands, with which 150 steps on 58 parameters are few (lr=0.03 passes)"
            ),
        }
    )

    def __init__(self, lr: float = 3e-3, epsilon: float = 1e-3, samples: int = 1) -> None:
        self.lr = check_number(lr, "algorithm.lr", above=0.0)
        self.epsilon = check_number(epsilon, "algorithm.epsilon", above=0.0)
        self.samples = check_whole(samples, "algorithm.samples", 1)

    def _setup(self, problem: Problem) -> None:
        pass

    def _step(self, batch: Batch | None) -> StepResult:
        assert batch is not None
        problem = self.problem
        seeds = [problem.random.integers(0, SEEDS) for _ in range(self.samples)]
        with problem.same_noise():
            loss = refresh_statistics(problem, batch)
            slopes = [self.slope(batch, seed) for seed in seeds]
        for seed, slope in zip(seeds, slopes, strict=True):
            self.move(seed, -self.lr * slope / self.samples)
        problem.ledger.updates += 1
        return StepResult(loss)

    def slope(self, batch: Batch, seed: Tensor) -> Tensor:
        """Return (above - below) / (2 epsilon), a scalar, along the noise of a seed; the weights come back."""
        self.move(seed, self.epsilon)
        above = self.problem.objective(batch)
        self.move(seed, -2 * self.epsilon)
        below = self.problem.objective(batch)
        self.move(seed, self.epsilon)
        return finite(above - below) / (2 * self.epsilon)

    def move(self, seed: Tensor, by: Tensor | float) -> None:
        """Add `by` times the noise of a seed to the weights, one parameter after the other."""
        with torch.no_grad():
            for place, p in enumerate(self.problem.params.values()):
                p.add_(by * self.noise(seed, place, p))

    def noise(self, seed: Tensor, place: int, p: Tensor) -> Tensor:
        """Return the noise of one parameter, shaped like it, which is the same whenever it is asked for."""
        return self.problem.random.each(partial(_drawn, place, p.shape), seed)

    @classmethod
    def oracles(cls) -> tuple[Oracle, ...]:
        """Check that the noise is the same each time, what a step is, and that its mean is the gradient."""
        return (
            Oracle("a step = -lr (slope by central differences) z", partial(_off, True), 1e-6),
            Oracle("not along another seed's noise", partial(_off, False), 0.5, differs=True),
            Oracle("a slope leaves the weights as they were, but for rounding", _left, 1e-14),
            Oracle("mean move = lr times the gradient, abs z", partial(_z_score, 1.0), 4.0),
            Oracle("not minus the gradient: abs z", partial(_z_score, -1.0), 4.0, differs=True),
            Oracle("parameters have noise of their own: |cosine|", _correlated, 0.3),
        )


def _drawn(place: int, shape: torch.Size, random: Random, seed: Tensor) -> Tensor:
    """Return N(0, 1) of a shape, from a seed and the place of the parameter."""
    generator = torch.Generator(device="cpu").manual_seed(int(seed) + place)
    return torch.randn(shape, generator=generator, dtype=random.dtype, device="cpu").to(random.device)


def _ready() -> tuple[MeZO, Batch]:
    problem, batch = toy((4, 5, 3))
    return set_up(MeZO(lr=0.1, epsilon=1e-4), problem), batch


def _z(rule: MeZO, seed: Tensor) -> Tensor:
    """Return the noise of all parameters, (D,)."""
    return torch.cat([rule.noise(seed, place, p).flatten() for place, p in enumerate(rule.problem.params.values())])


def _off(same: bool) -> float:
    """Return the relative difference of a step from what the gradient says, along its own noise or other noise."""
    rule, batch = _ready()
    problem = rule.problem
    before = problem.random.state_dict()
    seed = problem.random.integers(0, SEEDS)
    problem.random.load_state_dict(before)
    gradient, start = problem.flatten(problem.gradient(batch)[1]), problem.flat()
    rule.step(batch)
    z = _z(rule, seed if same else seed + 100)
    expected = -rule.lr * (gradient @ z) * z
    return float((problem.flat() - start - expected).norm() / expected.norm())


def _left() -> float:
    rule, batch = _ready()
    start = rule.problem.flat()
    rule.slope(batch, rule.problem.random.integers(0, SEEDS))
    return float((rule.problem.flat() - start).abs().max())


def _z_score(share: float) -> float:
    """Return the abs z-score of slope times noise against a share of the gradient."""
    rule, batch = _ready()
    problem = rule.problem
    expected = share * problem.flatten(problem.gradient(batch)[1])

    def draw() -> Tensor:
        seeds = [problem.random.integers(0, SEEDS) for _ in range(5)]
        return torch.stack([rule.slope(batch, seed) * _z(rule, seed) for seed in seeds]).mean(0)

    return monte_carlo(draw, expected, 250)


def _correlated() -> float:
    """Return the largest |cosine| between the noise of two parameters of one shape, and of two seeds."""
    rule, _ = _ready()
    p, seed = torch.zeros(200, dtype=torch.float64, device="cpu"), rule.problem.random.integers(0, SEEDS)
    first = rule.noise(seed, 0, p)
    others = (rule.noise(seed, 1, p), rule.noise(rule.problem.random.integers(0, SEEDS), 0, p))
    return max(abs(cosine(first, other)) for other in others)
