"""torch's optimizers: the updater against plain torch, bit for bit, and against what theory says."""

import contextlib
import copy
import math
from typing import Any

import pytest
import torch
from recipes import RECIPES, TORCH, Run, recipe
from torch import Tensor, nn

from altprop.algorithms.backprop.backprop import Backprop
from altprop.data import Batch, ModelSpec
from altprop.errors import AltpropError, Refused
from altprop.models.point import Point
from altprop.optim import OptimizerFactory
from altprop.optim.factory import FUSED
from altprop.optim.schedule import Schedule
from altprop.problem import Problem
from altprop.randomness import generator_for
from altprop.testing import make_problem, toy

OURS_ALONE = {"schedule", "warmup", "end", "needs", "roles", "partner", "name", "search"}
OURS_ALONE |= {"clip_norm", "clip_value", "clip_adaptive"}
OURS_ALONE |= {"_target_"}


def plain(name: str, model: nn.Module) -> list[torch.optim.Optimizer]:
    """What a user of torch would write for this recipe, with the kernels that we take."""
    config = {k: tuple(v) if isinstance(v, list) else v for k, v in RECIPES[name].items() if k not in OURS_ALONE}
    kind = getattr(torch.optim, config.pop("optimizer").rpartition(".")[2])
    params = dict(model.named_parameters())
    if name != "muon":
        return [kind(list(params.values()), **config, **({"fused": True} if kind in FUSED else {}))]
    hidden = [p for n, p in params.items() if n == "blocks.1.weight"]
    rest = [p for n, p in params.items() if n != "blocks.1.weight"]
    return [kind(hidden, **config), torch.optim.AdamW(rest, lr=0.001, weight_decay=0.0, fused=True)]


def by_hand(run: Run, optimizers: list[torch.optim.Optimizer], steps: int, clip: float | None = None) -> Tensor:
    """The loop of every tutorial on the same batches."""
    model, loss = run.problem.model, run.problem.loss
    for _ in range(steps):
        batch = run.batch()
        run.step += 1

        def closure(batch: Batch = batch) -> Tensor:
            for optimizer in optimizers:
                optimizer.zero_grad()
            value: Tensor = loss.per_element(model(batch.inputs), batch.targets).mean()
            value.backward()
            if clip is not None:
                nn.utils.clip_grad_norm_(model.parameters(), clip)
            return value

        if isinstance(optimizers[0], torch.optim.LBFGS):
            optimizers[0].step(closure)
        else:
            closure()
            for optimizer in optimizers:
                optimizer.step()
    return run.problem.flat()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("name", [name for name in TORCH if name != "lbfgs"])
def test_bitwise_plain_torch(name: str, dtype: torch.dtype) -> None:
    ours, theirs = Run(recipe(name), dtype=dtype), Run(recipe("sgd"), dtype=dtype)
    before = ours.problem.flat()
    after = ours.take(12)
    assert torch.equal(after, by_hand(theirs, plain(name, theirs.problem.model), 12))
    assert not torch.equal(after, before)
    assert all(p.grad is None for p in ours.problem.params.values())


@pytest.mark.parametrize("name", ["adagrad", "adam", "adamw"])
def test_fused_kernels_take_the_steps_of_the_plain_ones(name: str) -> None:
    fused, plain_ones = Run(recipe(name, weight_decay=0.01)), Run(recipe(name, weight_decay=0.01, foreach=False))
    assert fused.rule.updater._parts[0].optimizer.param_groups[0]["fused"]
    assert not plain_ones.rule.updater._parts[0].optimizer.param_groups[0]["fused"]
    difference = (fused.take(12) - plain_ones.take(12)).abs().max()
    assert float(difference) < 1e-12


@pytest.mark.parametrize("name", ["adagrad", "adam"])
def test_a_direction_in_another_memory_order_is_the_same_direction(name: str) -> None:
    """A product's transpose is a view of it; a fused kernel that read its memory would step along another matrix."""
    ends = []
    for turned in (False, True):
        run = Run(recipe(name))
        for _ in range(3):
            grads = run.problem.gradient(run.batch())[1]
            run.rule.updater.apply(
                {n: g.mT.contiguous().mT if turned and g.dim() == 2 else g for n, g in grads.items()}
            )
        ends.append(run.problem.flat())
    assert torch.equal(*ends)


def test_under_autocast_a_direction_gets_the_dtype_of_its_parameter() -> None:
    """A gradient has it already, for autograd casts it; a rule that is written out hands on what its products gave."""
    problem, batch = toy(dtype=torch.float32)
    updater = problem.updater(OptimizerFactory("torch.optim.SGD", lr=1.0))
    before = problem.flat()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        gradient = problem.gradient(batch)[1]
        assert {g.dtype for g in gradient.values()} == {torch.float32}
        with contextlib.suppress(RuntimeError):  # a gradient of another dtype: the weights would stay as they were
            updater.apply({name: g.bfloat16() for name, g in gradient.items()})
    assert torch.equal(problem.flat(), before - problem.flatten(gradient).bfloat16())


@pytest.mark.parametrize("clip", [0.05, 1e6])
def test_clipping_by_norm_is_torchs(clip: float) -> None:
    ours, theirs = Run(recipe("momentum", clip_norm=clip)), Run(recipe("sgd"))
    assert torch.equal(ours.take(10), by_hand(theirs, plain("momentum", theirs.problem.model), 10, clip))
    unclipped = Run(recipe("momentum")).take(10)
    assert torch.equal(ours.problem.flat(), unclipped) == (clip == 1e6)


def test_clipping_by_value_bounds_every_element_and_leaves_the_direction_alone() -> None:
    problem, batch = toy()
    _, direction = problem.gradient(batch)
    copies = {name: value.clone() for name, value in direction.items()}
    before = problem.flat()
    problem.updater(recipe("sgd", lr=1.0, clip_value=0.01, clip_norm=0.05)).apply(direction)
    assert all(torch.equal(direction[name], copies[name]) for name in copies)
    clipped = torch.cat([c.clamp(-0.01, 0.01).flatten() for c in copies.values()])
    expected = clipped * min(1.0, 0.05 / (float(clipped.norm()) + 1e-6))
    torch.testing.assert_close(before - problem.flat(), expected, atol=1e-15, rtol=1e-12)


@pytest.mark.parametrize("search", [None, "strong_wolfe"])
def test_lbfgs_on_the_whole_set_is_torchs(search: str | None) -> None:
    """Full batch: pairs span the steps, as in torch. The first evaluation of each step is saved."""
    ours, theirs = Run(recipe("lbfgs", lr=0.3, line_search_fn=search)), Run(recipe("sgd"))
    optimizer = torch.optim.LBFGS(
        theirs.problem.model.parameters(),
        lr=0.3,
        max_iter=10,
        history_size=10,
        tolerance_grad=1e-10,
        tolerance_change=1e-12,
        line_search_fn=search,
    )
    evaluations = 0
    for _ in range(3):
        batch = ours.batch(24)
        ours.rule.step(batch)

        def closure(batch: Batch = batch) -> Tensor:
            nonlocal evaluations
            evaluations += 1
            optimizer.zero_grad()
            value: Tensor = theirs.problem.loss.per_element(theirs.problem.model(batch.inputs), batch.targets).mean()
            value.backward()
            return value

        optimizer.step(closure)
    assert torch.equal(ours.problem.flat(), theirs.problem.flat())
    assert ours.problem.ledger.forwards == ours.problem.ledger.backwards == evaluations
    assert ours.problem.ledger.updates == 3


def test_lbfgs_forms_no_pair_across_batches() -> None:
    """On two different quadratics A then B, every stored pair (s, y) must be one of A or of B: y = H s."""
    hessians = [torch.diag(torch.tensor([1.0, 3.0, 9.0])), torch.diag(torch.tensor([7.0, 2.0, 0.5]))]
    problem = quadratic(torch.eye(3))
    updater = problem.updater(recipe("lbfgs", max_iter=3, line_search_fn=None, lr=0.3))
    for step in range(6):
        h = hessians[step % 2].double()

        def evaluate(_: bool, h: Tensor = h) -> tuple[Tensor, dict[str, Tensor]]:
            theta = problem.params["theta"].detach()
            return 0.5 * theta @ h @ theta, {"theta": h @ theta}

        loss, grads = evaluate(False)
        updater.apply(grads, evaluate, loss=loss, fixed=False)
    (state,) = updater.state_dict()["parts"]
    inner = dict(state["state"]["theta"]["items"])
    worst = 0.0
    assert len(inner["old_dirs"]) >= 4
    for y, s in zip(inner["old_dirs"], inner["old_stps"], strict=True):
        worst = max(worst, min(float((h.double() @ s - y).norm() / y.norm()) for h in hessians))
    assert worst < 1e-12
    # The mutant: told that the function is fixed, torch mixes the two.
    mixed = problem.updater(recipe("lbfgs", max_iter=3, line_search_fn=None, lr=0.3))
    problem.assign(torch.ones(3, dtype=torch.float64))
    for step in range(2):
        h = hessians[step % 2].double()
        theta = problem.flat()
        mixed.apply(
            {"theta": h @ theta},
            lambda _, h=h: (torch.tensor(0.0), {"theta": h @ problem.flat()}),  # type: ignore[misc]
            loss=0.5 * theta @ h @ theta,
            fixed=True,
        )
    pairs = dict(mixed.state_dict()["parts"][0]["state"]["theta"]["items"])
    gaps = [
        min(float((h.double() @ s - y).norm() / y.norm()) for h in hessians)
        for y, s in zip(pairs["old_dirs"], pairs["old_stps"], strict=True)
    ]
    assert max(gaps) > 0.1


# What theory says.


def quadratic(hessian: Tensor) -> Problem:
    """1/2 theta^T H theta as a point problem that starts at (1, ..., 1); gradients are given by hand."""
    model = Point(ModelSpec((1,), len(hessian), start=(1.0,) * len(hessian)), generator=generator_for(0))
    return make_problem(model, "mse")


def path(factory: OptimizerFactory, hessian: Tensor, steps: int) -> Tensor:
    """Return (steps + 1, D), the iterates on the quadratic."""
    problem = quadratic(hessian)
    updater = problem.updater(factory)
    points = [problem.flat()]
    for _ in range(steps):
        updater.apply({"theta": hessian @ points[-1]})
        points.append(problem.flat())
    return torch.stack(points)


def test_heavy_ball_is_the_companion_matrix() -> None:
    """theta_(t+1) = (1 + mu - lr h) theta_t - mu theta_(t-1), so the iterates are powers of one 2 x 2 matrix."""
    lr, mu, curvatures = 0.05, 0.9, [0.3, 4.0, 21.0]
    points = path(recipe("momentum", lr=lr, momentum=mu), torch.diag(torch.tensor(curvatures).double()), 40)
    for column, h in enumerate(torch.tensor(curvatures).double().tolist()):
        companion = torch.tensor([[1 + mu - lr * h, -mu], [1.0, 0.0]], dtype=torch.float64)
        # Before the start the velocity is 0.
        start = torch.tensor([1.0, 1.0], dtype=torch.float64)
        for t in range(41):
            expected = (torch.linalg.matrix_power(companion, t) @ start)[0]
            assert abs(float(points[t, column] - expected)) < 1e-12


@pytest.mark.parametrize(("factor", "stable"), [(0.99, True), (1.01, False)])
def test_gradient_descent_is_stable_below_two_over_lambda_alone(factor: float, stable: bool) -> None:
    hessian = torch.diag(torch.tensor([0.5, 2.0, 8.0]).double())
    points = path(recipe("sgd", lr=factor * 2 / 8.0), hessian, 400)
    last = float(points[-1].norm())
    assert (last < 1e-3) if stable else (last > 1e2)


def test_first_adam_step_is_the_rate_times_the_sign() -> None:
    gradient = torch.tensor([3.0, -0.002, 1e-5]).double()
    problem = quadratic(torch.eye(3))
    problem.updater(recipe("adam", lr=0.01)).apply({"theta": gradient})
    step = problem.flat() - 1.0
    # eps = 1e-8 against a gradient of 1e-5 makes the last one short by a thousandth.
    torch.testing.assert_close(
        step, -0.01 * gradient.sign() * gradient.abs() / (gradient.abs() + 1e-8), rtol=1e-9, atol=0
    )
    assert float((step.abs() / 0.01 - 1).abs().max()) < 1.1e-3


def test_torchs_momentum_is_not_the_classical_one_when_the_rate_changes() -> None:
    """torch keeps the sum of gradients and scales it by today's rate: W moves by lr_t * sum mu^(t-s) g_s."""
    hessian = torch.eye(1).double()
    problem = quadratic(hessian)
    updater = problem.updater(recipe("momentum", lr=0.1, momentum=0.5, schedule="linear"))
    theta, buffer, velocity, classical = 1.0, 0.0, 0.0, 1.0
    for step in range(5):
        problem.progress = step / 5
        rate = 0.1 * (1 - step / 5)
        updater.apply({"theta": problem.flat()})
        buffer = 0.5 * buffer + theta
        theta -= rate * buffer
        velocity = 0.5 * velocity - rate * classical
        classical += velocity
    assert abs(float(problem.flat()) - theta) < 1e-15
    assert abs(theta - classical) > 1e-3


# Schedules.


@pytest.mark.parametrize(
    ("options", "factor"),
    [
        ({"schedule": "linear"}, lambda p: 1 - p),
        ({"schedule": "linear", "end": 0.1}, lambda p: 1 - 0.9 * p),
        ({"schedule": "cosine"}, lambda p: 0.5 * (1 + math.cos(math.pi * p))),
        ({"schedule": "exponential", "end": 0.04}, lambda p: 0.04**p),
        ({"schedule": "step", "end": 0.04}, lambda p: 1.0 if p < 0.5 else 0.2 if p < 0.75 else 0.04),
        ({"warmup": 0.25}, lambda p: min(1.0, p / 0.25)),
        ({"schedule": "linear", "warmup": 0.2}, lambda p: p / 0.2 if p < 0.2 else 1 - (p - 0.2) / 0.8),
    ],
)
def test_schedule_is_its_closed_form(options: dict[str, Any], factor: Any) -> None:
    """With a gradient of 1 under SGD, each step is the rate."""
    problem = quadratic(torch.eye(1))
    updater = problem.updater(recipe("sgd", lr=0.3, **options))
    for tick in range(21):
        problem.progress = tick / 20
        before = problem.flat()
        updater.apply({"theta": torch.ones(1, dtype=torch.float64)})
        assert abs(float(before - problem.flat()) - 0.3 * factor(tick / 20)) < 1e-15


def test_schedule_moves_the_partner_too() -> None:
    run = Run(recipe("muon", schedule="cosine"))
    run.problem.progress = 1.0
    before = run.problem.flat()
    run.rule.step(run.batch())
    assert torch.equal(run.problem.flat(), before)


# Bad values, each in one line.


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lr": -0.1}, "optimizer.lr must be a number of at least 0; got -0.1"),
        ({"lr": "fast"}, "optimizer.lr must be a number of at least 0; got 'fast'"),
        ({"lr": float("nan")}, "optimizer.lr must be a number of at least 0; got nan"),
        ({"momentum": 1.0}, "optimizer.momentum must be a number of at least 0 and below 1; got 1.0"),
        ({"momentum": -0.1}, "optimizer.momentum must be a number of at least 0 and below 1; got -0.1"),
        ({"momentm": 0.9}, "optimizer.momentm is no option of SGD; did you mean momentum?"),
        ({"weight_decay": -1.0}, "optimizer=SGD: Invalid weight_decay value: -1.0"),
        ({"schedule": "cosin"}, "unknown optimizer.schedule=cosin; did you mean cosine?"),
        ({"warmup": 1.0}, "optimizer.warmup must be a number of at least 0 and below 1; got 1.0"),
        ({"end": 0.1}, "optimizer.end needs a schedule that falls: linear, cosine, step or exponential"),
        ({"schedule": "linear", "end": 2}, "optimizer.end must be a number from 0 to 1; got 2"),
        ({"clip_norm": 0}, "optimizer.clip_norm must be a number above 0; got 0"),
        ({"clip_adaptive": -0.1}, "optimizer.clip_adaptive must be a number above 0; got -0.1"),
        ({"clip_value": "x"}, "optimizer.clip_value must be a number above 0; got 'x'"),
        ({"needs": ["closur"]}, "unknown optimizer.needs=closur; did you mean closure?"),
        ({"roles": ["hiden"]}, "unknown optimizer.roles=hiden; did you mean hidden?"),
        (
            {"roles": ["hidden"]},
            "optimizer.roles needs optimizer.partner and an optimizer that steps on gradients alone",
        ),
        (
            {"algorithm": "lion"},
            "optimizer.algorithm belongs to optimizer=pytorch_optimizer; got it with torch.optim.SGD",
        ),
        ({"optimizer": "torch.optim.SDG"}, "_target_=torch.optim.SDG: torch.optim has no SDG; did you mean SGD?"),
        ({"optimizer": "torch.load"}, "_target_=torch.load is not a class of torch.optim.optimizer.Optimizer; refused"),
    ],
)
def test_bad_values_fail_in_one_line(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(AltpropError) as caught:
        recipe("sgd", **changes)
    assert str(caught.value) == message


def test_more_bad_values() -> None:
    with pytest.raises(AltpropError, match="Invalid beta parameter"):
        recipe("adam", betas=[1.5, 0.9])
    with pytest.raises(AltpropError, match="Rprop reads lr at its first step alone"):
        recipe("rprop", schedule="cosine")
    with pytest.raises(AltpropError, match=r"Muon takes matrices alone; set optimizer\.roles"):
        OptimizerFactory("torch.optim.Muon", lr=0.1)
    with pytest.raises(AltpropError, match=r"optimizer\.partner needs optimizer\.roles"):
        recipe("sgd", partner={"optimizer": "torch.optim.Adam"})
    with pytest.raises(AltpropError, match="partner=LBFGS must step on gradients alone"):
        recipe("sgd", roles=["hidden"], partner={"optimizer": "torch.optim.LBFGS"})
    problem, _ = toy()
    with pytest.raises(AltpropError, match=r"direction for blocks.0.wight, .* did you mean blocks.0.weight"):
        problem.updater(recipe("sgd")).apply({"blocks.0.wight": torch.zeros(7, 5)})


def test_refusals() -> None:
    problem, batch = toy()
    with pytest.raises(Refused, match="optimizer LBFGS evaluates the objective again, and this rule's direction is no"):
        problem.updater(recipe("lbfgs"), direction="other")
    with pytest.raises(Refused, match="optimizer LBFGS evaluates the objective again; this rule does not offer that"):
        problem.updater(recipe("lbfgs")).apply(problem.gradient(batch)[1])
    assert all(p.grad is None for p in problem.params.values())
    shallow, _ = toy((5, 7, 3))
    with pytest.raises(
        Refused, match=r"optimizer Muon takes hidden matrices, and this model has none; try model.hidden"
    ):
        shallow.updater(recipe("muon"))


@pytest.mark.parametrize("name", ["adam", "momentum"])
def test_a_partial_direction_moves_its_own_parameters_alone(name: str) -> None:
    """The others have a velocity from the step before, which a gradient of 0 would let them follow."""
    problem, batch = toy()
    updater = problem.updater(recipe(name))
    _, grads = problem.gradient(batch)
    updater.apply(grads)
    before = {name: p.detach().clone() for name, p in problem.params.items()}
    updater.apply({"blocks.1.bias": grads["blocks.1.bias"]})
    moved = [name for name, p in problem.params.items() if not torch.equal(p.detach(), before[name])]
    assert moved == ["blocks.1.bias"]


def test_muon_takes_the_hidden_matrices_and_its_partner_the_rest() -> None:
    problem, _ = toy((5, 7, 6, 4, 3))
    updater = problem.updater(recipe("muon"))
    hidden, rest = (part["shapes"] for part in updater.state_dict()["parts"])
    assert sorted(hidden) == ["blocks.1.weight", "blocks.2.weight"]
    assert sorted(hidden | rest) == sorted(problem.params)


@pytest.mark.parametrize("name", TORCH)
def test_every_recipe_runs_where_the_default_device_is_not_real(name: str) -> None:
    """torch's own NAdam, RAdam, Adamax and Adagrad make their counters on the default device; ours name it."""
    run = Run(recipe("sgd"))
    with torch.device("meta"):
        run.rule = Backprop(recipe(name))
        run.rule.setup(run.problem)
        run.take(3)
    assert torch.equal(run.problem.flat(), Run(recipe(name)).take(3))


def test_which_of_torchs_optimizers_forget_their_device() -> None:
    """The reason for the test above, as torch 2.13 has it; a version that cures it changes this list alone."""
    forgetful = []
    for name in ("SGD", "Adam", "AdamW", "RMSprop", "Rprop", "Adadelta", "NAdam", "RAdam", "Adamax", "Adagrad", "ASGD"):
        p = nn.Parameter(torch.ones(2, device="cpu"))
        p.grad = torch.ones(2, device="cpu")
        try:
            with torch.device("meta"):
                getattr(torch.optim, name)([p]).step()
        except Exception:
            forgetful.append(name)
    if torch.__version__.startswith("2.13"):
        # Adagrad: RuntimeError "Tensor.item() cannot be called on meta tensors"; ASGD: NotImplementedError.
        assert forgetful == ["NAdam", "RAdam", "Adamax", "Adagrad", "ASGD"]


def test_the_constant_schedule_is_one() -> None:
    assert Schedule().constant
    assert [Schedule()(p) for p in (0.0, 0.3, 1.0)] == [1.0, 1.0, 1.0]
    assert not Schedule(warmup=0.1).constant


@pytest.mark.parametrize("options", [{}, {"momentum": 0.9}, {"weight_decay": 0.1}, {"maximize": True}])
def test_sgd_in_one_operation_has_the_bits_of_torchs(options):
    problem, batch = toy(dtype=torch.float32)
    updater = problem.updater(OptimizerFactory("torch.optim.SGD", lr=0.3, **options), problem.model)
    twin = copy.deepcopy(problem.model)
    theirs = torch.optim.SGD(twin.parameters(), lr=0.3, foreach=False, **options)
    for _ in range(5):
        direction = problem.gradient(batch)[1]
        for name, p in twin.named_parameters():
            p.grad = None if name.endswith("1.bias") else direction[name].clone()
        theirs.step()
        updater.apply({name: value for name, value in direction.items() if not name.endswith("1.bias")})
        assert all(torch.equal(p, q) for p, q in zip(problem.params.values(), twin.parameters(), strict=True))
