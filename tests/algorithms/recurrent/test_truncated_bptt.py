"""Truncated backpropagation through time: horizons, windows, carried state, and the ledger."""

from dataclasses import replace

import pytest
import torch

from altprop.algorithms.dropout.standard import StandardDropout
from altprop.algorithms.recurrent.bptt import BPTT
from altprop.algorithms.recurrent.truncated_bptt import TruncatedBPTT
from altprop.data import Batch
from altprop.errors import AltpropError, Refused
from altprop.noise import MultiplicativeNoise
from altprop.optim import OptimizerFactory
from altprop.testing import toy, toy_sequence

CELLS = ("rnn", "gru", "lstm")
SGD = OptimizerFactory("torch.optim.SGD", lr=0.1)
LENGTHS = [7, 3, 5, 1]


class Everywhere(MultiplicativeNoise):
    """Multiplies by U(.5, 1.5) at each site."""

    sites = frozenset({"input", "unit", "weight", "state"})

    def _mask(self, like, shape, site, layer):
        return 0.5 + self.clock.uniform(shape, site, layer, 0, like)


def ready(problem, k1, k2, update="sequence", optimizer=SGD):
    rule = TruncatedBPTT(optimizer, k1, k2, update)
    rule.setup(problem)
    return rule


def distance(problem, a, b):
    a, b = problem.flatten(a), problem.flatten(b)
    return float((a - b).norm() / b.norm())


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("update", ["window", "sequence"])
@pytest.mark.parametrize("per_step", [False, True])
@pytest.mark.parametrize("lengths", [None, LENGTHS])
@pytest.mark.parametrize("noisy", [False, True])
def test_one_window_is_bptt_to_the_bit(cell, update, per_step, lengths, noisy):
    """Weights after three steps under momentum, with k1 = k2 = T and beyond it, under masks, labels and noise."""
    momentum = OptimizerFactory("torch.optim.SGD", lr=0.1, momentum=0.9)
    ends, losses = [], []
    for make in (
        lambda: BPTT(momentum),
        lambda: TruncatedBPTT(momentum, 7, 7, update),
        lambda: TruncatedBPTT(momentum, 9, 20, update),
    ):
        noise = Everywhere() if noisy else None
        problem, batch = toy_sequence(cell, per_step=per_step, lengths=lengths, noise=noise)
        batch = replace(batch, labelled=torch.tensor([True, True, False, True]))
        rule = make()
        rule.setup(problem)
        losses.append([rule.step(batch).loss for _ in range(3)])
        ends.append(problem.flat())
    assert torch.equal(ends[1], ends[0])
    assert torch.equal(ends[2], ends[0])
    assert losses[1] == losses[0]


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("per_step", [False, True])
def test_fewer_steps_back_are_another_direction(cell, per_step):
    problem, batch = toy_sequence(cell, per_step=per_step)
    exact = problem.gradient(batch)[1]
    errors = [distance(problem, ready(problem, 1, k).direction(batch)[1], exact) for k in range(1, 8)]
    # Seen: .24 to .70 at k = 1, falling with the horizon, to rounding at k = T.
    assert errors[0] > 0.2
    assert min(errors[:-2]) > 1e-3
    assert errors[3] > 1e-2
    assert errors[-1] < 1e-15
    assert errors[0] > errors[2] > errors[4] > errors[6]


def horizons(steps, k1, k2):
    """Return how many cells each loss reaches back, read off by hand from Williams and Peng's schedule."""
    found = []
    for t in range(1, steps + 1):
        window_end = -(-t // k1) * k1
        found.append(min(t, t - (window_end - k2)))
    return found


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize(("k1", "k2"), [(1, 1), (1, 3), (2, 3), (3, 3), (2, 5), (4, 6), (3, 7)])
@pytest.mark.parametrize("per_step", [False, True])
def test_each_loss_reaches_back_as_far_as_it_is_said(cell, k1, k2, per_step):
    """Against a sum over losses in which the state is cut so many cells before each."""
    problem, batch = toy_sequence(cell, per_step=per_step)
    model, reach = problem.model, horizons(7, k1, k2)

    def each_by_itself():
        outputs = []
        for t in range(7) if per_step else (6,):
            h = model.initial_state(4)
            for s in range(t + 1):
                h = model.cell(batch.inputs[s], h.detach() if s == t + 1 - reach[t] else h)
            outputs.append(model.readout(h))
        return problem.output_loss(torch.stack(outputs) if per_step else outputs[0], batch)

    expected = problem.gradient(batch, loss=each_by_itself)[1]
    # Seen: 2e-16.
    assert distance(problem, ready(problem, k1, k2).direction(batch)[1], expected) < 1e-15


def test_the_horizons_themselves():
    assert horizons(7, 1, 3) == [1, 2, 3, 3, 3, 3, 3]
    assert horizons(7, 3, 3) == [1, 2, 3, 1, 2, 3, 1]
    assert horizons(7, 2, 3) == [1, 2, 2, 3, 2, 3, 2]


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("per_step", [False, True])
@pytest.mark.parametrize(("k1", "k2"), [(1, 2), (2, 2), (3, 5), (5, 5)])
def test_padding_changes_nothing(cell, per_step, k1, k2):
    problem, batch = toy_sequence(cell, per_step=per_step, lengths=LENGTHS)
    loss, together = ready(problem, k1, k2).direction(batch)
    apart = {name: torch.zeros_like(p) for name, p in problem.params.items()}
    for row, length in enumerate(LENGTHS):
        one = torch.tensor([row])
        target = batch.targets[:length, one] if per_step else batch.targets[one]
        alone = Batch(batch.inputs[:length, one], target, one)
        for name, value in ready(problem, k1, k2).direction(alone)[1].items():
            apart[name] += alone.samples / batch.samples * value
    assert distance(problem, together, apart) < 1e-15
    assert float(loss) == pytest.approx(float(problem.objective(batch)), rel=1e-14)


def by_hand(problem, batch, k, rate):
    """The loop of every tutorial, k1 = k2 = k: unroll k steps, step the weights, detach the state."""
    model = problem.model
    h = model.initial_state(batch.inputs.shape[1])
    for start in range(0, batch.inputs.shape[0], k):
        outputs, h = [], h.detach()
        for t in range(start, min(start + k, batch.inputs.shape[0])):
            h = model.cell(batch.inputs[t], h)
            outputs.append(model.readout(h))
        loss = 0.5 * (torch.stack(outputs) - batch.targets[start : start + k]).square().sum(-1).mean()
        grads = torch.autograd.grad(loss, list(model.parameters()))
        with torch.no_grad():
            for p, g in zip(model.parameters(), grads, strict=True):
                p -= rate * g


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("k", [1, 2, 3, 7])
def test_an_update_after_each_window_is_the_usual_loop(cell, k):
    problem, batch = toy_sequence(cell, per_step=True)
    twin, _ = toy_sequence(cell, per_step=True)
    rule = ready(problem, k, k, "window")
    rule.step(batch)
    by_hand(twin, batch, k, 0.1)
    assert (problem.flat() - twin.flat()).abs().max() < 1e-15
    assert problem.ledger.updates == -(-7 // k)
    one, _ = toy_sequence(cell, per_step=True)
    ready(one, k, k, "sequence").step(batch)
    assert ((one.flat() - problem.flat()).abs().max() > 1e-3) == (k < 7)


@pytest.mark.parametrize("update", ["window", "sequence"])
def test_it_tells_the_objective_or_nothing(update):
    for per_step, k in ((True, 3), (False, 3), (True, 7)):
        problem, batch = toy_sequence(per_step=per_step, lengths=LENGTHS if per_step else None)
        before = problem.objective(batch)
        told = ready(problem, k, k, update).step(batch)
        if update == "window" and per_step and k < 7:
            assert told.loss is None
            assert set(told.scalars) == {"window_loss"}
        else:
            assert float(told.loss) == pytest.approx(float(before), rel=1e-14)


@pytest.mark.parametrize("update", ["window", "sequence"])
def test_windows_that_overlap_see_the_same_masks(update):
    problem, batch = toy_sequence(per_step=True, noise=Everywhere())
    drawn, uniform = {}, problem.clock.uniform

    def watched(shape, site, layer, position, like):
        draw = uniform(shape, site, layer, position, like)
        drawn.setdefault((site, layer, position, problem.clock.time, draw.shape), []).append(draw)
        return draw

    problem.clock.uniform = watched
    ready(problem, 2, 5, update).step(batch)
    assert max(map(len, drawn.values())) > 1
    assert all(torch.equal(draws[0], draw) for draws in drawn.values() for draw in draws)


class Taxed(StandardDropout):
    """Drops nothing, and adds 1 / 2 |theta|^2 of the weight that it is shown to the objective."""

    def __init__(self):
        super().__init__(0.0)
        self.taxed = []

    def penalty(self):
        return 0.5 * self.taxed[0].square().sum() if self.taxed else torch.zeros(())


@pytest.mark.parametrize("update", ["window", "sequence"])
def test_a_penalty_of_the_noise_is_learned(update):
    """In each update, whole: one update a batch or one a window."""
    moves = []
    for taxed in (False, True):
        problem, batch = toy_sequence(per_step=True, noise=Taxed())
        weight = problem.params["readout.weight"]
        start = weight.detach().clone()
        if taxed:
            problem.model.noise.taxed.append(weight)
        rule = ready(problem, 4, 4, update, OptimizerFactory("torch.optim.SGD", lr=1e-4))
        rule.step(batch)
        moves.append(weight.detach() - start)
    expected = -1e-4 * start * (2 if update == "window" else 1)
    torch.testing.assert_close(moves[1] - moves[0], expected, rtol=1e-2, atol=1e-8)  # the state moved between windows


def stream(problem, batch, cuts, reset=None):
    """Return a sequence cut into batches that continue each other, but where `reset` says a row begins."""
    pieces, rows = [], batch.inputs.shape[1]
    for i, (start, stop) in enumerate(zip([0, *cuts], [*cuts, batch.inputs.shape[0]], strict=True)):
        anew = torch.full((rows,), i == 0)
        if reset is not None and i in reset:
            anew[reset[i]] = True
        pieces.append(Batch(batch.inputs[start:stop], batch.targets[start:stop], batch.index, reset=anew))
    return pieces


@pytest.mark.parametrize("cell", CELLS)
def test_a_stream_goes_on_from_batch_to_batch(cell):
    """Three batches that continue each other are one sequence in three windows, weight for weight."""
    problem, batch = toy_sequence(cell, steps=12, per_step=True)
    whole, _ = toy_sequence(cell, steps=12, per_step=True)
    rule = ready(problem, 4, 4, "window")
    for piece in stream(problem, batch, [4, 8]):
        rule.step(piece)
    ready(whole, 4, 4, "window").step(batch)
    assert torch.equal(problem.flat(), whole.flat())
    forgetful, _ = toy_sequence(cell, steps=12, per_step=True)
    rule = ready(forgetful, 4, 4, "window")
    for piece in stream(problem, batch, [4, 8]):
        rule.step(replace(piece, reset=None))
    assert (forgetful.flat() - whole.flat()).abs().max() > 1e-3


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("update", ["window", "sequence"])
def test_no_state_leaks_over_the_end_of_a_sequence(cell, update):
    """A row that is reset learns what it would in a batch of its own; what came before it may be anything."""
    directions = []
    for scale in (1.0, -30.0):
        problem, batch = toy_sequence(cell, steps=8, per_step=True)
        rule = ready(problem, 2, 3, update, OptimizerFactory("torch.optim.SGD", lr=0.0))
        first, second = stream(problem, batch, [4], {1: [1, 3]})
        rule.step(replace(first, inputs=scale * first.inputs))
        only = replace(second, labelled=torch.tensor([False, True, False, True]))
        before = rule.carried.clone()
        directions.append(rule.direction(only)[1])
        alone = Batch(second.inputs[:, [1, 3]], second.targets[:, [1, 3]], second.index[[1, 3]])
        assert distance(problem, directions[-1], ready(problem, 2, 3).direction(alone)[1]) < 1e-15
        # The rows that go on do depend on what came before.
        rule.carried = before
        others = rule.direction(replace(second, labelled=torch.tensor([True, False, True, False])))[1]
        apart = Batch(second.inputs[:, [0, 2]], second.targets[:, [0, 2]], second.index[[0, 2]])
        assert distance(problem, others, ready(problem, 2, 3).direction(apart)[1]) > 1e-2
    assert distance(problem, *directions) == 0.0


def test_ordinary_batches_begin_anew():
    """Batches whose rows are all reset, as those of a data set, do not see each other, whatever their size."""
    problem, batch = toy_sequence("lstm", per_step=True)
    rule = ready(problem, 2, 3)
    first = rule.direction(batch)[1]
    again = rule.direction(batch)[1]
    assert all(torch.equal(first[name], again[name]) for name in first)
    few = Batch(batch.inputs[:, :2], batch.targets[:, :2], batch.index[:2], reset=torch.ones(2, dtype=torch.bool))
    rule.direction(few)
    assert all(torch.equal(first[name], value) for name, value in rule.direction(batch)[1].items())


def test_the_carried_state_is_that_of_the_last_valid_element():
    problem, batch = toy_sequence("gru", per_step=True, lengths=LENGTHS)
    rule = ready(problem, 2, 4)
    rule.direction(batch)
    for row, length in enumerate(LENGTHS):
        h = problem.model.unroll(batch.inputs[:length, row : row + 1], problem.model.initial_state(1))[1]
        assert (rule.carried[row] - h[0]).abs().max() < 1e-15
    assert not rule.carried.requires_grad


def test_a_stream_resumes_to_the_bit():
    momentum = OptimizerFactory("torch.optim.SGD", lr=0.1, momentum=0.9)

    def begin():
        problem, batch = toy_sequence("lstm", steps=12, per_step=True, noise=StandardDropout(0.3, 0.2))
        return problem, ready(problem, 2, 3, "window", momentum), stream(problem, batch, [4, 8])

    problem, rule, pieces = begin()
    rule.step(pieces[0])
    saved = rule.state_dict(), problem.state_dict()
    for piece in pieces[1:]:
        rule.step(piece)
    resumed, again, _ = begin()
    again.load_state_dict(saved[0])
    resumed.load_state_dict(saved[1])
    for piece in pieces[1:]:
        again.step(piece)
    assert torch.equal(resumed.flat(), problem.flat())
    assert torch.equal(again.carried, rule.carried)


def test_rows_of_a_stream_keep_their_place():
    problem, batch = toy_sequence(per_step=True)
    rule = ready(problem, 2, 3)
    rule.step(batch)
    few = Batch(batch.inputs[:, :2], batch.targets[:, :2], batch.index[:2], reset=torch.tensor([True, False]))
    with pytest.raises(AltpropError, match="a batch of 2 rows continues one of 4"):
        rule.step(few)


@pytest.mark.parametrize("update", ["window", "sequence"])
def test_without_a_target_nothing_moves(update):
    problem, batch = toy_sequence(per_step=True)
    rule = ready(problem, 2, 3, update)
    before = problem.flat()
    rule.step(replace(batch, labelled=torch.zeros(4, dtype=torch.bool)))
    assert torch.equal(problem.flat(), before)
    assert rule.carried.any()


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize(("k1", "k2"), [(1, 3), (2, 2), (3, 5), (3, 7)])
@pytest.mark.parametrize("per_step", [False, True])
def test_the_books(cell, k1, k2, per_step):
    """A window is its share of a pass; FLOPs predicted from the counts are those seen, whatever the batch size."""
    problem, batch = toy_sequence(cell, per_step=per_step)
    rule = ready(problem, k1, k2)
    sizes = (4, 4, 2, 3, 1, 4, 3, 4)
    for size in sizes:
        rows = torch.arange(size)
        targets = batch.targets[:, rows] if per_step else batch.targets[rows]
        rule.step(Batch(batch.inputs[:, rows], targets, rows, last=True))
    ledger = problem.ledger
    ranges = [(max(0, s + k1 - k2), s, min(s + k1, 7)) for s in range(0, 7, k1)]
    back = sum(stop - start for start, _, stop in ranges if per_step or stop == 7)
    forth = back + (0 if per_step else ranges[-1][1])
    assert ledger.forwards == pytest.approx(len(sizes) * forth / 7, abs=1e-6)
    assert ledger.backwards == pytest.approx(len(sizes) * back / 7, abs=1e-6)
    assert (ledger.steps, ledger.updates, ledger.samples) == (8, 8, sum(sizes) * (7 if per_step else 1))
    assert len(ledger.audits) == 8
    assert ledger.residual < 1e-12
    gates, f, w, c = problem.model.cell.gates, 2, 5, 3
    read = 2 * w * c * (7 if per_step else 1)
    assert ledger.flops_by_kind()["forward"] == pytest.approx(
        sum(sizes) * (2 * gates * w * (f + w) * forth + read), rel=1e-12
    )


def test_counts_are_whole_where_windows_make_a_whole():
    problem, batch = toy_sequence(steps=10, per_step=True)
    rule = ready(problem, 1, 1)
    for _ in range(30):
        rule.step(batch)
    assert (problem.ledger.forwards, problem.ledger.backwards) == (30, 30)
    assert isinstance(problem.ledger.forwards, int)


def test_memory_holds_a_window():
    """Bytes kept for the way back: those of k2 steps and not of T."""
    kept = {}
    for name, rule in (("bptt", BPTT(SGD)), ("k = 5", TruncatedBPTT(SGD, 5, 5)), ("k = 10", TruncatedBPTT(SGD, 5, 10))):
        problem, batch = toy_sequence("rnn", steps=50, rows=8, width=16, per_step=True)
        rule.setup(problem)
        rule.step(batch)
        kept[name] = problem.ledger.saved_bytes
    # Seen: .206 and .332, of which .13 is the data: a window of it counts whole.
    assert kept["k = 5"] < 0.22 * kept["bptt"]
    assert kept["k = 5"] < kept["k = 10"] < 0.35 * kept["bptt"]


@pytest.mark.parametrize("update", ["window", "sequence"])
def test_devices_are_named(update):
    with torch.device("meta"):
        problem, batch = toy_sequence("lstm", per_step=True, lengths=LENGTHS, dtype=torch.float32)
        rule = ready(problem, 2, 3, update)
        rule.step(batch)
        rule.step(replace(batch, reset=torch.tensor([True, False, True, False], device="cpu")))
    assert rule.carried.device.type == "cpu"
    assert rule.carried.dtype == torch.float32


def recall(k2, steps=120):
    """Return the error of remembering the first of 8 numbers until the last time, after training at this horizon."""
    problem, _ = toy_sequence("gru", steps=8, inputs=1, outputs=1, width=12)
    rule = ready(problem, 1, k2, "sequence", OptimizerFactory("torch.optim.Adam", lr=0.02))
    losses = []
    for _ in range(steps):
        x = problem.random.normal(8, 32, 1)
        losses.append(2 * rule.step(Batch(x, x[0], torch.arange(32))).loss)
    return float(torch.stack(losses[-10:]).mean())


def test_what_lies_beyond_the_horizon_is_not_learned():
    """The target's variance is 1. Seen: .04 at k2 = 8, and 1.0 at k2 = 4."""
    assert recall(8) < 0.15
    assert recall(4) > 0.8


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k1": 0}, r"algorithm.k1 must be a whole number of at least 1; got 0"),
        ({"k1": 2.5}, r"algorithm.k1 must be a whole number"),
        ({"k2": True}, r"algorithm.k2 must be a whole number"),
        ({"k2": -1}, r"algorithm.k2 must be a whole number of at least 1; got -1"),
        ({"k1": 5, "k2": 3}, r"algorithm.k2 must be at least k1, .*; got k1=5, k2=3"),
        ({"update": "windows"}, r"unknown algorithm.update=windows; did you mean window\?"),
    ],
)
def test_bad_values_are_told(options, message):
    with pytest.raises(AltpropError, match=message):
        TruncatedBPTT(SGD, **options)


def test_what_it_cannot_run_is_refused():
    with pytest.raises(Refused, match="TruncatedBPTT needs a recurrent model"):
        ready(toy()[0], 1, 1)
    with pytest.raises(Refused, match="this rule's direction is no gradient"):
        ready(toy_sequence()[0], 1, 1, optimizer=OptimizerFactory("torch.optim.LBFGS", lr=0.1))


def test_unlabelled_rows_that_end_in_a_window_stay_out_of_its_loss() -> None:
    problem, batch = toy_sequence("rnn", width=3, lengths=[7, 3, 5, 2])
    some = torch.tensor([True, False, True, True])
    found = ready(problem, 2, 8).direction(replace(batch, labelled=some))[1]
    expected = problem.gradient(replace(batch, labelled=some))[1]
    assert distance(problem, found, expected) < 1e-14
    assert distance(problem, ready(problem, 2, 8).direction(batch)[1], expected) > 1e-2
