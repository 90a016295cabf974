"""Noise in the forward pass: where stochastic layers act and how their masks are drawn.

Masks are a function of (seed, step, phase, site, layer). So they are equal under every learning algorithm,
do not depend on the device, and `Problem.same_noise` repeats them simply by holding the phase.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import ClassVar, final

import torch
from torch import Tensor, nn

from altprop.errors import Refused
from altprop.randomness import derive_seed
from altprop.vectorized import Members

SITES = frozenset({"input", "unit", "weight", "state", "update", "carry", "branch"})

# (site, layer, position, time, distribution) -> draw. Rows lead in every draw but those for weights, which all rows
# share.
Draws = dict[tuple[str, int, int, int, str], Tensor]
# site -> layer -> shape of one example's values there, of the whole matrix at the site `weight`.
Places = Mapping[str, Mapping[int, torch.Size]]


class NoiseClock:
    """Where in the run a mask stands.

    `step` counts steps, `phase` the evaluations of the objective within one step, `time` the elements of a sequence.
    While `hold` is active the phase stands still; afterwards it has moved on by one, however many evaluations ran
    inside. `progress` is the share of the budget that is spent, 0 to 1, for noise that changes over a run. `moment`
    is the time that a recurrent cell is at: it keys no draw by itself, but `at` may be given it.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.step = 0
        self.phase = 0
        self.time = 0
        self.moment = 0
        self.progress = 0.0
        self.seeds: Sequence[int] | None = None
        self._held = False
        self._recorded: Draws | None = None
        self._replayed: Draws | None = None

    def begin_step(self, step: int, progress: float = 0.0) -> None:
        """Start the masks of a step."""
        self.step, self.phase, self.progress = step, 0, progress

    def advance(self) -> None:
        """End one evaluation of the objective: the next one draws new masks, unless held."""
        if not self._held:
            self.phase += 1

    @property
    def held(self) -> bool:
        """Whether masks repeat at present."""
        return self._held

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Repeat the masks of the present phase inside; nested holds are one."""
        if self._held:
            yield
            return
        self._held = True
        try:
            yield
        finally:
            self._held = False
            self.phase += 1

    @contextmanager
    def record(self) -> Iterator[Draws]:
        """Collect every draw made inside."""
        draws: Draws = {}
        self._recorded = draws
        try:
            yield draws
        finally:
            self._recorded = None

    @contextmanager
    def replay(self, draws: Draws) -> Iterator[None]:
        """Answer draws from a record, whose tensors may be vmapped over examples."""
        self._replayed = draws
        try:
            yield
        finally:
            self._replayed = None

    @contextmanager
    def at(self, time: int) -> Iterator[None]:
        """Key the draws made inside by a time of the sequence."""
        outer, self.time = self.time, time
        try:
            yield
        finally:
            self.time = outer

    def uniform(self, shape: torch.Size, site: str, layer: int, position: int, like: Tensor) -> Tensor:
        """Draw U[0, 1) of `shape` for one site of one layer, on the device and in the dtype of `like`."""
        return self._draw("uniform", shape, site, layer, position, like)

    def normal(self, shape: torch.Size, site: str, layer: int, position: int, like: Tensor) -> Tensor:
        """Draw N(0, 1) of `shape` for one site of one layer, on the device and in the dtype of `like`."""
        return self._draw("normal", shape, site, layer, position, like)

    def _draw(self, kind: str, shape: torch.Size, site: str, layer: int, position: int, like: Tensor) -> Tensor:
        key = (site, layer, position, self.time, kind)
        if self._replayed is not None:
            return self._replayed[key]
        # Uniform draws are keyed by their place alone, so that normal ones beside them leave them as they are.
        place = key[:-1] if kind == "uniform" else key
        draw = self._drawn(kind, shape, place, like)
        if self._recorded is not None:
            self._recorded[key] = draw
        return draw

    def _drawn(self, kind: str, shape: torch.Size, place: tuple[object, ...], like: Tensor) -> Tensor:
        """Draw from the seed, or from each of the seeds of stacked members."""

        def draw(seed: int) -> Tensor:
            generator = torch.Generator(device="cpu").manual_seed(derive_seed(seed, self.step, self.phase, *place))
            return _SAMPLERS[kind](shape, generator=generator, dtype=like.dtype, device="cpu")

        members = Members.entered
        if members is None or self.seeds is None:
            return draw(self.seed).to(like.device)
        with members.outside():
            stacked = torch.stack([draw(seed) for seed in self.seeds]).to(like.device)
        return members.one(stacked)


_SAMPLERS: dict[str, Callable[..., Tensor]] = {"uniform": torch.rand, "normal": torch.randn}


class Noise(nn.Module, ABC):
    """Abstract noise. A kind names its `sites` and says in `_perturb` what happens there.

    A noise may own parameters (they are trained like others) and a `penalty()` that joins the objective.
    It is the identity in evaluation mode, unless predictions average `passes` noisy ones. The sites are

        input   what the model is given, (B, ...);
        unit    the output of a hidden layer, (B, ...), or what a recurrent model's readout sees;
        weight  a weight, which all rows share;
        state   what enters a cell's recurrent product, (B, W), the same at all times of a sequence;
        update  what a gated cell adds to its state, (B, W);
        carry   the next state of a cell beside the present one (`MixingNoise`);
        branch  what a residual branch adds, (B, ...).

    Attributes:
        places: site -> layer -> shape of one example's values there, of what it serves, from set-up on.
        weights: layer -> name in the model of the weight that it offers to noise there, from set-up on.
        charges_weights: whether `weight_penalty` is written.
        passes: forward passes that a prediction averages, each under noise of its own (Monte Carlo dropout; Gal and
            Ghahramani 2016); 0 predicts without noise.
    """

    sites: ClassVar[frozenset[str]] = frozenset()
    charges_weights: ClassVar[bool] = False
    passes: int = 0

    def __init__(self) -> None:
        super().__init__()
        self.clock = NoiseClock(0)
        self.places: Places = {}
        self.weights: Mapping[int, str] = {}
        self._found: dict[str, dict[int, torch.Size]] | None = None
        self._asked: dict[int, Tensor] | None = None

    def bind(self, clock: NoiseClock) -> None:
        """Take the run's clock."""
        self.clock = clock

    @final
    def setup(self, model: Callable[[Tensor], Tensor], example: Tensor, train_size: int, name: str) -> None:
        """Find the places at which a model asks for noise, and prepare for those that this kind acts on.

        Args:
            model: in evaluation mode; it is run once.
            example: one row of inputs, (1, ...) or (T, 1, ...).
            train_size: rows of the training split.
            name: of the model, for the sentence.

        Raises:
            Refused: where the model has none of this kind's sites: it would run as dropout=none under another label.
        """
        found: dict[str, dict[int, torch.Size]] = {}
        asked: dict[int, Tensor] = {}
        self._found, self._asked = found, asked
        try:
            model(example)
        finally:
            self._found = self._asked = None
        if isinstance(model, nn.Module):
            names = {id(p): name for name, p in model.named_parameters()}
            self.weights = {layer: names[id(weight)] for layer, weight in asked.items() if id(weight) in names}
            if self.charges_weights and len(self.weights) < len(asked):
                raise Refused(
                    f"{type(self).__name__} charges the weights that read noisy values, and those of model={name} are "
                    "made of other parameters; use model.normalisation=none or another dropout"
                )
        served = {site: layers for site, layers in found.items() if site in self.sites}
        if not served:
            sites = " and ".join(sorted(self.sites)) or "no site"
            known = ", ".join(sorted(found)) or "none"
            raise Refused(
                f"{type(self).__name__} acts at {sites}, and model={name} has other sites of noise ({known}); "
                "use dropout=none or another model"
            )
        self.places = served
        self._setup(served, train_size)
        self.to(device=example.device, dtype=example.dtype)

    def _setup(self, places: Places, train_size: int) -> None:
        """Prepare for a model: make parameters of the widths that this noise serves.

        Args:
            places: site -> layer -> shape of one example's values there (of the matrix at `weight`), of the sites that
                this kind acts on and the model has.
            train_size: rows of the training split, by which a penalty for the whole set is divided.
        """

    def _note(self, site: str, layer: int, shape: torch.Size) -> None:
        """Write down a place where the model asks for noise, while it is set up."""
        if self._found is not None:
            self._found.setdefault(site, {})[layer] = shape

    def _asked_for(self, weight: Tensor, layer: int) -> Tensor:
        """Write down which weight is shown at a layer, while the noise is set up, and return it."""
        if self._asked is not None:
            self._asked[layer] = weight
        return weight

    def forward(self, x: Tensor, site: str, layer: int, shared: int = 0) -> Tensor:
        """Perturb `x` at a site of a layer.

        Args:
            x: values; the first `shared` dimensions see the same noise (a population over one batch).
            site: one of those above.
            layer: index of the block.
            shared: how many leading dimensions share their noise.

        Returns:
            A tensor shaped like `x`; `x` itself in evaluation mode or where this kind does not act.
        """
        if not self.training:
            self._note(site, layer, x.shape if site == "weight" else x.shape[1:])
            return self._asked_for(x, layer) if site == "weight" else x
        if site not in self.sites:
            return x
        return self._perturb(x, x.shape[shared:], site, layer)

    def over_time(self, x: Tensor, site: str, layer: int, start: int = 0) -> Tensor:
        """Perturb each element of sequences (T, B, ...) by draws of its own, keyed by its time.

        Args:
            x: values of the times start, start + 1, ..., so that a window sees the masks of the whole sequence.
            site, layer: as for `forward`.
            start: time of the first element.
        """
        if not self.training:
            self._note(site, layer, x.shape[2:])
            return x
        if site not in self.sites:
            return x
        steps = []
        for offset, value in enumerate(x.unbind(0)):
            with self.clock.at(start + offset):
                steps.append(self._perturb(value, value.shape, site, layer))
        return torch.stack(steps)

    @abstractmethod
    def _perturb(self, x: Tensor, shape: torch.Size, site: str, layer: int) -> Tensor:
        """Return the noisy `x`; draws have `shape`, which is `x.shape` without its shared dimensions."""

    def penalty(self) -> Tensor | None:
        """Return a term that joins the objective, or None."""
        return None

    def weight_penalty(self, params: Mapping[str, Tensor]) -> Tensor | None:
        """Return a term in the weights that joins the objective too, or None; `charges_weights` says that there is one.

        Args:
            params: name -> value of all parameters of the model, those of the noise among them as `noise.NAME`.
        """
        return None


class MultiplicativeNoise(Noise):
    """Abstract noise that multiplies by a mask of mean 1, so that explicit rules can reuse the mask.

    A mask counts as a constant in every derivative: what it is made of values is made of detached ones.
    """

    def mask(self, like: Tensor, site: str, layer: int) -> Tensor | None:
        """Return the mask that `forward` applies to a tensor like this one, or None where nothing acts."""
        if not self.training or site not in self.sites:
            return None
        return self._mask(like.detach(), like.shape, site, layer)

    @property
    def explicit(self) -> bool:
        """Whether its masks are all that it does: nothing is learned or charged."""
        kind, masks = type(self), MultiplicativeNoise
        as_written = (kind.forward, kind._perturb) == (masks.forward, masks._perturb)
        charged = kind.penalty is not masks.penalty or self.charges_weights
        return as_written and not charged and next(self.parameters(), None) is None

    def _perturb(self, x: Tensor, shape: torch.Size, site: str, layer: int) -> Tensor:
        mask = self._mask(x.detach(), shape, site, layer)
        return x if mask is None else x * mask

    @abstractmethod
    def _mask(self, like: Tensor, shape: torch.Size, site: str, layer: int) -> Tensor | None:
        """Return the mask of `shape`, in the dtype and on the device of `like`, or None where nothing acts."""


class MixingNoise(Noise):
    """Abstract noise at the site `carry`: it mixes the next state of a cell with the present one, as zoneout does."""

    sites: ClassVar[frozenset[str]] = frozenset({"carry"})

    def mix(self, after: Tensor, before: Tensor, layer: int, time: int) -> Tensor:
        """Return the state that a cell goes on with.

        Args:
            after: (B, S) next state.
            before: (B, S) present state.
            layer: of the cell.
            time: by which draws are keyed, anew at each time.
        """
        if not self.training:
            self._note("carry", layer, after.shape[1:])
        with self.clock.at(time):
            return self._mix(after, before, layer)

    def _perturb(self, x: Tensor, shape: torch.Size, site: str, layer: int) -> Tensor:
        return x

    @abstractmethod
    def _mix(self, after: Tensor, before: Tensor, layer: int) -> Tensor:
        """Return the mixed state, shaped like both, (B, S).

        Called in evaluation mode too (`self.training` tells): a mixture is no mask of mean 1, and its expectation is
        not the next state.
        """
