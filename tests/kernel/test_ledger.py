"""The ledger: what is counted, what it costs, what is left out, and FLOP formulas against arithmetic by hand."""

import io
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from altprop.algorithm import Algorithm, StepResult
from altprop.data import Batch, ModelSpec
from altprop.errors import AltpropError
from altprop.flops import FREE, OURS, CountingMode, count_flops
from altprop.ledger import CURRENCIES, KINDS, Ledger
from altprop.models.base import Dense
from altprop.models.cnn import CNN
from altprop.optim import OptimizerFactory
from altprop.problem import Problem
from altprop.randomness import generator_for
from altprop.testing import make_problem, toy, toy_sequence

SGD = OptimizerFactory("torch.optim.SGD", lr=0.1)


def ones(*shape: int) -> Tensor:
    return torch.ones(*shape, dtype=torch.float64)


def spd(n: int) -> Tensor:
    return ones(n, n) + n * torch.eye(n, dtype=torch.float64)


# Formulas.

FORMULAS: dict[str, tuple[Callable[[], Any], int]] = {
    "matrix times matrix": (lambda: ones(3, 4) @ ones(4, 5), 2 * 3 * 4 * 5),
    "linear with bias": (lambda: torch.nn.functional.linear(ones(3, 4), ones(5, 4), ones(5)), 2 * 3 * 4 * 5),
    "batched": (lambda: ones(2, 3, 4) @ ones(2, 4, 5), 2 * 2 * 3 * 4 * 5),
    "baddbmm": (lambda: torch.baddbmm(ones(2, 3, 5), ones(2, 3, 4), ones(2, 4, 5)), 2 * 2 * 3 * 4 * 5),
    "einsum": (lambda: torch.einsum("bi,bj->ij", ones(7, 3), ones(7, 4)), 2 * 7 * 3 * 4),
    "matrix times vector": (lambda: ones(3, 4) @ ones(4), 2 * 3 * 4),
    "vector times matrix": (lambda: ones(4) @ ones(4, 5), 2 * 4 * 5),
    "addmv": (lambda: torch.addmv(ones(3), ones(3, 4), ones(4)), 2 * 3 * 4),
    "dot": (lambda: ones(9).dot(ones(9)), 2 * 9),
    "vdot": (lambda: torch.vdot(ones(9), ones(9)), 2 * 9),
    "addr": (lambda: torch.addr(ones(3, 4), ones(3), ones(4)), 2 * 3 * 4),
    "cdist": (lambda: torch.cdist(ones(3, 2), ones(5, 2)), 3 * 3 * 5 * 2),
    "cdist of many": (lambda: torch.cdist(ones(40, 2), ones(50, 2)), 3 * 40 * 50 * 2),
    "conv1d": (lambda: torch.conv1d(ones(2, 3, 10), ones(4, 3, 5)), 2 * 2 * 6 * 4 * 3 * 5),
    "conv2d, stride, padding": (
        lambda: torch.conv2d(ones(2, 3, 8, 8), ones(4, 3, 3, 3), None, 2, 1),
        2 * 2 * 16 * 4 * 3 * 9,
    ),
    "transposed convolution": (
        lambda: torch.conv_transpose2d(ones(2, 4, 4, 4), ones(4, 3, 3, 3), None, 2, 1),
        2 * 2 * 16 * 4 * 3 * 9,
    ),
    "solve": (lambda: torch.linalg.solve(spd(6), ones(6, 2)), 2 * 6**3 // 3 + 2 * 36 * 2),
    "solve one": (lambda: torch.linalg.solve(spd(6), ones(6)), 2 * 6**3 // 3 + 2 * 36),
    "solve from the right": (lambda: torch.linalg.solve(spd(6), ones(2, 6), left=False), 2 * 6**3 // 3 + 2 * 36 * 2),
    "triangular": (lambda: torch.linalg.solve_triangular(spd(6), ones(6, 2), upper=True), 36 * 2),
    "triangular from the right": (
        lambda: torch.linalg.solve_triangular(spd(6), ones(2, 6), upper=True, left=False),
        36 * 2,
    ),
    "cholesky": (lambda: torch.linalg.cholesky(spd(21)), 21**3 // 3),
    "cholesky of many": (lambda: torch.linalg.cholesky(spd(6).expand(5, 6, 6)), 5 * 6**3 // 3),
    "cholesky_solve": (lambda: torch.cholesky_solve(ones(6, 2), spd(6)), 2 * 36 * 2),
    "inverse": (lambda: torch.linalg.inv(spd(6)), 2 * 6**3),
    "lu": (lambda: torch.linalg.lu_factor(spd(6)), 2 * 6**3 // 3),
    "determinant": (lambda: torch.linalg.det(spd(6)), 2 * 6**3 // 3),
    "qr": (lambda: torch.linalg.qr(ones(8, 3)), 2 * 8 * 3 * 3),
    "eigh": (lambda: torch.linalg.eigh(spd(6)), 9 * 6**3),
    "svd": (lambda: torch.linalg.svd(ones(8, 3)), 20 * 8 * 3 * 3),
    "element-wise": (lambda: (ones(4) * 2 + ones(4)).tanh().sum(), 0),
    "vmapped product": (lambda: torch.vmap(lambda w: ones(3, 4) @ w)(ones(6, 4, 5)), 2 * 6 * 3 * 4 * 5),
}


@pytest.mark.parametrize("name", FORMULAS)
def test_formula(name: str) -> None:
    function, expected = FORMULAS[name]
    assert count_flops(function) == expected


def test_no_formula_is_also_free() -> None:
    assert not {packet.__name__ for packet in OURS} & FREE


def test_every_operation_without_a_formula_is_listed() -> None:
    mode = CountingMode()
    x = spd(4)
    with mode:
        torch.linalg.eigvals(x)
        x.tanh()
        x.tanh()
        (x @ x).reshape(16)
        x.transpose(0, 1).contiguous()
        torch.outer(x[0], x[1])  # torch runs it element-wise
    eigenvalues = {name: mode.uncounted.pop(name) for name in list(mode.uncounted) if "eig" in name}
    assert list(eigenvalues.values()) == [1]
    assert mode.uncounted == {"tanh": 2, "mul": 1}
    assert mode.flops == {"other": 2 * 4**3}


def test_peak_of_live_storage() -> None:
    mode = CountingMode()
    with mode:
        for _ in range(5):
            x = torch.empty(1000, dtype=torch.float64, device="cpu")
            y = x.view(10, 100)  # no storage of its own
            del x, y
        kept = [torch.empty(1000, dtype=torch.float64, device="cpu") for _ in range(3)]
    assert mode.peak_bytes == 3 * 8000
    assert len(kept) == 3


# What models cost, exactly.


def test_flops_of_a_step_of_backprop() -> None:
    problem, batch = toy((64, 128, 128, 10), rows=32)
    chain = 64 * 128 + 128 * 128 + 128 * 10
    forward = count_flops(lambda: problem.outputs(batch))
    total = count_flops(lambda: problem.gradient(batch))
    assert forward == 2 * 32 * chain
    assert total == 2 * 32 * (2 * chain + 128 * 10 + 128 * 128)  # no gradient of the inputs


def test_flops_of_convolutions() -> None:
    model = CNN(ModelSpec((1, 8, 8), 10), (16, 32), generator=generator_for(0)).double()
    problem = make_problem(model, "cross_entropy")
    batch = Batch(problem.random.normal(3, 1, 8, 8), torch.zeros(3, dtype=torch.int64), torch.arange(3))
    first, second, last = 16 * 16 * 9, 4 * 32 * 16 * 9, 128 * 10
    assert count_flops(lambda: problem.outputs(batch)) == 2 * 3 * (first + second + last)
    assert count_flops(lambda: problem.gradient(batch)) == 2 * 3 * (2 * (first + second + last) + second + last)


@pytest.mark.parametrize(("cell", "gates"), [("rnn", 1), ("gru", 3), ("lstm", 4)])
def test_flops_of_recurrent_cells(cell: str, gates: int) -> None:
    t, rows, f, w, c = 7, 4, 2, 5, 3
    for per_step in (False, True):
        problem, batch = toy_sequence(cell, per_step=per_step)
        readouts = t if per_step else 1
        products = gates * t * (f * w + w * w) + readouts * w * c
        assert count_flops(lambda p=problem, b=batch: p.outputs(b)) == 2 * rows * products


# Counts.

STEP: dict[str, Callable[[Problem, Batch], Any]] = {
    "forward": lambda p, b: p.objective(b),
    "gradient": lambda p, b: p.gradient(b),
    "jvp": lambda p, b: p.jvp(b, p.unflatten(p.flat())),
    "jacobian": lambda p, b: p.jacobian(b),
    "rows": lambda p, b: p.per_example_gradients(b),
    "products": lambda p, b: [p.linearize(b).hvp(p.flat()) for _ in range(2)],
    "gauss_newton": lambda p, b: (lambda here: [here.ggn_vp(p.flat()) for _ in range(3)])(p.linearize(b)),
    "population": lambda p, b: p.population_objective(p.flat().expand(6, -1), b),
    "blocks": lambda p, b: [p.pull(block, x)[1](v) for block, x, v in walked(p, b)],
    "walk": lambda p, b: (lambda w: [w.back(w.outputs), w.back(w.outputs)])(p.walk(b)),
    "walk without parameters": lambda p, b: (lambda w: w.back(w.outputs, parameters=False))(p.walk(b)),
}
#                 forwards, backwards, jvps, hvps, evaluations
COUNTS = {
    "forward": (1, 0, 0, 0, 1),
    "gradient": (1, 1, 0, 0, 1),
    "jvp": (0, 0, 1, 0, 1),
    "jacobian": (1, 3, 0, 0, 1),
    "rows": (1, 1, 0, 0, 1),
    "products": (2, 2, 0, 2, 2),
    "gauss_newton": (1, 2, 0, 3, 1),  # a pass back that all products share
    "population": (6, 0, 0, 0, 6),
    "blocks": (1, 1, 0, 0, 1),
    "walk": (1, 2, 0, 0, 1),
    "walk without parameters": (1, 0, 0, 0, 1),
}


def walked(problem: Problem, batch: Batch) -> list[tuple[Any, Tensor, Tensor]]:
    x, found = batch.inputs, []
    with torch.no_grad(), problem.ledger.pause():
        for block in problem.layered.blocks:
            y = block(x)
            found.append((block, x, torch.ones_like(y)))
            x = y
    return found


class Steps(Algorithm):
    """Calls one function each step."""

    def __init__(self, function: Callable[[Problem, Batch], Any]) -> None:
        self.function = function

    def _setup(self, problem: Problem) -> None:
        problem.objective(Batch(ones(2, 5), torch.zeros(2, dtype=torch.int64), torch.arange(2)))

    def _step(self, batch: Batch | None) -> StepResult:
        assert batch is not None
        self.function(self.problem, batch)
        return StepResult()


def part(batch: Batch, rows: int) -> Batch:
    return Batch(batch.inputs[:rows], batch.targets[:rows], batch.index[:rows])


@pytest.mark.parametrize("name", STEP)
def test_primitives_count_themselves_and_their_flops(name: str) -> None:
    """Twenty steps, every fourth on a smaller batch: counts, and FLOPs as the sum over steps counted one by one."""
    problem, batch = toy()
    steps = Steps(STEP[name])
    steps.setup(problem)
    ledger = problem.ledger
    assert ledger.forwards == 0  # preparing is not counted
    counted = samples = 0
    for step in range(20):
        given = part(batch, 5) if step % 4 == 3 else batch
        counted += count_flops(lambda b=given: steps.step(b))
        samples += given.samples
        forwards, backwards, jvps, hvps, evaluations = COUNTS[name]
    if name != "blocks":  # the walk that makes its inputs is not counted
        assert ledger.flops == pytest.approx(counted, rel=1e-9)
    # Unit vectors on their way back cost the same for any number of rows: .8 % until a smaller batch tells them apart.
    assert ledger.residual <= (0.01 if name == "jacobian" else 1e-9)
    summary = ledger.summary()
    assert summary["forwards"] == 20 * forwards
    assert summary["backwards"] == 20 * backwards
    assert summary["jvps"] == 20 * jvps
    assert summary["hvps"] == 20 * hvps
    assert summary["evaluations"] == ledger.spent("evaluations") == 20 * evaluations
    assert (summary["steps"], summary["samples"], summary["updates"]) == (20, samples, 0)


def test_fifty_individuals_for_twenty_generations() -> None:
    problem, batch = toy(rows=16)
    steps = Steps(lambda p, b: p.population_objective(p.flat() + p.random.normal(50, p.flat().numel()), b))
    steps.setup(problem)
    for _ in range(20):
        steps.step(batch)
    ledger = problem.ledger
    assert (ledger.forwards, ledger.backwards, ledger.summary()["evaluations"]) == (1000, 0, 1000)
    assert ledger.flops == 1000 * 16 * 2 * (5 * 7 + 7 * 6 + 6 * 3)
    assert ledger.forward_equivalents == 1000 * 16
    assert ledger.spent("evaluations") == 1000


def test_updates_are_counted_apart_from_steps() -> None:
    problem, batch = toy()
    updater = problem.updater(SGD)

    def three(p: Problem, b: Batch) -> None:
        for _ in range(3):
            updater.apply(p.gradient(b)[1])

    steps = Steps(three)
    steps.setup(problem)
    steps.step(batch)
    assert (problem.ledger.steps, problem.ledger.updates, problem.ledger.backwards) == (1, 3, 3)


def test_a_trial_is_no_update() -> None:
    """A line search by hand writes trial points and comes back; the move counts, once."""
    problem, batch = toy()

    def search(p: Problem, b: Batch) -> None:
        start = p.flat()
        for length in (1.0, 0.5, 0.25):
            p.assign(start - length, update=False)
            p.objective(b)
        p.assign(start, update=False)
        p.assign(start - 0.125)

    steps = Steps(search)
    steps.setup(problem)
    for _ in range(4):
        steps.step(batch)
    summary = problem.ledger.summary()
    assert (summary["updates"], summary["evaluations"], summary["forward_rows"]) == (4, 12, 96)


# Audits.


def test_audits_are_at_powers_of_two_and_at_the_last_batch_of_a_context() -> None:
    problem, batch = toy()
    steps = Steps(STEP["gradient"])
    steps.setup(problem)
    due = []
    for step in range(40):
        before = len(problem.ledger.audits)
        last = step == 20
        steps.step(Batch(batch.inputs, batch.targets, batch.index, last=last))
        if len(problem.ledger.audits) > before:
            due.append(step)
    assert due == [0, 1, 3, 7, 15, 20, 31]


def test_work_that_no_count_foretells_is_a_residual() -> None:
    """A solve in one step of three, outside any primitive: the ledger are wrong, and they say so."""
    problem, batch = toy()
    seen = []

    def sometimes(p: Problem, b: Batch) -> None:
        seen.append(p.objective(b))
        if len(seen) % 3 == 1:
            torch.linalg.solve(spd(30), ones(30))

    steps = Steps(sometimes)
    steps.setup(problem)
    for _ in range(8):
        steps.step(batch)
    assert problem.ledger.residual > 0.1


# Work that a rule names, and work of a new size.


def refreshed(rows: Callable[[int], int], due: Callable[[int], bool], **declared: Any) -> tuple[Ledger, float]:
    """Forty steps of backprop on so many rows each, with two solves where due; the ledger and what a counter saw."""
    problem, batch = toy()

    def step(p: Problem, b: Batch) -> None:
        p.gradient(b)
        if due(p.ledger.steps):
            given = {"examples": b.rows} if declared["per"] == "example" else {}
            for size in (20, 30):  # two layers
                with p.ledger.work("factor refresh", **declared, **given):
                    torch.linalg.solve(spd(size), ones(size))

    steps = Steps(step)
    steps.setup(problem)
    seen = sum(count_flops(lambda k=k: steps.step(part(batch, rows(k)))) for k in range(40))
    return problem.ledger, seen


@pytest.mark.parametrize("phase", range(10))
@pytest.mark.parametrize("uneven", [False, True])
def test_periodic_work_costs_the_same_in_every_phase(phase: int, uneven: bool) -> None:
    ledger, seen = refreshed(lambda k: 3 if uneven and k % 7 == 5 else 8, lambda k: k % 10 == phase, per="call")
    refresh = sum(2 * n**3 // 3 + 2 * n * n for n in (20, 30))
    assert ledger.flops_by_kind().get("factor refresh") == 4 * refresh
    assert ledger.flops == pytest.approx(seen, rel=1e-12)
    assert ledger.residual <= 1e-9


def test_work_that_is_declared_wrongly_shows_in_the_residual() -> None:
    ledger, seen = refreshed(lambda k: 3 if k > 32 else 8, lambda k: True, per="example")
    assert abs(ledger.flops - seen) > 0.1 * seen
    assert ledger.residual > 0.1
    same, seen = refreshed(lambda k: 8, lambda k: True, per="example")  # nothing tells them apart
    assert same.flops == pytest.approx(seen)
    assert same.residual <= 1e-9


def test_work_per_example() -> None:
    problem, batch = toy()

    def step(p: Problem, b: Batch) -> None:
        if p.ledger.steps >= 9:
            with p.ledger.work("whitening", per="example", examples=b.rows):
                b.inputs @ spd(5)

    steps = Steps(step)
    steps.setup(problem)
    for k in range(14):
        steps.step(part(batch, 1 + k % 3))
    rows = sum(1 + k % 3 for k in range(9, 14))
    assert problem.ledger.flops_by_kind() == {"whitening": rows * 2 * 25}


@pytest.mark.parametrize("name", STEP)
def test_what_occurs_first_outside_audits_is_measured_and_in_every_size(name: str) -> None:
    problem, batch = toy()
    steps = Steps(lambda p, b: STEP[name](p, b) if p.ledger.steps >= 9 else None)
    steps.setup(problem)
    seen = sum(count_flops(lambda k=k: steps.step(part(batch, 8 - k % 4))) for k in range(14))
    if name != "blocks":
        assert problem.ledger.flops == pytest.approx(seen, rel=1e-9)
    assert problem.ledger.flops > 0
    assert len(problem.ledger.audits) == 4  # 0, 1, 3 and 7


def test_sizes_that_never_repeat_are_measured_sixteen_times_a_kind() -> None:
    problem, batch = toy(rows=40)
    seen: list[int] = []
    steps = Steps(lambda p, b: (p.objective(b), seen.append(len(p.ledger._kinds["forward"].known))))
    steps.setup(problem)
    for k in range(40):
        steps.step(part(batch, 40 - k))
    assert max(seen) == 16 + 1  # and the audited step 31
    assert problem.ledger.flops == 2 * 95 * sum(range(1, 41))


def test_no_section_is_measured_where_nothing_is_audited() -> None:
    problem, batch = toy()
    steps = Steps(STEP["forward"])
    steps.setup(problem)
    problem.ledger.auditing = False
    steps.step(batch)
    assert (problem.ledger.flops, problem.ledger.forwards) == (0, 1)


def test_work_must_be_declared_one_way() -> None:
    ledger = Ledger()
    with ledger.work("sort", per="call"):
        pass
    for per, message in (
        ("example", "is per example; say how many"),
        ("row", "is per 'call' or per 'example'; got per='row'"),
    ):
        with pytest.raises(AltpropError, match=message):
            ledger.work("sort", per=per)
    with pytest.raises(AltpropError, match="work 'sort' is per call, and here it is said to be per example"):
        ledger.work("sort", per="example", examples=3)


def test_pieces_of_a_pass_are_no_pass() -> None:
    ledger = Ledger(blocks=4)
    for kind in ("readout", "transpose"):
        ledger.primitive(kind, 8)
    for _ in range(10):
        ledger.primitive("cell", 0.8, 0.1)
    ledger.primitive("backward", 5)
    ledger.primitive("block_forward", 8)
    assert (ledger.forwards, ledger.forward_rows) == (1.25, 10)
    assert (ledger.backwards, ledger.backward_rows) == (1, 5)
    summary = ledger.summary()
    assert (summary["forward_rows"], summary["backward_rows"]) == (10, 5)


def test_work_of_numpy_is_charged() -> None:
    problem, batch = toy()
    steps = Steps(lambda p, b: (p.objective(b), p.ledger.charge("other", 1000.0)))
    steps.setup(problem)
    for _ in range(5):
        steps.step(batch)
    forward = 5 * 8 * 2 * (5 * 7 + 7 * 6 + 6 * 3)
    assert problem.ledger.flops_by_kind() == {"forward": forward, "other": 5000.0}
    assert problem.ledger.residual == 0


def test_charged_work_is_not_counted_twice() -> None:
    problem, batch = toy()

    def step(p: Problem, b: Batch) -> None:
        with p.ledger.charged():
            spd(30) @ ones(30)
            p.objective(b)  # a primitive inside counts itself
        p.ledger.charge("other", 2 * 900)

    steps = Steps(step)
    steps.setup(problem)
    steps.step(batch)
    steps.step(batch)
    assert problem.ledger.flops_by_kind() == {"forward": 2 * 8 * 2 * 95, "other": 3600.0}


def test_pauses_count_nothing_even_in_an_audit() -> None:
    problem, batch = toy()

    def step(p: Problem, b: Batch) -> None:
        p.objective(b)
        with p.observing():
            p.gradient(b)
            spd(30) @ ones(30)
        with p.evaluating(), p.ledger.pause():
            p.population_objective(p.flat().expand(6, -1), b)
            p.ledger.charge("other", 1e6)
            p.assign(p.flat())

    steps = Steps(step)
    steps.setup(problem)
    for _ in range(3):
        steps.step(batch)
    assert problem.ledger.flops_by_kind() == {"forward": 3 * 8 * 2 * 95}
    summary = problem.ledger.summary()
    assert (summary["forwards"], summary["backwards"], summary["evaluations"], summary["updates"]) == (3, 0, 3, 0)


def test_bytes_kept_for_the_backward_pass() -> None:
    problem, batch = toy((5, 7, 3), rows=8)
    steps = Steps(STEP["gradient"])
    steps.setup(problem)
    steps.step(batch)
    # Inputs, tanh's output (once, though two operations keep it), log-probabilities, targets and the loss's weight.
    least, most = 8 * (8 * 5 + 8 * 7 + 8 * 3), 8 * (8 * 5 + 8 * 7 + 2 * 8 * 3 + 4 * 8)
    assert least <= problem.ledger.saved_bytes <= most
    assert problem.ledger.live_bytes >= 8 * (8 * 7 + 8 * 3)


def test_of_a_batch_that_is_a_view_its_own_rows_count() -> None:
    """An epoch is gathered at once, and a batch is a view of it."""
    kept = []
    for rows in (8, 800):
        problem, batch = toy((5, 7, 3), rows=rows)
        steps = Steps(STEP["gradient"])
        steps.setup(problem)
        steps.step(replace(batch, inputs=batch.inputs[:8], targets=batch.targets[:8], index=batch.index[:8]))
        kept.append(problem.ledger.saved_bytes)
    assert kept[0] == kept[1]


def test_parameters_are_not_kept_for_the_backward_pass() -> None:
    problem, batch = toy((5, 70, 60), rows=1)
    problem.model.blocks[0].register_forward_hook(lambda *_: None)  # a watched block has a graph
    steps = Steps(STEP["gradient"])
    steps.setup(problem)
    steps.step(batch)
    assert 0 < problem.ledger.saved_bytes < 8 * 70 * 60


def test_work_after_a_primitive_is_not_its_own() -> None:
    problem, batch = toy()
    steps = Steps(lambda p, b: (p.objective(b), spd(30) @ ones(30)))
    steps.setup(problem)
    for _ in range(3):
        steps.step(batch)
    assert problem.ledger.flops_by_kind() == {"forward": 3 * 8 * 2 * 95, "other": 3 * 1800.0}


def test_uncounted_operations_reach_the_books() -> None:
    problem, batch = toy()
    steps = Steps(lambda p, b: torch.linalg.eigvals(p.flat()[:9].reshape(3, 3)))
    steps.setup(problem)
    for _ in range(2):
        steps.step(batch)
    counts = [count for name, count in problem.ledger.uncounted.items() if "eig" in name]
    assert counts == [2]  # once in each of two audited steps


# A net that grows.


@pytest.mark.parametrize("grown_at", [0, 1, 7, 9, 20])
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("uneven", [False, True])
def test_a_grown_net_costs_what_its_shape_says(grown_at: int, when: str, uneven: bool) -> None:
    """From 10 units to 290 in a named section of a step; every step at the closed form of its own shape."""
    problem, batch = toy((5, 10, 3))
    move = 2 * 300 * 5  # work of the growth itself

    def grow(p: Problem) -> None:
        with p.ledger.work("growth", per="call"):
            p.layered.resize(0, 290, p.random.generator)
            p.structure_changed()
            ones(300, 5) @ ones(5)

    def step(p: Problem, b: Batch) -> None:
        for place in ("before", "after"):
            if p.ledger.steps == grown_at and when == place:
                grow(p)
            if place == "before":
                p.gradient(b)

    steps = Steps(step)
    steps.setup(problem)
    expected = passed = 0
    for k in range(30):
        rows = 5 if uneven and k % 3 == 2 else 8
        large = k > grown_at or (k == grown_at and when == "before")
        expected += rows * (290 if large else 10) * 2 * (2 * (5 + 3) + 3)
        passed += rows
        steps.step(part(batch, rows))
    ledger = problem.ledger
    assert ledger.flops_by_kind().get("growth") == move
    assert ledger.live_bytes > 8 * 290 * (5 + 3)  # the grown net's gradient was seen, which is audited once at least
    assert ledger.flops == pytest.approx(expected + move, rel=1e-12)
    assert ledger.residual <= 1e-9
    assert (ledger.forward_flops, ledger.forward_rows, ledger.backward_rows) == (2 * 290 * 8, passed, passed)


def test_passes_over_blocks_stay_as_many_when_blocks_come() -> None:
    problem, batch = toy((5, 7, 3))
    ledger = problem.ledger
    for kind in ("block_forward", "block_backward"):
        ledger.primitive(kind, 8)
        ledger.primitive(kind, 8)
    model = problem.layered
    model.insert_block(1, Dense(7, 7, activation="tanh", generator=generator_for(1)))
    problem.structure_changed()
    assert (ledger.blocks, ledger.forward_flops) == (3, 2 * (35 + 49 + 21))
    assert (ledger.forwards, ledger.backwards, ledger.forward_rows) == (1, 1, 8)
    for _ in range(3):
        ledger.primitive("block_forward", 8)
    assert (ledger.forwards, ledger.forward_rows) == (2, 16)
    assert list(problem.gradient(batch)[1]) == list(problem.params)


# Rates, currencies, state.


def test_rates_separate_calls_from_examples() -> None:
    ledger = Ledger()
    points = [(2, 100), (1, 7), (3, 40)]
    for calls, examples in points:
        ledger._kinds["hvp"].add(calls, examples, 500 * calls + 12 * examples)
    assert ledger._kinds["hvp"].flops(5, 60) == pytest.approx(500 * 5 + 12 * 60)
    ledger._kinds["forward"].add(1, 64, 64 * 1000)
    ledger._kinds["forward"].add(4, 30, 30 * 1000)
    assert ledger._kinds["forward"].flops(9, 11) == 11 * 1000
    ledger._kinds["update"].add(2, 0, 34)
    assert ledger._kinds["update"].flops(7, 0) == 7 * 17
    assert ledger._kinds["jvp"].flops(3, 3) == 0


def test_forward_equivalents() -> None:
    problem, batch = toy(rows=8)
    assert problem.ledger.forward_flops == 2 * 95
    steps = Steps(STEP["gradient"])
    steps.setup(problem)
    steps.step(batch)
    backward = 2 * 95 + 2 * (7 * 6 + 6 * 3)
    assert problem.ledger.forward_equivalents == 8 * (190 + backward) / 190
    free = Ledger(blocks=4)  # where a forward costs no product, calls stand in
    for kind, examples in (("forward", 3), ("backward", 5), ("jvp", 7), ("hvp", 11), ("population", 13)):
        free.primitive(kind, examples)
    free.primitive("block_forward", 40)
    free.primitive("block_backward", 80)
    assert free.forward_equivalents == 3 + 2 * 5 + 2 * 7 + 4 * 11 + 13 + 10 + 2 * 20
    assert (free.forwards, free.backwards) == (2.25, 1.25)


def test_currencies() -> None:
    ledger = Ledger(forward_flops=10.0)
    ledger.epoch_samples = 50
    ledger.primitive("forward", 20)
    ledger.count_step(25)
    ledger.charge("other", 40.0)
    ledger.seconds = 1.5
    spent = {currency: ledger.spent(currency) for currency in CURRENCIES}
    assert spent == {
        "steps": 1,
        "epochs": 0.5,
        "samples": 25,
        "episodes": 0,
        "evaluations": 1,
        "forward_equivalents": 4.0,
        "flops": 40.0,
        "seconds": 1.5,
    }
    with pytest.raises(AltpropError, match=r"unknown budget.currency 'euros'; known are: steps, epochs"):
        ledger.spent("euros")


def test_audited_steps_last_as_long_as_the_others() -> None:
    ledger = Ledger()
    ledger.steps, ledger.seconds, ledger.untimed, ledger.audit_seconds = 8, 2.0, 4, 9.0
    assert (ledger.learner_seconds, ledger.spent("seconds")) == (4.0, 4.0)
    ledger.steps, ledger.seconds = 4, 0.25  # what lies between audited steps
    assert (ledger.learner_seconds, ledger.spent("seconds")) == (9.25, 0.0)


def test_who_is_audited_is_not_timed() -> None:
    problem, batch = toy()
    steps = Steps(STEP["gradient"])
    steps.setup(problem)
    for _ in range(9):
        steps.step(batch)
    assert problem.ledger.untimed == len(problem.ledger.audits) == 4


def test_the_books_come_back() -> None:
    problem, batch = toy()
    steps = Steps(STEP["gauss_newton"])
    steps.setup(problem)
    for step in range(6):
        steps.step(part(batch, 3 + step))
    problem.ledger.charge("other", 5.0)
    saved = problem.ledger.state_dict()
    torch.save(saved, buffer := io.BytesIO())
    buffer.seek(0)
    other, _ = toy()
    again = Steps(STEP["gauss_newton"])
    again.setup(other)
    other.ledger.load_state_dict(torch.load(buffer, weights_only=True))
    assert other.ledger.summary() == problem.ledger.summary()
    for _ in range(4):  # the next audit, at step 7, among them
        steps.step(batch)
        again.step(batch)
    assert other.ledger.summary() == problem.ledger.summary()
    assert other.ledger.audits == problem.ledger.audits
    assert set(saved["kinds"]) == set(KINDS)
