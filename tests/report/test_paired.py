"""Paired tests against enumeration and scipy."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from altprop.report.paired import compare, compare_family, equivalence_p, holm, sign_flip_p, sign_test_p, smallest_p

INF = math.inf


@pytest.mark.parametrize("n", [1, 2, 3, 6, 9])
def test_sign_flip_is_the_enumeration(n: int) -> None:
    d = np.random.default_rng(n).normal(0.5, 1, n).round(1)
    sums = [abs(sum(s * x for s, x in zip(signs, d, strict=True))) for signs in itertools.product((1, -1), repeat=n)]
    expected = np.mean([value >= abs(d.sum()) - 1e-9 for value in sums])
    assert sign_flip_p(d) == expected


def test_sign_flip_is_scipys_permutation_test() -> None:
    d = np.random.default_rng(5).normal(0.4, 1, 10)
    oracle = stats.permutation_test((d,), np.mean, permutation_type="samples", n_resamples=np.inf)
    assert sign_flip_p(d) == pytest.approx(oracle.pvalue, abs=1e-12)


def test_sign_flip_reaches_its_floor_and_counts_ties() -> None:
    assert sign_flip_p([0.1, 0.2, 0.3, 0.4, 0.5]) == smallest_p(5, 1) == 0.0625
    assert sign_flip_p([0.1 + 0.2, 0.3, -0.6]) == 1.0  # a sum of 5e-17 is a sum of nothing
    assert sign_flip_p([0.0, 0.0]) == 1.0
    assert sign_flip_p([]) == 1.0


def test_sign_flip_beyond_enumeration_is_close_and_repeats() -> None:
    d = np.random.default_rng(5).normal(0.35, 1, 24)
    oracle = stats.permutation_test((d,), np.mean, permutation_type="samples", n_resamples=300_000, rng=1)
    assert sign_flip_p(d) == pytest.approx(oracle.pvalue, abs=0.003)
    assert sign_flip_p(d) == sign_flip_p(d)
    assert sign_flip_p(np.ones(40)) > 0


@pytest.mark.parametrize(("wins", "losses"), [(0, 5), (1, 5), (3, 3), (9, 1), (12, 0)])
def test_sign_test_is_the_binomial_test(wins: int, losses: int) -> None:
    assert sign_test_p(wins, losses) == pytest.approx(stats.binomtest(wins, wins + losses).pvalue, rel=1e-12)


def test_sign_test_of_ties_only() -> None:
    assert sign_test_p(0, 0) == 1.0


def test_holm_by_hand() -> None:
    """Sorted .005 .01 .03 .04 times 4 3 2 1 = .02 .03 .06 .04, made monotone: .02 .03 .06 .06."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_smallest_reachable_p() -> None:
    assert smallest_p(3, 7) == 1.75
    assert smallest_p(5, 1) >= 0.05  # five seeds never can
    assert smallest_p(6, 1) < 0.05
    assert smallest_p(8, 7) >= 0.05 > smallest_p(9, 7)


def by_seed(*scores: float) -> dict[int, float]:
    return dict(enumerate(scores))


def test_three_seeds_cannot_show_a_difference() -> None:
    result = compare_family({"ref": by_seed(0.1, 0.1, 0.1), "x": by_seed(0.9, 0.8, 0.9)}, "ref")["x"]
    assert result.p == 0.25
    assert result.verdict == "3 seeds cannot show a difference here"
    assert result.difference is not None
    assert result.difference.estimate == pytest.approx(0.7666666667)


def test_not_shown_is_said_only_when_it_could_have_been_told() -> None:
    noise = np.random.default_rng(0).normal(size=12)
    even = compare_family({"ref": by_seed(*[0.0] * 12), "x": by_seed(*(noise - noise.mean()))}, "ref")["x"]
    assert even.verdict == "not shown to differ"
    few = compare_family({"ref": by_seed(*[0.0] * 5), "x": by_seed(*noise[:5])}, "ref")["x"]
    assert few.verdict == "5 seeds cannot show a difference here"


def test_what_a_family_can_tell_depends_on_its_size() -> None:
    """6 seeds reach 1/32: below .05 for one comparison, .0625 for two."""
    reference, better = by_seed(*[0.0] * 6), by_seed(*range(1, 7))
    alone = compare_family({"ref": reference, "x": better}, "ref")["x"]
    assert alone.verdict == "better, on too few seeds to claim"
    pooled = compare_family({"ref": reference, "x": better, "y": better}, "ref")["x"]
    assert pooled.verdict == "6 seeds cannot show a difference here"


def test_the_verdict_is_on_the_adjusted_p() -> None:
    """Sums of +-1 (8 times) and +-1.5 that reach 6.5: 20 of 512, p = .039, times three .117."""
    reference, close = by_seed(*[0.0] * 9), by_seed(*[1.0] * 8, -1.5)
    alone = compare_family({"ref": reference, "x": close}, "ref")["x"]
    assert alone.p == 20 / 512
    assert alone.verdict.startswith("better")
    pooled = compare_family({"ref": reference, "x": close, "y": reference, "z": reference}, "ref")["x"]
    assert pooled.adjusted == pytest.approx(60 / 512)
    assert pooled.verdict == "not shown to differ"


@pytest.mark.parametrize(
    ("seeds", "lead", "verdict"),
    [
        (12, 0.1, "better"),
        (12, -0.1, "worse"),
        (8, 0.1, "better, on too few seeds to claim"),
        (1, 1.0, "1 seed cannot"),
    ],
)
def test_verdicts(seeds: int, lead: float, verdict: str) -> None:
    reference = by_seed(*np.linspace(0.5, 0.6, seeds))
    result = compare_family({"ref": reference, "x": {s: v + lead for s, v in reference.items()}}, "ref")["x"]
    assert result.verdict.startswith(verdict)


def test_a_failure_is_a_loss_and_two_failures_a_tie() -> None:
    ours = by_seed(-INF, -INF, 0.9, 0.9, 0.9)
    theirs = by_seed(-INF, 0.5, -INF, 0.5, 0.9)
    result = compare(ours, theirs)
    assert (result.wins, result.losses, result.ties) == (2, 1, 2)
    assert result.test == "sign"
    assert result.difference is None
    assert result.p == sign_test_p(2, 1)


def test_a_failed_reference_loses_every_seed() -> None:
    result = compare(by_seed(*[0.1] * 7), by_seed(*[-INF] * 7))
    assert (result.wins, result.direction, result.p) == (7, 1, 2 / 2**7)


def test_only_shared_seeds_are_paired() -> None:
    result = compare({0: 1.0, 1: 2.0, 7: 9.0}, {1: 1.0, 0: 1.0, 3: 5.0})
    assert result.seeds == 2
    assert result.difference is not None
    assert result.difference.estimate == 0.5
    assert compare({0: 1.0}, {1: 1.0}).verdict == "no seed in common"


def test_family_is_each_learner_against_the_reference() -> None:
    scores = {name: by_seed(*(np.arange(8.0) + lead)) for name, lead in (("ref", 0), ("a", 1), ("b", 2), ("c", 0))}
    result = compare_family(scores, "ref")
    assert set(result) == {"a", "b", "c"}
    assert [result[name].family for name in "abc"] == [3, 3, 3]
    assert [result[name].adjusted for name in "abc"] == pytest.approx([3 / 128, 3 / 128, 1.0])


def test_seeds_on_which_both_failed_cannot_show_anything() -> None:
    """12 seeds, both failed on 8: four are left, whose smallest p is 1/8. To say "not shown to differ" hides that."""
    reference = by_seed(*[-INF] * 8, 0.5, 0.5, 0.5, 0.5)
    result = compare_family({"ref": reference, "x": by_seed(*[-INF] * 8, 0.9, 0.9, 0.9, 0.9)}, "ref")["x"]
    assert (result.test, result.ties, result.telling, result.p) == ("sign", 8, 4, smallest_p(4, 1))
    assert result.verdict == "4 seeds without a tie, of 12, cannot show a difference here"
    both = compare_family({"ref": by_seed(*[-INF] * 12), "x": by_seed(*[-INF] * 12)}, "ref")["x"]
    assert both.verdict == "0 seeds without a tie, of 12, cannot show a difference here"


def test_equal_scores_are_told_from_none() -> None:
    """Without a failure ties stay in: twelve equal scores are not shown to differ, and twelve seeds could have told."""
    same = by_seed(*[0.5] * 12)
    assert compare_family({"ref": same, "x": same}, "ref")["x"].verdict == "not shown to differ"


@pytest.mark.parametrize("n", [2, 3, 4, 5, 6, 8])
def test_sign_flip_is_exact_under_the_null(n: int) -> None:
    """Of all 2^n equally likely sign patterns no more than a share a has p <= a; untied, exactly the shares reached."""
    sizes = 2.0 ** np.arange(n)  # No two sums are equal.
    ps = np.array([sign_flip_p(sizes * signs) for signs in itertools.product((1, -1), repeat=n)])
    for level in np.unique(ps):
        assert np.mean(ps <= level) == level
    assert ps.min() == smallest_p(n, 1)


def test_sign_test_is_exact_under_the_null() -> None:
    for n in range(1, 12):
        ps = {k: sign_test_p(k, n - k) for k in range(n + 1)}
        for level in ps.values():
            assert sum(math.comb(n, k) for k in ps if ps[k] <= level) / 2**n == pytest.approx(level)
        assert min(ps.values()) == smallest_p(n, 1)


def test_holm_is_the_closed_test_of_bonferroni() -> None:
    """Holm's adjusted p is the largest Bonferroni p of all subsets that hold the hypothesis: by enumeration."""
    rng = np.random.default_rng(0)
    for size in range(1, 6):
        for _ in range(40):
            ps = (rng.random(size) ** 3).round(2).tolist()
            closed = [
                max(
                    min(1.0, len(group) * min(ps[j] for j in group))
                    for count in range(1, size + 1)
                    for group in itertools.combinations(range(size), count)
                    if i in group
                )
                for i in range(size)
            ]
            assert holm(ps) == pytest.approx(closed)


def test_equivalence_is_two_exact_one_sided_tests() -> None:
    """All sign patterns of the distances to either end of the margin, one by one."""
    rng = np.random.default_rng(0)
    for scale in (0.002, 0.01, 0.03):
        d = 0.003 + scale * rng.standard_normal(8)
        sides = []
        for away in (d + 0.01, 0.01 - d):
            sums = [np.dot(signs, away) for signs in itertools.product((1, -1), repeat=8)]
            sides.append(np.mean(np.array(sums) >= away.sum() - 1e-12))
        assert equivalence_p(d, 0.01) == pytest.approx(max(sides))


def test_equivalent_is_said_only_where_a_margin_was_tested_and_held() -> None:
    near = {seed: 0.9 + 0.0005 * (-1) ** seed for seed in range(12)}
    wide = {seed: 0.9 + 0.05 * (-1) ** seed for seed in range(12)}
    level = {seed: 0.9 + 1e-6 * (-1) ** (seed // 2) for seed in range(12)}
    ahead = dict.fromkeys(range(12), 0.905)
    told = {"near": near, "wide": wide, "ahead": ahead, "ref": level}
    said = {name: one.verdict for name, one in compare_family(told, "ref", 0.01).items()}
    assert said == {
        "near": "equivalent within ±0.01",
        "wide": "not shown to differ",
        "ahead": "better, but within ±0.01",
    }
    without = {name: one.verdict for name, one in compare_family(told, "ref").items()}
    assert without == {"near": "not shown to differ", "wide": "not shown to differ", "ahead": "better"}
    broken = {**near, 3: -math.inf}
    assert compare_family({"a": broken, "ref": level}, "ref", 0.01)["a"].equivalence is None
    few = {name: dict(list(scores.items())[:8]) for name, scores in told.items()}
    assert compare_family(few, "ref", 0.01)["near"].verdict == "equivalent within ±0.01, on too few seeds to claim"
