"""Seeds at once: bit for bit what the loop over seeds does, and the loop wherever that cannot be."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from altprop import stacked_learners
from altprop.harness import stacked_runs, stacking
from altprop.harness.cell import make_cell
from altprop.harness.composition import compose_cell
from altprop.harness.execution import run_seeds
from altprop.losses import CrossEntropy
from altprop.records.store import RunStore
from altprop.stacked_learners import _Batched

SEEDS = "seeds=5"
# Under "algorithm" of the records: what is equal bit for bit.
EXACT = ("label", "workload", "seed", "status", "reason", "result", "axes", "key")


def records(folder: Path) -> dict[int, dict[str, Any]]:
    found = [json.loads(path.read_text()) for path in folder.glob("*/record.json")]
    return {record["seed"]: record for record in found}


def traces(folder: Path) -> dict[str, str]:
    return {path.parent.name: path.read_text() for path in folder.glob("*/trace.jsonl")}


@pytest.fixture
def both(run: Callable[..., Any], tmp_path: Path) -> Callable[..., bool]:
    """Run seeds at once and one by one, hold them against each other, and say whether they ran at once."""

    def go(*overrides: str) -> bool:
        run(SEEDS, *overrides, runs="at_once")
        run(SEEDS, *overrides, "stack_seeds=false", runs="loop")
        ours, theirs = records(tmp_path / "at_once"), records(tmp_path / "loop")
        assert sorted(ours) == sorted(theirs) == list(range(5))
        for seed, record in theirs.items():
            assert "stacked" not in record["measured"]
            for name in EXACT:
                assert ours[seed][name] == record[name], (seed, name)
            same = ("live_bytes", "saved_bytes", "state_bytes")
            assert [ours[seed]["measured"].get(n) for n in same] == [record["measured"].get(n) for n in same]
        assert traces(tmp_path / "at_once") == traces(tmp_path / "loop")
        marks = {record["measured"].get("stacked") for record in ours.values()}
        assert marks in ({5}, {None})
        return marks == {5}

    return go


@pytest.mark.parametrize(
    "optimizer",
    "sgd momentum nesterov adagrad rmsprop adadelta adam adamw nadam radam adamax rprop".split(),
)
def test_every_element_wise_optimizer(both: Callable[..., bool], optimizer: str) -> None:
    assert both(f"optimizer={optimizer}", "task=digits")  # 719 rows in batches of 64 and one of 15


@pytest.mark.parametrize(
    "overrides",
    [
        ("task=wine", "model.hidden=[7,5]"),
        ("task=breast_cancer",),
        ("task=digits", "model.hidden=[]", "model=linear"),
        ("task=digits", "task.batch_size=full"),
        ("task=iris", "task.batch_size=1"),
        ("task=iris", "dtype=float64"),
        ("task=digits", "task.loss=one_hot_squared_error"),
        ("task=digits", "model.activation=tanh", "model.hidden=[64]", "task.batch_size=full"),
        ("task=digits", "optimizer.schedule=cosine"),
        ("task=digits", "probes=basic"),
        ("task=digits", "task.validation=none"),
        ("task=iris",),
    ],
    ids="-".join,
)
def test_every_kind_of_dense_workload(both: Callable[..., bool], overrides: tuple[str, ...]) -> None:
    assert both(*overrides)


@pytest.mark.parametrize(
    "overrides",
    [
        ("dropout=standard",),
        ("model.normalisation=layer",),
        ("optimizer.clip_norm=1.0",),
        ("optimizer=lbfgs",),
        ("algorithm=dfa",),
        ("algorithm=frozen_features",),
        ("isolate=true",),
        # The scalar loop at the end of a tensor takes tanh and log1p otherwise than the vectorised one.
        ("task=two_spirals",),
        ("task=digits", "model.activation=tanh"),
        ("task=breast_cancer", "model.activation=gelu"),
    ],
    ids="-".join,
)
def test_what_does_not_qualify_goes_to_the_loop(both: Callable[..., bool], overrides: tuple[str, ...]) -> None:
    assert not both(*overrides)


def test_a_workload_that_rounds_otherwise_goes_to_the_loop_by_itself(both: Callable[..., bool]) -> None:
    both("task=diabetes")  # one output: at once or not, nothing differs


def test_three_seeds_are_too_few(run: Callable[..., Any], tmp_path: Path) -> None:
    run("seeds=3")
    assert all("stacked" not in record["measured"] for record in records(tmp_path / "runs").values())


def test_the_stacked_step_beside_an_audited_one_is_timed(
    run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    block = stacked_runs.StackedRuns.block

    def watched(self: stacked_runs.StackedRuns) -> None:
        block(self)
        assert self.ledger.learner_seconds == pytest.approx(self.ledger.seconds)
        seen.append(self.ledger.untimed)

    monkeypatch.setattr(stacked_runs.StackedRuns, "block", watched)
    run(SEEDS)
    assert set(seen) == {0}


def test_seeds_that_diverge_end_each_at_its_own_step(both: Callable[..., bool], tmp_path: Path) -> None:
    assert both("task=diabetes", "optimizer=sgd", "optimizer.lr=3.0", "budget.amount=60")
    found = records(tmp_path / "at_once").values()
    assert {record["status"] for record in found} & {"diverged", "non_finite"}


def test_seeds_that_reach_the_target_end_each_at_its_own_mark(both: Callable[..., bool], tmp_path: Path) -> None:
    assert both("task=iris", "optimizer.lr=0.01", "budget.stop_at_target=true", "budget.amount=300", "budget.grid=30")
    found = records(tmp_path / "at_once").values()
    assert len({record["result"]["ledger"]["steps"] for record in found}) > 1
    assert "reached_target" in {record["status"] for record in found}


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize("count", [1, 2])  # a comparison with one thread says nothing about two
def test_products_that_round_differently_are_taken_one_by_one(threads: Callable[[int], None], count: int) -> None:
    threads(count)
    shapes = [(5, rows, i, o) for rows in (1, 15, 37, 64) for i in (4, 13, 64) for o in (1, 3, 10)]
    found = {shape: stacked_learners._batched(*shape, torch.float32) for shape in shapes}
    assert _Batched(True, True, True, True) in found.values()  # else nothing would be gained
    for (size, rows, inputs, outputs), how in found.items():
        generator = torch.Generator().manual_seed(1)
        x, w, b, g = (
            torch.randn(shape, generator=generator)
            for shape in ((size, rows, inputs), (size, outputs, inputs), (size, outputs), (size, rows, outputs))
        )
        single = [torch.nn.functional.linear(*each) for each in zip(x, w, b, strict=True)]
        assert torch.equal(stacked_learners._forward(x, w, b, how), torch.stack(single))
        assert torch.equal(
            stacked_learners._weight(g, x, how), torch.stack([e.t() @ v for e, v in zip(g, x, strict=True)])
        )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_means_at_once_have_the_bits_of_each(dtype: torch.dtype) -> None:
    for rows in (1, 2, 15, 16, 17, 33, 37, 64, 65, 200, 256):
        outputs = 5 * torch.randn((40, rows, 7), generator=torch.Generator().manual_seed(rows), dtype=dtype)
        targets = torch.randint(0, 7, (40, rows), generator=torch.Generator().manual_seed(rows))
        pairs = zip(outputs, targets, strict=True)
        alone = torch.stack([torch.nn.functional.cross_entropy(o, t) for o, t in pairs])
        each = CrossEntropy().per_element(outputs, targets)
        assert torch.equal(stacked_learners._means(each), alone), rows
        assert stacked_learners._summed_alike(rows, dtype)
        if rows > 17:
            assert not torch.equal(each.mean(1), alone), "then the plain mean would do"
    assert not stacked_learners._summed_alike(257, dtype)


def test_a_product_that_lies_is_found_out(
    run: Callable[..., Any], both: Callable[..., bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = stacked_learners._weight
    monkeypatch.setattr(stacked_learners, "_weight", lambda g, x, how: real(g, x, how) * (1 + 2**-23))
    assert not both("task=iris")


def test_an_update_that_lies_is_found_out(both: Callable[..., bool], monkeypatch: pytest.MonkeyPatch) -> None:
    real = stacked_learners.Updater.apply

    def apply(self: Any, grads: Any, *rest: Any, **more: Any) -> None:
        real(self, grads, *rest, **more)
        for p in self._params.values():
            if p.dim() == 3 and self._steps == 4:  # the stacked weights, at an audited step
                p.data[0, 0, 0] += 1e-6

    monkeypatch.setattr(stacked_learners.Updater, "apply", apply)
    assert not both("task=iris")


@pytest.mark.parametrize("blocks", [0, 1, 3])
def test_an_interrupt_leaves_every_seed_resumable_to_the_bit(
    run: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, blocks: int
) -> None:
    real, done = stacked_runs.StackedRuns.block, []

    def block(self: stacked_runs.StackedRuns) -> None:
        real(self)
        done.append(1)
        if len(done) > blocks:
            self.stop_requested = True

    words = ("task=digits", "optimizer=momentum", "probes=basic", SEEDS)
    with monkeypatch.context() as patched:
        patched.setattr(stacked_runs.StackedRuns, "block", block)
        with pytest.raises(KeyboardInterrupt):
            run(*words)
    assert {record["status"] for record in records(tmp_path / "runs").values()} == {"interrupted"}
    run(*words)
    run(*words, "stack_seeds=false", runs="loop")
    resumed, loop = records(tmp_path / "runs"), records(tmp_path / "loop")
    assert [resumed[s]["result"] for s in range(5)] == [loop[s]["result"] for s in range(5)]
    assert traces(tmp_path / "runs") == traces(tmp_path / "loop")


def test_an_error_of_the_group_costs_nothing(both: Callable[..., bool], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*rest: Any) -> None:
        raise RuntimeError("boom")

    monkeypatch.setattr(stacking, "StackedRuns", fail)
    assert not both("task=iris")


def test_seeds_that_are_there_are_left_alone(run: Callable[..., Any], tmp_path: Path) -> None:
    run("seeds=[0,3]")
    before = {r["seed"]: r["measured"]["finished"] for r in records(tmp_path / "runs").values()}
    run("seeds=8")
    found = records(tmp_path / "runs")
    assert {s: found[s]["measured"]["finished"] for s in before} == before
    assert {record["measured"].get("stacked") for s, record in found.items() if s not in before} == {6}


def test_a_seed_that_another_worker_has_is_left_to_it(run: Callable[..., Any], tmp_path: Path) -> None:
    run("seeds=1")
    key = records(tmp_path / "runs")[0]["key"]
    store = RunStore(tmp_path / "runs")
    (store.path(key) / "record.json").unlink()
    lease = store.claim(key)
    assert lease is not None
    with lease:
        run("seeds=6")
    found = records(tmp_path / "runs")
    assert sorted(found) == [1, 2, 3, 4, 5]
    assert {record["measured"]["stacked"] for record in found.values()} == {5}


def test_an_error_that_was_not_meant_is_told_and_the_seeds_run_one_by_one(
    run: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: Any, *given: Any) -> Any:
        raise ValueError("a planted\nbug")

    monkeypatch.setattr(stacked_learners.StackedLearners, "step", broken)
    run(SEEDS, "task=digits")
    found = records(tmp_path / "runs")
    assert {record["status"] for record in found.values()} == {"completed"}
    assert {record["measured"]["stacking_problem"] for record in found.values()} == {"ValueError: a planted bug"}


def test_seeds_that_ended_before_the_error_count_as_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = stacked_runs.StackedRuns._end

    def end(self: stacked_runs.StackedRuns, live: Any) -> None:
        real(self, live)
        if any(one.over for one in self.training_runs):
            raise SystemExit("planted")

    monkeypatch.setattr(stacked_runs.StackedRuns, "_end", end)
    words = ["task=iris", "optimizer.lr=0.01", "budget.stop_at_target=true", "budget.amount=300", "budget.grid=30"]
    words += ["budget.currency=steps", "probes=off", "model.hidden=[8]", SEEDS, f"runs_dir={tmp_path}"]
    cell = make_cell(OmegaConf.to_container(compose_cell(words), resolve=True), words)
    assert [outcome.executed for outcome in run_seeds(cell)] == [True] * 5
    found = records(tmp_path)
    stacked = {seed for seed, record in found.items() if "stacked" in record["measured"]}
    told = {
        seed for seed, record in found.items() if record["measured"].get("stacking_problem") == "SystemExit: planted"
    }
    assert 0 < len(stacked) < 5
    assert told == set(range(5)) - stacked


def test_a_mismatch_is_no_error(run: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def mismatch(self: Any, *given: Any) -> Any:
        raise stacked_learners.StackingMismatch("planted")

    monkeypatch.setattr(stacked_learners.StackedLearners, "step", mismatch)
    run(SEEDS, "task=digits")
    assert all("stacking_problem" not in record["measured"] for record in records(tmp_path / "runs").values())
