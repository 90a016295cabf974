"""Claims put to the test: verdicts from planted differences, and what a list must say."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from altprop.errors import AltpropError
from altprop.records.archive import pack
from altprop.records.claims import Claim, load_claims, read_claims, write_claims
from altprop.report.build import build
from altprop.report.claims import FELL, HELD, OPEN, outcomes
from altprop.report.model import Report
from altprop.report.reading import read

EXPERIMENTS = Path(__file__).parents[2] / "conf" / "experiment"
GAINS = {"ahead": 0.1, "behind": -0.1, "level": 0.0, "near": 0.004, "failing": 0.0}
SAID: dict[str, Any] = {"claim": "Ahead is ahead.", "source": "Nobody 2020", "learners": ["ahead"]}


@pytest.fixture
def runs(synthetic: ModuleType, tmp_path: Path) -> Callable[..., Path]:
    """Write a reference and four learners with known gains on it; costs of the 90 % target halve with the gain."""

    def make(seeds: int = 12) -> Path:
        task = synthetic.TASKS[0]
        reference = replace(synthetic.LEARNERS[0], statuses={})
        others = [replace(reference, algorithm=name, optimizer="none", reference=False) for name in GAINS]

        def change(record: dict[str, Any], trace: Any, clock: Any) -> None:
            gain, seed = GAINS.get(record["axes"]["algorithm"], 0.0), record["seed"]
            wave = 0.004 * (-1) ** seed if record["axes"]["algorithm"] == "level" else 0.0
            record["result"]["test"] = 0.5 + gain + wave + 0.01 * seed
            cost = 2e9 if gain == 0 else 1e9 if gain > 0.05 else None
            record["result"]["hits"] = (
                {} if cost is None else {"90%": {"flops": [cost - 1e8, cost + seed], "step": [1, 2]}}
            )
            record["status"] = "diverged" if record["axes"]["algorithm"] == "failing" else record["status"]
            record["config"].setdefault("task", {})["equivalence_margin"] = 0.01

        return synthetic.write(tmp_path / "runs", [reference, *others], [task], seeds=seeds, change=change)

    return make


@pytest.fixture
def report(runs: Callable[..., Path]) -> Report:
    return read([runs()], "x")


@pytest.mark.parametrize(
    ("learners", "says", "at_least", "verdict"),
    [
        (("ahead",), "better", None, HELD),
        (("behind",), "better", None, FELL),
        (("level",), "better", None, FELL),  # equivalent: shown to be no better by more than the margin
        (("behind",), "worse", None, HELD),
        (("ahead",), "worse", None, FELL),
        (("level",), "equivalent", None, HELD),
        (("ahead",), "equivalent", None, FELL),
        (("ahead",), "as_good", None, HELD),
        (("behind",), "as_good", None, FELL),
        (("level",), "as_good", None, HELD),
        (("ahead", "behind"), "better", None, FELL),
        (("ahead", "behind"), "better", 1, HELD),
        (("ahead", "absent"), "better", None, OPEN),
        (("ahead",), "better", 3, OPEN),  # too few comparisons to show it, and none shows the contrary
        (("absent",), "better", 1, OPEN),
        (("failing",), "as_good", None, FELL),
        (("ahead",), "sooner", None, HELD),
        (("level",), "sooner", None, OPEN),
        (("behind",), "sooner", None, FELL),  # never meets the target
    ],
)
def test_a_verdict_follows_from_the_runs(report: Report, learners: Any, says: str, at_least: Any, verdict: str) -> None:
    (found,) = outcomes(report, [Claim("c", "s", learners, says=says, at_least=at_least)])
    assert found.verdict == verdict
    assert found.missing == [name for name in learners if name == "absent"]


def test_evaluations_that_overlap_tell_nothing(report: Report) -> None:
    """By steps everybody meets the target between the first evaluation and the second."""
    (found,) = outcomes(report, [Claim("c", "s", ("ahead",), says="sooner", currency="steps")])
    assert found.verdict == OPEN
    assert found.tested[0].comparison.ties == 12


def test_p_values_are_adjusted_over_all_comparisons_of_all_claims(report: Report) -> None:
    one = Claim("c", "s", ("ahead",))
    (alone,) = outcomes(report, [one])
    several = outcomes(report, [one, Claim("d", "s", ("behind", "near"))])
    (p,), (first,) = ([test.comparison.adjusted for test in outcome.tested] for outcome in (alone, several[0]))
    assert first == pytest.approx(3 * p)


def test_few_seeds_claim_nothing(runs: Callable[..., Path]) -> None:
    (found,) = outcomes(read([runs(seeds=8)], "x"), [Claim("c", "s", ("ahead",))])
    assert found.verdict == OPEN


def test_a_workload_that_is_named_is_the_only_one(report: Report) -> None:
    named = (("digits",), ("iris",), ("digits", "iris"))
    there, elsewhere, both = outcomes(report, [Claim("c", "s", ("ahead",), workloads=names) for names in named])
    assert (there.verdict, elsewhere.verdict, elsewhere.missing) == (HELD, OPEN, ["ahead on iris"])
    assert elsewhere.tested == []
    assert (both.verdict, both.needed, both.missing) == (OPEN, 2, ["ahead on iris"])


def test_the_list_travels_with_the_runs_and_stands_in_the_answer(runs: Callable[..., Path], tmp_path: Path) -> None:
    folder = runs()
    write_claims(folder, [{**SAID, "claim": "Old."}], "2024-01-01")
    write_claims(folder, [{**SAID, "remark": "Synthetic runs."}], "2024-01-02")
    (tmp_path / "packed").mkdir()
    page = build([pack(folder, tmp_path / "packed")], tmp_path / "out")
    text = page.with_suffix(".md").read_text()
    row = next(line for line in text.splitlines() if line.startswith("| Ahead is ahead."))
    assert "Nobody 2020" in row
    assert "✓ held" in row
    assert "Synthetic runs." in row
    assert "Old." not in text
    assert text.index("Claims put to the test") < text.index("## 1 ")
    assert len(load_claims(folder)[0]) == 1


def test_without_claims_nothing_is_said_of_them(runs: Callable[..., Path], tmp_path: Path) -> None:
    assert "Claims put" not in build([runs()], tmp_path / "out").read_text()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("all", "claims must be a list"),
        (["so"], r"claims\[0\] must be a mapping"),
        ([{**SAID, "learner": "x"}], "no key 'learner'; did you mean learners"),
        ([SAID, {**SAID, "source": ""}], r"claims\[1\] lacks source"),
        ([{**SAID, "says": "beter"}], "'beter' cannot be tested; did you mean better"),
        ([{**SAID, "at_least": 0}], "at_least must be a whole number"),
        ([{**SAID, "currency": "flop"}], "currency='flop' is none; did you mean flops"),
        ([{**SAID, "target": 90}], "target must be text"),
        ([{**SAID, "says": "falls_with_depth", "than": "x"}], "leave than out"),
    ],
)
def test_a_mistake_in_the_list_says_what_to_do(given: Any, words: str) -> None:
    with pytest.raises(AltpropError, match=words):
        read_claims(given)


@pytest.mark.parametrize("path", sorted(EXPERIMENTS.glob("*.yaml")), ids=lambda path: path.stem)
def test_the_claims_of_an_experiment_can_be_read(path: Path) -> None:
    read_claims(yaml.safe_load(path.read_text()).get("claims"))
