"""The classical functions: published minima, derivatives, and evaluations beside scipy's from the standard starts."""

import numpy as np
import pytest
import torch
from scipy import optimize

from altprop.algorithms.second_order.bfgs import BFGS
from altprop.algorithms.second_order.gauss_newton import GaussNewton
from altprop.algorithms.second_order.lbfgs import LBFGS
from altprop.algorithms.second_order.newton import Newton
from altprop.algorithms.second_order.newton_cg import NewtonCG
from altprop.data import Batch, ModelSpec
from altprop.errors import AltpropError
from altprop.ledger import Ledger
from altprop.models.point import Point
from altprop.noise import NoiseClock
from altprop.problem import Problem
from altprop.randomness import Random, generator_for
from altprop.tasks.classical import CLASSICS, Classical, ClassicalFunction
from altprop.testing import set_up

# More, Garbow and Hillstrom 1981: the minimiser where it is a closed form, and the values that they give.
MINIMISERS = {
    "freudenstein_roth": (5, 4),
    "brown_badly_scaled": (1e6, 2e-6),
    "beale": (3, 0.5),
    "helical_valley": (1, 0, 0),
    "box_3d": (1, 10, 1),
    "powell_singular": (0, 0, 0, 0),
    "wood": (1, 1, 1, 1),
    "biggs_exp6": (1, 10, 1, 5, 4, 3),
    "saddle": (0, 0.5**0.5),
}
PUBLISHED = {
    "jennrich_sampson": 124.362,
    "bard": 8.21487e-3,
    "gaussian": 1.12793e-8,
    "kowalik_osborne": 3.07505e-4,
    "brown_dennis": 85822.2,
}


def numpy_of(function: ClassicalFunction) -> tuple[object, object]:
    """Return f and its gradient as scipy takes them."""
    gradient = torch.func.grad(function.value)
    return lambda x: float(function.value(torch.tensor(x))), lambda x: gradient(torch.tensor(x)).numpy()


def problem_of(function: ClassicalFunction) -> tuple[Problem, Batch]:
    """Return the standard start as a problem."""
    start = function.classic.start
    model = Point(ModelSpec((0,), len(start), start=start), generator=generator_for(0))
    problem = Problem(
        model, function, model.spec, Ledger(), Random(0, "cpu", torch.float64), NoiseClock(0), model.offers
    )
    return problem, Batch(torch.zeros(1, 0), torch.zeros(1, 0), torch.zeros(1, dtype=torch.int64))


@pytest.mark.parametrize("which", CLASSICS)
def test_minima_are_those_that_were_published(which: str) -> None:
    function = ClassicalFunction(CLASSICS[which])
    if which in MINIMISERS:
        theta = torch.tensor(MINIMISERS[which], dtype=torch.float64)
        assert float(function.value(theta)) == pytest.approx(0, abs=1e-18)
    if which in PUBLISHED:
        assert function.minimum == pytest.approx(PUBLISHED[which], rel=5e-6)
    theta = torch.tensor([CLASSICS[which].start], dtype=torch.float64)
    hessian = torch.func.jacrev(torch.func.grad(function.value))(theta[0])
    units = torch.eye(theta.shape[1], dtype=torch.float64)
    found = torch.cat([function.curvature_product(theta, unit[None]) for unit in units])
    assert torch.allclose(found, hessian, rtol=1e-10, atol=1e-10 * float(hessian.abs().max()))
    if which != "brown_badly_scaled":  # central differences drown there
        slopes = optimize.approx_fprime(theta[0].numpy(), numpy_of(function)[0], 1e-7)  # type: ignore[arg-type]
        ours = function.gradient(theta, theta)[0].numpy()
        assert np.abs(slopes - ours).max() <= 1e-3 * max(1, np.abs(ours).max())  # of one-sided differences


@pytest.mark.parametrize("rule", [BFGS, LBFGS])
@pytest.mark.parametrize("which", [one for one in CLASSICS if one not in ("biggs_exp6", "saddle")])
def test_the_same_minimum_takes_at_most_half_again_scipys_evaluations(
    rule: type[BFGS] | type[LBFGS], which: str
) -> None:
    classic = CLASSICS[which]
    function = ClassicalFunction(classic)
    value, gradient = numpy_of(function)
    options = {"gtol": 1e-9, **({"ftol": 1e-15} if rule is LBFGS else {})}
    theirs = optimize.minimize(  # type: ignore[call-overload]
        value, classic.start, jac=gradient, method="BFGS" if rule is BFGS else "L-BFGS-B", options=options
    )
    problem, batch = problem_of(function)
    learner = set_up(rule(), problem)
    goal = theirs.fun + 1e-10 * max(1.0, theirs.fun)
    while float(function.value(problem.flat())) > goal:
        learner.step(batch)
        assert problem.ledger.evaluations <= 1.5 * theirs.nfev


def by_scipy(method: str, function: ClassicalFunction) -> tuple[float, int]:
    """Return the minimum that scipy finds from the standard start, and its iterations."""
    value, gradient = numpy_of(function)
    start = np.array(function.classic.start)
    if method == "lm":
        jacobian = torch.func.jacrev(function.residuals)
        found = optimize.least_squares(
            lambda x: function.residuals(torch.tensor(x)).numpy(),
            start,
            lambda x: jacobian(torch.tensor(x)).numpy(),
            method="lm",
            ftol=1e-12,
            xtol=1e-12,
            gtol=1e-12,
        )
        return 2 * found.cost, found.nfev
    hessian = torch.func.jacrev(torch.func.grad(function.value))
    options = {"xtol": 1e-10} if method == "Newton-CG" else {"gtol": 1e-9}
    found = optimize.minimize(  # type: ignore[call-overload]
        value, start, jac=gradient, hess=lambda x: hessian(torch.tensor(x)).numpy(), method=method, options=options
    )
    return found.fun, found.nit


RULES = {
    "trust-exact": lambda: Newton(),
    "Newton-CG": lambda: NewtonCG("hessian", damping=1e-3, iterations=20),
    "lm": lambda: GaussNewton(1e-3),
}


@pytest.mark.parametrize("which", ["freudenstein_roth", "jennrich_sampson", "bard", "kowalik_osborne", "brown_dennis"])
@pytest.mark.parametrize("method", RULES)
def test_newtons_methods_take_at_most_half_again_scipys_iterations(method: str, which: str) -> None:
    """Of all 13 problems but Biggs': newton 9, newton_cg 13, gauss_newton on residuals 12."""
    function = ClassicalFunction(CLASSICS[which], "residuals" if method == "lm" else "function")
    least, iterations = by_scipy(method, function)
    problem, batch = problem_of(function)
    learner = set_up(RULES[method](), problem)
    steps = 0
    while float(function.value(problem.flat())) > least + 1e-10 * max(1.0, least):
        learner.step(batch)
        steps += 1
        assert steps <= 1.5 * iterations


def test_the_residual_form_is_gauss_newtons_matrix_and_not_the_hessian() -> None:
    of_residuals, of_f = (ClassicalFunction(CLASSICS["beale"], form) for form in ("residuals", "function"))
    theta = torch.tensor([[1.5, 0.3]], dtype=torch.float64)
    j = torch.func.jacrev(of_residuals.residuals)(theta[0])
    units = torch.eye(2, dtype=torch.float64)
    found = torch.cat([of_residuals.curvature_product(theta, unit[None]) for unit in units])
    assert torch.allclose(found, 2 * j.T @ j, rtol=1e-12)
    assert not torch.allclose(found, torch.cat([of_f.curvature_product(theta, unit[None]) for unit in units]), rtol=0.1)


def test_bad_options() -> None:
    with pytest.raises(AltpropError, match=r"task\.function"):
        Classical(function="himmelblau")
    with pytest.raises(AltpropError, match="2 numbers"):
        Classical(function="beale", start=[1, 2, 3])
    with pytest.raises(AltpropError, match=r"task\.form"):
        Classical(form="squares")
