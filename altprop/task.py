"""The contract of a task: its data and their split, its loss, its metrics and how a predictor is evaluated."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, ClassVar, final

import torch
from torch import Tensor, nn

from altprop.capabilities import OUTPUT_KINDS, Capability, PredictorKind, evaluated_as
from altprop.checks import check_batch_size, check_number, check_penalty, check_targets, check_validation, check_whole
from altprop.data import Batch, Descriptor, Feed, ModelSpec, Panel, Reference, Source, Split, TaskData
from altprop.errors import AltpropError
from altprop.losses import LOSSES, CrossEntropy, Loss, NoLoss, SmoothedCrossEntropy, make_loss
from altprop.monte_carlo import MonteCarlo, spread
from altprop.randomness import Random, derive_seed, generator_for

if TYPE_CHECKING:
    from altprop.environment import Environment

# inputs -> outputs; for sequences of unequal length it takes `mask=` too.
Predictor = Callable[..., Tensor]


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
        panels: what the report draws of its runs beside the leading metric.
        descriptor: the numbers that `_describe` returns, of a task that offers BEHAVIOUR and has no environment: an
            environment brings its own.
        packages: name to import -> the command that installs it, of those that altprop itself does not need.

    Args:
        batch_size: rows a mini-batch, or "full".
        validation: share of the training rows held out, or "none".
        loss: the name of one of `losses`; None takes the first.
        data_seed: of the split and of generated data; the same for all seeds of a run.
        examples: training rows that are kept at the most, in equal parts of every class, out of those left by the
            hold-out, while the validation split keeps its size; baselines, which took all, are left out then. None
            keeps all.
        smoothing: share of a target that training spreads evenly over all classes (label smoothing), 0 up to but not
            1; evaluations see the targets as they are.
        penalty: terms of the objective that depend on the weights alone: l1 -> a factor of the sum of |w|, l2 -> a
            factor of half the sum of w^2, max_norm -> the norm of a unit's incoming weights above which half the
            square of the excess is charged. Weights are the parameters of two and more dimensions.
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
    panels: tuple[Panel, ...] = ()
    descriptor: Descriptor | None = None
    packages: ClassVar[Mapping[str, str]] = {}

    def __init__(
        self,
        *,
        batch_size: int | str = 64,
        validation: float | str = 0.2,
        loss: str | None = None,
        data_seed: int = 0,
        examples: int | None = None,
        smoothing: float = 0.0,
        penalty: Mapping[str, float] | None = None,
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
        drawn = {each for panel in self.panels for each in panel.metrics} - {self.metric, "loss", *self.metrics}
        if drawn:
            raise AltpropError(f"task {name} wants {sorted(drawn)[0]} drawn and does not name it in `metrics`")
        self.batch_size = check_batch_size(batch_size)
        self.validation = check_validation(validation)
        self.data_seed = check_whole(data_seed, "task.data_seed", 0)
        self.examples = None if examples is None else check_whole(examples, "task.examples", 1)
        self.scored: Loss = self._make_loss(loss or losses[0]) if losses else NoLoss()
        self.loss: Loss = self._smoothed(check_number(smoothing, "task.smoothing", 0.0, below=1.0))
        self.penalties = {} if penalty is None else check_penalty(penalty)
        reached = {} if targets is None else check_targets(targets)
        self.reference = Reference(chance, oracle, dict(baselines or {}) if examples is None else {}, reached)

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

    def _contexts(self, split: Split) -> Mapping[str, Tensor]:
        """Return context -> rows of a split (n,) int64, for a stream; what `_feed` makes of the training rows.

        Where a context ends, the validation rows of each are evaluated by themselves, in trials of a tuning too.
        """
        return {}

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

    def _notes(self) -> tuple[str, ...]:
        """Return sentences of what a user should know of the data before reading the results."""
        return ()

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

    def _describe(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Return how P individuals behave, apart from how good they are, (P, K), for `descriptor`.

        Args:
            outputs: (P, B, C) on the batch.
            batch: of the training rows.
        """
        raise AltpropError(f"task {type(self).__name__} offers a behaviour descriptor and writes no _describe")

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
    def _decide(
        self,
        offers: frozenset[Capability],
        losses: tuple[str, ...],
        metric: str,
        metrics: Mapping[str, bool],
        *,
        higher_is_better: bool,
    ) -> None:
        """Say what the data decide, in place of what the class says: its attributes then name all that may be.

        Called before `super().__init__`.
        """
        found = {"offers": offers, "losses": losses, "metric": metric, "metrics": metrics}
        vars(self).update(found, higher_is_better=higher_is_better)

    @final
    def penalty(self, params: Mapping[str, Tensor]) -> Tensor | None:
        """Return the terms of the objective that depend on the parameters alone, a scalar, or None where none do."""
        own = self._penalty(params)
        terms = [] if own is None else [own]
        weights = [p for name, p in params.items() if p.dim() > 1 and not name.startswith("noise.")]
        for name, amount in self.penalties.items() if weights else ():
            terms.append(sum((_PENALTIES[name](weight, amount) for weight in weights), weights[0].new_zeros(())))
        return sum(terms[1:], terms[0]) if terms else None

    @final
    def notes(self) -> tuple[str, ...]:
        """Return sentences of what a user should know of the data before reading the results."""
        return self._notes()

    @final
    def data(self) -> TaskData:
        """Load and split the data; the split depends on `data_seed` alone."""
        source = self._load()
        whole = source.train.filled()
        train, held = whole, None
        if source.in_sample:
            held = None if self.validation is None else whole
        elif self.validation is not None:
            kept, held_rows = self._hold_out(source, self.validation)
            train, held = whole.take(kept), whole.take(held_rows)
        if self.examples is not None:
            train = train.take(self._few(source, train, self.examples))
        about = (source.description, source.sha256, source.digest, source.files)
        return TaskData(train, held, {name: split.filled() for name, split in source.tests.items()}, *about)

    def _smoothed(self, smoothing: float) -> Loss:
        """Return the loss of training, which smooths targets where that is asked for."""
        if smoothing == 0:
            return self.scored
        if type(self.scored) is not CrossEntropy:
            raise AltpropError(f"task.smoothing is for task.loss=cross_entropy, not {self.scored.name}; leave it out")
        return SmoothedCrossEntropy(smoothing)

    def _few(self, source: Source, train: Split, count: int) -> Tensor:
        """Return which rows of the training split are kept: fewer examples are part of more.

        They are the last ones of a series, drawn otherwise, of every class as many as of any other.
        """
        n = len(train)
        count = min(count, n)
        if source.ordered:
            return torch.arange(n - count, n)
        order = torch.randperm(n, generator=generator_for(self.data_seed, type(self).__name__, "few"), device="cpu")
        if source.stratify is not None:
            labels = train.targets.cpu()[order]
            rank = torch.zeros(n, dtype=torch.int64)
            for label in labels.unique():
                rank[labels == label] = torch.arange(int((labels == label).sum()))
            order = order[rank.argsort(stable=True)]
        return order[:count].sort().values

    def _hold_out(self, source: Source, share: float) -> tuple[Tensor, Tensor]:
        n = len(source.train)
        if source.ordered:
            cut = n - max(1, round(share * n))
            return torch.arange(cut), torch.arange(cut, n)
        generator = generator_for(self.data_seed, type(self).__name__, "hold-out")
        if source.groups is not None:
            return _hold_groups_out(source.groups, share, generator)
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
        named = {} if split.mask is None else {"mask": split.mask}
        passes = predictor.passes(split.inputs, **named) if isinstance(predictor, MonteCarlo) else None
        outputs = predictor(split.inputs, **named) if passes is None else self.scored.averaged(passes)
        per = self.scored.per_element(outputs, split.targets)
        mask = split.mask if split.mask is not None and split.mask.shape == per.shape else None
        if self.scored.is_mean:
            loss = (per if mask is None else per[mask]).double().mean()
        else:
            weights = torch.ones_like(per, dtype=torch.float64) if mask is None else mask.double()
            loss = (per.double() * weights).sum() / self.scored.divisor(weights)
        spreads = {} if passes is None else self._spread(passes, mask)
        return {"loss": float(loss), **self._calibration(outputs, split), **spreads, **self._metrics(outputs, split)}

    def _spread(self, passes: Tensor, mask: Tensor | None) -> dict[str, float]:
        """Return the variance of the predictions of passes (K, ..., C), summed over outputs, its mean over elements."""
        variance = spread(self.scored, passes.double())
        if variance is None:
            return {}
        each = variance.sum(-1)
        return {"prediction_variance": float((each if mask is None else each[mask]).mean())}

    def _calibration(self, outputs: Tensor, split: Split) -> dict[str, float]:
        """Return the calibration error of predicted classes, where the loss makes the outputs probabilities."""
        p = self.scored.probabilities(outputs.double()) if Capability.CLASSES in self.offers else None
        if p is None:
            return {}
        if p.shape[-1] == 1:
            confidence, right = p[..., 0].maximum(1 - p[..., 0]), (p[..., 0] > 0.5) == (split.targets[..., 0] > 0.5)
        else:
            confidence, predicted = p.max(-1)
            right = predicted == split.targets
        if split.mask is not None and split.mask.shape == right.shape:
            confidence, right = confidence[split.mask], right[split.mask]
        return {"calibration_error": calibration_error(confidence.flatten(), right.flatten())}


def calibration_error(confidence: Tensor, right: Tensor, bins: int = 15) -> float:
    """Return how far confidence lies from accuracy: the expected calibration error (Guo et al. 2017, 15 bins).

    sum_b n_b / n |share right in b - mean confidence in b|, over bins b of equal width in confidence; 0 is calibrated.

    Args:
        confidence: (n,) probability of the predicted class.
        right: (n,) whether it is the class.
        bins: number of bins between 0 and 1.

    >>> round(calibration_error(torch.tensor([0.9, 0.9, 0.6]), torch.tensor([True, False, True])), 6)
    0.4
    """
    places = (confidence * bins).long().clamp(max=bins - 1)
    gaps = torch.zeros(bins, dtype=torch.float64, device=confidence.device)
    gaps.index_add_(0, places, right.double() - confidence.double())
    return float(gaps.abs().sum()) / max(1, len(confidence))


def _hold_groups_out(groups: Tensor, share: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return (rows to train on, rows held out): whole groups, drawn until the share is reached, and never all."""
    names = groups.unique()
    order = names[torch.randperm(len(names), generator=generator, device="cpu")]
    sizes = torch.stack([(groups == name).sum() for name in order])
    before = sizes.cumsum(0) - sizes
    count = min(int((before < share * len(groups)).sum()), len(names) - 1)
    held = torch.isin(groups, order[:count])
    return (~held).nonzero()[:, 0], held.nonzero()[:, 0]


def _max_norm(weight: Tensor, limit: float) -> Tensor:
    """Return half the square by which the norm of each unit's incoming weights, (U, ...), exceeds a limit, summed."""
    squares = weight.flatten(1).square().sum(1)
    # The root of 0 has no gradient; below the limit nothing is charged anyway.
    norms = torch.where(squares > limit**2, squares, squares.new_full((), limit**2)).sqrt()
    return 0.5 * (norms - limit).square().sum()


_PENALTIES: dict[str, Callable[[Tensor, float], Tensor]] = {
    "l1": lambda weight, amount: amount * weight.abs().sum(),
    "l2": lambda weight, amount: 0.5 * amount * weight.square().sum(),
    "max_norm": _max_norm,
}
