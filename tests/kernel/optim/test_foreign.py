"""pytorch_optimizer: every name that runs, its randomness, the swap of weights, the graph, and its price in FLOPs."""

import builtins
import random
import sys
from typing import Any

import numpy as np
import pytest
import torch
from recipes import FOREIGN, RECIPES, TORCH, Run, recipe

from altprop.errors import AltpropError, Refused
from altprop.flops import CountingMode
from altprop.optim import OptimizerFactory
from altprop.optim.cost import WATCHED, CostMeter
from altprop.optim.foreign import UNFIT
from altprop.testing import toy

library = pytest.importorskip("pytorch_optimizer")

# What a name cannot do without, beyond a learning rate.
ARGUMENTS: dict[str, dict[str, Any]] = {"bsam": {"num_data": 24}, "ranger21": {"num_iterations": 20}}
PARTNER = {"roles": ["hidden"], "partner": {"optimizer": "torch.optim.AdamW", "lr": 0.01}}
ARGUMENTS["spectralsphere"] = PARTNER
# einops is not among our dependencies; fadam keeps its Fisher information in float32 whatever the weights are.
IN_FLOAT64 = sorted({*library.get_supported_optimizers()} - {*UNFIT, "demo", "fadam"})


def by_name(name: str, **changes: Any) -> OptimizerFactory:
    return OptimizerFactory("pytorch_optimizer", lr=0.01, algorithm=name, **{**ARGUMENTS.get(name, {}), **changes})


def global_states() -> list[Any]:
    numpy: Any = np.random.get_state(legacy=True)  # noqa: NPY002
    return [torch.get_rng_state().tolist(), random.getstate(), numpy[1].tolist(), numpy[2:]]


def test_most_of_the_library_runs() -> None:
    """123 of 128 names in float64, 124 in float32 (fadam); lomo, adalomo, distributedmuon and demo say why not."""
    assert len(library.get_supported_optimizers()) == 128
    assert len(IN_FLOAT64) == 123


# These keep state outside `state`: in attributes, in a state_dict of their own, under no parameter, in objects.
ODD = ["magma", "spam", "stablespam", "emofact", "emonavi", "conda", "scalableshampoo"]


@pytest.mark.parametrize("name", [n if n in ODD else pytest.param(n, marks=pytest.mark.slow) for n in IN_FLOAT64])
def test_every_name_runs_resumes_exactly_and_moves_no_global_state(name: str) -> None:
    states = global_states()
    whole = Run(by_name(name))
    start = whole.problem.flat()
    end = whole.take(14)
    assert bool(end.isfinite().all())
    assert not torch.equal(start, end)
    for at in (1, 11):
        first, second = Run(by_name(name)), Run(by_name(name))
        first.take(at)
        with first.rule.predictor() as predict:  # looking must not matter
            predict(first.batch().inputs)
        second.load(first.save())
        assert torch.equal(second.take(14 - at), end), f"resumed at {at}"
    assert global_states() == states


def test_fadam_runs_in_float32() -> None:
    assert bool(Run(by_name("fadam"), dtype=torch.float32).take(3).isfinite().all())


@pytest.mark.parametrize("name", ["kron", "dash", "spam", "magma", "sophiah", "gravity"])
def test_random_optimizers_draw_from_the_run(name: str) -> None:
    """The same whatever the global streams hold, other for another seed of the run, and no global stream moves."""
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002
    first = Run(by_name(name)).take(12)
    torch.manual_seed(2)
    np.random.seed(2)  # noqa: NPY002
    states = global_states()
    assert torch.equal(Run(by_name(name)).take(12), first)
    assert global_states() == states
    if name in ("kron", "magma", "sophiah"):
        other = Run(by_name(name))
        other.rule.updater._seed += 1
        assert not torch.equal(other.take(12), first)


@pytest.mark.parametrize("name", ["schedule_free", "schedule_free_sgd"])
def test_the_predictor_sees_the_averaged_weights_and_training_does_not(name: str) -> None:
    run, undisturbed = Run(recipe(name)), Run(recipe(name))
    for _ in range(6):
        run.take(2)
        training = run.problem.flat()
        with run.rule.predictor(), run.rule.predictor():
            averaged = run.problem.flat()
        assert torch.equal(run.problem.flat(), training)
        assert float((averaged - training).norm()) > 1e-4
    assert torch.equal(run.problem.flat(), undisturbed.take(12))


def test_schedule_free_averages_as_the_paper_says() -> None:
    """SGD: z <- z - lr g(y), x <- (1 - c) x + c z with c = 1/t, y = (1 - beta) z + beta x; x predicts."""
    lr, beta = 0.5, 0.9
    run = Run(recipe("schedule_free_sgd", lr=lr, momentum=beta))
    z = x = y = run.problem.flat()
    for t in range(1, 9):
        grads = run.problem.flatten(run.problem.gradient(run.batch())[1])
        assert float((run.problem.flat() - y).abs().max()) < 1e-14
        run.take(1)
        z = z - lr * grads
        x = (1 - 1 / t) * x + z / t
        y = (1 - beta) * z + beta * x
        with run.rule.predictor():
            assert float((run.problem.flat() - x).abs().max()) < 1e-13


def test_lion_is_the_sign_of_its_interpolation() -> None:
    run = Run(recipe("lion", lr=0.01, betas=[0.9, 0.99]))
    momentum = torch.zeros_like(run.problem.flat())
    for _ in range(5):
        gradient = run.problem.flatten(run.problem.gradient(run.batch())[1])
        before = run.problem.flat()
        run.take(1)
        expected = before - 0.01 * (0.9 * momentum + 0.1 * gradient).sign()
        assert float((run.problem.flat() - expected).abs().max()) < 1e-15
        momentum = 0.99 * momentum + 0.01 * gradient


def test_adahessian_sees_the_hessian() -> None:
    """On 1/2 sum h_i theta_i^2 Hutchinson's estimate is exact, so the first step is lr * (h theta) / |h| at every h."""
    curvatures = torch.tensor([0.5, 3.0, 40.0], dtype=torch.float64)
    problem, _ = toy((1, 3), activation="identity")
    theta = problem.params["blocks.0.bias"]
    updater = problem.updater(recipe("adahessian", lr=0.01), problem.layered.blocks[0])
    with torch.no_grad():
        theta.fill_(1.0)
        problem.params["blocks.0.weight"].fill_(1.0)
    assert updater.wants_graph
    weight = problem.params["blocks.0.weight"]
    grads = torch.autograd.grad(
        0.5 * (curvatures * theta**2).sum() + 0.5 * weight.square().sum(), [theta, weight], create_graph=True
    )
    updater.apply({"bias": grads[0], "weight": grads[1]})
    torch.testing.assert_close(1.0 - theta.detach(), torch.full((3,), 0.01, dtype=torch.float64), rtol=1e-9, atol=0)


def test_graph_optimizers_ask_for_the_graph_when_they_use_it_and_count_the_products() -> None:
    run = Run(recipe("sophia"))
    asked = []
    for _ in range(21):
        asked.append(run.rule.updater.wants_graph)
        run.take(1)
    assert [i for i, wants in enumerate(asked) if wants] == [0, 10, 20]
    assert run.problem.ledger.summary()["hvps"] == 3
    assert run.problem.ledger.forwards == run.problem.ledger.backwards == 21


@pytest.mark.parametrize("name", [*TORCH, *FOREIGN])
def test_flops_are_what_a_counter_around_every_step_sees(name: str) -> None:
    """Preconditioners are made anew every so many steps; L-BFGS's history grows. All of it is counted."""
    run = Run(recipe(name), sizes=(8, 12, 9, 3))
    seen = 0
    for _ in range(WATCHED + 13):
        mode = CountingMode()
        with mode:
            run.take(1)
        seen += sum(mode.flops.values())
        assert run.problem.ledger.flops == seen


def test_a_cost_without_a_period_is_met_by_its_mean() -> None:
    meter = CostMeter()
    meter.seen = [0, *range(WATCHED - 1)]
    meter.updates = WATCHED
    assert meter.run(lambda: None) == (WATCHED - 2) / 2


@pytest.mark.parametrize("name", ["adahessian", "sophia"])
def test_directions_that_are_no_gradient_are_refused_a_graph(name: str) -> None:
    problem, _ = toy()
    with pytest.raises(Refused, match="differentiates the gradient again, and this rule's direction is no gradient"):
        problem.updater(recipe(name), direction="other")


def test_writing_into_gradients_does_not_reach_the_callers_direction() -> None:
    """Coupled weight decay is added in place by the library, Shampoo transposes in place."""
    for name, changes in (("shampoo", {"weight_decay": 0.1}), ("ano", {"weight_decay": 0.1})):
        problem, batch = toy()
        _, direction = problem.gradient(batch)
        copies = {key: value.clone() for key, value in direction.items()}
        problem.updater(by_name(name, **changes)).apply(direction)
        assert all(torch.equal(direction[key], copies[key]) for key in copies)


def test_recipes_say_what_they_need() -> None:
    for name in (*TORCH, *FOREIGN):
        stated = RECIPES[name]["needs"]
        assert recipe(name, needs=None).needs == frozenset(stated), name


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"algorithm": None}, "optimizer=pytorch_optimizer needs optimizer.algorithm, such as lion, adan or soap"),
        ({"algorithm": "lyon"}, "unknown optimizer.algorithm=lyon; did you mean lion"),
        ({"algorithm": "lomo"}, "optimizer.algorithm=lomo cannot run here: it updates inside its own backward pass"),
        ({"algorithm": "lion", "beta": 1}, "optimizer.beta is no option of Lion; did you mean betas"),
        ({"algorithm": "lion", "betas": [2, 3]}, "optimizer=Lion: "),
        ({"algorithm": "spectralsphere"}, "SpectralSphere takes matrices alone; set optimizer.roles"),
        ({"algorithm": "bsam"}, "optimizer=BSAM: .*num_data"),
        ({"algorithm": "alig", "schedule": "linear"}, "AliG has no learning rate that a schedule could change"),
    ],
)
def test_bad_names_and_options(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(AltpropError, match=message) as caught:
        recipe("pytorch_optimizer", **changes)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("path", ["pytorch_optimizer", "pytorch_optimizer.Lion"])
def test_without_the_library_a_sentence_says_what_to_install(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    original = builtins.__import__

    def missing(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "pytorch_optimizer":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return original(name, *args, **kwargs)

    monkeypatch.delitem(sys.modules, "pytorch_optimizer")
    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(AltpropError, match=r"not installed; run: pip install 'altprop\[optimizers\]'"):
        OptimizerFactory(path, lr=0.1, algorithm="lion" if path == "pytorch_optimizer" else None)
