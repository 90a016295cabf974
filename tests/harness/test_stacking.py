"""Seeds at once: within rounding what the loop over seeds does, and the loop wherever that cannot be."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from altprop import Batch, DirectionAlgorithm, Grads, OptimizerFactory, stacked_learners
from altprop.algorithms.backprop.backprop import Backprop
from altprop.algorithms.dropout.concrete import ConcreteDropout
from altprop.harness import stacked_runs, stacking
from altprop.harness.cell import make_cell
from altprop.harness.composition import compose_cell
from altprop.harness.execution import run_seeds
from altprop.optim.updater import ELEMENTWISE
from altprop.records.store import RunStore
from altprop.testing import set_up, toy

SEEDS = "seeds=5"
ROUNDING = 1e-8


def records(folder: Path) -> dict[int, dict[str, Any]]:
    found = [json.loads(path.read_text()) for path in folder.glob("*/record.json")]
    return {record["seed"]: record for record in found}


def traces(folder: Path) -> dict[str, Any]:
    found = folder.glob("*/trace.jsonl")
    return {path.parent.name: [json.loads(line) for line in path.read_text().splitlines()] for path in found}


def close(a: Any, b: Any, where: str = "") -> str:
    """Return where two trees of numbers differ by more than rounding, or nothing."""
    if isinstance(a, dict) and isinstance(b, dict) and a.keys() == b.keys():
        keys = [key for key in a if key != "trace_sha256"]
        return next((d for key in keys if (d := close(a[key], b[key], f"{where}.{key}"))), "")
    if isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        return next((d for i, (x, y) in enumerate(zip(a, b, strict=True)) if (d := close(x, y, f"{where}[{i}]"))), "")
    if isinstance(a, float) and isinstance(b, float):
        return "" if math.isclose(a, b, rel_tol=ROUNDING, abs_tol=ROUNDING) else f"{where}: {a} and {b}"
    return "" if a == b else f"{where}: {a} and {b}"


@pytest.fixture
def both(run: Callable[..., Any], tmp_path: Path) -> Callable[..., bool]:
    """Run seeds at once and one by one in float64, hold them against each other, and say whether they ran at once."""

    def go(*overrides: str) -> bool:
        words = (SEEDS, "dtype=float64", *overrides)
        run(*words, runs="at_once")
        run(*words, "stack_seeds=false", runs="loop")
        ours, theirs = records(tmp_path / "at_once"), records(tmp_path / "loop")
        assert sorted(ours) == sorted(theirs) == list(range(5))
        for seed, record in theirs.items():
            assert "stacked" not in record["measured"]
            for name in ("label", "workload", "seed", "status", "axes", "key"):
                assert ours[seed][name] == record[name], (seed, name)
            assert not close(ours[seed]["result"], record["result"]), seed
            same = ("live_bytes", "saved_bytes", "state_bytes")
            assert [ours[seed]["measured"].get(n) for n in same] == [record["measured"].get(n) for n in same]
        assert not close(traces(tmp_path / "at_once"), traces(tmp_path / "loop"))
        marks = {record["measured"].get("stacked") for record in ours.values()}
        assert marks in ({5}, {None})
        assert all("stacking_problem" not in record["measured"] for record in ours.values())
        return marks == {5}

    return go


@pytest.mark.parametrize(
    "optimizer",
    "sgd momentum nesterov adagrad rmsprop adadelta adam adamw nadam radam adamax rprop lion muon adan".split(),
)
def test_every_optimizer(both: Callable[..., bool], optimizer: str) -> None:
    """719 rows in batches of 64 and one of 15; Muon, Lion and Adan see each seed's own parameters."""
    assert both(f"optimizer={optimizer}", "task=digits", "model.hidden=[8,8]")


@pytest.mark.parametrize(
    "overrides",
    [
        ("task=wine", "model.hidden=[7,5]"),
        ("task=digits", "model.hidden=[]", "model=linear"),
        ("task=digits", "task.batch_size=full"),
        ("task=iris", "task.batch_size=1"),
        ("task=digits", "task.loss=one_hot_squared_error"),
        ("task=diabetes", "model.activation=tanh", "model.hidden=[64]", "task.batch_size=full"),
        ("task=digits", "optimizer.schedule=cosine"),
        ("task=digits", "probes=basic"),
        ("task=digits", "task.validation=none"),
        ("task=iris", "dropout=standard"),
        ("task=iris", "dropout=gaussian", "dropout.schedule=annealed"),
        ("task=iris", "dropout=alpha", "dropout.passes=2"),
        ("task=iris", "dropout=dropconnect", "model.normalisation=weight"),
        ("task=iris", "dropout=concrete"),
        ("task=iris", "dropout=standout"),
        ("task=iris", "dropout=stochastic_depth", "model=residual_mlp", "model.hidden=[5,5]"),
        ("task=adding", "task.length=6", "dropout=variational", "budget.amount=3"),
        ("task=adding", "task.length=6", "dropout=zoneout", "model=lstm", "budget.amount=3"),
        ("task=adding", "task.length=6", "dropout=recurrent", "budget.amount=3"),
        ("task=iris", "model.normalisation=rms", "model.initialisation=critical"),
        ("task=iris", "model.normalisation=layer"),
        ("task=iris", "model.normalisation=batch"),
        ("task=iris", "optimizer=sgd", "optimizer.clip_norm=0.1"),
        ("task=iris", "model=shortcut_mlp"),
        ("task=xor",),
    ],
    ids="-".join,
)
def test_every_kind_of_workload(both: Callable[..., bool], overrides: tuple[str, ...]) -> None:
    assert both(*overrides)


@pytest.mark.parametrize(
    "overrides",
    [
        ("algorithm=dfa", "task=iris"),
        ("algorithm=dfa", "task=iris", "dropout=standard", "probes=basic"),
        ("algorithm=feedback_alignment", "task=iris"),
        ("algorithm=frozen_features", "task=iris"),
        ("algorithm=random_direction", "task=iris"),
        ("algorithm=shuffled_labels", "task=iris"),
        ("algorithm=manual_backprop", "task=iris"),
        ("algorithm=som", "task=iris", "algorithm.mode=online"),
        ("algorithm=som", "task=iris"),
        ("algorithm=null", "task=iris"),
        ("algorithm=evolution_strategy", "algorithm.population=6", "task=iris"),
        ("algorithm=evolution_strategy", "algorithm.population=6", "task=iris", "dropout=standard"),
        ("algorithm=evolution_strategy", "algorithm.population=6", "task=iris", "model.normalisation=batch"),
        ("algorithm=genetic", "algorithm.population=6", "algorithm.pressure=2", "task=iris"),
        ("algorithm=genetic", "algorithm.selection=truncation", "algorithm.crossover_rate=0.5", "task=iris"),
    ],
    ids="-".join,
)
def test_every_kind_of_learner(both: Callable[..., bool], overrides: tuple[str, ...]) -> None:
    assert both(*overrides)


@pytest.mark.parametrize("algorithm", ["bptt", "truncated_bptt"])
@pytest.mark.parametrize("model", ["rnn", "gru", "lstm"])
def test_recurrent_learners(both: Callable[..., bool], algorithm: str, model: str) -> None:
    words = ("task=adding", "task.length=8", "task.samples=50", "task.test_samples=20", f"model={model}")
    assert both(f"algorithm={algorithm}", *words, "model.hidden=[5]", "budget.amount=10", "dropout=standard")


@pytest.mark.parametrize(
    ("overrides", "why"),
    [
        (("optimizer=lbfgs",), "optimizer LBFGS evaluates or differentiates the objective again"),
        (("algorithm=newton_cg",), "by the values that each seed meets"),
    ],
    ids=["optimizer", "learner"],
)
def test_what_cannot_be_stacked_says_why(
    run: Callable[..., Any], tmp_path: Path, overrides: tuple[str, ...], why: str
) -> None:
    run(SEEDS, "task=iris", *overrides)
    assert all(why in record["measured"]["not_stacked"] for record in records(tmp_path / "runs").values())


def test_work_that_first_occurs_amid_stacked_steps_is_booked_all_the_same(
    run: Callable[..., Any], tmp_path: Path
) -> None:
    """No rate could be learned there, so the seeds run one by one: 21 calls of 2 x 8 x 64 x 8 FLOPs in 30 steps."""
    run(SEEDS, "algorithm=custom", "algorithm._target_=rules.NamesLateWork", "task=digits")
    for record in records(tmp_path / "runs").values():
        assert record["result"]["flops_by_kind"]["late"] == 21 * 2 * 8 * 64 * 8
        assert "work 'late' of this size first occurs" in record["measured"]["not_stacked"]


def test_three_seeds_are_too_few(run: Callable[..., Any], tmp_path: Path) -> None:
    run("seeds=3")
    assert all("stacked" not in record["measured"] for record in records(tmp_path / "runs").values())


def test_isolated_seeds_run_one_by_one(run: Callable[..., Any], tmp_path: Path) -> None:
    run(SEEDS, "task=iris", "isolate=true")
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


def test_the_same_seeds_at_once_give_the_same_bits(run: Callable[..., Any], tmp_path: Path) -> None:
    for runs in ("one", "two"):
        run(SEEDS, "task=digits", "dropout=standard", runs=runs)
    one, two = records(tmp_path / "one"), records(tmp_path / "two")
    assert [one[seed]["result"] for seed in range(5)] == [two[seed]["result"] for seed in range(5)]
    assert traces(tmp_path / "one") == traces(tmp_path / "two")


def test_what_a_seed_draws_does_not_depend_on_its_company(both: Callable[..., bool], tmp_path: Path) -> None:
    """The losses of a rule that draws at every step; each seed has others."""
    assert both("task=iris", "algorithm=random_direction", "optimizer=sgd", "optimizer.lr=1.0")
    ends = {record["result"]["validation"] for record in records(tmp_path / "at_once").values()}
    assert len(ends) > 1


@pytest.fixture
def resumed(run: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Interrupt a group after so many blocks, let it go on, and hold its bits against those of an undisturbed group."""
    real = stacked_runs.StackedRuns.block

    def go(blocks: int, *words: str) -> None:
        done = []

        def block(self: stacked_runs.StackedRuns) -> None:
            real(self)
            done.append(1)
            if len(done) > blocks:
                self.stop_requested = True

        with monkeypatch.context() as patched:
            patched.setattr(stacked_runs.StackedRuns, "block", block)
            with pytest.raises(KeyboardInterrupt):
                run(SEEDS, *words)
        assert {record["status"] for record in records(tmp_path / "runs").values()} == {"interrupted"}
        run(SEEDS, *words)
        run(SEEDS, *words, runs="whole")
        found, whole = records(tmp_path / "runs"), records(tmp_path / "whole")
        assert [record["measured"].get("stacked") for record in found.values()] == [5] * 5
        assert [found[s]["result"] for s in range(5)] == [whole[s]["result"] for s in range(5)]
        assert traces(tmp_path / "runs") == traces(tmp_path / "whole")

    return go


@pytest.mark.parametrize("blocks", [0, 1, 3])
def test_an_interrupted_group_goes_on_to_the_same_bits(resumed: Callable[..., None], blocks: int) -> None:
    resumed(blocks, "task=digits", "optimizer=momentum", "probes=basic", "dtype=float64")


@pytest.mark.parametrize(
    "overrides",
    [
        ("dropout=concrete", "optimizer.schedule=cosine", "optimizer.warmup=0.2"),
        ("dropout=standout", "model.normalisation=batch", "optimizer=momentum", "optimizer.clip_adaptive=0.1"),
        ("model.normalisation=weight", "dropout=gaussian"),
        ("algorithm=kfac",),
        ("algorithm=ekfac",),
    ],
    ids="-".join,
)
def test_every_kind_of_state_goes_on_to_the_same_bits(resumed: Callable[..., None], overrides: tuple[str, ...]) -> None:
    """The state of learned scalars, of buffers, of masks that learn, of factors, of eigenvectors, which lie by columns.

    At the defaults, in float32: a group that falls apart, or whose matrices are multiplied in another order, ends with
    other digits. L-BFGS is not here: its seeds never run at once.
    """
    resumed(1, "task=iris", *overrides)


@pytest.mark.parametrize("kind", sorted(ELEMENTWISE, key=lambda kind: kind.__name__))
def test_an_optimizer_of_a_scalar_goes_on_to_the_same_bits(kind: type[torch.optim.Optimizer]) -> None:
    """A learned rate is one number, as the count of its steps is: only the first is another in each member."""
    batch = toy()[1]

    def group() -> tuple[list[Backprop], stacked_learners.StackedLearners]:
        recipe = OptimizerFactory(f"torch.optim.{kind.__name__}", lr=0.01)
        made = [set_up(Backprop(recipe), toy(noise=ConcreteDropout(), seed=seed)[0]) for seed in range(3)]
        return made, stacked_learners.StackedLearners(made)

    def stepped(learners: stacked_learners.StackedLearners) -> None:
        for _ in range(3):
            learners.step(batch, lambda: batch, common_batch=True)
        learners.close()

    whole, undisturbed = group()
    stepped(undisturbed)
    saved = [{"problem": one.problem.state_dict(), "algorithm": one.state_dict()} for one in whole]
    stepped(undisturbed)
    others, _ = group()
    for learner, state in zip(others, saved, strict=True):
        learner.restore(state)
    stepped(stacked_learners.StackedLearners(others))
    assert all(torch.equal(a.problem.flat(), b.problem.flat()) for a, b in zip(whole, others, strict=True))


def test_seeds_that_were_interrupted_apart_go_on_apart(
    run: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a kill between two checkpoints: one run stands a block behind the others."""

    def stop(self: stacked_runs.StackedRuns) -> None:
        block(self)
        self.stop_requested = True

    block = stacked_runs.StackedRuns.block
    words = ("task=digits", "optimizer=momentum", "dtype=float64", SEEDS)
    with monkeypatch.context() as patched:
        patched.setattr(stacked_runs.StackedRuns, "block", stop)
        with pytest.raises(KeyboardInterrupt):
            run(*words)
    path = next((tmp_path / "runs").glob("*/checkpoint.pt"))
    saved = torch.load(path, weights_only=True)
    saved["altprop"]["position"] = 0
    torch.save(saved, path)
    run(*words)
    found = records(tmp_path / "runs").values()
    assert {record["status"] for record in found} == {"completed"}
    assert {record["measured"].get("not_stacked") for record in found} == {"they were interrupted at different steps"}


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


@pytest.mark.parametrize("kind", [ValueError, RuntimeError])
def test_an_error_that_was_not_meant_is_told_and_the_seeds_run_one_by_one(
    run: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: type[Exception]
) -> None:
    def broken(*given: Any) -> Any:
        raise kind("a planted\nbug")

    monkeypatch.setattr(stacking, "StackedRuns", broken)
    run(SEEDS, "task=digits")
    found = records(tmp_path / "runs")
    assert {record["status"] for record in found.values()} == {"completed"}
    assert {record["measured"]["stacking_problem"] for record in found.values()} == {f"{kind.__name__}: a planted bug"}


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


def test_stacked_parameters_are_those_of_the_models(monkeypatch: pytest.MonkeyPatch) -> None:
    """A view each: what is written into one is seen in the other, so nothing has to be copied back."""
    whole, each = torch.empty(0), [torch.full((2, 3), float(i)) for i in range(3)]
    stacked_learners._become_views(each, whole)
    whole[1] += 1
    each[2].zero_()
    assert [float(one.mean()) for one in each] == [0.0, 2.0, 0.0]
    assert whole.mean((1, 2)).tolist() == [0.0, 2.0, 0.0]


class LastBlock(DirectionAlgorithm):
    """The last block's gradient; the other parameters have no direction."""

    def _direction(self, batch: Batch) -> tuple[torch.Tensor, Grads]:
        loss, found = self.problem.gradient(batch)
        return loss, {name: value for name, value in found.items() if name.startswith("blocks.2.")}


def test_a_parameter_without_a_direction_has_no_state_in_company_either() -> None:
    problems, batch = [toy(seed=seed)[0] for seed in range(3)], toy()[1]
    learners = [set_up(LastBlock(OptimizerFactory("torch.optim.Adam", lr=0.1)), problem) for problem in problems]
    group = stacked_learners.StackedLearners(learners)
    for _ in range(2):
        for _ in range(3):
            group.step(batch, lambda: batch, common_batch=True)
        group.close()
    alone = set_up(LastBlock(OptimizerFactory("torch.optim.Adam", lr=0.1)), toy(seed=1)[0])
    for _ in range(6):
        alone.step(batch)
    names = [learner.updater.state_dict()["parts"][0]["state"].keys() for learner in (*learners, alone)]
    assert all(set(one) == {"blocks.2.weight", "blocks.2.bias"} for one in names)
    assert torch.allclose(problems[1].flat(), alone.problem.flat(), atol=1e-12)


def trials(folder: Path) -> dict[int, dict[str, Any]]:
    found = [json.loads(path.read_text()) for path in folder.glob("*/record.json")]
    return {record["trial"]["index"]: record for record in found if record["role"] == "trial"}


@pytest.mark.parametrize(
    "overrides",
    [
        ("optimizer=sgd", "task=iris"),
        ("optimizer=adam", "task=iris", "dropout=standard", "dropout.p=0.3", "dropout.p_input=0.1"),
        ("algorithm=manual_backprop", "task=iris"),
        ("algorithm=dfa", "optimizer=momentum", "task=iris"),
    ],
    ids="-".join,
)
def test_trials_at_once_are_those_one_by_one(
    run: Callable[..., Any], tmp_path: Path, overrides: tuple[str, ...]
) -> None:
    words = ("seeds=1", "tune=6", "dtype=float64", *overrides)
    ours = run(*words, runs="at_once")
    theirs = run(*words, "stack_seeds=false", runs="loop")
    assert list(ours.status) == list(theirs.status)
    stacked, alone = trials(tmp_path / "at_once"), trials(tmp_path / "loop")
    assert sorted(stacked) == sorted(alone) == list(range(6))
    assert {record["measured"]["stacked"] for record in stacked.values()} == {6}
    for index, record in alone.items():
        assert stacked[index]["key"] == record["key"]
        assert stacked[index]["config"] == record["config"]
        assert not close(stacked[index]["result"], record["result"]), index
    assert len({record["result"]["validation"] for record in stacked.values()}) > 1


def test_trials_whose_dropout_differs_run_one_by_one(run: Callable[..., Any], tmp_path: Path) -> None:
    """One module's code serves all, and its rate is a plain number."""
    run("seeds=1", "tune=4", "task=iris", "optimizer=sgd", "dropout=standard")
    found = trials(tmp_path / "runs").values()
    assert len({record["config"]["dropout"]["p"] for record in found}) > 1
    assert all("stacked" not in record["measured"] for record in found)
