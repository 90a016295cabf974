"""Seconds a step in the report: which timing record stands for a table, what may be claimed, and where it shows."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from altprop.records.record import Record
from altprop.records.timing import Timed, write_timing
from altprop.report.build import build
from altprop.report.cost_figures import points
from altprop.report.model import Report, Table
from altprop.report.reading import read
from altprop.report.times import ranking_flips, target_times

STEADY = (1.0, 1.01, 0.99, 1.0, 1.02, 0.98)
SHAKY = (1.0, 1.5, 0.7, 1.0, 1.4, 0.6)
BREAKDOWN = {"forward": [0.3, 0.3, 0.4], "update": [0.1, 0.1, 0.1], "other": [0.0, 0.0, 0.0]}


@pytest.fixture
def runs(synthetic: ModuleType, tmp_path: Path) -> Path:
    """Four learners on digits: reference, dfa, newton_cg and null."""
    chosen = [synthetic.LEARNERS[i] for i in (0, 3, 5, 7)]
    return synthetic.write(tmp_path / "runs", chosen, synthetic.TASKS[:1])


def record_of(runs: Path, label: str) -> Record:
    return next(run.record for run in read([runs], "x").runs if run.record.label == label)


def timed(runs: Path, label: str, step: float, rounds: Sequence[float] = STEADY) -> Timed:
    """An entry that matches the learner's runs."""
    data = record_of(runs, label).data
    cpu = tuple(step * value for value in rounds)
    return Timed(label, data["cell"], 0, data["provenance"]["fingerprint"], data["reference"], data["control"], cpu,
                 cpu, BREAKDOWN, 50, 113)  # fmt: skip


def write(runs: Path, *entries: Timed, workload: str = "digits", finished: str = "2026-01-01") -> None:
    write_timing(runs, workload, 6, entries, {}, {"finished": finished}, {"fingerprint": "f" * 16})


def everybody(runs: Path) -> list[Timed]:
    steps = {"backprop+adam": 1e-3, "dfa+adam": 2e-3, "newton_cg": 4e-3, "null": 1e-4}
    return [timed(runs, label, step) for label, step in steps.items()]


def table(runs: Path) -> Table:
    return read([runs], "x").tables[0]


def page(*runs: Path) -> tuple[str, str]:
    out = build(list(runs), runs[0].parent / "report").parent
    return (out / "report.html").read_text(encoding="utf-8"), (out / "report.md").read_text(encoding="utf-8")


def test_seconds_of_a_run_are_steps_times_the_step(runs: Path) -> None:
    own = table(runs).tried("dfa+adam")[0]
    before = own.spent("cpu_seconds")
    write(runs, *everybody(runs))
    found = table(runs)
    assert found.timing is not None
    assert found.timing.complete
    run = found.tried("dfa+adam")[0]
    steps = run.spent("steps")
    assert steps is not None
    assert run.spent("cpu_seconds") == pytest.approx(steps * 2e-3)
    assert run.spent("cpu_seconds") != before
    curve = run.curve("validation", "accuracy")
    assert curve is not None
    assert curve.x["cpu_seconds"] == pytest.approx(curve.x["steps"] * 2e-3)
    hit, step = run.hit("90%", "cpu_seconds"), run.hit("90%", "steps")
    assert hit is not None
    assert step is not None
    assert hit == pytest.approx([value * 2e-3 for value in step])


def test_ratio_is_of_one_round_and_says_only_what_it_may(runs: Path) -> None:
    """What slows all learners of a round down together leaves the ratio alone, and greys the seconds alone."""
    reference = timed(runs, "backprop+adam", 1e-3, SHAKY)
    entries = [
        reference,
        replace(timed(runs, "dfa+adam", 1.0), cpu=tuple(2 * value for value in reference.cpu)),
        timed(runs, "newton_cg", 1e-3),
        replace(timed(runs, "null", 1.0), cpu=tuple(v * f for v, f in zip(reference.cpu, STEADY, strict=True))),
    ]
    write(runs, *entries)
    timing = table(runs).timing
    assert timing is not None
    dfa, newton, null = (timing.rows[name] for name in ("dfa+adam", "newton_cg", "null"))
    assert dfa.ratio is not None
    assert (dfa.ratio.estimate, dfa.ratio.low, dfa.ratio.high) == pytest.approx((2, 2, 2))
    assert (dfa.verdict, bool(dfa.grey)) == ("slower", True)
    assert newton.grey == ""
    assert newton.verdict.startswith("no claim: spread ")
    assert null.verdict == "not told apart"
    assert timing.rows["backprop+adam"].verdict == ""


@pytest.mark.parametrize(("step", "verdict"), [(1.3e-3, "slower"), (0.7e-3, "faster"), (1.0e-3, "not told apart")])
def test_verdicts(step: float, verdict: str, runs: Path) -> None:
    write(runs, timed(runs, "backprop+adam", 1e-3, STEADY[::-1]), timed(runs, "dfa+adam", step))
    timing = table(runs).timing
    assert timing is not None
    assert timing.rows["dfa+adam"].verdict == verdict


def test_a_table_that_is_not_timed_whole_keeps_the_runs_own_seconds(runs: Path) -> None:
    """Steps of one learner beside clocks of another compare nothing."""
    own = table(runs).tried("dfa+adam")[0].spent("cpu_seconds")
    reason = replace(timed(runs, "null", 1.0), cpu=(), wall=(), breakdown={}, reason="RuntimeError: boom")
    write(runs, *everybody(runs)[:2], reason)
    found = table(runs)
    assert found.timing is not None
    assert not found.timing.complete
    assert found.timing.untimed == {"newton_cg": "not in the timing record", "null": "RuntimeError: boom"}
    assert found.tried("dfa+adam")[0].spent("cpu_seconds") == own
    html, markdown = page(runs)
    assert "pareto-digits-cpu_seconds" not in markdown
    assert "altprop-time on the folder of records" in html
    assert "not timed: RuntimeError: boom" in html


def test_a_learner_that_never_ended_does_not_hold_the_others_up(synthetic: ModuleType, tmp_path: Path) -> None:
    learners = [synthetic.LEARNERS[0], synthetic.Learner("x", statuses={"*": "diverged"})]
    runs = synthetic.write(tmp_path / "runs", learners, synthetic.TASKS[:1])
    write(runs, timed(runs, "backprop+adam", 1e-3))
    timing = table(runs).timing
    assert timing is not None
    assert timing.complete


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"fingerprint": "other"}, "dfa+adam (timed on another machine or with other versions than the runs)"),
        ({"cell": "0" * 16}, "dfa+adam (no run here has their key"),
    ],
)
def test_what_does_not_match_is_ignored_with_a_sentence(change: dict[str, str], sentence: str, runs: Path) -> None:
    entries = everybody(runs)
    write(runs, entries[0], replace(entries[1], **change), *entries[2:])
    report = read([runs], "x")
    timing = report.tables[0].timing
    assert timing is not None
    assert "dfa+adam" not in timing.rows
    assert not timing.complete
    assert any(sentence in note for note in report.timing_notes)
    html, markdown = page(runs)
    assert "Ignored in a timing record of digits" in html
    assert "Ignored in a timing record of digits" in markdown


def test_a_record_of_which_nothing_matches_is_no_timing(runs: Path) -> None:
    write(runs, *[replace(one, fingerprint="other") for one in everybody(runs)])
    write(runs, *everybody(runs), workload="another")
    report = read([runs], "x")
    assert report.tables[0].timing is None
    assert any("workloads without runs here are ignored: another" in note for note in report.timing_notes)


def test_an_unreadable_timing_record_is_a_sentence(runs: Path) -> None:
    write(runs, *everybody(runs))
    (path,) = (runs / "timing").iterdir()
    path.write_text("{")
    report = read([runs], "x")
    assert report.tables[0].timing is None
    assert any("cannot be read" in note for note in report.timing_notes)


def test_of_several_records_the_fullest_stands_then_the_latest(runs: Path, tmp_path: Path) -> None:
    others = [tmp_path / name for name in ("old", "new", "full")]
    whole = everybody(runs)
    write(others[0], *whole[:3], finished="2026-01-01")
    write(others[1], *[replace(one, cpu=tuple(2 * v for v in one.cpu)) for one in whole[:3]], finished="2026-01-02")
    for order in itertools.permutations([runs, *others[:2]]):
        timing = read(order, "x").tables[0].timing
        assert timing is not None
        assert timing.rows["backprop+adam"].cpu == pytest.approx(2e-3)
    write(others[2], *whole, finished="2025-01-01")
    report = read([runs, *others], "x")
    timing = report.tables[0].timing
    assert timing is not None
    assert timing.rows["backprop+adam"].cpu == pytest.approx(1e-3)
    assert any("Ignored: 2 timing records of digits" in note for note in report.timing_notes)


def flipping(synthetic: ModuleType, folder: Path) -> Path:
    """Far fewer FLOPs a step for one, so that it is ahead in FLOPs; what it is in seconds hangs on the timing."""
    cheap = synthetic.Learner("cheap", speed=9, step_flops=1e6)
    dear = synthetic.Learner("dear", speed=5, step_flops=1e6, reference=True)
    return synthetic.write(folder, [cheap, dear], synthetic.TASKS[:1])


@pytest.mark.parametrize(
    ("rounds", "flips"), [(None, []), (STEADY, [("cheap", "dear", "flops", "cpu_seconds")]), (SHAKY, [])]
)
def test_a_flip_in_seconds_takes_a_steady_timing(
    rounds: Sequence[float] | None, flips: list[tuple[str, ...]], synthetic: ModuleType, tmp_path: Path
) -> None:
    runs = flipping(synthetic, tmp_path / "runs")
    if rounds is not None:
        write(runs, timed(runs, "dear", 1e-4), timed(runs, "cheap", 1e-2, rounds))
    found = table(runs)
    assert ranking_flips(found, "90%") == flips
    times = next(row for row in target_times(found, "cpu_seconds") if row.target == "90%")
    assert set(times.learners) == {"cheap", "dear"}


def test_quality_against_seconds(runs: Path) -> None:
    write(runs, *everybody(runs))
    report: Report = read([runs], "x")
    found = {point.learner.name: point for point in points(report, report.tables[0], "cpu_seconds")}
    flops = {point.learner.name: point for point in points(report, report.tables[0], "flops")}
    for name, step, per in (("dfa+adam", 2e-3, 1.0e6), ("newton_cg", 4e-3, 9e6)):
        assert found[name].costs == pytest.approx([cost / per * step for cost in flops[name].costs])


def test_the_page_without_timing_names_the_command(runs: Path) -> None:
    html, markdown = page(runs)
    for text in (html, markdown):
        assert "altprop-time on the folder of records" in text
        assert "Seconds a step" not in text.split("Definitions and raw data")[0]
    assert "no claim" in html[html.index("Time to target in CPU-seconds") :]


def test_the_page_with_timing(runs: Path) -> None:
    entries = everybody(runs)
    entries[2] = timed(runs, "newton_cg", 4e-3, SHAKY)
    write(runs, *entries)
    html, markdown = page(runs)
    assert "altprop-time on the folder of records" not in html
    section = html[html.index('<section id="cost">') : html.index('<section id="robustness">')]
    assert "<h4>Seconds a step</h4>" in section
    assert "2.0 ms" in section or "2 ms" in section
    assert "2.00<span" in section  # the ratio of dfa+adam
    assert section.count("no claim: spread") == 1
    assert "seconds_by_kind" in markdown
    assert "pareto-digits-cpu_seconds" in markdown
    assert "| dfa+adam | 2 ms (" in markdown
    assert "no claim: spread" in markdown
    assert (runs.parent / "report" / "figures").is_dir()


def test_who_is_beaten_in_seconds_is_claimed_of_steady_times_only(runs: Path) -> None:
    entries = everybody(runs)
    write(runs, *entries)
    steady = page(runs)[0].count("the line joins the medians")
    entries[2] = timed(runs, "newton_cg", 4e-3, SHAKY)
    write(runs, *entries)
    assert page(runs)[0].count("the line joins the medians") == steady - 1


def test_the_same_records_give_the_same_bytes(runs: Path, tmp_path: Path) -> None:
    write(runs, *everybody(runs))
    first = page(runs)
    assert page(runs) == first
    moved = runs.rename(tmp_path / "moved")
    assert page(moved) == first


def test_names_from_a_record_do_not_act(runs: Path) -> None:
    evil = "<script>alert(1)</script>"
    entries = everybody(runs)
    broken = replace(entries[3], cpu=(), wall=(), breakdown={}, reason=evil)
    write(runs, *entries[:2], broken, replace(entries[2], label=evil, cell="0" * 16))
    html, _ = page(runs)
    assert evil not in html
    assert "&lt;script&gt;alert(1)" in html
