"""A step of 32 stacked seeds against one seed's own step, a seed each: learners, nets and optimizers."""

from collections.abc import Callable
from functools import partial

import torch

from altprop.conformance.case import composed
from altprop.harness.building import Parts, build_parts
from altprop.harness.cell import make_cell
from altprop.harness.stacked_runs import StackedFeed
from altprop.harness.training_run import wait_for
from altprop.stacked_learners import StackedLearners
from benchmarks.timing import Table, interleave

SEEDS, BLOCK = 32, 40
DIGITS = ("task=digits", "task.batch_size=64")
CELLS = {
    "SGD, 64-32-10": (*DIGITS, "model.hidden=[32]", "optimizer=sgd"),
    "Adam, 64-32-10": (*DIGITS, "model.hidden=[32]", "optimizer=adam"),
    "dfa, 64-32-10": (*DIGITS, "model.hidden=[32]", "algorithm=dfa"),
    "evolution strategy, 64-32-10": (*DIGITS, "model.hidden=[32]", "algorithm=evolution_strategy"),
    "Adam, 64-128-128-10": (*DIGITS, "model.hidden=[128,128]", "optimizer=adam"),
    "Adam, CNN": (*DIGITS, "model=cnn", "optimizer=adam"),
    "bptt, GRU on adding": ("task=adding", "model=gru", "algorithm=bptt"),
}


def ways(overrides: tuple[str, ...], seeds: int = SEEDS) -> dict[str, Callable[[], float]]:
    """Return how one seed steps, and how all of them step as one."""
    cell = make_cell(composed(overrides, None), overrides)
    alone = build_parts(cell, seeds)
    parts = [alone, *(build_parts(cell, seed, alone.data) for seed in range(seeds))]
    return {"alone": _alone(alone), "stacked": _stacked(parts[1:])}


def _alone(parts: Parts) -> Callable[[], float]:
    place = 0

    def go() -> float:
        nonlocal place
        for _ in range(BLOCK):
            parts.algorithm.step(parts.feed.batch(place))
            place += 1
        return BLOCK

    return go


def _stacked(parts: list[Parts]) -> Callable[[], float]:
    learners = StackedLearners([one.algorithm for one in parts])
    feed, place = StackedFeed([one.feed for one in parts]), 0

    def go() -> float:
        nonlocal place
        for _ in range(BLOCK):
            single = partial(parts[0].feed.batch, place)
            learners.step(feed(place), single, common_batch=feed.common_batch)
            place += 1
        learners.close()
        wait_for(parts[0].problem.device)
        return BLOCK * len(parts)

    return go


def run(rounds: int) -> list[Table]:
    """Measure; see the module. The heavier cells take a fifth of the rounds, and at least three."""
    torch.set_num_threads(1)
    tables = []
    for name, overrides in CELLS.items():
        found = interleave(ways(overrides), max(3, rounds // 5))
        times = {f"{name}: {way}": values for way, values in found.items()}
        title = f"stacking: {name}, {SEEDS} seeds as one, blocks of {BLOCK} steps"
        tables.append(Table(title, f"{name}: alone", "a step of one seed", times))
    return tables
