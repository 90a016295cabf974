"""Turn a cell and a seed into live parts: data, model, noise, problem, algorithm."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from altprop import catalogue
from altprop.algorithm import Algorithm
from altprop.capabilities import DERIVATIVES, MODEL_OFFERS, Capability, evaluated_as, kind_refusal, together
from altprop.data import Batch, Feed, ModelSpec, Split, TaskData
from altprop.errors import AltpropError, NoiseLeftOut, Refused
from altprop.feed import EpochFeed
from altprop.flops import count_flops
from altprop.harness.cell import Cell
from altprop.ledger import Ledger
from altprop.losses import NoLoss
from altprop.models.base import LayeredModel
from altprop.models.custom import adopt
from altprop.noise import Noise, NoiseClock
from altprop.optim import OptimizerFactory
from altprop.problem import Problem
from altprop.randomness import Streams, derive_seed, generator_for
from altprop.ranks import Ranks
from altprop.resolve import build, resolve_class
from altprop.task import Task


@dataclass
class Parts:
    """A run before its first step.

    Attributes:
        task, data, model, problem, algorithm, feed: as the names say.
        probe_batch: frozen rows of the training split, the same for all learners and seeds.
        identity: hashes of data, split, initial weights and batch order.
        evaluation_seed: of what evaluations draw: samples, episodes.
    """

    task: Task
    data: TaskData
    model: nn.Module
    problem: Problem
    algorithm: Algorithm
    feed: Feed
    probe_batch: Batch
    identity: dict[str, str]
    evaluation_seed: int


def build_parts(cell: Cell, seed: int, data: TaskData | None = None) -> Parts:
    """Build all parts of one run.

    Args:
        cell, seed: what to run.
        data: of another seed of the cell, which are the same.

    Raises:
        AltpropError: for an unusable value.
        Refused: where the algorithm cannot run the problem.
    """
    settings = cell.settings
    device = torch.device(settings.device_type)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise AltpropError("trainer=gpu needs a CUDA device and torch sees none; use trainer=cpu")
    dtype = torch.float64 if settings.dtype == "float64" else torch.float32
    streams = Streams(seed, device, dtype)
    task = build(cell.config["task"], Task, "task")  # type: ignore[type-abstract]
    data = _overfit(_data(task, cell), cell).to(device, dtype) if data is None else data
    noise = _noise(cell.config["dropout"])
    model = _model(cell.config["model"], task.spec, noise, streams.initialisation.generator).to(
        device=device, dtype=dtype
    )
    model.train()
    if cell.config["model"].get("initialisation") == "lsuv" and isinstance(model, LayeredModel):
        model.scale_outputs(data.train.inputs[: settings.probe_rows])
    problem = _problem(cell, task, data, model, streams)
    algorithm = _algorithm(cell.config["algorithm"])
    _refuse_unless_evaluated(cell, algorithm, task)
    initial = _digest(model)
    algorithm.setup(problem)
    if algorithm.own_model:
        _refuse_what_reaches_no_model(cell.axes["algorithm"], problem)
    feed = feed_of(task, algorithm, data.train, seed, problem.ranks)
    rows = _probe_rows(data.train, settings.probe_rows, task.data_seed).to(device)
    return Parts(
        task,
        data,
        model,
        problem,
        algorithm,
        feed,
        data.train.batch(rows),
        {
            "data": data.sha256,
            "split": data.split_digest(),
            "initial_weights": initial,
            "batch_order": feed.digest(),
        },
        streams.evaluation.seed,
    )


def _problem(cell: Cell, task: Task, data: TaskData, model: nn.Module, streams: Streams) -> Problem:
    """Return what a learner is bound to: model and objective, with a ledger that knows what a forward costs."""
    first = data.train.batch(torch.zeros(1, dtype=torch.int64, device=data.train.inputs.device))
    ledger = Ledger(len(getattr(model, "blocks", ())))
    ledger.measure_forward = partial(_forward_flops, model, first)
    ledger.forward_flops = ledger.measure_forward()
    whole = data.train.whole()
    ledger.epoch_samples = max(1, whole.samples)
    problem = Problem(
        model,
        task.loss,
        task.spec,
        ledger,
        streams.algorithm,
        NoiseClock(streams.noise_seed),
        _offers(task, model),
        (cell.axes["task"], cell.axes["model"]),
        len(data.train),
    )
    problem.player_loss = task._player_loss
    problem.descriptor, problem.describe = task.descriptor, task._describe
    problem.uncounted.charge(task.penalty)
    if Capability.ENVIRONMENT in task.offers:
        problem.attach(task._environment())
    problem.ranks = Ranks(cell.settings.rank, cell.settings.ranks)
    if problem.ranks.size > 1 and not task.loss.is_mean:
        raise Refused(f"processes average means, and the loss {task.loss.name} reduces otherwise; use trainer=cpu")
    return problem


def _probe_rows(split: Split, count: int, seed: int) -> Tensor:
    """Return at most `count` rows of a split, drawn from a stream of their own; of one target a row, evenly over it.

    Args:
        split: with N examples.
        count: of the rows.
        seed: of the data, so that they are the same for all learners and seeds.
    """
    order = torch.randperm(len(split), generator=generator_for(seed, "probe rows"), device="cpu")
    targets = split.targets.cpu()
    if targets.numel() == len(split) == len(targets):
        order = order[targets.flatten()[order].argsort(stable=True)]
    kept = min(count, len(split))
    places = (torch.arange(kept, device="cpu") + 0.5) * (len(split) / max(kept, 1))
    return order[places.long()].sort().values


def _model(config: Mapping[str, Any], spec: ModelSpec, noise: Noise | None, generator: torch.Generator) -> nn.Module:
    """Build the model; one that takes no noise or no generator is not given any.

    What a class draws from torch's global generator, as torch's own layers do, comes from the same stream. A class that
    says nothing of what it offers is the user's: see `altprop.models.custom`.

    Raises:
        Refused: for a noise that the model does not take, or takes and leaves out.
        AltpropError: for a model without parameters.
    """
    known = inspect.signature(resolve_class(config.get("_target_"), nn.Module)).parameters
    takes_all = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in known.values())
    name = str(config.get("name", "custom"))
    name = str(config.get("_target_")).rpartition(".")[2] if name == "custom" else name
    offered = {"spec": spec, "noise": noise, "generator": generator}
    given = {option: value for option, value in offered.items() if takes_all or option in known}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(generator.initial_seed(), "global"))
        model = build(config, nn.Module, "model", **given)
    if next(model.parameters(), None) is None:
        raise AltpropError(f"model {name} has no parameters, so there is nothing to train; choose another model")
    if not hasattr(model, "offers"):
        model = adopt(model, spec, noise, name)
    if noise is not None and getattr(model, "noise", None) is not noise:
        if "noise" in given:
            raise NoiseLeftOut(f"model {name} takes a noise and does not keep it as `noise`; use dropout=none")
        raise Refused(f"model {name} takes no noise: its constructor has no argument `noise`; use dropout=none")
    return model


def _data(task: Task, cell: Cell) -> TaskData:
    """Load the data, which must be those that the cell's key names."""
    data = task.data()
    if cell.data not in (None, data.digest):
        raise AltpropError(
            f"task {cell.axes['task']} did not load the same data twice: they were changed just now, run it again; "
            "or the task draws them anew each time and must draw from data_seed"
        )
    return data


def _offers(task: Task, model: nn.Module) -> set[Capability]:
    """Return what a task and a model offer together."""
    offers = set(together(task.offers, getattr(model, "offers", MODEL_OFFERS)))
    if task.loss.least_squares:
        offers.add(Capability.LEAST_SQUARES)
    if isinstance(task.loss, NoLoss):
        offers -= DERIVATIVES
    return offers


def _refuse_what_reaches_no_model(name: str, problem: Problem) -> None:
    """Refuse what acts on the task's model where the learner trains another: it would stand in the label alone."""
    if problem.uncounted.task_penalty is not None:
        raise Refused(f"{name} trains a model of its own, which no penalty reaches; leave task.penalty out")
    if problem.uncounted.noise is not None:
        raise Refused(f"{name} trains a model of its own, which no noise reaches; use dropout=none")


def _refuse_unless_evaluated(cell: Cell, algorithm: Algorithm, task: Task) -> None:
    """Refuse an algorithm that learns what the task cannot evaluate."""
    if evaluated_as(algorithm.kind, task.kinds) is None:
        hint = catalogue.suggest(algorithm.requires, kind=algorithm.kind)
        raise Refused(kind_refusal(cell.axes["algorithm"], algorithm.kind, cell.axes["task"], task.kinds, hint))


def _overfit(data: TaskData, cell: Cell) -> TaskData:
    """Train on a few rows and evaluate on the same ones, under debug=overfit."""
    rows = cell.config["trainer"].get("overfit_rows")
    if not rows:
        return data
    few = data.train.take(torch.arange(min(int(rows), len(data.train))))
    return replace(data, train=few, validation=few, tests=dict.fromkeys(data.tests, few))


def feed_of(task: Task, algorithm: Algorithm, train: Split, seed: int, ranks: Ranks | None = None) -> Feed:
    """Return what a run is fed: the plan of every task, as the task has it, as the algorithm wraps it."""
    plan = EpochFeed(train, task.batch_size, algorithm.batch, seed, ranks)
    return algorithm._wrap_feed(task._feed(plan))


def _noise(config: Mapping[str, Any]) -> Noise | None:
    if config.get("_target_") is None:
        return None
    return build(config, Noise, "dropout")  # type: ignore[type-abstract]


def _algorithm(config: Mapping[str, Any]) -> Algorithm:
    """Build the algorithm, its optimizer factory first."""
    given = dict(config)
    if "optimizer" in given:
        given["optimizer"] = build(given["optimizer"], OptimizerFactory, "optimizer")
    return build(given, Algorithm, "algorithm")  # type: ignore[type-abstract]


def _forward_flops(model: nn.Module, one: Batch) -> float:
    training = model.training
    model.eval()
    kwargs = {} if one.mask is None else {"mask": one.mask}
    with torch.no_grad():
        flops = float(count_flops(lambda: model(one.inputs, **kwargs)))
    model.train(training)
    return flops


def _digest(model: nn.Module) -> str:
    """Hash the initial weights; those of a noise are its own, and differ from cell to cell on purpose."""
    state = hashlib.sha256()
    for name, value in model.state_dict().items():
        if name.startswith("noise."):
            continue
        state.update(name.encode())
        state.update(value.detach().cpu().contiguous().numpy().tobytes())
    return state.hexdigest()
