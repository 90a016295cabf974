"""The rules that every model and every noise must obey, on the smallest task that it fits."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from altprop import catalogue
from altprop.capabilities import Capability
from altprop.conformance.case import (
    PREFERRED,
    SMALL,
    NotApplicable,
    difference,
    find_target,
    make,
    refuse_unless_given,
)
from altprop.conformance.noises import at
from altprop.conformance.state import generator_states, global_generators
from altprop.errors import AltpropError, NoiseLeftOut, Refused, near
from altprop.harness.building import Parts
from altprop.noise import SITES, MixingNoise, MultiplicativeNoise

# Relative distance below which two ways to one number are equal, in float64.
EQUAL = 1e-10
# Draws whose mean is looked at, and how many standard errors it may be off.
PHASES, ERRORS = 50, 6.0
STEPS = 8
"""Steps whose draws are recorded."""


@dataclass(frozen=True)
class PartTarget:
    """A model or a noise under examination.

    Attributes:
        group: model or dropout.
        name: of the yaml.
        config_dir: a folder with further yaml files, or None.
        overrides: what else is set, such as the class of a custom model and a task that it fits.
    """

    group: str
    name: str
    config_dir: str | None = None
    overrides: tuple[str, ...] = ()


PartRule = Callable[[PartTarget], str | None]


def find_part(group: str, name: str, config_dir: str | None = None, overrides: tuple[str, ...] = ()) -> PartTarget:
    """Return the model or noise of that name.

    Raises:
        AltpropError: for an unknown name, a yaml that cannot be used, or an option that it leaves to its user.
    """
    known = catalogue.entries(group, () if config_dir is None else (config_dir,))
    if name not in known:
        raise AltpropError(f"{group}={name} is unknown; {near(name, known)}")
    if known[name].problem:
        raise AltpropError(f"{group}={name}: {known[name].problem}")
    refuse_unless_given(group, known[name], overrides)
    return PartTarget(group, name, config_dir, overrides)


def make_part(target: PartTarget, *more: str, seed: int = 0, dtype: str = "float64") -> Parts:
    """Build a run of no learning with this model or noise, on the smallest task that it fits.

    Raises:
        Refused: where it fits none, with what the first one said, or refuses what `more` asks for.
    """
    return make(find_target("null", target.config_dir), *_home(target), *more, seed=seed, dtype=dtype)


@cache
def _home(target: PartTarget) -> tuple[str, ...]:
    """Return the overrides that choose the part and a task that it fits: one that has it by default, or a small one."""
    tasks = catalogue.entries("task", () if target.config_dir is None else (target.config_dir,))
    own = [name for name, task in tasks.items() if catalogue.default_model(task) == target.name]
    small = [name for name in PREFERRED if name in own or not own] if target.group == "model" else list(PREFERRED)
    named = [one.removeprefix("task=") for one in target.overrides if one.startswith("task=")]
    more = tuple(one for one in target.overrides if not one.startswith("task="))
    refusals = []
    # A noise may act at what the tasks' own models have not: feature maps, branches.
    others = (None, *catalogue.entries("model")) if target.group == "dropout" else (None,)
    for other, task in itertools.product(others, named or small or own):
        sizes = [option for option in SMALL.get(task, ()) if not option.startswith("model.")]
        chosen = (
            f"task={task}",
            *sizes,
            f"{target.group}={target.name}",
            *more,
            *(() if other is None else (f"model={other}",)),
        )
        try:
            make(find_target("null", target.config_dir), *chosen)
        except AltpropError as refusal:
            refusals.append(str(refusal))
        else:
            return chosen
    raise Refused(refusals[0])


def _apart(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max() / b.abs().max().clamp(min=1e-12))


def builds_from_its_seed_alone(target: PartTarget) -> str | None:
    """The same seed gives the same bits, and no global generator moved or mattered."""
    first = make_part(target).model.state_dict()
    with global_generators(5):
        before = generator_states()
        again = make_part(target).model.state_dict()
        after = generator_states()
    if difference(before, after) is not None:
        return "building it moves a global generator; draw from `generator`, or from `self.clock`"
    found = difference(dict(first), dict(again))
    return None if found is None else f"built again from the same seed, {found.strip('.')} differs"


def differentiates_row_by_row(target: PartTarget) -> str | None:
    """Per-example gradients have the gradient as their mean: it works under torch's vmap, noise included."""
    parts = make_part(target)
    problem, batch = parts.problem, parts.feed.batch(0)
    if batch is None or not {Capability.GRADIENT, Capability.SUPERVISED} <= problem.offers:
        raise NotApplicable("it offers no gradient of a batch")
    with problem.same_noise():
        try:
            rows = problem.per_example_gradients(batch)
        except Refused as refusal:
            raise NotApplicable(str(refusal)) from refusal
        whole = problem.gradient(batch, penalty=False)[1]
    off = _apart(problem.flatten({name: each.mean(0) for name, each in rows.items()}), problem.flatten(whole))
    return None if off <= EQUAL else f"the mean of its per-example gradients is off the gradient by {off:.2g}"


def evaluates_populations(target: PartTarget) -> str | None:
    """Many individuals at once have the objectives that each has alone, under one noise."""
    parts = make_part(target)
    problem, batch = parts.problem, parts.feed.batch(0)
    if batch is None:
        raise NotApplicable("it is fed no batch")
    flat = problem.flat()[None] + 0.01 * torch.arange(3.0, dtype=problem.dtype, device=problem.device)[:, None]
    with problem.same_noise():
        together, alone = problem.population_objective(flat, batch), []
        for row in flat:
            problem.assign(row)
            alone.append(problem.objective(batch))
    off = _apart(together, torch.stack(alone))
    return None if off <= EQUAL else f"individuals of a population are off what each is alone by {off:.2g}"


def says_what_it_offers(target: PartTarget) -> str | None:
    """`offers` is a set of capabilities."""
    offers = getattr(make_part(target).model, "offers", None)
    if isinstance(offers, frozenset) and all(isinstance(one, Capability) for one in offers):
        return None
    return f"offers is {offers!r}; write a frozenset of Capability"


def gives_what_its_spec_says(target: PartTarget) -> str | None:
    """Outputs have C values for each row, or for each time and row, in both precisions, and are finite."""
    for dtype in ("float32", "float64"):
        parts = make_part(target, dtype=dtype)
        problem, split = parts.problem, parts.data.train
        batch = split.batch(torch.arange(min(4, len(split)), device=problem.device))
        with problem.evaluating(), torch.no_grad():
            outputs = problem.outputs(batch)
        lead = batch.inputs.shape[:2] if problem.spec.per_step else (batch.rows,)
        if outputs.shape != (*lead, problem.spec.outputs) or outputs.dtype != problem.dtype:
            return f"its outputs are {tuple(outputs.shape)} of {outputs.dtype} for the spec {problem.spec}"
        if not bool(outputs.isfinite().all()):
            return "an untrained one gives outputs that are not finite"
    return None


def takes_a_noise(target: PartTarget) -> str | None:
    """It keeps the noise that it is given as `noise`, where it does not refuse it."""
    for site in sorted(SITES):
        try:
            make_part(target, *at(site))
        except NoiseLeftOut as refusal:
            return str(refusal)
        except AltpropError:
            continue
        return None
    raise NotApplicable("it asks for noise at no site, so that every dropout is refused")


def walks_as_a_chain(target: PartTarget) -> str | None:
    """Carried back block by block, through `transpose`, a signal is the gradient."""
    parts = make_part(target)
    problem, batch = parts.problem, parts.feed.batch(0)
    if batch is None or Capability.CHAIN not in problem.offers:
        raise NotApplicable("it offers no chain")
    walk, expected = problem.walk(batch), problem.gradient(batch)[1]
    found = walk.back(problem.output_gradient(walk.outputs, batch)).parameters
    off = _apart(problem.flatten(found), problem.flatten(expected))
    return None if off <= EQUAL else f"a signal that goes back through its blocks is off the gradient by {off:.2g}"


def steps_through_time(target: PartTarget) -> str | None:
    """`initial_state`, `unroll` and `readout` make its forward pass, in windows of any length and under noise."""
    if Capability.RECURRENT not in make_part(target).problem.offers:
        raise NotApplicable("it is not recurrent")
    for site in (None, *sorted(SITES)):
        try:
            problem = (parts := make_part(target, *(() if site is None else at(site)))).problem
        except Refused:
            continue
        batch = parts.feed.batch(0)
        assert batch is not None
        with problem.same_noise(), torch.no_grad():
            expected = problem.outputs(batch)
            h, states = problem.model.initial_state(batch.rows), []
            for time in range(batch.inputs.shape[0]):
                h = problem.cell_step(batch, time, h).state
                states.append(h)
            outputs, _ = problem.readout(torch.stack(states) if problem.spec.per_step else h)
        off = _apart(outputs, expected)
        if not off <= EQUAL:
            where = "" if site is None else f" under noise at the site {site!r}"
            return f"stepped one time after the other{where} its outputs are off by {off:.2g}"
    return None


def is_the_identity_in_evaluation(target: PartTarget) -> str | None:
    """Predictions are those of the model without noise, unless it mixes states or averages passes."""
    parts = make_part(target)
    noise = parts.problem.uncounted.noise
    if noise is None or isinstance(noise, MixingNoise) or noise.passes:
        raise NotApplicable("it is no noise that evaluation leaves out")
    quiet = _quiet(target)
    batch = parts.data.train.whole()
    with parts.problem.evaluating(), quiet.problem.evaluating(), torch.no_grad():
        same = torch.equal(parts.problem.outputs(batch), quiet.problem.outputs(batch))
    return None if same else "in evaluation mode it changes the outputs"


def _quiet(target: PartTarget) -> Parts:
    """Build the same run without noise."""
    others = [option for option in _home(target) if not option.startswith("dropout=")]
    return make(find_target("null", target.config_dir), *others)


def repeats_where_it_is_held(target: PartTarget) -> str | None:
    """One noise inside `same_noise`, another outside."""
    parts = make_part(target)
    problem, batch = parts.problem, parts.feed.batch(0)
    if problem.uncounted.noise is None or batch is None:
        raise NotApplicable("there is no noise")
    with problem.same_noise():
        first, again = problem.outputs(batch).detach(), problem.outputs(batch).detach()
    if not torch.equal(first, again):
        return "two passes inside same_noise differ: draw from `self.clock`"
    if torch.equal(first, problem.outputs(batch).detach()):
        return "the next evaluation sees the same noise, or none"
    return None


def acts_in_every_step(target: PartTarget) -> str | None:
    """The masks of an evaluated step stand on draws of its own, at the places it serves, uniform or normal ones."""
    parts = make_part(target)
    problem, batch = parts.problem, parts.feed.batch(0)
    noise = problem.uncounted.noise
    if noise is None or batch is None:
        raise NotApplicable("there is no noise")
    found: dict[str, list[Tensor]] = {}
    before: dict[tuple[str, int, int, int, str], Tensor] = {}
    for step in range(STEPS):
        problem.begin_step(step)
        with noise.clock.record() as drawn:
            problem.gradient(batch)
        if not drawn:
            return f"step {step} was evaluated without a draw from `self.clock`"
        for (site, layer, *_, kind), values in drawn.items():
            if layer not in noise.places.get(site, {}):
                return f"it draws for {site} of layer {layer}, which it did not find at its set-up"
            found.setdefault(kind, []).append(values.double().flatten())
        if any(key in before and values.equal(before[key]) for key, values in drawn.items()):
            return f"step {step} has the draws of the step before"
        before = dict(drawn)
    for kind, draws in found.items():
        every = torch.cat(draws)
        mean, variance, fourth = _MOMENTS[kind]
        off = abs(float(every.mean()) - mean) / (variance / len(every)) ** 0.5
        spread = abs(float((every - mean).square().mean()) - variance) / ((fourth - variance**2) / len(every)) ** 0.5
        if max(off, spread) > ERRORS:
            return f"its {kind} draws are off by {max(off, spread):.1f} standard errors of their mean or variance"
    return None


# Mean, variance and fourth central moment of U(0, 1) and N(0, 1).
_MOMENTS = {"uniform": (0.5, 1 / 12, 1 / 80), "normal": (0.0, 1.0, 3.0)}


def has_the_mean_one(target: PartTarget) -> str | None:
    """A noise that multiplies has masks of mean 1, so that evaluation needs no other scale."""
    noise = make_part(target).problem.uncounted.noise
    if not isinstance(noise, MultiplicativeNoise):
        raise NotApplicable("it does not multiply by a mask")
    for site, layers in noise.places.items():
        for layer, shape in layers.items():
            like, means = torch.ones((1, *shape) if site == "weight" else (64, *shape), dtype=torch.float64), []
            for phase in range(PHASES):
                noise.clock.phase = phase
                mask = noise.mask(like if site != "weight" else like[0], site, layer)
                if mask is None:
                    break
                means.append(mask.expand(like.shape).flatten(1).mean(1))
            if not means:
                continue
            every = torch.cat(means)
            error = float(every.std() / len(every) ** 0.5)
            if abs(float(every.mean()) - 1) > ERRORS * error + EQUAL:
                return f"at {site} of layer {layer} its masks have the mean {float(every.mean()):.3f}"
    return None


def _named(*rules: PartRule) -> dict[str, PartRule]:
    return {rule.__name__: rule for rule in rules}


EVERY = (builds_from_its_seed_alone, differentiates_row_by_row, evaluates_populations)
PART_RULES = {
    "model": _named(
        says_what_it_offers,
        gives_what_its_spec_says,
        takes_a_noise,
        walks_as_a_chain,
        steps_through_time,
        *EVERY,
    ),
    "dropout": _named(
        is_the_identity_in_evaluation, repeats_where_it_is_held, acts_in_every_step, has_the_mean_one, *EVERY
    ),
}
