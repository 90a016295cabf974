"""The streams of a seed and the draws of one stream: their independence and their moments."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from altprop.randomness import STREAMS, Random, Streams, derive_seed

N = 40_000


def test_parts_of_a_seed_are_kept_apart() -> None:
    assert derive_seed(1, 23) != derive_seed(12, 3)
    assert derive_seed("a", "b") != derive_seed("ab")


def test_the_streams_of_a_seed_are_pairwise_different() -> None:
    streams = Streams(5)
    drawn = [one.normal(4) for one in (streams.initialisation, streams.order, streams.algorithm, streams.evaluation)]
    drawn.append(Random(streams.noise_seed).normal(4))
    assert len({tuple(values.tolist()) for values in drawn}) == len(STREAMS)


# Kind of draw -> (draw, mean, variance), in closed form.
DRAWS: dict[str, tuple[Callable[[Random], Tensor], float, float]] = {
    "normal": (lambda r: r.normal(N), 0.0, 1.0),
    "uniform": (lambda r: r.uniform(N), 0.5, 1 / 12),
    "uniform between": (lambda r: r.uniform(N, low=-3.0, high=1.0), -1.0, 16 / 12),
    "rademacher": (lambda r: r.rademacher(N), 0.0, 1.0),
    "integers": (lambda r: r.integers(2, 7, N).double(), 4.0, 2.0),
    "multinomial": (lambda r: r.multinomial(torch.tensor([1.0, 0.0, 3.0]), N).double(), 1.5, 0.75),
    "permutation": (lambda r: r.permutation(N).double() / N, 0.5, 1 / 12),
}


@pytest.mark.parametrize("kind", DRAWS)
def test_mean_and_variance_are_what_the_name_says(kind: str) -> None:
    draw, mean, variance = DRAWS[kind]
    values = draw(Random(3, dtype=torch.float64)).double()
    assert abs(float(values.mean()) - mean) < 4 * math.sqrt(variance / N) + 1e-4
    assert abs(float(values.var()) / variance - 1) < 0.04  # seen: .007 at most


def test_a_permutation_holds_each_row_once() -> None:
    assert sorted(Random(0).permutation(50).tolist()) == list(range(50))
