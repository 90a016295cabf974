"""The published study of other ways to assign credit: fair by its own records, and its page is theirs."""

from collections import Counter
from pathlib import Path

import pandas as pd
import pytest

from altprop.records.compare import compare
from altprop.records.frame import load

FOLDER = Path(__file__).parents[2] / "reports" / "alternatives"
RECORDS = FOLDER / "records.tar.xz"
TRIALS, SEEDS = 4, 12
EQUIVALENT = ("sign_symmetry", "target_propagation")
NOT_TOLD = ("dfa", "feedback_alignment", "kolen_pollack", "local_losses", "mono_forward", "predictive_coding",
            "weight_mirror")  # fmt: skip
BELOW_FROZEN = ("equilibrium_propagation", "forward_forward", "forward_gradient", "pepita")


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    return load(RECORDS)


def test_every_rule_had_the_same_trials_and_seeds(frame: pd.DataFrame) -> None:
    assert set(frame.status) == {"completed"}
    for name, cell in frame[frame.algorithm != "null"].groupby("algorithm"):
        assert Counter(cell.role) == {"run": SEEDS, "trial": TRIALS, "tuned": SEEDS}, name
    assert frame.algorithm.nunique() == 20
    for kind in ("split", "batch_order"):
        each = frame[(frame.role != "trial") & (frame.algorithm != "null")]
        found = each.assign(value=each.identity.map(lambda identity, kind=kind: identity[kind]))
        assert (found.groupby("seed").value.nunique() == 1).all(), kind


def test_it_says_what_the_readme_says() -> None:
    lines = (FOLDER / "report.md").read_text().splitlines()
    told = [line for line in lines if line.startswith("| ") and "12/12" in line and "\\[" in line]
    rows = {line.split("|")[1].strip().replace("\\", ""): line for line in told}
    said = {name: row.rsplit("|", 2)[1].strip() for name, row in rows.items()}
    for name in EQUIVALENT:
        assert said[f"{name}+adam·tuned"].startswith("equivalent within ±0.01"), name
    for name in NOT_TOLD:
        assert said[f"{name}+adam·tuned"] == "not shown to differ", name
    for name in ("drtp", "node_perturbation", *BELOW_FROZEN):
        assert said[f"{name}+adam·tuned"].startswith("worse"), name
    for name in BELOW_FROZEN:
        assert "does not beat" in said[f"{name}+adam·tuned"], name
        assert "frozen\\_features+adam·tuned" in said[f"{name}+adam·tuned"], name
    assert not [name for name, words in said.items() if words.startswith("better")]


@pytest.mark.slow
def test_a_cell_reruns_as_published(tmp_path: Path) -> None:
    from altprop.cli.run import run

    cell = ["-m", "+experiment=alternatives", "algorithm=drtp", "tune=null", "reference=null", "hydra/launcher=basic"]
    assert run([*cell, f"runs_dir={tmp_path}", "report=false"]) == 0
    comparison = compare(RECORDS, tmp_path)
    mine = [r for r in comparison.runs if r.label == "drtp+adam"]
    assert len(mine) == SEEDS
    if comparison.bitwise_expected:
        assert all(r.bitwise for r in mine), [r.differing for r in mine]
    assert all(str(f.verdict) != "different" for f in comparison.figures if f.label == "drtp+adam")
