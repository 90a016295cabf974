"""Kronecker-factored real-time recurrent learning: influence as a random product of a vector and a matrix."""

from functools import partial

import torch
from torch import Tensor

from altprop import Batch, Grads, Oracle, Problem
from altprop.algorithms.recurrent.online import OnlineLearner, Trace
from altprop.algorithms.recurrent.rtrl import state_jacobian
from altprop.algorithms.recurrent.traces import charge, refuse_others
from altprop.algorithms.recurrent.unbiased import score
from altprop.testing import relative_error, set_up, sgd, toy_sequence

FLOOR = 1e-7


class KFRTRL(OnlineLearner):
    """Carry, of each row, a vector u over what enters the cell and a matrix A over states and gates: M ~ A (x) u.

    With J_t = dh_t/dh_(t-1), (B, S, S), and the weights W onto G gates of W units that multiply one vector v_t, (B, n),
    dh_t/dW with h_(t-1) held is D_t (x) v_t without approximation, D_t = dh_t/d(W v_t), (B, S, G W). With two signs c
    drawn anew for each row,

        u_t = c0 p0 u_(t-1) + c1 p1 v_t,            A_t = c0 J_t A_(t-1) / p0 + c1 D_t / p1,
        p0 = sqrt(|J_t A_(t-1)| / |u_(t-1)|),       p1 = sqrt(|D_t| / |v_t|),
        dL/dW ~ sum_t (dE_t/dh_t A_t) (x) u_t,

    so that both are equally large. The signs of what is crossed have the mean 0: the direction is the gradient in
    expectation, at B (n + S G W) numbers of memory and 2 B S^2 G W FLOPs a time, the cube of the width. Its variance is
    far below that of `uoro`, which draws a sign for each value of the state. Weights that multiply other vectors, or
    enter another way, have factors and signs of their own: the input's with the bias, the recurrent ones, and those of
    a GRU's inner bias.

    Args:
        optimizer, update_every: see `OnlineLearner`.

    Raises:
        Refused: under noise, and for a cell that does not say what its units do by themselves.

    >>> problem, batch = toy_sequence("gru")
    >>> rule = set_up(KFRTRL(sgd(0.2)), problem)
    >>> losses = [float(rule.step(batch).loss) for _ in range(50)]
    >>> losses[-1] < 0.5 * losses[0]
    True

    Paper: Mujika, Meier and Steger, Approximating real-time recurrent learning with random Kronecker factors, NeurIPS
    2018. They factor [x_t, h_(t-1), 1] as one where the cell allows; here a plain network too has two pairs of factors.
    As for `uoro`, 1e-7 is added to both norms below and to both roots.
    """

    def _prepare(self, problem: Problem) -> None:
        refuse_others(problem, "KF-RTRL")

    def _groups(self) -> dict[str, list[str]]:
        """Return group -> its parameters, which share how they enter and the gates that they enter."""
        found: dict[str, list[str]] = {}
        for name, synapse in self.problem.model.cell.synapses.items():
            found.setdefault(f"{synapse.onto} {synapse.first}", []).append(f"cell.{name}")
        return found

    def _fresh(self, rows: int) -> Trace:
        params, size = self.problem.params, self.problem.model.cell.state_size
        found = {}
        for group, names in self._groups().items():
            entries = sum(params[name].numel() // len(params[name]) for name in names)
            found[f"{group} u"] = params[names[0]].detach().new_zeros(rows, entries)
            found[f"{group} A"] = params[names[0]].detach().new_zeros(rows, size, len(params[names[0]]))
        return found

    def _advance(self, batch: Batch, time: int, h: Tensor, trace: Trace) -> tuple[Tensor, Trace]:
        problem = self.problem
        step = problem.local_step(batch, time, h)
        jacobian = state_jacobian(problem, step.own, step.recurrent)
        after = {}
        for group, names in self._groups().items():
            u, matrix = trace[f"{group} u"], trace[f"{group} A"]
            entering = torch.cat([step.presynaptic[name] for name in names], 1)
            slopes = _matrix(step.slopes[names[0]])
            with problem.ledger.work("influence factors", per="example", examples=len(h)):
                carried = jacobian @ matrix
            charge(problem, {"": carried}, 8)
            signs = problem.random.rademacher(len(h), 2)
            p0 = (_norm(carried) / (_norm(u) + FLOOR)).sqrt() + FLOOR
            p1 = (_norm(slopes) / (_norm(entering) + FLOOR)).sqrt() + FLOOR
            kept, new = signs[:, :1], signs[:, 1:]
            after[f"{group} u"] = kept * p0 * u + new * p1 * entering
            after[f"{group} A"] = (kept / p0)[..., None] * carried + (new / p1)[..., None] * slopes
        if batch.mask is not None:
            valid = batch.mask[time]
            after = {
                n: torch.where(valid.reshape(-1, *[1] * (one.dim() - 1)), one, trace[n]) for n, one in after.items()
            }
        return step.state, after

    def _credit(self, error: Tensor, trace: Trace) -> Grads:
        params, found = self.problem.params, {}
        for group, names in self._groups().items():
            met = (error[:, None] @ trace[f"{group} A"])[:, 0]
            sizes = [params[name].numel() // len(params[name]) for name in names]
            parts = (met.T @ trace[f"{group} u"]).split(sizes, 1)
            found.update({name: part.reshape(params[name].shape) for name, part in zip(names, parts, strict=True)})
        return found

    @classmethod
    def oracles(cls) -> tuple[Oracle, ...]:
        cells = ("rnn", "gru", "lstm")
        mean = [
            Oracle(f"{cell}: abs z of the mean of 8,000 draws against the gradient", partial(_score, cell), 4.0)
            for cell in cells
        ]
        return (
            *mean,
            Oracle("not against the gradient with its sign flipped", partial(_score, "rnn", -1.0), 4.0, differs=True),
            Oracle("not against that of a state cut at each time", partial(_score, "rnn", None), 4.0, differs=True),
            *(
                Oracle(f"{cell}: one draw is the gradient over one time", partial(_error, cell, 1), 1e-12)
                for cell in cells
            ),
            Oracle("not over seven times", partial(_error, "gru", 7), 1e-1, differs=True),
        )


def _matrix(slopes: Tensor) -> Tensor:
    """Return slopes of each unit by itself, (B, s, G, W), as a matrix of states and gates, (B, s W, G W)."""
    rows, values, gates, width = slopes.shape
    return torch.diag_embed(slopes).permute(0, 1, 3, 2, 4).reshape(rows, values * width, gates * width)


def _norm(values: Tensor) -> Tensor:
    """Return the norm of each row's numbers, (B, 1)."""
    return values.flatten(1).square().sum(1, keepdim=True).sqrt()


def _score(cell: str, sign: float | None = 1.0) -> float:
    return score(lambda: KFRTRL(sgd()), cell, sign, copies=200)


def _error(cell: str, steps: int) -> float:
    """Return the distance of one draw from the gradient."""
    problem, batch = toy_sequence(cell, steps=steps)
    return relative_error(set_up(KFRTRL(sgd()), problem).direction(batch)[1], problem.gradient(batch)[1])
