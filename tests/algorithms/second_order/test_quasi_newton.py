"""The strong Wolfe search, and the methods that take their directions from past gradients."""

import math
from typing import Any

import pytest
import torch
from scipy import optimize

from altprop.algorithms.second_order.barzilai_borwein import BarzilaiBorwein
from altprop.algorithms.second_order.bfgs import BFGS
from altprop.algorithms.second_order.lbfgs import LBFGS
from altprop.algorithms.second_order.line_search import StrongWolfe
from altprop.algorithms.second_order.nonlinear_cg import NonlinearCG
from altprop.data import Batch
from altprop.errors import AltpropError, Refused
from altprop.flops import count_flops
from altprop.tasks.rosenbrock import RosenbrockFunction
from altprop.testing import make_problem, set_up, toy

SEARCHING = [BFGS, LBFGS, NonlinearCG]


@pytest.mark.parametrize("flat", [0.9, 0.1, 1e-6])
@pytest.mark.parametrize("initial", [1e-3, 1.0, 40.0])
def test_the_search_meets_both_conditions(flat: float, initial: float) -> None:
    """On Moré and Thuente's first function, whose minimum lies at sqrt 2."""

    def phi(a: float) -> tuple[float, float]:
        return -a / (a * a + 2), (a * a - 2) / (a * a + 2) ** 2

    found = StrongWolfe(flat=flat).search(phi, 0.0, -0.5, initial)
    value, slope = phi(found.step)
    assert found.value == value <= -1e-4 * found.step * 0.5
    assert abs(slope) <= flat * 0.5
    assert found.first == phi(initial)[0]
    if flat <= 1e-6:
        assert found.step == pytest.approx(math.sqrt(2), abs=1e-5)


def test_a_search_without_a_decrease_moves_nothing_and_what_is_not_finite_ends_a_bracket() -> None:
    found = StrongWolfe(trials=7).search(lambda a: (a, 1.0), 0.0, -1.0)
    assert (found.step, found.value, found.evaluations) == (0.0, 0.0, 7)
    found = StrongWolfe(flat=0.5).search(
        lambda a: (math.inf, math.nan) if a > 0.3 else ((a - 0.2) ** 2, 2 * a - 0.4), 0.04, -0.4
    )
    assert 0.1 <= found.step <= 0.3
    with pytest.raises(ValueError, match="needs a direction of descent"):
        StrongWolfe().search(lambda a: (a, 1.0), 0.0, 0.0)


@pytest.mark.parametrize(
    ("rule", "method"),
    [(BFGS(), "BFGS"), (LBFGS(), "L-BFGS-B"), (NonlinearCG(), "CG"), (NonlinearCG("hager_zhang"), "CG")],
)
def test_on_rosenbrock_it_needs_no_more_evaluations_than_scipy_by_half(point: Any, rule: Any, method: str) -> None:
    problem, batch = point(RosenbrockFunction(), (-1.2, 1.0))
    set_up(rule, problem)
    while float(rule.step(batch).loss) > 1e-12:
        assert problem.ledger.evaluations < 200
    theirs = optimize.minimize(
        optimize.rosen, [-1.2, 1.0], jac=optimize.rosen_der, method=method, options={"gtol": 1e-8}
    )
    assert problem.ledger.evaluations <= 1.5 * theirs.nfev


@pytest.mark.parametrize("rule", [*SEARCHING, BarzilaiBorwein])
def test_what_is_not_finite_leaves_the_weights(rule: Any) -> None:
    problem, batch = toy()
    learner = set_up(rule(), problem)
    learner.step(batch)
    learner.step(batch)
    broken = Batch(batch.inputs * float("nan"), batch.targets, batch.index)
    learner.known = None
    learner.step(broken)
    learner.step(batch)
    assert bool(torch.isfinite(problem.flat()).all())
    assert float(learner.step(batch).loss) < 2


@pytest.mark.parametrize("rule", SEARCHING)
def test_a_failed_search_moves_nothing_and_forgets(rule: Any) -> None:
    problem, batch = toy()
    learner = set_up(rule(), problem)
    for _ in range(3):
        learner.step(batch)
    before, updates = problem.flat(), problem.ledger.updates
    learner.search = StrongWolfe(share=0.49, trials=1, flat=1e-12)
    learner._first = lambda *given: 1e6
    result = learner.step(batch)
    assert result.scalars["step"] == 0.0
    assert torch.equal(problem.flat(), before)
    assert problem.ledger.updates == updates
    assert not getattr(learner, "inverse", None)
    assert not getattr(learner, "pairs", None)
    assert getattr(learner, "last", None) is None


@pytest.mark.parametrize("rule", SEARCHING)
def test_the_gradient_of_a_full_batch_is_not_taken_twice_and_the_books_agree(rule: Any) -> None:
    problem, batch = toy()
    learner = set_up(rule(), problem)
    evaluations = 1.0
    for _ in range(12):
        before, results = problem.ledger.flops, []
        counted = count_flops(lambda out=results: out.append(learner.step(batch)))
        evaluations += results[0].scalars["evaluations"]
        assert problem.ledger.flops - before == pytest.approx(counted, rel=0.01)
    assert problem.ledger.evaluations == evaluations


def test_both_gradients_of_a_pair_are_of_one_batch() -> None:
    problem, batch = toy(rows=12)
    learner = set_up(LBFGS(batch_mode="mini"), problem)
    halves = [
        Batch(*(one[part] for one in (batch.inputs, batch.targets, batch.index))) for part in (slice(6), slice(6, 12))
    ]
    for count, half in enumerate(halves, 1):
        start, old = problem.flat(), problem.flatten(problem.gradient(half)[1])
        learner.step(half)
        assert len(learner.pairs) == count
        s, y = learner.pairs[-1]
        assert torch.allclose(s, problem.flat() - start, atol=1e-15)
        assert torch.allclose(y, problem.flatten(problem.gradient(half)[1]) - old, atol=1e-15)


def test_pairs_of_negative_curvature_teach_nothing_and_the_oldest_is_forgotten() -> None:
    problem, _ = toy()
    full, few = set_up(BFGS(), problem), set_up(LBFGS(2), problem)
    s = torch.ones_like(problem.flat())
    for learner in (full, few):
        learner.learn(s, -s)
        learner.learn(s, s * float("nan"))
    assert full.inverse is None
    assert few.pairs == []
    for scale in (1.0, 2.0, 3.0):
        few.learn(scale * s, s)
    assert [float(one[0][0]) for one in few.pairs] == [2.0, 3.0]


def test_beta_by_hand() -> None:
    """With y = (-1, 2), d . y = 2 and |y|^2 = 5, where no search was exact."""
    g, before, d = (torch.tensor(one, dtype=torch.float64) for one in ([1.0, 2.0], [2.0, 0.0], [-2.0, 0.0]))
    expected = {"fletcher_reeves": 5 / 4, "polak_ribiere": 3 / 4, "hager_zhang": (9 * 1 + 2 * 2) / 2}
    assert {rule: float(NonlinearCG(rule).beta(g, before, d)) for rule in expected} == expected
    assert float(NonlinearCG().beta(before, g, d)) == 0.4
    assert float(NonlinearCG().beta(0.5 * g, g, d)) == 0.0
    far = torch.tensor([-300.0, 0.0], dtype=torch.float64)
    assert float(NonlinearCG("hager_zhang").beta(far, before, d)) == pytest.approx(-1 / (2 * 0.01))


@pytest.mark.parametrize("length", ["long", "short"])
def test_barzilai_borwein_goes_back_from_a_place_that_is_worse_than_all_it_remembers(point: Any, length: str) -> None:
    problem, batch = point(lambda x: (x**4).sum(), (1.0,))
    rule = set_up(BarzilaiBorwein(lr=1.0, length=length, memory=2), problem)
    told = [rule.step(batch).scalars for _ in range(3)]
    # 1 - 4 = -3, where the value is 81: back to 1, a quarter of alpha: 1 - 1 = 0.
    assert [float(one["went_back"]) for one in told] == [0.0, 1.0, 0.0]
    assert [float(one["alpha"]) for one in told[:2]] == [1.0, 0.25]
    assert float(problem.objective(batch)) < 1e-12


def test_barzilai_borwein_keeps_alpha_where_the_curvature_is_negative(point: Any) -> None:
    problem, batch = point(lambda x: -(x**2).sum(), (1.0,))
    rule = set_up(BarzilaiBorwein(lr=0.25), problem)
    assert [float(rule.step(batch).scalars["alpha"]) for _ in range(3)] == [0.25] * 3
    assert float(problem.flat()) == 1.5**3


def test_refusals_and_bad_options() -> None:
    problem = make_problem(toy((64, 100, 10))[0].model, "cross_entropy")
    with pytest.raises(Refused, match=r"7,510 x 7,510 numbers \(0.45 GB\), above algorithm.largest=20,000,000; raise"):
        BFGS().setup(problem)
    for make in (
        lambda: BFGS("exact"),
        lambda: LBFGS(0),
        lambda: LBFGS(batch_mode="none"),
        lambda: NonlinearCG("dai_yuan"),
        lambda: BarzilaiBorwein(0),
        lambda: BarzilaiBorwein(length="both"),
        lambda: BarzilaiBorwein(memory=0),
    ):
        with pytest.raises(AltpropError):
            make()
