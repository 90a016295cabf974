"""Newton-CG: exact where it must be, away from saddles, one function within a step, and its ledger."""

from typing import Any

import pytest
import torch
from torch import Tensor

from altprop.algorithms.second_order import newton_cg
from altprop.algorithms.second_order.line_search import Found
from altprop.algorithms.second_order.newton_cg import NewtonCG
from altprop.capabilities import BatchMode
from altprop.errors import AltpropError
from altprop.flops import count_flops
from altprop.models.mlp import MLP
from altprop.noise import MultiplicativeNoise
from altprop.randomness import generator_for
from altprop.tasks.digits import Digits
from altprop.tasks.rosenbrock import RosenbrockFunction
from altprop.testing import make_problem, toy


class Dropout(MultiplicativeNoise):
    sites = frozenset({"unit"})

    def _mask(self, like: Tensor, shape: torch.Size, site: str, layer: int) -> Tensor:
        return (self.clock.uniform(shape, site, layer, 0, like) < 0.7).to(like.dtype) / 0.7


def saddle(theta: Tensor) -> Tensor:
    """x^2 / 2 - y^2 / 2 + y^4 / 4: a saddle at 0, minima of -1/4 at (0, +-1)."""
    return 0.5 * theta[0] ** 2 - 0.5 * theta[1] ** 2 + 0.25 * theta[1] ** 4


def ready(options: dict[str, Any] | None = None, module: Any = newton_cg, **kwargs: Any) -> tuple[Any, Any]:
    problem, batch = toy(**kwargs)
    rule = module.NewtonCG(**(options or {}))
    rule.setup(problem)
    return rule, batch


def matrix(problem: Any, batch: Any, curvature: str) -> Tensor:
    here = problem.linearize(batch)
    product = here.hvp if curvature == "hessian" else here.ggn_vp
    return torch.stack([product(v) for v in torch.eye(here.gradient.numel(), dtype=torch.float64)])


def solve_error(curvature: str, damping: float, iterations: int, module: Any = newton_cg) -> float:
    """Distance between the direction and the exact solution with the matrix that the products make."""
    options = {"curvature": curvature, "damping": damping, "iterations": iterations, "tolerance": 1e-14}
    rule, batch = ready(options, module, sizes=(3, 4, 2))
    here = rule.problem.linearize(batch)
    a = matrix(rule.problem, batch, curvature)
    exact = -torch.linalg.solve(a + damping * torch.eye(len(a), dtype=a.dtype), here.gradient)
    solution = rule.solve(here)
    bend = float(exact @ a @ exact + damping * exact @ exact)
    return max(float((solution.direction - exact).norm() / exact.norm()), abs(solution.bend / bend - 1))


@pytest.mark.parametrize(("curvature", "damping"), [("gauss_newton", 0.5), ("gauss_newton", 0.05), ("hessian", 2.0)])
def test_as_many_products_as_parameters_solve_exactly(curvature: str, damping: float) -> None:
    assert solve_error(curvature, damping, 300) <= 1e-12
    assert solve_error(curvature, damping, 2) > 1e-3


def step_to_the_minimum(module: Any) -> tuple[float, float]:
    """Gradient norm after one step, the reduction ratio of that step: a linear net, squared error."""
    options = {"damping": 0.0, "iterations": 100, "tolerance": 1e-14, "curvature": "hessian"}
    rule, batch = ready(options, module, sizes=(4, 3), rows=20, loss="half_squared_error")
    result = rule.step(batch)
    return float(rule.problem.linearize(batch).gradient.norm()), result.scalars["rho"]


def test_the_model_foretells_a_quadratic_exactly() -> None:
    gradient, rho = step_to_the_minimum(newton_cg)
    assert gradient <= 1e-13
    assert rho == pytest.approx(1.0, abs=1e-12)


def test_the_ratio_compares_with_the_undamped_model() -> None:
    rule, batch = ready({"damping": 0.3, "iterations": 50}, sizes=(4, 3), rows=20, loss="half_squared_error")
    assert rule.step(batch).scalars["rho"] == pytest.approx(1.0, abs=1e-12)
    assert rule.damping == pytest.approx(0.15)


def from_the_saddle(point: Any, module: Any, steps: int = 25) -> Tensor:
    problem, batch = point(saddle, (1.0, 1e-3))
    rule = module.NewtonCG("hessian", damping=0.0, factor=1.0, tolerance=1e-12)
    rule.setup(problem)
    for _ in range(steps):
        rule.step(batch)
    return problem.flat()


def test_negative_curvature_leaves_a_saddle(point: Any) -> None:
    assert torch.allclose(from_the_saddle(point, newton_cg), torch.tensor([0.0, 1.0], dtype=torch.float64), atol=1e-8)


def test_a_step_along_negative_curvature_grows_while_it_falls(point: Any) -> None:
    """-g has no length of its own there: from y = .01 the full step would end at y = .02."""
    problem, batch = point(saddle, (0.0, 0.01))
    rule = NewtonCG("hessian", damping=0.0, factor=1.0)
    rule.setup(problem)
    scalars = rule.step(batch).scalars
    assert scalars["negative_curvature"] == 1.0
    assert scalars["step"] == 64.0
    assert float(problem.flat()[1]) == pytest.approx(0.65, abs=0.01)


def test_the_ratio_is_of_the_full_step_even_where_a_shorter_one_is_taken(point: Any) -> None:
    """Armijo refuses a full step whose decrease is below 1e-4 of the slope's promise, at most twice the model's."""
    problem, batch = point(RosenbrockFunction(), (-1.2, 1.0))
    rule = NewtonCG("hessian")
    rule.setup(problem)
    shorter = [s for s in (rule.step(batch).scalars for _ in range(30)) if 0 < s["step"] < 1]
    assert shorter
    assert all(s["rho"] < 1e-3 for s in shorter)


@pytest.mark.parametrize(
    ("curvature", "dimension", "most"), [("hessian", 2, 40), ("gauss_newton", 2, 40), ("hessian", 10, 120)]
)
def test_rosenbrock(point: Any, curvature: str, dimension: int, most: int) -> None:
    """The gap is below 1e-8 after 32 steps in 2 dimensions, 99 in 10, both from (-1.2, 1, ...)."""
    problem, batch = point(RosenbrockFunction(), tuple((-1.2, 1.0)[i % 2] for i in range(dimension)))
    rule = NewtonCG(curvature)
    rule.setup(problem)
    losses = [float(rule.step(batch).loss) for _ in range(most)]
    assert float(problem.objective(batch)) <= 1e-8
    assert losses == sorted(losses, reverse=True)


class Twice:
    """A search that evaluates the start twice and goes nowhere."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def search(self, phi: Any, value: float, slope: float, growth: float = 1.0) -> Found:
        self.values = [value, phi(0.0), phi(0.0)]
        return Found(0.0, value, value, 2)


def values_at_the_start(module: Any) -> list[float]:
    rule, batch = ready({}, module, noise=Dropout())
    rule.search = search = Twice()
    rule.step(batch)
    return search.values


def test_a_step_sees_one_function_under_dropout() -> None:
    assert len(set(values_at_the_start(newton_cg))) == 1


def test_products_inside_the_solve_see_the_masks_of_the_step() -> None:
    rule, batch = ready({"damping": 0.5, "iterations": 300, "tolerance": 1e-14}, sizes=(3, 4, 2), noise=Dropout())
    problem = rule.problem
    with problem.same_noise():
        solution = rule.solve(problem.linearize(batch))
        flat = problem.flat()
        gradient = torch.func.grad(lambda v: problem.functional_objective(problem.unflatten(v), batch))(flat)
        residual = gradient + matrix(problem, batch, "gauss_newton") @ solution.direction + 0.5 * solution.direction
    assert float(residual.norm() / gradient.norm()) <= 1e-12
    other = problem.linearize(batch).gradient  # the next phase
    assert float((other - gradient).norm() / gradient.norm()) > 0.05


@pytest.mark.parametrize("options", [{}, {"normalisation": "batch"}, {"normalisation": "layer"}, {"loss": "mse"}])
@pytest.mark.parametrize("curvature", ["hessian", "gauss_newton"])
def test_without_noise_the_loss_never_rises(options: dict[str, Any], curvature: str) -> None:
    rule, batch = ready({"curvature": curvature}, **options)
    losses = [float(rule.step(batch).loss) for _ in range(15)]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.5 * losses[0]


def test_batch_statistics_move_once_a_step() -> None:
    rule, batch = ready(normalisation="batch")
    reference, _ = toy(normalisation="batch")
    reference.gradient(batch)
    rule.step(batch)
    assert all(torch.equal(a, b) for a, b in zip(rule.problem.model.buffers(), reference.model.buffers(), strict=True))


def test_without_a_decrease_nothing_moves_and_damping_grows() -> None:
    rule, batch = ready(noise=None)
    rule.search = Twice()
    before = rule.problem.flat()
    rule.search.search = lambda phi, value, slope, growth: Found(0.0, value, value + 1, 1)
    result = rule.step(batch)
    assert torch.equal(rule.problem.flat(), before)
    assert rule.problem.ledger.updates == 0
    assert (result.scalars["damping"], rule.damping) == (1.0, 2.0)


def test_no_signal_no_change() -> None:
    problem, batch = toy((4, 3), loss="half_squared_error")
    batch = type(batch)(batch.inputs, problem.outputs(batch).detach(), batch.index)
    rule = NewtonCG()
    rule.setup(problem)
    before = problem.flat()
    result = rule.step(batch)
    assert torch.equal(problem.flat(), before)
    assert result.scalars["products"] == 0
    assert rule.damping == 1.0


@pytest.mark.parametrize("curvature", ["hessian", "gauss_newton"])
@pytest.mark.parametrize("noise", [False, True])
def test_the_books_agree_with_every_step(curvature: str, noise: bool) -> None:
    rule, batch = ready({"curvature": curvature}, noise=Dropout() if noise else None)
    ledger = rule.problem.ledger
    products = searched = 0
    for _ in range(20):
        forwards, hvps, before = ledger.forwards, ledger.summary()["hvps"], ledger.flops
        results: list[Any] = []
        counted = count_flops(lambda out=results: out.append(rule.step(batch)))
        products += results[0].scalars["products"]
        assert ledger.summary()["hvps"] - hvps == results[0].scalars["products"]
        assert ledger.flops - before == pytest.approx(counted, rel=1e-9)
        searched += ledger.forwards - forwards - 1
    assert ledger.residual == 0
    assert searched >= 20
    assert ledger.backwards == (20 if curvature == "hessian" else 40)
    assert products > 20


@pytest.mark.parametrize("batch_mode", ["full", "mini"])
def test_digits(batch_mode: str) -> None:
    """The task's own 2 GFLOP: 12 steps on the whole set, .942 seen; 284 on mini-batches, .940 (backprop .941)."""
    task = Digits()
    data = task.data().to(torch.device("cpu"), torch.float32)
    model = MLP(task.spec, [100], generator=generator_for(0, "initialisation"))
    problem = make_problem(model, "cross_entropy")
    rule = NewtonCG(batch_mode=batch_mode)
    assert rule.batch is BatchMode(batch_mode)
    rule.setup(problem)
    order, size = generator_for(0, "order"), len(data.train) if batch_mode == "full" else 64
    while problem.ledger.flops < 2e9:
        for index in torch.randperm(len(data.train), generator=order).split(size):
            rule.step(data.train.batch(index))
    with rule.predictor() as predict:
        assert task.evaluate(predict, data.tests["test"])["accuracy"] >= 0.925


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"curvature": "fisher"}, "known are: gauss_newton, hessian"),
        ({"batch_mode": "none"}, "known are: full, mini"),
        ({"damping": -1}, "at least 0"),
        ({"damping": float("nan")}, "at least 0"),
        ({"factor": 0.5}, "at least 1"),
        ({"iterations": 0}, "whole number of at least 1"),
        ({"tolerance": 1.0}, "of at least 0 and below 1"),
    ],
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(AltpropError, match=message):
        NewtonCG(**options)


def test_damping_is_state() -> None:
    rule, batch = ready()
    for _ in range(3):
        rule.step(batch)
    other, _ = ready()
    other.load_state_dict(rule.state_dict())
    assert other.damping == rule.damping != 1.0


@pytest.mark.parametrize(("size", "tolerance"), [(0.04, 0.2), (0.0899, 0.2998), (0.0901, 0.3), (4.0, 0.3)])
def test_the_forcing_term_is_the_root_of_the_gradient_norm_up_to_three_tenths(
    monkeypatch: pytest.MonkeyPatch, size: float, tolerance: float
) -> None:
    rule, batch = ready({})
    here = rule.problem.linearize(batch)
    here.gradient = size * here.gradient / here.gradient.norm()
    seen = []
    real = newton_cg.conjugate_gradient
    monkeypatch.setattr(newton_cg, "conjugate_gradient", lambda *given: seen.append(given[3]) or real(*given))
    rule.solve(here)
    assert seen == [pytest.approx(tolerance, rel=1e-3)]


@pytest.mark.parametrize(("rho", "damping"), [(0.24, 2.0), (0.25, 1.0), (0.74, 1.0), (0.75, 1.0), (0.76, 0.5)])
def test_damping_grows_below_a_quarter_and_shrinks_above_three_quarters_alone(
    monkeypatch: pytest.MonkeyPatch, rho: float, damping: float
) -> None:
    rule, batch = ready({"damping": 1.0})
    monkeypatch.setattr(rule, "_move", lambda *given: (1.0, rho))
    rule.step(batch)
    assert rule.damping == damping
