"""The rules that need a short training: a learner must learn, from its labels, and from nothing else."""

from __future__ import annotations

import math
from functools import cache
from statistics import mean

import torch

from altprop.capabilities import Capability
from altprop.conformance.case import NotApplicable, Target, by_name, make, smallest, steps
from altprop.feed import EpochFeed
from altprop.harness.building import Parts
from altprop.losses import NoLoss

STEPS = 150
WALKS = 8
SHUFFLES = 5
# So that 150 steps are enough: on iris backprop ends at .17, feedback alignment at .48, random walks at 1.05 to 1.31.
FAST = ("optimizer.lr=0.01",)
# In a narrow net with one output a random walk may be lucky: of 8 the best ends at .26, at this width at 1.0.
WIDER = {"adding": ("model.hidden=[32]",)}
RANDOM_DIRECTION = Target("random_direction", ("algorithm=random_direction",), frozenset({Capability.GRADIENT}))


@cache
def _trained(
    target: Target, task: tuple[str, ...], *, count: int = STEPS, shuffled: bool = False, seed: int = 0
) -> dict[str, dict[str, float]]:
    """Train a target; return its metrics on the training rows, as they are, and on the test set."""
    parts = make(target, *task, *FAST, seed=seed)
    if shuffled:
        _shuffle(parts, seed)
    steps(parts, count, horizon=count)
    splits = {"train": parts.data.train, "test": next(iter(parts.data.tests.values()))}
    with parts.algorithm.predictor() as predict:
        return {name: parts.task.evaluate(predict, split, parts.algorithm.kind) for name, split in splits.items()}


def _task(target: Target) -> tuple[str, ...]:
    """Return the smallest task that the target can run, with a model wide enough that luck does not look like it."""
    task = smallest(target)
    return (*task, *WIDER.get(task[0].removeprefix("task="), ()))


def _shuffle(parts: Parts, seed: int) -> None:
    """Feed the training rows with each other's targets."""
    train = parts.data.train
    order = torch.randperm(len(train), generator=torch.Generator(device="cpu").manual_seed(seed + 1), device="cpu")
    parts.feed = EpochFeed(train.with_targets_of(order), parts.task.batch_size, parts.algorithm.batch, seed)


def _measure(target: Target) -> tuple[str, int]:
    """Return the metric that a target is evaluated by, and its sign.

    It is the loss, unless it predicts by its own means or the task has no loss.
    """
    parts = make(target)
    if parts.algorithm._predictor() is None and not isinstance(parts.task.loss, NoLoss):
        return "loss", -1
    return parts.task.metric, 1 if parts.task.higher_is_better else -1


def beats_the_controls(target: Target) -> str | None:
    """After a short training it is better on the training rows than no change and than random directions."""
    if target.control:
        raise NotApplicable("it is a control")
    task = _task(target)
    measure, sign = _measure(target)
    before = _trained(target, task, count=0)["train"]
    after = _trained(target, task)["train"]
    if measure not in after:
        raise NotApplicable(f"its predictor has no {measure}")
    if not math.isfinite(after[measure]):
        return f"after {STEPS} steps its {measure} is {after[measure]}"
    if not sign * after[measure] > sign * before[measure]:
        return (
            f"after {STEPS} steps its {measure} is {after[measure]:.4g}; without any change it is {before[measure]:.4g}"
        )
    walks = [sign * _trained(RANDOM_DIRECTION, task, seed=seed)["train"][measure] for seed in range(WALKS)]
    # A random walk is the best of so many once in a while, but hardly twice as far from their mean.
    bound = sign * (2 * max(walks) - mean(walks))
    if not sign * after[measure] > sign * bound:
        return (
            f"after {STEPS} steps its {measure} is {after[measure]:.4g}, no better than the {bound:.4g} "
            f"that steps in random directions may reach"
        )
    return None


def learns_from_its_labels(target: Target) -> str | None:
    """Trained on the labels as they are it is better on the training rows than trained on shuffled ones."""
    if target.control:
        raise NotApplicable("it is a control")
    task = _task(target)
    parts = make(target)
    if Capability.SUPERVISED not in parts.problem.offers:
        raise NotApplicable("its smallest task has no labels")
    measure, sign = _measure(target)
    true, shuffled = (_trained(target, task, shuffled=s)["train"] for s in (False, True))
    if measure not in true:
        raise NotApplicable(f"its predictor has no {measure}")
    if not sign * true[measure] > sign * shuffled[measure]:
        return (
            f"trained on its labels its {measure} is {true[measure]:.4g}, trained on shuffled ones "
            f"{shuffled[measure]:.4g}: it learns nothing from them"
        )
    return None


def learns_nothing_from_shuffled_labels(target: Target) -> str | None:
    """Trained on shuffled labels it is at chance on the test set, within 4 standard deviations."""
    parts = make(target)
    if Capability.CLASSES not in parts.task.offers or parts.data.train.sequence:
        raise NotApplicable("its smallest task has no class labels")
    test = next(iter(parts.data.tests.values()))
    chance = float((torch.bincount(test.targets.flatten()).double() / len(test)).max())
    bound = chance + 4 * math.sqrt(chance * (1 - chance) / len(test))
    # Rows come in clusters that get one answer, so one shuffle may be lucky; a learner that knows the labels always is.
    for seed in range(SHUFFLES):
        found = _trained(target, smallest(target), shuffled=True, seed=seed)["test"]
        if "accuracy" not in found:
            raise NotApplicable("its predictor has no accuracy")
        if found["accuracy"] <= bound:
            return None
    return f"trained on shuffled labels it reaches {found['accuracy']:.3f} on the test set, above {bound:.3f}"


LEARNING = by_name(beats_the_controls, learns_from_its_labels, learns_nothing_from_shuffled_labels)
