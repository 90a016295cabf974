"""The map where it collapses to a known method, its order, its ledger, and what breaks it."""

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from torch import Tensor
from torch.nn import functional

from altprop.algorithms.self_organizing import som as module
from altprop.algorithms.self_organizing.som import SelfOrganizingMap, distances
from altprop.data import Batch
from altprop.errors import AltpropError
from altprop.problem import Problem
from altprop.testing import toy


def learner(inputs: Tensor, **options: object) -> tuple[SelfOrganizingMap, Problem, Batch]:
    """Return a map set up on rows of data with two classes."""
    problem, _ = toy((inputs.shape[1], 4, 2), rows=4)
    som = SelfOrganizingMap(**options)  # type: ignore[arg-type]
    som.setup(problem)
    targets = (inputs[:, 0] > inputs[:, 0].mean()).long()
    return som, problem, Batch(inputs, targets, torch.arange(len(inputs)))


def train(som: SelfOrganizingMap, problem: Problem, batch: Batch, steps: int) -> list[float]:
    """Train over a whole budget; return the topographic errors."""
    errors = []
    for step in range(steps):
        problem.progress = step / steps
        errors.append(som.step(batch).scalars["topographic_error"])
    return errors


def normal(rows: int, columns: int, seed: int) -> Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def uniform(rows: int, columns: int, seed: int) -> Tensor:
    return torch.rand(rows, columns, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("iterations", [1, 2, 5, 20])
def test_radius_zero_is_kmeans_exactly(iterations: int) -> None:
    x = normal(300, 4, 0)
    som, problem, batch = learner(x, rows=2, columns=3, radius=0.0, radius_end=0.0)
    som.codebook, som.counts = x[:6].clone(), torch.zeros(6, 2, dtype=x.dtype)
    train(som, problem, batch, iterations)
    kmeans = KMeans(6, init=x[:6].numpy(), n_init=1, max_iter=iterations, tol=0.0, algorithm="lloyd").fit(x.numpy())
    assert som.codebook is not None
    np.testing.assert_allclose(som.codebook.numpy(), kmeans.cluster_centers_, atol=1e-12)  # observed 2e-15


def test_a_positive_radius_is_not_kmeans() -> None:
    x = normal(300, 4, 0)
    som, problem, batch = learner(x, rows=2, columns=3, radius=1.0, radius_end=1.0)
    som.codebook, som.counts = x[:6].clone(), torch.zeros(6, 2, dtype=x.dtype)
    train(som, problem, batch, 5)
    kmeans = KMeans(6, init=x[:6].numpy(), n_init=1, max_iter=5, tol=0.0, algorithm="lloyd").fit(x.numpy())
    assert np.abs(som.codebook.numpy() - kmeans.cluster_centers_).max() > 0.1  # type: ignore[union-attr]


@pytest.mark.parametrize("mode", ["batch", "online"])
def test_a_chain_on_a_line_comes_out_in_order(mode: str) -> None:
    ordered = 0
    for seed in range(20):
        x = uniform(100, 1, seed)
        som, problem, batch = learner(x, rows=1, columns=8, mode=mode)
        train(som, problem, batch, 40 if mode == "batch" else 20)
        assert som.codebook is not None
        gaps = som.codebook[:, 0].diff()
        ordered += bool((gaps > 0).all() or (gaps < 0).all())
    assert ordered == 20


def test_a_square_is_mapped_without_tears_and_a_random_map_is_torn() -> None:
    x = uniform(600, 2, 1)
    som, problem, batch = learner(x, rows=6, columns=6, radius_end=1.0)
    errors = train(som, problem, batch, 60)
    assert errors[0] > 0.5  # observed .87: the start is a random map
    assert errors[-1] <= 0.02  # observed 0


def test_the_online_rule_follows_its_equation() -> None:
    x = normal(3, 2, 4)
    codebook, h = normal(4, 2, 5), torch.rand(4, 4, dtype=torch.float64)
    expected = codebook.numpy().copy()
    for row in x.numpy():
        c = np.argmin(((expected - row) ** 2).sum(1))
        for k in range(4):
            expected[k] += 0.3 * float(h[c, k]) * (row - expected[k])
    np.testing.assert_allclose(module.online_update(codebook, x, h, 0.3).numpy(), expected, atol=1e-14)


def test_the_neighbourhood_is_a_gaussian_of_the_grid_distance() -> None:
    som, _, _ = learner(normal(10, 2, 0), rows=2, columns=3)
    place = [(i // 3, i % 3) for i in range(6)]
    for radius in (0.7, 1.5, 3.0):
        expected = [[np.exp(-((a - c) ** 2 + (b - d) ** 2) / (2 * radius**2)) for c, d in place] for a, b in place]
        np.testing.assert_allclose(som.neighbourhood(radius).numpy(), expected, atol=1e-15)
    assert torch.equal(som.neighbourhood(0.0), torch.eye(6, dtype=torch.float64))


@pytest.mark.parametrize("mode", ["batch", "online"])
@pytest.mark.parametrize("progress", [0.0, 0.25, 1.0])
def test_radius_and_rate_follow_the_budget(mode: str, progress: float) -> None:
    """They fall on the line from start to end over the share of the budget, whatever the number of steps."""
    x = normal(30, 2, 3)
    options = {"radius": 2.0, "radius_end": 0.5, "rate": 0.4, "rate_end": 0.1}
    som, problem, batch = learner(x, rows=2, columns=3, mode=mode, **options)
    start = x[:6].clone()
    som.codebook, som.counts = start, torch.zeros(6, 2, dtype=x.dtype)
    problem.progress = progress
    som.step(batch)
    h = som.neighbourhood(2.0 - 1.5 * progress)
    if mode == "batch":
        won = functional.one_hot(distances(x, start).argmin(1), 6).to(x.dtype)
        expected = module.batch_update(start, x, won, h)
    else:
        expected = module.online_update(start, x, h, 0.4 - 0.3 * progress)
    assert som.codebook is not None
    torch.testing.assert_close(som.codebook, expected, atol=1e-14, rtol=0)


def test_the_online_rule_forgets_labels() -> None:
    x = normal(30, 2, 3)
    som, _, batch = learner(x, rows=2, columns=2, mode="online", forget=0.25)
    som.codebook, som.counts = x[:4].clone(), torch.full((4, 2), 8.0, dtype=x.dtype)
    labels = functional.one_hot(batch.targets, 2).to(x.dtype)
    won = functional.one_hot(distances(x, som.codebook).argmin(1), 4).to(x.dtype)
    som.step(batch)
    torch.testing.assert_close(som.counts, 6.0 + won.T @ labels)


def test_a_unit_that_won_no_row_names_none() -> None:
    som, _, batch = learner(normal(10, 2, 0), rows=1, columns=2)
    near, far = batch.inputs[:1], batch.inputs[:1] + 10
    som.codebook, som.counts = torch.cat([near, far]), torch.tensor([[0.0, 0.0], [0.0, 3.0]], dtype=near.dtype)
    with som.predictor() as predict:
        assert predict(near).exp().tolist() == [pytest.approx([0.5 / 4, 3.5 / 4])]


@pytest.mark.parametrize(("runner_up", "torn"), [((1, 0), 0.0), ((1, 1), 0.0), ((0, 2), 1.0), ((2, 1), 1.0)])
def test_a_tear_is_a_runner_up_that_is_no_neighbour(runner_up: tuple[int, int], torn: float) -> None:
    """The 8 units around a unit are its neighbours."""
    som, _, batch = learner(normal(1, 2, 0), rows=3, columns=3, radius=0.0, radius_end=0.0)
    som.codebook, som.counts = batch.inputs + 10 + torch.zeros(9, 2).double(), torch.zeros(9, 2).double()
    som.codebook[0], som.codebook[3 * runner_up[0] + runner_up[1]] = batch.inputs[0], batch.inputs[0] + 1
    assert som.step(batch).scalars["topographic_error"] == torn


def test_it_starts_from_rows_of_the_data_each_once() -> None:
    x = 100 * normal(12, 2, 6)
    codebook = module.initial_codebook(x, 9, toy()[0].random)
    nearest = distances(x, codebook).min(0)
    assert nearest.indices.unique().numel() == 9
    assert float(nearest.values.max().sqrt()) < 0.01 * float(x.std())


def test_distances_are_distances() -> None:
    x, w = normal(5, 3, 0), normal(4, 3, 1)
    expected = (x[:, None] - w[None]).square().sum(2)
    torch.testing.assert_close(distances(x, w), expected, atol=1e-12, rtol=0)


def test_units_are_named_by_training_labels_alone() -> None:
    x = normal(200, 2, 2)
    som, problem, batch = learner(x, rows=3, columns=3)
    train(som, problem, batch, 10)
    with som.predictor() as predict:
        right = (predict(x).argmax(1) == batch.targets).double().mean()
        again = predict(x)
    assert right > 0.85  # observed .95
    assert som.counts is not None
    assert float(som.counts.sum()) == len(x)
    flipped, other, wrong = learner(x, rows=3, columns=3)
    wrong = Batch(x, 1 - batch.targets, batch.index)
    train(flipped, other, wrong, 10)
    with flipped.predictor() as predict:
        torch.testing.assert_close(predict(x), again.flip(1))


def test_before_its_first_step_it_knows_nothing() -> None:
    som, _, batch = learner(normal(10, 2, 0))
    with som.predictor() as predict:
        assert predict(batch.inputs).abs().max() == 0


def test_its_flops_are_those_of_its_products() -> None:
    x = normal(50, 4, 0)
    som, problem, batch = learner(x, rows=2, columns=3)
    train(som, problem, batch, 3)
    b, k, d, c = 50, 6, 4, 2
    # distances, label counts, sums of won rows, and their spread over the neighbourhood with its weights.
    assert problem.ledger.flops == 3 * (2 * b * k * d + 2 * b * k * c + 2 * b * k * d + 2 * k * k * d + 2 * k * k)
    assert problem.ledger.forwards == problem.ledger.backwards == 0


def test_the_online_rule_pays_for_its_search_and_its_update() -> None:
    x = normal(50, 4, 0)
    som, problem, batch = learner(x, rows=2, columns=3, mode="online")
    train(som, problem, batch, 3)
    b, k, d, c = 50, 6, 4, 2
    # distances of the errors that it tells, label counts; and for each row a search and a move of the whole map.
    assert problem.ledger.flops == 3 * (2 * b * k * d + 2 * b * k * c + 2 * b * k * d + 2 * b * k * d)


@pytest.mark.parametrize("options", [{"rows": 0}, {"mode": "both"}, {"radius": -1.0}, {"rate": 2.0}])
def test_unusable_values_are_told(options: dict[str, object]) -> None:
    with pytest.raises(AltpropError, match="algorithm"):
        SelfOrganizingMap(**options)  # type: ignore[arg-type]
