"""The timing pass under a clock that the learners move themselves, so that every figure is known exactly."""

import itertools
import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import timed_rules

from altprop.errors import AltpropError
from altprop.harness.interleaved import SIZING_STEPS, WARM_STEPS, Clock, SectionClock
from altprop.harness.timing import BREAKDOWN_ROUNDS, ROUNDS, WARM_ROUNDS, interleave, time_runs
from altprop.records.store import RunStore
from altprop.records.timing import Timed, Timing, load_timings, median_interval, ratios

TIME = timed_rules.TIME
CLOCK = Clock(cpu=lambda: TIME.cpu, wall=lambda: TIME.wall)
MODEL = "·hidden=[8]"
"""What the small model of these tests adds to every label."""
Go = Callable[..., Any]


@pytest.fixture(autouse=True)
def _fresh_time() -> Iterator[None]:
    TIME.__init__()  # type: ignore[misc]
    yield
    TIME.__init__()  # type: ignore[misc]


@pytest.fixture(scope="module")
def recorded(run_into: Go, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Return the records of one planted learner, run once for all tests."""
    folders: dict[tuple[str, int, str], Path] = {}

    def go(name: str, steps: int, seeds: str) -> Path:
        if (name, steps, seeds) not in folders:
            runs = folders[name, steps, seeds] = tmp_path_factory.mktemp("recorded")
            chosen = ["algorithm=custom", f"algorithm._target_=timed_rules.{name}", f"seeds={seeds}"]
            run_into(runs, *chosen, f"budget.amount={steps}", "budget.block=50")
        return folders[name, steps, seeds]

    return go


@pytest.fixture
def sweep(recorded: Callable[..., Path], tmp_path: Path) -> Callable[..., Path]:
    """Return a folder with the records of planted learners, 200 steps each."""

    def go(*names: str, runs: str = "runs", steps: int = 200, seeds: str = "1") -> Path:
        for name in names:
            shutil.copytree(recorded(name, steps, seeds), tmp_path / runs, dirs_exist_ok=True)
        TIME.order.clear()
        return tmp_path / runs

    return go


def timed(runs: Path, **options: Any) -> tuple[Timing, dict[str, Timed], list[str]]:
    said: list[str] = []
    (timing,) = time_runs(runs, clock=CLOCK, say=said.append, **options)
    return timing, {one.label.removesuffix(MODEL): one for one in timing.learners}, said


def test_the_step_is_timed_and_nothing_else(sweep: Callable[..., Path]) -> None:
    """Neither what is built nor audits, which cost 50 s and 10 s of this clock, get in; ratios are exact."""
    _, rows, _ = timed(sweep("Single", "Triple", "Sleeper"))
    assert {name: len(one.cpu) for name, one in rows.items()} == dict.fromkeys(rows, ROUNDS)
    assert rows["Single"].cpu == pytest.approx([1e-3] * ROUNDS)
    assert rows["Triple"].cpu == pytest.approx([3e-3] * ROUNDS)
    assert rows["Sleeper"].cpu == pytest.approx(rows["Single"].cpu)  # CPU seconds do not pass in sleep
    assert rows["Sleeper"].wall == pytest.approx([10e-3] * ROUNDS)


def test_learners_take_turns(sweep: Callable[..., Path]) -> None:
    timed(sweep("Single", "Triple", "Sleeper"))
    rounds = [number for block in (WARM_ROUNDS, ROUNDS, BREAKDOWN_ROUNDS) for number in range(block)]
    learners = ["Single", "Sleeper", "Triple"]
    assert TIME.order[3 * (WARM_STEPS + SIZING_STEPS) :] == [
        name for number in rounds for name in interleave(learners, number) for _ in range(50)
    ]


@pytest.mark.parametrize("learners", ["AB", "ABC", "ABCDEFG"])
def test_the_order_favours_nobody(learners: str) -> None:
    """In twice as many rounds as learners each begins twice, ends at least once and follows several of the others."""
    rounds = [interleave(learners, number) for number in range(2 * len(learners))]
    assert all(sorted(order) == list(learners) for order in rounds)
    assert Counter(order[0] for order in rounds) == dict.fromkeys(learners, 2)
    assert {order[-1] for order in rounds} == set(learners)
    before = {name: {a for order in rounds for a, b in itertools.pairwise(order) if b == name} for name in learners}
    assert all(len(others) >= min(2, len(learners) - 1) for others in before.values())


def test_a_slow_step_makes_a_short_block(sweep: Callable[..., Path]) -> None:
    _, rows, _ = timed(sweep("Slow", "Single"), rounds=5)
    assert (rows["Slow"].block, rows["Single"].block) == (4, 50)
    assert rows["Slow"].cpu == pytest.approx([0.25] * 5)


def test_breakdown_is_of_the_innermost_primitive_and_adds_up(sweep: Callable[..., Path]) -> None:
    _, rows, _ = timed(sweep("Single"))
    breakdown = rows["Single"].breakdown
    assert breakdown is not None
    expected = {"forward": 0.5e-3, "products": 0.25e-3, "other": 0.25e-3}
    assert {kind: values[0] for kind, values in breakdown.items()} == pytest.approx(expected)
    assert all(len(values) == BREAKDOWN_ROUNDS for values in breakdown.values())


def test_a_learner_that_gets_slower_is_not_hidden(sweep: Callable[..., Path]) -> None:
    """Each block goes on where the last one stopped: its mean step grows by .1 ms a step."""
    _, rows, _ = timed(sweep("Grows", steps=5000), rounds=6)
    one = rows["Grows"]
    middles = [one.first + one.block * place + (one.block + 1) / 2 for place in range(6)]
    assert one.cpu == pytest.approx([(1 + 0.1 * step) / 1000 for step in middles])
    assert one.again == 0


def test_no_learner_steps_beyond_its_own_run(sweep: Callable[..., Path]) -> None:
    """A run of 40 steps is timed in its steps 11 to 40, again and again from the same state."""
    _, rows, _ = timed(sweep("Grows", steps=40), rounds=5)
    one = rows["Grows"]
    assert one.block == 30
    assert one.cpu == pytest.approx([(1 + 0.1 * (10 + 15.5)) / 1000] * 5)
    assert one.again == WARM_ROUNDS + 5 + BREAKDOWN_ROUNDS


def test_a_learner_that_is_done_starts_again_off_the_clock(sweep: Callable[..., Path]) -> None:
    _, rows, _ = timed(sweep("Finishes", "Single"), rounds=5)
    assert rows["Finishes"].block == 25 - WARM_STEPS
    assert rows["Finishes"].cpu == pytest.approx([1e-3] * 5)


def test_what_raises_is_a_row_and_the_others_go_on(sweep: Callable[..., Path]) -> None:
    runs = sweep("Single", "Breaks", "Triple")
    TIME.raising = True
    _, rows, said = timed(runs)
    assert (rows["Breaks"].cpu, rows["Breaks"].failed) == ((), True)
    assert rows["Breaks"].reason == "RuntimeError: boom <b>bold</b>"
    assert any("Breaks" in line and "boom" in line for line in said)
    assert rows["Triple"].cpu == pytest.approx([3e-3] * ROUNDS)


def test_a_learner_without_an_ended_run_is_never_started(sweep: Callable[..., Path]) -> None:
    _, rows, _ = timed(sweep("Single", "Fails"))
    assert "Fails" not in TIME.order
    assert not rows["Fails"].failed
    assert "none of its runs ended (failed: RuntimeError: it never ran)" in rows["Fails"].reason


def change(runs: Path, name: str, edit: Callable[[dict[str, Any]], None]) -> None:
    for path in runs.glob("*/record.json"):
        data = json.loads(path.read_text())
        if data["label"] == name + MODEL:
            edit(data)
            path.write_text(json.dumps(data))


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (lambda data: data.update(cell="0" * 16), "its code or its settings have changed"),
        (lambda data: data["provenance"].update(torch="1.0", fingerprint="x"), "torch 1.0 / "),
        (lambda data: data["provenance"].update(device="cuda (a log)"), "other devices than one CPU"),
        (lambda data: data["provenance"].update(precision="bf16-mixed/float32"), "at precision bf16-mixed"),
        (lambda data: data["config"].update(dtype="float8"), "unknown dtype=float8"),
    ],
)
def test_what_is_not_the_run_is_not_timed(
    edit: Callable[[dict[str, Any]], None], reason: str, sweep: Callable[..., Path]
) -> None:
    runs = sweep("Single", "Triple")
    change(runs, "Triple", edit)
    _, rows, _ = timed(runs)
    assert reason in rows["Triple"].reason
    assert "Triple" not in TIME.order
    assert rows["Single"].cpu


def test_trials_of_tuning_are_not_timed(sweep: Callable[..., Path]) -> None:
    runs = sweep("Single", "Triple")
    change(runs, "Triple", lambda data: data.update(role="trial"))
    assert set(timed(runs)[1]) == {"Single"}


def test_all_are_rebuilt_on_the_seed_that_most_have(sweep: Callable[..., Path]) -> None:
    sweep("Single", seeds="[4,7]")
    sweep("Triple", seeds="[7]")
    runs = sweep("Sleeper", seeds="[2]")
    assert {name: one.seed for name, one in timed(runs)[1].items()} == {"Single": 7, "Triple": 7, "Sleeper": 2}


def test_the_record_is_no_run_and_stays_beside_the_runs(sweep: Callable[..., Path]) -> None:
    runs = sweep("Single")
    before = RunStore(runs).keys()
    timing, _, _ = timed(runs)
    assert timing.path.parent == runs / Timing.folder
    assert RunStore(runs).keys() == before
    assert load_timings(runs) == ([timing], [])


def test_missing_leaves_out_what_is_timed(sweep: Callable[..., Path]) -> None:
    runs = sweep("Single")
    timed(runs)
    assert time_runs(runs, missing=True, clock=CLOCK, say=lambda _: None) == []
    sweep("Triple")
    assert set(timed(runs, missing=True)[1]) == {"Single", "Triple"}


def test_folders_are_merged_into_the_first(sweep: Callable[..., Path]) -> None:
    one, two = sweep("Single"), sweep("Triple", runs="others")
    (timing,) = time_runs([one, two], clock=CLOCK, say=lambda _: None)
    assert [row.label for row in timing.learners] == [f"Single{MODEL}", f"Triple{MODEL}"]
    assert timing.path.parent.parent == one
    assert not (two / Timing.folder).exists()


def test_mistakes(sweep: Callable[..., Path], tmp_path: Path) -> None:
    runs = sweep("Single")
    with pytest.raises(AltpropError, match="5 rounds or more; got 4"):
        time_runs(runs, rounds=4)
    with pytest.raises(AltpropError, match=r"no run has the workload 'digit'; .*digits"):
        time_runs(runs, workloads=["digit"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(AltpropError, match="there are no records in"):
        time_runs(tmp_path / "empty")


def test_real_learners_under_the_real_clock(run: Go, tmp_path: Path) -> None:
    """The null learner does a forward pass, backprop+adam that and far more: measured alone, 5 to 9 times as much.

    The margin of 1.5 leaves room for a machine on which others run.
    """
    for algorithm in ("backprop", "'null'"):
        run(f"algorithm={algorithm}", "budget.amount=100", "model.hidden=[64]")
    (timing,) = time_runs(tmp_path / "runs", rounds=5, say=lambda _: None)
    rows = {one.label.split("·")[0]: one for one in timing.learners}
    assert [one.reason for one in rows.values()] == ["", ""]
    shares = ratios(rows["backprop+adam"].cpu, rows["null"].cpu)
    assert median_interval(shares).estimate > 1.5
    breakdown = rows["backprop+adam"].breakdown
    assert breakdown is not None
    assert set(breakdown) == {"forward", "backward", "update", "other"}
    assert min(value for values in breakdown.values() for value in values) > 0


def test_section_clock_books_every_second_once() -> None:
    now = iter([0.0, 1.0, 3.0, 6.0, 10.0])
    clock = SectionClock(lambda: next(now))
    clock.section = "forward"
    clock.section = "hvp"
    clock.section = "forward"
    clock.section = "other"
    found = {kind: value for kind, value in clock.seconds.items() if value}
    assert found == {"other": 1.0, "forward": 2.0 + 4.0, "products": 3.0}
