"""What every task must hold: its yaml, its splits, its losses and how it evaluates."""

import math
import random
import sys

import numpy as np
import pytest
import torch

from altprop import catalogue
from altprop.capabilities import Capability, PredictorKind
from altprop.errors import AltpropError, Refused

POINTS = {"quadratic", "rosenbrock", "classical", "multimodal"}
LANGUAGE = {"char_lm", "nettalk", "nettalk_sequence"}


def test_the_yaml_says_what_the_class_is(shipped, name) -> None:
    config, kind = shipped.configuration(name), shipped.kind(name)
    text = (shipped.conf / "task" / f"{name}.yaml").read_text()
    assert text.startswith("# ")
    assert text.splitlines()[1] == "defaults:"
    assert config["name"] == name
    assert catalogue.task_offers(config) - {Capability.LEAST_SQUARES} == kind.offers  # read without importing it
    assert config["loss"] in (*kind.losses[:1], None)
    assert config["data_seed"] == 0
    assert config["budget"]["amount"] > 0


def test_an_unknown_option_is_refused(shipped, name) -> None:
    with pytest.raises(AltpropError, match="no_such_option"):
        shipped.make(name, no_such_option=1)


@pytest.mark.parametrize(
    ("option", "value"),
    [("batch_size", v) for v in (0, -1, 1.5, "all", None)]
    + [("validation", v) for v in (0, 1, 1.5, -0.1, "some", None)]
    + [("loss", "cubic")],
)
def test_an_unusable_value_is_refused(shipped, name, option, value) -> None:
    with pytest.raises(AltpropError, match=f"task.{option}"):
        shipped.make(name, **{option: value})


@pytest.mark.parametrize("batch_size", ["full", 64, 1])
def test_batch_regimes_are_accepted(shipped, name, batch_size) -> None:
    assert shipped.make(name, batch_size=batch_size).batch_size == batch_size


def test_data_fit_the_declared_shapes(shipped, name) -> None:
    task = shipped.make(name)
    data, spec = shipped.data(task), task.spec
    for split in (data.train, data.validation, *data.tests.values()):
        n = len(split)
        assert n > 0
        assert split.sequence == spec.sequence
        assert split.inputs.shape[1 if spec.sequence else 0] == n
        assert tuple(split.inputs.shape[2 if spec.sequence else 1 :]) == spec.input_shape
        assert split.inputs.isfinite().all()
        if split.targets.dtype == torch.int64:
            assert split.targets.shape == ((len(split.inputs), n) if spec.per_step else (n,))
            classes = set(split.targets.flatten().tolist())
            # Rare letters and sounds are not in every part of a text.
            assert classes <= set(range(spec.outputs)) if name in LANGUAGE else classes == set(range(spec.outputs))
        elif name not in POINTS:
            assert split.targets.shape == (n, spec.outputs)
            assert split.targets.isfinite().all()
    assert next(iter(data.tests)) == "test"
    assert len(data.sha256) == 64
    assert data.source
    assert len(data.digest) == 64
    assert data.files is not None, "its data would be loaded by every command"


def test_the_hold_out_takes_its_share_and_keeps_proportions(shipped, name) -> None:
    task = shipped.make(name)
    data, source = shipped.data(task), task._load()
    if source.in_sample:
        assert data.validation is source.train
        assert data.train is source.train
        return
    held, kept = data.validation.rows.tolist(), data.train.rows.tolist()
    assert sorted(held + kept) == sorted(source.train.rows.tolist())
    assert not set(held) & set(kept)
    assert len(held) == pytest.approx(0.2 * len(source.train), abs=0.5 * task.spec.outputs)
    if source.stratify is not None:
        for label, count in zip(*source.stratify.unique(return_counts=True), strict=True):
            assert int((data.validation.targets == label).sum()) == round(0.2 * int(count))
    if source.ordered:
        assert max(kept) < min(held)


def test_no_test_row_is_trained_on(shipped, name) -> None:
    task = shipped.make(name)
    data, source = shipped.data(task), task._load()
    if source.in_sample:
        assert data.tests["test"] is source.train
        return
    dim = 1 if task.spec.sequence else 0

    def contents(split):
        return {hash(row.numpy().tobytes()) for row in split.inputs.unbind(dim)}

    seen = contents(source.train)
    for test in data.tests.values():
        both = len(seen & contents(test))
        # Words are split, and endings such as "ation" are windows of many.
        assert both <= {"fashion_mnist": 10, "iris": 1, "nettalk": 0.25 * len(seen)}.get(name, 0)


def test_without_a_hold_out_all_rows_train(shipped, name) -> None:
    task = shipped.make(name, validation="none")
    data = shipped.data(task)
    assert data.validation is None
    assert len(data.train) == len(task._load().train)


def test_data_are_loaded_once_and_are_the_same_again(shipped, name) -> None:
    task, again = shipped.make(name), shipped.make(name)
    data = shipped.data(task)
    assert task._load() is (task if name in POINTS else again)._load()
    other = again.data()
    assert data.train.digest() == other.train.digest()
    assert data.split_digest() == other.split_digest()
    assert data.sha256 == other.sha256


def test_the_data_seed_moves_the_hold_out_and_nothing_else(shipped, name) -> None:
    first, second = (shipped.make(name, data_seed=seed) for seed in (0, 1))
    a, b = shipped.data(first), shipped.data(second)
    source = first._load()
    if source.in_sample or source.ordered:
        assert a.split_digest() == b.split_digest()
        assert a.train.digest() == b.train.digest()
    else:
        assert a.train.rows.tolist() != b.train.rows.tolist()
        assert len(a.train) == len(b.train)
    if "generated" in source.description:
        assert a.sha256 != b.sha256
    else:
        assert a.sha256 == b.sha256
        assert {k: v.digest() for k, v in a.tests.items()} == {k: v.digest() for k, v in b.tests.items()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_each_loss_evaluates_a_perfect_fit_and_a_poor_one(shipped, name, dtype) -> None:
    for loss in shipped.kind(name).losses:
        task = shipped.make(name, **({} if name in POINTS else {"loss": loss}))
        data = shipped.data(task).to(torch.device("cpu"), dtype)
        split = data.tests["test"]
        assert split.inputs.dtype == dtype
        perfect = shipped.best_outputs(task, split.targets).to(dtype)
        for kind in (PredictorKind.OUTPUT, PredictorKind.POINT):
            good = task.evaluate(lambda x, y=perfect, **_: y, split, kind)
            bad = task.evaluate(lambda x, y=perfect, **_: 1.7 - 2 * y, split, kind)
            assert set(good) >= {"loss", task.metric}
            assert good[task.metric] == (1.0 if task.higher_is_better else pytest.approx(0.0, abs=1e-12))
            assert bad[task.metric] < good[task.metric] if task.higher_is_better else bad[task.metric] > 0.01
            assert bad["loss"] > good["loss"]
        with pytest.raises(AltpropError, match="cannot evaluate a predictor of kind policy"):
            task.evaluate(lambda x: x, split, PredictorKind.POLICY)


def test_loss_gradient_and_curvature_are_those_of_the_loss(shipped, name) -> None:
    for loss in shipped.kind(name).losses:
        task = shipped.make(name, **({} if name in POINTS else {"loss": loss}))
        train = shipped.data(task).train
        targets = train.batch(torch.arange(min(3, len(train)))).targets
        targets = targets.to(torch.float64 if name not in POINTS else None)
        if task._load().train.targets.dtype == torch.int64:
            targets = targets.long()
        generator = torch.Generator().manual_seed(3)
        elements = targets.shape if targets.dtype == torch.int64 else targets.shape[:-1]
        draw = [torch.randn(*elements, task.spec.outputs, generator=generator, dtype=torch.float64) for _ in range(2)]
        outputs, vector = draw[0].requires_grad_(), draw[1]
        value = task.loss.per_element(outputs, targets)
        assert value.shape == elements
        (slope,) = torch.autograd.grad(value.sum(), outputs, create_graph=True)
        (curved,) = torch.autograd.grad((slope * vector).sum(), outputs)
        torch.testing.assert_close(task.loss.gradient(outputs, targets), slope, rtol=1e-12, atol=1e-12)
        if loss == "huber":  # its curvature depends on the targets, and the product is not given them
            with pytest.raises(Refused, match="depends on its targets"):
                task.loss.curvature_product(outputs, vector)
            continue
        torch.testing.assert_close(task.loss.curvature_product(outputs, vector), curved, rtol=1e-12, atol=1e-12)


def test_figures_lie_between_chance_and_the_best(shipped, name) -> None:
    task = shipped.make(name)
    figures, sign = task.reference, 1 if task.higher_is_better else -1
    assert figures.chance is not None
    targets = [sign * value for value in figures.targets.values()]
    assert list(figures.targets)[:3] == ["50%", "90%", "99%"]
    assert targets == sorted(targets)
    assert sign * figures.chance < targets[0]
    best = figures.oracle if figures.oracle is not None else (1.0 if task.higher_is_better else 0.0)
    assert all(value <= sign * best for value in targets)
    assert all(math.isfinite(v) and sign * v <= sign * best for v in figures.baselines.values())
    half, ninety, almost = (abs(v - sign * figures.chance) for v in targets[:3])
    reference = half / 0.5
    assert (ninety, almost) == pytest.approx((0.9 * reference, 0.99 * reference), rel=2e-3)


def test_loading_leaves_global_random_state_alone(shipped, name) -> None:
    task = shipped.make(name)
    shipped.data(task)  # skips where the data are not here
    for module in {kind.__module__ for kind in type(task).__mro__ if kind.__module__.startswith("altprop.tasks.")}:
        source = getattr(sys.modules[module], "_source", None)
        if source is not None:
            source.cache_clear()
    # Moved by hand: a loader that seeds would otherwise end where the first load ended.
    random.random(), np.random.rand(), torch.rand(1)  # noqa: NPY002
    before = global_states()
    task.data()
    assert global_states() == before


def global_states():
    # numpy's legacy state is what must not move
    numpy_state = np.random.get_state()[1].tolist()  # noqa: NPY002
    return random.getstate(), numpy_state, torch.get_rng_state().tolist()
