"""A decision process of two states against its closed form: evaluation, counting, seeds, gradients, populations."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import kinds
import pytest
import torch
import two_states
from omegaconf import OmegaConf
from torch import Tensor

import altprop
from altprop import Descriptor, Rollout
from altprop.capabilities import PredictorKind
from altprop.errors import AltpropError, Refused
from altprop.harness.building import Parts, build_parts
from altprop.harness.cell import make_cell
from altprop.harness.composition import compose_cell
from altprop.randomness import Random
from altprop.testing import toy

SHORT = ["budget.currency=steps", "budget.amount=20", "budget.grid=2", "budget.block=5", "report=false", "probes=off"]
LEARNER = ["algorithm=custom", "algorithm._target_=two_states.Reinforce", "optimizer=sgd", "optimizer.lr=1.0"]


def options(tmp_path: Path, *more: str) -> tuple[list[str], Path]:
    folder = kinds.plant(tmp_path, "two_states.Paying")
    return [*SHORT, "task=planted", "dtype=float64", *more], folder


def parts(tmp_path: Path, *more: str) -> Parts:
    given, folder = options(tmp_path, *LEARNER, *more)
    plain: Any = OmegaConf.to_container(compose_cell(given, folder), resolve=True)
    return build_parts(make_cell(plain, given), 0)


def environment() -> two_states.TwoStates:
    return two_states.TwoStates().to(torch.device("cpu"), torch.float64)


def always(action: int) -> Any:
    return lambda seen: torch.full((len(seen),), action)


def seeds(count: int, seed: int = 0) -> Tensor:
    return Random(seed).integers(0, 2**62, count)


@pytest.mark.parametrize("action", [0, 1])
def test_a_policy_is_worth_what_it_is_worth(action: int) -> None:
    task = two_states.Paying()
    metrics = task.evaluate(always(action), task.data().tests["test"], PredictorKind.POLICY)
    exact = float(two_states.value(torch.eye(2, dtype=torch.float64)[[action, action]]))
    assert (exact == 0) == (action == 0)
    assert abs(metrics["return"] - exact) <= 4 * metrics["return_std"] / math.sqrt(task.episodes)


def test_terminated_is_no_truncated() -> None:
    played = environment().rollout(always(1), seeds(4000))
    assert bool((played.terminated ^ played.truncated).all())
    lengths = played.taken.sum(0)
    assert bool((lengths[played.truncated] == two_states.HORIZON).all())
    assert bool((played.rewards[~played.taken] == 0).all())
    # Moving at first ends with .8 / 4; there, or after staying and moving.
    share = float((lengths == 1).double().mean())
    assert abs(share - 0.2) <= 4 * math.sqrt(0.2 * 0.8 / 4000)
    assert played.steps == int(lengths.sum())
    assert torch.equal(played.rewards_to_go()[0], played.returns)


def test_an_episode_ends_once() -> None:
    made = environment()
    made.reset(seeds(400))
    ends = torch.zeros(400, dtype=torch.int64)
    for _ in range(two_states.HORIZON):
        result = made.step(torch.ones(400, dtype=torch.int64))
        ends += result.terminated.long() + result.truncated.long()
    assert bool((ends == 1).all())


def test_rewards_to_go_are_discounted() -> None:
    played = environment().rollout(always(1), seeds(50))
    r = played.rewards
    assert torch.allclose(played.rewards_to_go(0.5)[0], r[0] + 0.5 * r[1] + 0.25 * (r[2] if len(r) > 2 else 0))


def test_an_episode_depends_on_its_own_seed_alone() -> None:
    chosen = seeds(6)
    together = environment().rollout(always(1), chosen)
    for place, seed in enumerate(chosen):
        alone = environment().rollout(always(1), seed[None])
        assert alone.returns[0] == together.returns[place]
        assert alone.steps == int(together.taken[:, place].sum())
    assert len(set(environment().rollout(always(1), seeds(400)).returns.tolist())) > 2


def test_draws_are_uniform_and_independent() -> None:
    """Mean 1/2 and variance 1/12 for seeds in a row, no correlation along seeds or draws; 4 standard deviations."""
    made = environment()
    made.reset(torch.arange(2000))
    draws = made._uniform(50)
    other = made._uniform(50)
    n = draws.numel()
    assert abs(float(draws.mean()) - 0.5) < 4 / math.sqrt(12 * n)
    assert abs(float(draws.var()) - 1 / 12) < 4 * math.sqrt(1 / 180 / n)
    centred = (draws - 0.5) * math.sqrt(12)
    for product in (centred[1:] * centred[:-1], centred[:, 1:] * centred[:, :-1], centred * (other - 0.5) * 12**0.5):
        assert abs(float(product.mean())) < 4 / math.sqrt(product.numel())
    assert 0 <= float(draws.min()) <= float(draws.max()) < 1


def test_training_seeds_are_common_in_a_step_and_never_those_of_evaluation(tmp_path: Path) -> None:
    made = parts(tmp_path)
    acted: list[Tensor] = []
    for step in range(20):
        made.problem.begin_step(step)
        acted.append(made.problem.environment.seeds(16))
        assert torch.equal(acted[-1], made.problem.environment.seeds(16))
    trained = set(torch.cat(acted).tolist())
    assert len(trained) == 20 * 16
    evaluated: list[int] = []
    task = made.task
    task._evaluate_policy = lambda policy, environment, seeds: evaluated.extend(seeds.tolist()) or {"return": 0.0}  # type: ignore[method-assign, func-returns-value]
    random = Random(made.evaluation_seed)
    task.evaluate(always(0), made.data.train, PredictorKind.POLICY, random)
    assert len(set(evaluated)) == task.episodes
    assert not trained & set(evaluated)


def test_the_expected_gradient_is_the_gradient_of_the_value(tmp_path: Path) -> None:
    """Against the derivative of the exact value, over 400 batches of 16 episodes: every z-score below 4."""
    made = parts(tmp_path)
    problem, learner = made.problem, made.algorithm
    assert isinstance(learner, two_states.Reinforce)
    exact = -two_states.value(problem.model(torch.eye(2, dtype=torch.float64)).softmax(-1))
    truth = torch.cat([g.flatten() for g in torch.autograd.grad(exact, list(problem.params.values()))])
    drawn = []
    for step in range(400):
        problem.begin_step(step)
        drawn.append(problem.flatten(learner.direction()))
    stacked = torch.stack(drawn)
    z = (stacked.mean(0) - truth) / (stacked.std(0) / math.sqrt(len(stacked)))
    assert float(truth.norm()) > 0.05
    assert float(z.abs().max()) < 4


def test_steps_count_themselves(tmp_path: Path) -> None:
    made = parts(tmp_path)
    problem = made.problem
    played = problem.environment.rollout(always(1), seeds(10))
    assert (problem.ledger.environment_steps, problem.ledger.episodes) == (played.steps, 10)
    before = problem.ledger.samples
    made.algorithm.step(None)
    assert problem.ledger.samples - before == problem.ledger.environment_steps - played.steps > 0
    counted = (problem.ledger.environment_steps, problem.ledger.episodes)
    with made.algorithm.predictor() as predict:
        made.task.evaluate(predict, made.data.train, PredictorKind.POLICY)
    assert (problem.ledger.environment_steps, problem.ledger.episodes) == counted
    assert problem.ledger.residual == 0


@pytest.mark.parametrize("model", [[], ["model=mlp", "model.normalisation=layer"]])
def test_a_population_is_a_loop_over_its_models(tmp_path: Path, model: list[str]) -> None:
    """Dense layers have products for whole populations, with normalised units each model is mapped over."""
    made = parts(tmp_path, *model)
    problem, batch = made.problem, made.data.train.whole()
    start = problem.flat()
    flat = start + torch.randn(7, len(start), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = problem.population_objective(flat, batch, chunk=3)
    assert problem.ledger.summary()["evaluations"] == 7
    for individual, loss in zip(flat, found, strict=True):
        problem.assign(individual)
        assert problem.objective(batch) == loss
        greedy = problem.environment.rollout(
            lambda seen: problem.model(seen).argmax(-1), problem.environment.seeds(batch.rows)
        )
        assert loss == -greedy.returns.mean()
    assert len(set(found.tolist())) > 1


class Described(two_states.TwoStates):
    """Two states, and the share of steps in which a policy moves and in which it is in state 1."""

    descriptor = Descriptor(("moves", "pays"), (0.0, 0.0), (1.0, 1.0))

    def _describe(self, played: Rollout) -> Tensor:
        return torch.stack([played.mean(played.actions.double()), played.mean(played.rewards)], -1)


def test_behaviour_is_the_mean_over_the_episodes_of_the_same_evaluations(tmp_path: Path) -> None:
    made, plain = parts(tmp_path), parts(tmp_path / "plain").problem
    problem, batch = made.problem, made.data.train.whole()
    problem.attach(Described())
    start = problem.flat()
    flat = start + torch.randn(7, len(start), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    losses, behaviour = problem.population_behaviour(flat, batch, chunk=3)
    assert torch.equal(losses, plain.population_objective(flat, batch, chunk=3))
    spent = problem.ledger.summary()
    for name in ("evaluations", "environment_steps", "episodes"):
        assert spent[name] == plain.ledger.summary()[name] > 0
    for individual, found in zip(flat, behaviour, strict=True):
        problem.assign(individual)
        each = []
        for seed in problem.environment.seeds(batch.rows):
            played = problem.environment.rollout(lambda seen: problem.model(seen).argmax(-1), seed[None])
            steps = int(played.taken.sum())
            each.append([float(played.actions[:steps].sum()) / steps, float(played.returns) / steps])
        assert found.tolist() == pytest.approx(torch.tensor(each).mean(0).tolist(), rel=1e-6)
    assert len(set(behaviour[:, 0].tolist())) > 1


def test_who_needs_a_descriptor_is_refused_where_there_is_none(tmp_path: Path) -> None:
    made = parts(tmp_path)
    with pytest.raises(Refused, match="task planted has no behaviour descriptor"):
        made.problem.population_behaviour(made.problem.flat()[None], made.data.train.whole())
    for learner in ("map_elites", "novelty_search"):
        row = row_of(tmp_path, f"algorithm={learner}")
        assert row.status == "refused"
        assert row.reason.startswith(f"{learner} needs a behaviour descriptor; task planted")
        assert "; try task=" in row.reason


def test_a_description_that_is_not_what_its_names_say_is_told(tmp_path: Path) -> None:
    made = Described().to(torch.device("cpu"), torch.float64)
    made.descriptor = Descriptor(("moves",), (0.0,), (1.0,))
    with pytest.raises(AltpropError, match=r"Described describes \(4, 2\) by the names \['moves'\]"):
        made.describe(made.rollout(always(1), seeds(4)))
    with pytest.raises(AltpropError, match="environment TwoStates writes no _describe"):
        environment().describe(environment().rollout(always(1), seeds(4)))


def test_an_episode_at_hand_resumes(tmp_path: Path) -> None:
    first, second = parts(tmp_path).problem, parts(tmp_path).problem
    chosen, moving = seeds(8), torch.ones(8, dtype=torch.int64)
    first.environment.reset(chosen)
    first.environment.step(moving)
    second.load_state_dict(first.state_dict())
    for _ in range(2):
        one, other = first.environment.step(moving), second.environment.step(moving)
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    assert second.ledger.environment_steps == first.ledger.environment_steps


def test_a_problem_without_an_environment_says_so() -> None:
    with pytest.raises(Refused, match="task toy has no environment to act in"):
        _ = toy()[0].environment


def row_of(tmp_path: Path, *learner: str) -> Any:
    given, folder = options(tmp_path, *learner, f"runs_dir={tmp_path / 'runs'}")
    return altprop.run(given, config_dir=folder).iloc[0]


@pytest.mark.parametrize("learner", [LEARNER, ["algorithm=genetic"], ["algorithm=evolution_strategy"]])
def test_learners_of_policies_learn(tmp_path: Path, learner: list[str]) -> None:
    """The best policy moves in state 0 and stays in state 1; worth 2.16, where a random one is worth 1.20."""
    best = float(two_states.value(torch.tensor([[0.0, 1.0], [1.0, 0.0]], dtype=torch.float64)))
    row = row_of(tmp_path, *learner)
    assert (row.status, row.metric, row.predictor) == ("completed", "return", "policy")
    assert row.test == pytest.approx(best, abs=0.1)
    assert row.environment_steps == row.samples > 20 * 16


def test_who_learns_no_policy_is_refused(tmp_path: Path) -> None:
    """Backprop and genetic once completed such a task with returns that meant nothing."""
    for learner in ("backprop", "dfa", "newton_cg"):
        row = row_of(tmp_path, f"algorithm={learner}")
        assert row.status == "refused"
        assert row.reason.startswith(f"{learner} learns outputs; task planted evaluates a policy; try task=")


def test_the_hint_names_a_task_of_policies(tmp_path: Path) -> None:
    given, folder = options(tmp_path, *LEARNER, f"runs_dir={tmp_path / 'runs'}")
    row = altprop.run([*(o for o in given if o != "task=planted"), "task=iris"], config_dir=folder).iloc[0]
    assert row.status == "refused"
    assert row.reason.endswith("; try task=acrobot")


def test_probes_see_updates_and_claim_no_gradient(tmp_path: Path) -> None:
    """A policy of its own, whose updater steps the model: the model is watched, and there is no loss to align with."""
    row = row_of(tmp_path, *LEARNER, "probes=basic", "seeds=[0]")
    assert (row.status, bool(row.own_model)) == ("completed", False)
    trace = altprop.load_trace(tmp_path / "runs")
    seen = trace[(trace.kind == "probe") & trace.layer.isna()].groupby("name").value
    assert bool((seen.get_group("update_norm") > 0).all())
    given = seen.count()
    assert given.get("gradient_norm", 0) == given.get("alignment", 0) == given.get("descent_efficiency", 0) == 0
