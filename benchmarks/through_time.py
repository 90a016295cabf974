"""What credit through time costs and how far back it reaches, for each rule.

A step of backpropagation through time beside the plain Python loop over the same cell and beside torch's own, and
real-time recurrent learning beside its floor. Then the growth of time, FLOPs, state and saved bytes
with the length T and the width W, with fitted exponents; the share of each rule's credit that comes from farther back
than a lag; and, for each cell as it is drawn, how the gradient fares on its way back.
"""

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from altprop import Algorithm, Batch, Problem
from altprop.algorithms.recurrent.bptt import BPTT
from altprop.algorithms.recurrent.eprop import EProp
from altprop.algorithms.recurrent.kf_rtrl import KFRTRL
from altprop.algorithms.recurrent.online import OnlineLearner
from altprop.algorithms.recurrent.rflo import RFLO
from altprop.algorithms.recurrent.rtrl import RTRL
from altprop.algorithms.recurrent.snap import SnAp
from altprop.algorithms.recurrent.truncated_bptt import TruncatedBPTT
from altprop.algorithms.recurrent.uoro import UORO
from altprop.data import ModelSpec
from altprop.models.recurrent import RecurrentModel
from altprop.randomness import generator_for
from altprop.testing import cosine, set_up, sgd, toy_sequence
from benchmarks.timing import Table, interleave

RULES: dict[str, Callable[[], Algorithm]] = {
    "bptt": lambda: BPTT(sgd()),
    "truncated_bptt (5, 10)": lambda: TruncatedBPTT(sgd(), 5, 10, "sequence"),
    "rtrl": lambda: RTRL(sgd()),
    "snap (1)": lambda: SnAp(sgd()),
    "eprop": lambda: EProp(sgd()),
    "uoro": lambda: UORO(sgd()),
    "kf_rtrl": lambda: KFRTRL(sgd()),
    "rflo": lambda: RFLO(sgd()),
}
CELLS = {
    "rnn, tanh": ("rnn", {}),
    "rnn, tanh, orthogonal": ("rnn", {"initialisation": "orthogonal"}),
    "rnn, relu, identity": ("rnn", {"initialisation": "identity", "activation": "relu"}),
    "leaky_rnn, leak .2": ("leaky_rnn", {}),
    "gru": ("gru", {}),
    "lstm, forget bias 1": ("lstm", {}),
    "lstm, forget bias 0": ("lstm", {"forget_bias": 0.0}),
}
LENGTHS, WIDTHS, LAGS = (25, 50, 100, 200), (8, 16, 32, 64), (1, 5, 10, 20, 40)


@dataclass
class Figures:
    """Numbers by row and column.

    Attributes:
        title: what was measured.
        columns: names.
        rows: name -> a number for each column, in words where it is none.
        note: how it is read.
    """

    title: str
    columns: Sequence[str]
    rows: Mapping[str, Sequence[float | str]]
    note: str

    def ratios(self) -> dict[str, float]:
        """Return "row, column" -> number."""
        return {
            f"{name}, {column}": round(value, 4)
            for name, values in self.rows.items()
            for column, value in zip(self.columns, values, strict=True)
            if isinstance(value, float)
        }

    def text(self) -> str:
        """Return the table as plain text."""
        lines = [self.title, f"{'':26}" + "".join(f"{column:>13}" for column in self.columns)]
        for name, values in self.rows.items():
            told = (value if isinstance(value, str) else f"{value:.3g}" for value in values)
            lines.append(f"{name:26}" + "".join(f"{one:>13}" for one in told))
        return "\n".join([*lines, self.note])


def run(rounds: int, length: int = 100) -> list[Table | Figures]:
    """Measure; see the module."""
    torch.set_num_threads(1)
    return [
        loops(rounds, length),
        floor(max(1, rounds // 5), length),
        growth("T", LENGTHS, rounds),
        growth("W", WIDTHS, rounds),
        reach(),
        gradient_norms(length),
    ]


def step_of(name: str, *, repeat: int = 1, **sizes: int) -> Callable[[], float]:
    """Return a function that takes steps of a rule on a toy sequence with a target at its end, in float32."""
    problem, batch = toy_sequence("rnn", dtype=torch.float32, **sizes)
    rule = set_up(RULES[name](), problem)

    def go() -> float:
        for _ in range(repeat):
            rule.step(batch)
        return repeat

    return go


def loops(rounds: int, length: int) -> Table:
    """Time a step of `bptt`, of the plain loop over torch's cell, and of torch's own module: 64 units, batch 32."""
    x, y = torch.randn(length, 32, 2), torch.randn(32, 3)

    def trained(module: nn.Module, outputs: Callable[[nn.Module], Tensor]) -> Callable[[], float]:
        readout = nn.Linear(64, 3)
        parameters = [*module.parameters(), *readout.parameters()]
        optimizer = torch.optim.SGD(parameters, lr=1e-3)

        def go() -> float:
            optimizer.zero_grad()
            (0.5 * (readout(outputs(module)) - y).square().mean()).backward()
            optimizer.step()
            return 1

        return go

    def one_by_one(cell: nn.Module) -> Tensor:
        h = x.new_zeros(32, 64)
        for element in x:
            h = cell(element, h)
        return h

    plain = "Python loop over nn.RNNCell"
    ways = {
        plain: trained(nn.RNNCell(2, 64), one_by_one),
        "nn.RNN": trained(nn.RNN(2, 64), lambda module: module(x)[1][0]),
        "algorithm=bptt": step_of("bptt", steps=length, rows=32, width=64),
    }
    title = f"loops: RNN of 64 units, T = {length}, batch 32, SGD; {rounds} rounds"
    return Table(title, plain, "a step", interleave(ways, rounds))


def floor(rounds: int, length: int) -> Figures:
    """Set RTRL's seconds beside its FLOPs at the rate that `bptt` reaches, and beside its products alone."""
    rows, width, warm = 8, 32, 8  # audited steps are slow: 0, 1, 3 and 7, and the next is 15
    jacobian = torch.randn(rows, width, width)
    matrices = [torch.randn(rows, width, size) for size in (width * 2, width * width, width)]

    def products() -> None:
        for _ in range(length):
            for one in matrices:
                torch.bmm(jacobian, one)

    alone = min(_seconds(products) for _ in range(rounds))
    rates, took = {}, {}
    for name, sizes in (("rtrl", (rows, width)), ("bptt", (32, 64))):
        problem, batch = toy_sequence("rnn", steps=length, rows=sizes[0], width=sizes[1], dtype=torch.float32)
        rule = set_up(RULES[name](), problem)
        for _ in range(warm):
            rule.step(batch)
        before = problem.ledger.flops
        times = [_seconds(lambda: rule.step(batch)) for _ in range(min(rounds, warm - 1))]  # noqa: B023
        took[name], flops = min(times), (problem.ledger.flops - before) / len(times)
        rates[name] = flops / took[name]
    figures = [took["rtrl"], rates["bptt"] / rates["rtrl"], took["rtrl"] / alone]
    title = f"floor: RTRL of {width} units, T = {length}, batch {rows}"
    note = "CPU seconds; times what its FLOPs would take at bptt's rate; times what its matrix products take alone"
    return Figures(title, ["s", "x bptt's rate", "x products"], {"rtrl": figures}, note)


def _seconds(work: Callable[[], object]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


def growth(of: str, sizes: Sequence[int], rounds: int, rules: Sequence[str] = tuple(RULES)) -> Figures:
    """Fit how time, FLOPs, state and saved bytes of a step grow: log-log least squares over the sizes."""
    rows = {}
    for name in rules:
        measured = [measure(name, size if of == "T" else 25, size if of == "W" else 16, rounds) for size in sizes]
        fitted = [exponent(sizes, values) for values in zip(*measured, strict=True)]
        rows[name] = [exponent(sizes[-2:], [one[0] for one in measured[-2:]]), *fitted, *measured[-1]]
    columns = ["time, last", "time", "FLOPs", "state", "saved"]
    last = [f"{what} at {sizes[-1]}" for what in ("s", "FLOP", "state B", "saved B")]
    title = f"growth with {of} = {', '.join(map(str, sizes))}: exponents of a step (RNN, batch 8; else T 25, W 16)"
    return Figures(
        title,
        columns + last,
        rows,
        "exponent p of size^p, by CPU time; last: of the last two sizes; state: what a rule carries beside h",
    )


def measure(name: str, steps: int, width: int, rounds: int) -> tuple[float, float, float, float]:
    """Return seconds, FLOPs, bytes carried from time to time, and bytes saved for the way back, of a step."""
    problem, batch = toy_sequence("rnn", steps=steps, rows=8, width=width, dtype=torch.float32)
    rule = set_up(RULES[name](), problem)
    for _ in range(4):  # three of which are audited
        rule.step(batch)
    before, times = problem.ledger.flops, []
    for _ in range(max(1, rounds // 3)):
        times.append(_seconds(lambda: rule.step(batch)))
    flops = (problem.ledger.flops - before) / len(times)
    carried = rule.carried if isinstance(rule, OnlineLearner) else {}
    state = sum(one.numel() * one.element_size() for key, one in carried.items() if key != "state")
    return min(times), flops, float(state), float(problem.ledger.saved_bytes)


def exponent(sizes: Sequence[int], values: Sequence[float]) -> float | str:
    """Return p of the least-squares line of log value over log size; a dash where something is 0.

    >>> round(exponent([1, 2, 4], [3.0, 12.0, 48.0]), 6)
    2.0
    """
    if min(values) <= 0:
        return "-"
    return statistics.linear_regression([math.log(s) for s in sizes], [math.log(v) for v in values]).slope


def reach(cell: str = "gru", length: int = 50, lags: Sequence[int] = LAGS) -> Figures:
    """Return, for each rule, the share of its credit from farther back than a lag, and its cosine with the gradient."""
    rows = {}
    for name in RULES:
        problem, batch = toy_sequence(cell, steps=length, rows=32, width=8)
        whole = cells_part(problem, RULES[name](), batch, 0)
        nearer = [cells_part(problem, RULES[name](), batch, length - lag) for lag in lags]
        shares = [float((whole - one).norm() / whole.norm()) for one in nearer]
        rows[name] = [*shares, cosine(whole, cells_part(problem, BPTT(sgd()), batch, 0))]
    title = f"reach: {cell} of 8 units as drawn, T = {length}, a target at the end"
    note = "share of the direction that is lost when what lies farther back is cut off, for the cell's parameters"
    return Figures(title, [*(f"beyond {lag}" for lag in lags), "cosine"], rows, note)


def cells_part(problem: Problem, rule: Algorithm, batch: Batch, cut: int) -> Tensor:
    """Return the direction for the cell's parameters, flat, where credit stops at time `cut` and the state does not."""
    model = problem.model
    h = model.initial_state(batch.rows).detach()
    if cut:
        h = problem.unroll(batch, h, 0, cut)[-1]
    on = torch.zeros(batch.rows, dtype=torch.bool)
    rest = replace(batch, inputs=batch.inputs[cut:], reset=on)
    set_up(rule, problem)
    if isinstance(rule, OnlineLearner):
        rule.carried = {"state": h, **rule._fresh(batch.rows)}
        found = rule.direction(rest)[1]
    elif isinstance(rule, TruncatedBPTT):
        rule.carried = h
        found = rule.direction(rest)[1]
    else:

        def loss() -> Tensor:
            return problem.output_loss(model.readout(model.unroll(rest.inputs, h)[1]), rest)

        found = problem.gradient(rest, loss=loss)[1]
    return torch.cat([value.flatten() for name, value in found.items() if name.startswith("cell.")])


def gradient_norms(length: int, width: int = 32) -> Figures:
    """Return |dL/dh| at lags, in units of the last time's, for each cell as it is drawn, and the verdict on it."""
    rows = {}
    lags = [lag for lag in (1, 10, 50, length - 1) if lag < length]
    for name, (cell, options) in CELLS.items():
        norms = way_back(cell, length, width, **options)
        rows[name] = [*(norms[lag] for lag in lags), verdict(norms)]
    title = f"gradient norms: |dL/dh| back from a target at T = {length}, {width} units, as drawn"
    note = "verdict: vanishing below 1e-3 of the last within T (horizon: the first such lag), exploding above 1e3"
    return Figures(title, [*(f"lag {lag}" for lag in lags), "verdict"], rows, note)


def way_back(cell: str, length: int, width: int, **options: object) -> list[float]:
    """Return |dL/dh_(T-k)| / |dL/dh_T| for k = 0, 1, ..., T - 1."""
    model = RecurrentModel(
        ModelSpec((2,), 3, sequence=True),
        cell,
        [width],
        generator=generator_for(0, "fates"),
        **options,  # type: ignore[arg-type]
    ).double()
    x = torch.randn(length, 64, 2, generator=generator_for(1, "fates"), dtype=torch.float64)
    h, states = model.initial_state(64), []
    for element in x:
        h = model.cell(element, h).requires_grad_()
        states.append(h)
    loss = model.readout(h).square().mean()
    norms = [float(one.norm()) for one in reversed(torch.autograd.grad(loss, states))]
    return [norm / norms[0] for norm in norms]


def verdict(norms: Sequence[float]) -> str:
    """Say what becomes of a gradient.

    >>> verdict([1.0, 0.1, 1e-4]), verdict([1.0, 2.0]), verdict([1.0, 1e4])
    ('horizon 2', 'kept', 'exploding')
    """
    if max(norms) > 1e3:
        return "exploding"
    gone = next((lag for lag, norm in enumerate(norms) if norm < 1e-3), None)
    return "kept" if gone is None else f"horizon {gone}"
