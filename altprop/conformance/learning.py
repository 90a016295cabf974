"""The rules that need a short training: a learner must learn, and only from its labels."""

from __future__ import annotations

import math
from dataclasses import replace

import torch

from altprop.capabilities import Capability
from altprop.conformance.case import Target, make, suitable_task
from altprop.conformance.rules import NotApplicable, Rule
from altprop.harness.building import Parts
from altprop.harness.feed import Feed

STEPS = 150


def _train(parts: Parts, count: int = STEPS) -> None:
    for position in range(count):
        result = parts.algorithm.step(parts.feed.batch(position))
        parts.problem.progress = min(1.0, (position + 1) / count)
        if result.done:
            break


def _judge(parts: Parts, split: str = "train") -> dict[str, float]:
    rows = parts.data.train if split == "train" else next(iter(parts.data.tests.values()))
    with parts.algorithm.predictor() as predict:
        return parts.task.evaluate(predict, rows, parts.algorithm.kind)


def beats_the_controls(target: Target) -> str | None:
    """After a short training it is better on the training rows than no change and than random directions."""
    if target.control:
        raise NotApplicable("it is a control")
    parts = make(target)
    before = _judge(parts)
    _train(parts)
    after = _judge(parts)
    measure, sign = (parts.task.metric, 1) if parts.algorithm._predictor() is not None else ("loss", -1)
    if measure != "loss":
        sign = 1 if parts.task.higher_is_better else -1
    if measure not in after:
        raise NotApplicable(f"its predictor has no {measure}")
    if not math.isfinite(after[measure]):
        return f"after {STEPS} steps its {measure} is {after[measure]}"
    if not sign * after[measure] > sign * before[measure]:
        return (
            f"after {STEPS} steps its {measure} is {after[measure]:.4g}; without any change it is {before[measure]:.4g}"
        )
    name = suitable_task(target)[0]
    rival = Target("random_direction", ("algorithm=random_direction",), frozenset(), None)
    walk = make(rival, *_same_task(target))
    _train(walk)
    random = _judge(walk)
    if not sign * after[measure] > sign * random[measure]:
        return (
            f"on {name}, {STEPS} random directions reach a {measure} of {random[measure]:.4g}, it {after[measure]:.4g}"
        )
    return None


def _same_task(target: Target) -> list[str]:
    return suitable_task(target)[1]


def learns_nothing_from_shuffled_labels(target: Target) -> str | None:
    """Trained on shuffled labels it is at chance on the test set (within 4 standard deviations)."""
    parts = make(target)
    if Capability.CLASSES not in parts.task.offers or parts.data.train.sequence:
        raise NotApplicable("its smallest task has no class labels")
    train = parts.data.train
    order = torch.randperm(len(train), generator=torch.Generator(device="cpu").manual_seed(1), device="cpu")
    shuffled = replace(train, targets=train.targets[order.to(train.targets.device)])
    parts.feed = Feed(shuffled, parts.task.batch_size, parts.algorithm.batch, 0)
    _train(parts)
    test = next(iter(parts.data.tests.values()))
    metrics = _judge(parts, "test")
    shares = torch.bincount(test.targets.flatten()).double() / len(test)
    chance = float(shares.max())
    bound = chance + 4 * math.sqrt(chance * (1 - chance) / len(test))
    if metrics["accuracy"] > bound:
        return f"trained on shuffled labels it reaches {metrics['accuracy']:.3f} on the test set, above {bound:.3f}"
    return None


LEARNING: dict[str, Rule] = {rule.__name__: rule for rule in (beats_the_controls, learns_nothing_from_shuffled_labels)}
