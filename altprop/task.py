"""The contract of a task: data, split, loss, metrics and how a predictor is evaluated."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, final

import torch
from torch import Tensor, nn

from altprop.capabilities import OUTPUT_KINDS, Capability, PredictorKind, evaluated_as
from altprop.checks import check_batch_size, check_targets, check_validation, check_whole
from altprop.errors import AltpropError
from altprop.losses import LOSSES, Loss, NoLoss, make_loss
from altprop.randomness import Random, derive_seed, generator_for

if TYPE_CHECKING:
    from altprop.environment import Environment

# inputs -> outputs; for sequences of unequal length it takes `mask=` too.
Predictor = Callable[..., Tensor]


def per_step(targets: Tensor) -> bool:
    """Tell (T, B) classes and (T, B, C) values from (B,) classes and (B, C) values."""
    return targets.dim() == (3 if targets.is_floating_point() else 2)


@dataclass(frozen=True)
class Batch:
    """What a step is fed.

    Attributes:
        inputs: (B, ...), or (T, B, F) for sequences.
        targets: (B,) classes, (B, C) values, (T, B, C) or (T, B) for sequences.
        index: (B,) rows of the training split.
        mask: (T, B) bool, which elements are valid; None where all are.
        reset: (B,) bool, rows whose carried state starts anew; None where all do.
        labelled: (B,) bool, rows whose target may be used; None where all may.
        context: name of the context where the task reveals it.
        last: whether this is the last batch of its context.
    """

    inputs: Tensor
    targets: Tensor
    index: Tensor
    mask: Tensor | None = None
    reset: Tensor | None = None
    labelled: Tensor | None = None
    context: str | None = None
    last: bool = False

    @property
    def rows(self) -> int:
        """How many examples the batch holds, B: what a forward pass is charged for."""
        return self.index.shape[0]

    @property
    def per_step(self) -> bool:
        """Whether a sequence has a target at each time step."""
        return per_step(self.targets)

    @property
    def weights(self) -> Tensor | None:
        """The targets that count, (T, B) or (B,) bool, or None where all do."""
        if self.mask is None and self.labelled is None:
            return None
        mask = self.mask if self.per_step else None
        if self.labelled is None:
            return mask
        return self.labelled if mask is None else mask & self.labelled

    @property
    def samples(self) -> int:
        """How many targets the batch holds: rows, or rows x time."""
        weights = self.weights
        if weights is not None:
            return int(weights.expand(self.targets.shape[: 2 if self.per_step else 1]).sum())
        return int(self.targets.shape[0] * self.targets.shape[1]) if self.per_step else int(self.index.shape[0])


@dataclass(frozen=True)
class Split:
    """Rows of data on one device.

    Attributes:
        inputs: (N, ...), or (T, N, F) for sequences.
        targets: as in `Batch`.
        mask: (T, N) bool for sequences of unequal length, or None.
        rows: (N,) int64, the rows of the source that stand here.
        sequence: whether the second dimension counts the rows.
        labelled: (N,) bool, rows whose target may be used; None where all may. The others have a target too, of any
            admissible value, which counts neither in the objective nor in an evaluation.
    """

    inputs: Tensor
    targets: Tensor
    rows: Tensor
    mask: Tensor | None = None
    sequence: bool = False
    labelled: Tensor | None = None

    def __len__(self) -> int:
        return int(self.rows.shape[0])

    def batch(self, index: Tensor) -> Batch:
        """Return the rows of `index` (B,) as a batch."""
        labelled = None if self.labelled is None else self.labelled.index_select(0, index)
        if not self.sequence:
            inputs, targets = self.inputs.index_select(0, index), self.targets.index_select(0, index)
            return Batch(inputs, targets, index, labelled=labelled)
        mask = None if self.mask is None else self.mask.index_select(1, index)
        reset = torch.ones(index.shape[0], dtype=torch.bool, device=index.device)
        targets = self.targets.index_select(1 if per_step(self.targets) else 0, index)
        return Batch(self.inputs.index_select(1, index), targets, index, mask, reset, labelled)

    def take(self, index: Tensor) -> Split:
        """Return the rows of `index` (B,) as a split of their own."""
        index = index.to(self.rows.device)
        batch = self.batch(index)
        return replace(
            self,
            inputs=batch.inputs,
            targets=batch.targets,
            rows=self.rows.index_select(0, index),
            mask=batch.mask,
            labelled=batch.labelled,
        )

    def whole(self) -> Batch:
        """Return all rows as one batch."""
        return self.batch(torch.arange(len(self), device=self.inputs.device))

    def with_targets_of(self, order: Tensor) -> Split:
        """Return a copy in which row i has the target of row `order[i]`, (N,) int64: the labels shuffled."""
        rows = 1 if per_step(self.targets) else 0
        return replace(self, targets=self.targets.index_select(rows, order.to(self.targets.device)))

    def to(self, device: torch.device, dtype: torch.dtype) -> Split:
        """Return a copy on `device`, real values as `dtype`."""

        def move(x: Tensor) -> Tensor:
            return x.to(device=device, dtype=dtype if x.is_floating_point() else None)

        return replace(
            self,
            inputs=move(self.inputs),
            targets=move(self.targets),
            rows=self.rows.to(device),
            mask=None if self.mask is None else self.mask.to(device),
            labelled=None if self.labelled is None else self.labelled.to(device),
        )

    def digest(self) -> str:
        """Return the SHA-256 of the values and rows."""
        state = hashlib.sha256()
        for tensor in (self.inputs, self.targets, self.rows, self.mask, self.labelled):
            if tensor is not None:
                state.update(str((tuple(tensor.shape), tensor.dtype)).encode())
                state.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        return state.hexdigest()


class Feed(ABC):
    """Abstract order in which training data are fed: batch k of a run for any k, so that a position is a number.

    A feed is a function of the training split, the run's seed and options; it keeps nothing that a resumed run would
    miss. `altprop.feed` has the plan of every task, a wrapper that changes batches, and a stream of contexts.

    Attributes:
        split: the training split that `Batch.index` counts in.
        seed: of the run.
        sizes: rows of the batches to come.
        contexts: names of the contexts in their order; none where there is no stream.
    """

    split: Split
    seed: int
    sizes: frozenset[int]
    contexts: tuple[str, ...] = ()

    @abstractmethod
    def batch(self, position: int) -> Batch | None:
        """Return the batch at a position, counted from the start of the run; None for who is fed nothing."""

    @abstractmethod
    def digest(self) -> str:
        """Return the SHA-256 of the order, equal for equal orders."""

    def context_at(self, position: int) -> str | None:
        """Return the context that a position lies in, whether or not its batch reveals it; None without a stream."""
        return None


@dataclass(frozen=True)
class TaskData:
    """A task's data, split.

    Attributes:
        train: what algorithms see.
        validation: guides; None with `validation=none`.
        tests: name -> split; the first one, called "test", is the one in the tables.
        source: where the data came from, in words.
        sha256: of the raw data before splitting.
        digest: of all that the task loaded; see `Source.digest`.
        files: that were read; see `Source`.
    """

    train: Split
    validation: Split | None
    tests: dict[str, Split]
    source: str
    sha256: str
    digest: str = ""
    files: tuple[str, ...] | None = None

    def to(self, device: torch.device, dtype: torch.dtype) -> TaskData:
        """Return a copy on `device`, real values as `dtype`."""
        return replace(
            self,
            train=self.train.to(device, dtype),
            validation=None if self.validation is None else self.validation.to(device, dtype),
            tests={name: split.to(device, dtype) for name, split in self.tests.items()},
        )

    def split_digest(self) -> str:
        """Return the SHA-256 of the rows that each split holds."""
        state = hashlib.sha256()
        parts = {"train": self.train, "validation": self.validation, **self.tests}
        for name, split in parts.items():
            rows = "none" if split is None else split.rows.cpu().numpy().tobytes().hex()
            state.update(f"{name}:{rows};".encode())
        return state.hexdigest()


@dataclass(frozen=True)
class Source:
    """Raw data before the hold-out, on the CPU in float64 or int64.

    Attributes:
        train: all rows that may be trained on.
        tests: name -> split.
        description: where it came from.
        sha256: of the raw values.
        stratify: (N,) labels that the hold-out keeps in proportion, or None.
        ordered: whether the hold-out is the tail (time series) and not a draw.
        in_sample: whether validation and tests are the training rows themselves (point tasks, fits).
        files: paths of all files that were read; () where code or an installed package made the data; None where that
            is unknown, so that every command loads the data to know whether it has their records.
    """

    train: Split
    tests: dict[str, Split]
    description: str
    sha256: str
    stratify: Tensor | None = None
    ordered: bool = False
    in_sample: bool = False
    files: tuple[str, ...] | None = None

    @classmethod
    def without_data(cls, spec: ModelSpec, description: str, rows: int = 1) -> Source:
        """Return the source of a task that has no data: rows of zeros train, guide and test.

        Args:
            spec: the shapes of a row.
            description: the task in words, with all its options: what its digest is made of.
            rows: how many; in an environment, a population is compared on one episode for each row of a batch.
        """
        inputs = torch.zeros(rows, *spec.input_shape, dtype=torch.float64, device="cpu")
        targets = torch.zeros(rows, spec.outputs, dtype=torch.float64, device="cpu")
        row = Split(inputs, targets, torch.arange(rows, device="cpu"))
        digest = hashlib.sha256(description.encode()).hexdigest()
        return cls(row, {"test": row}, description, digest, in_sample=True, files=())

    @cached_property
    def digest(self) -> str:
        """SHA-256 of everything here but the words, the author's hash and the files: the data in the key of a run."""
        state = hashlib.sha256()
        for entry in fields(self):
            if entry.name not in ("description", "sha256", "files"):
                _feed_hash(state, entry.name, getattr(self, entry.name))
        return state.hexdigest()


def _feed_hash(state: Any, name: str, value: Any) -> None:
    """Feed a named value, and the parts of a nested one, to a hash; of what has no value the class is fed."""
    parts: list[tuple[str, Any]] = []
    if isinstance(value, Tensor):
        text = str((tuple(value.shape), value.dtype))
    elif is_dataclass(value) and not isinstance(value, type):
        text, parts = type(value).__name__, [(entry.name, getattr(value, entry.name)) for entry in fields(value)]
    elif isinstance(value, Mapping):
        text, parts = f"mapping of {len(value)}", [(str(key), value[key]) for key in value]
    elif isinstance(value, (tuple, list)):
        text, parts = f"sequence of {len(value)}", [(str(place), entry) for place, entry in enumerate(value)]
    elif value is None or isinstance(value, (bool, int, float, str, bytes)):
        text = f"{type(value).__name__} {value!r}"
    else:
        text = f"{type(value).__module__}.{type(value).__qualname__}"
    state.update(f"{name}: {text};".encode())
    if isinstance(value, Tensor):
        state.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    for part, entry in parts:
        _feed_hash(state, part, entry)


@dataclass(frozen=True)
class ModelSpec:
    """What a model must fit: the shapes on both sides.

    Attributes:
        input_shape: of one example, (F,), (C, L) or (C, H, W); (F,) of one time step for sequences.
        outputs: number of outputs.
        sequence: whether inputs are (T, B, F).
        per_step: whether a sequence has a target at each time step.
        start: (D,) where a point task starts, else None.
    """

    input_shape: tuple[int, ...]
    outputs: int
    sequence: bool = False
    per_step: bool = False
    start: tuple[float, ...] | None = None


@dataclass(frozen=True)
class Reference:
    """Figures that a task states beforehand.

    Attributes:
        chance: the metric of a predictor that has learned nothing.
        oracle: the best that is possible, or None.
        baselines: name -> metric of simple methods.
        targets: name -> metric value that counts as reached.
    """

    chance: float | None = None
    oracle: float | None = None
    baselines: Mapping[str, float] = field(default_factory=dict)
    targets: Mapping[str, float] = field(default_factory=dict)


class Task(ABC):
    """Abstract task. An author writes `_load`, names `spec`, losses and metric; everything public is final.

    A task that evaluates something else than outputs says so in `kinds` and writes the hook of each kind that it names:
    `_evaluate_policy`, `_evaluate_sampler`, `_evaluate_code`, `_evaluate_model`. An algorithm that learns another kind
    is refused.

    Class attributes:
        losses: the losses of outputs that may be chosen, the default first: names, or classes of the task's own, which
            go by their names; empty where the task has none.
        metric: the leading one of those that an evaluation gives.
        higher_is_better: whether more of it is better.
        metrics: further ones that every evaluation gives, by name, and whether more of each is better.
        offers: capabilities beside the model's.
        kinds: what the task evaluates.
        episodes: in which a policy is evaluated.

    Args:
        batch_size: rows a mini-batch, or "full".
        validation: share of the training rows held out, or "none".
        loss: the name of one of `losses`; None takes the first.
        data_seed: of the split and of generated data; the same for all seeds of a run.
        chance, oracle, baselines, targets: see `Reference`.

    Raises:
        AltpropError: for a value outside these.
    """

    losses: ClassVar[tuple[str | type[Loss], ...]] = ("cross_entropy",)
    metric: ClassVar[str] = "accuracy"
    higher_is_better: ClassVar[bool] = True
    metrics: ClassVar[Mapping[str, bool]] = {}
    offers: ClassVar[frozenset[Capability]] = frozenset()
    kinds: ClassVar[tuple[PredictorKind, ...]] = OUTPUT_KINDS
    episodes: ClassVar[int] = 100

    def __init__(
        self,
        *,
        batch_size: int | str = 64,
        validation: float | str = 0.2,
        loss: str | None = None,
        data_seed: int = 0,
        chance: float | None = None,
        oracle: float | None = None,
        baselines: Mapping[str, float] | None = None,
        targets: Mapping[str, float] | None = None,
    ) -> None:
        name = type(self).__name__
        losses = [given if isinstance(given, str) else given.name for given in self.losses]
        if loss is not None and loss not in losses:
            raise AltpropError(f"task {name} allows task.loss={'|'.join(losses)}; got {loss!r}")
        if self.metric in self.metrics:
            raise AltpropError(f"task {name} names its leading metric {self.metric} among the further ones")
        self.batch_size = check_batch_size(batch_size)
        self.validation = check_validation(validation)
        self.data_seed = check_whole(data_seed, "task.data_seed", 0)
        self.loss: Loss = self._make_loss(loss or losses[0]) if losses else NoLoss()
        reached = {} if targets is None else check_targets(targets)
        self.reference = Reference(chance, oracle, dict(baselines or {}), reached)

    # What an author writes.

    @property
    @abstractmethod
    def spec(self) -> ModelSpec:
        """The shapes that a model must fit."""

    @abstractmethod
    def _load(self) -> Source:
        """Load the raw data; called once a process."""

    def _feed(self, feed: Feed) -> Feed:
        """Return the feed of a run, given the plan of every task: wrap it or put another in its place."""
        return feed

    def _make_loss(self, name: str) -> Loss:
        """Build the loss of that name, of the task's own where `losses` has its class; a point task has a function."""
        own = {kind.name: kind for kind in self.losses if not isinstance(kind, str)}
        if name not in own:
            return make_loss(name)
        if name in LOSSES and own[name] is not LOSSES[name]:
            raise AltpropError(f"task {type(self).__name__} brings another loss {name}; give it a name of its own")
        return own[name]()

    def _penalty(self, params: Mapping[str, Tensor]) -> Tensor | None:
        """Return a term of the objective that depends on the parameters alone (weight decay), a scalar, or None.

        Args:
            params: name -> parameter, of the whole model.
        """
        return None

    def _metrics(self, outputs: Tensor, split: Split) -> dict[str, float]:
        """Return the metrics of OUTPUT predictions beside the loss; by default accuracy where the task has classes."""
        if Capability.CLASSES not in self.offers:
            return {}
        if outputs.shape[-1] == 1:
            right = (outputs[..., 0] > 0) == (split.targets[..., 0].round() > 0)
        else:
            right = outputs.argmax(-1) == split.targets
        if split.mask is not None and split.mask.shape == right.shape:
            right = right[split.mask]
        return {"accuracy": float(right.double().mean())}

    def _environment(self) -> Environment:
        """Return a new environment, for a task that offers ENVIRONMENT."""
        raise AltpropError(f"task {type(self).__name__} offers an environment and writes no _environment")

    def _evaluate_policy(self, policy: Predictor, environment: Environment, seeds: Tensor) -> dict[str, float]:
        """Return the metrics of a POLICY over the episodes of `seeds`: by default the mean return, and its spread."""
        returns = environment.rollout(policy, seeds).returns.double()
        return {"return": float(returns.mean()), "return_std": float(returns.std(correction=0))}

    def _evaluate_sampler(self, sampler: Predictor, split: Split, random: Random) -> dict[str, float]:
        """Return the metrics of a SAMPLER, `sampler(n, random) -> (n, ...)`."""
        raise self._no_hook("sampler")

    def _evaluate_code(self, encoder: Predictor, split: Split) -> dict[str, float]:
        """Return the metrics of a CODE, `encoder(inputs) -> (N, C)`."""
        raise self._no_hook("code")

    def _evaluate_model(self, model: Predictor, split: Split, random: Random) -> dict[str, float]:
        """Return the metrics of a model as it stands: a game, for one, by a measure of its own."""
        raise self._no_hook("model")

    def _player_loss(self, player: str, model: nn.Module, batch: Batch, random: Random) -> Tensor:
        """Return the loss of one player of a model that has several, a scalar, for a task that offers PLAYERS.

        Args:
            player: its name; its parameters are those of `model.get_submodule(player)`.
            model: with all players.
            batch: of the training rows.
            random: for what is drawn; the same draws while noise is held.
        """
        raise AltpropError(f"task {type(self).__name__} offers players and writes no _player_loss")

    # Final.

    @final
    def data(self) -> TaskData:
        """Load and split the data; the split depends on `data_seed` alone."""
        source = self._load()
        train, held = source.train, None
        if source.in_sample:
            held = None if self.validation is None else source.train
        elif self.validation is not None:
            kept, held_rows = self._hold_out(source, self.validation)
            train, held = source.train.take(kept), source.train.take(held_rows)
        about = (source.description, source.sha256, source.digest, source.files)
        return TaskData(train, held, source.tests, *about)

    def _hold_out(self, source: Source, share: float) -> tuple[Tensor, Tensor]:
        n = len(source.train)
        if source.ordered:
            cut = n - max(1, round(share * n))
            return torch.arange(cut), torch.arange(cut, n)
        generator = generator_for(self.data_seed, type(self).__name__, "hold-out")
        order = torch.randperm(n, generator=generator, device="cpu")
        if source.stratify is None:
            held = order[: max(1, round(share * n))]
        else:
            labels = source.stratify[order]
            parts = [order[labels == label] for label in labels.unique()]
            held = torch.cat([part[: round(share * len(part))] for part in parts])
        chosen = torch.zeros(n, dtype=torch.bool, device="cpu")
        chosen[held] = True
        return (~chosen).nonzero()[:, 0], chosen.nonzero()[:, 0]

    @final
    def evaluate(
        self,
        predictor: Predictor,
        split: Split,
        kind: PredictorKind = PredictorKind.OUTPUT,
        random: Random | None = None,
    ) -> dict[str, float]:
        """Evaluate a predictor on a split.

        Args:
            predictor: what `Algorithm.predictor` gives; called without gradients.
            split: rows to evaluate on.
            kind: what the predictor is.
            random: for what is drawn; the same draws at each evaluation make evaluations of a run comparable.

        Returns:
            metric name -> value; always with "loss" for OUTPUT and POINT predictors.

        Raises:
            AltpropError: for a kind that the task does not name, or where a metric that the task names is not measured.
        """
        served = evaluated_as(kind, self.kinds)
        if served is None:
            raise AltpropError(f"task {type(self).__name__} cannot evaluate a predictor of kind {kind}")
        if random is None:
            random = Random(derive_seed(self.data_seed, "evaluation"), split.inputs.device, split.inputs.dtype)
        with torch.no_grad():
            metrics = self._evaluate_as(served, kind, predictor, split, random)
        for name in (self.metric, *self.metrics):
            if name not in metrics:
                raise AltpropError(f"task {type(self).__name__} measures {sorted(metrics)} and not its metric {name}")
        return metrics

    def _evaluate_as(
        self, kind: PredictorKind, given: PredictorKind, predictor: Predictor, split: Split, random: Random
    ) -> dict[str, float]:
        if kind is PredictorKind.POLICY:
            environment = self._environment().to(split.inputs.device, split.inputs.dtype)
            policy = predictor if given is kind else lambda seen: environment.act(predictor(seen))
            seeds = random.integers(0, 2**62, self.episodes)
            return self._evaluate_policy(policy, environment, seeds)
        if kind is PredictorKind.SAMPLER:
            return self._evaluate_sampler(predictor, split, random)
        if kind is PredictorKind.CODE:
            return self._evaluate_code(predictor, split)
        if kind is PredictorKind.MODEL:
            return self._evaluate_model(predictor, split, random)
        return self._evaluate_outputs(predictor, split)

    def _no_hook(self, kind: str) -> AltpropError:
        return AltpropError(f"task {type(self).__name__} names the kind {kind} and writes no _evaluate_{kind}")

    def _evaluate_outputs(self, predictor: Predictor, split: Split) -> dict[str, float]:
        if split.labelled is not None:
            split = split.take(split.labelled.nonzero()[:, 0])
        outputs = predictor(split.inputs) if split.mask is None else predictor(split.inputs, mask=split.mask)
        per = self.loss.per_element(outputs, split.targets)
        mask = split.mask if split.mask is not None and split.mask.shape == per.shape else None
        if self.loss.is_mean:
            loss = (per if mask is None else per[mask]).double().mean()
        else:
            weights = torch.ones_like(per, dtype=torch.float64) if mask is None else mask.double()
            loss = (per.double() * weights).sum() / self.loss.divisor(weights)
        return {"loss": float(loss), **self._metrics(outputs, split)}
