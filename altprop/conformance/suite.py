"""Run all rules on one target and collect what they find."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from altprop import catalogue
from altprop.algorithm import Algorithm
from altprop.conformance.case import NotApplicable, Target, config_folder, find_target, make
from altprop.conformance.direction import Direction, first_direction
from altprop.conformance.part_rules import PART_RULES, PartTarget, find_part, make_part
from altprop.conformance.rules import EXEMPTABLE, RULES
from altprop.conformance.side_effects import switches
from altprop.conformance.task_rules import TASK_RULES, TaskTarget, find_task, make_task
from altprop.errors import AltpropError

AnyTarget = Target | TaskTarget | PartTarget
PASSES, BROKEN, NOT_APPLICABLE = "passes", "broken", "not applicable"


@dataclass(frozen=True)
class Finding:
    """What one rule says of one target.

    Attributes:
        rule: its name in words.
        verdict: "passes", "broken" or "not applicable".
        sentence: why, empty for a pass.
        details: a traceback where the rule itself met an error.
    """

    rule: str
    verdict: str
    sentence: str = ""
    details: str = ""


def algorithms() -> list[str]:
    """Return the names of all algorithms that are installed, from discovery."""
    return [name for name, entry in catalogue.entries("algorithm").items() if name != "custom" and not entry.problem]


def tasks() -> list[str]:
    """Return the names of all tasks that are installed, from discovery."""
    return [name for name, entry in catalogue.entries("task").items() if _complete(entry)]


def parts(group: str) -> list[str]:
    """Return the names of all models, or of all kinds of dropout, that are installed, from discovery."""
    return [name for name, entry in catalogue.entries(group).items() if _complete(entry) and name != "none"]


def _complete(entry: catalogue.Entry) -> bool:
    return not entry.problem and not catalogue.left_open(entry.values)


def apply(rule: Callable[[Any], str | None], target: AnyTarget) -> Finding:
    """Apply one rule; an error that it meets is a finding too."""
    words = rule.__name__.replace("_", " ")
    try:
        reason = _exemption(rule.__name__, target)
        if reason is not None:
            return Finding(words, NOT_APPLICABLE, reason)
        with switches():
            sentence = rule(target)
    except NotApplicable as error:
        return Finding(words, NOT_APPLICABLE, str(error))
    except AltpropError as error:
        return Finding(words, BROKEN, str(error))
    except Exception as error:  # the learner's own error, which its author wants to see
        return Finding(words, BROKEN, _described(error), traceback.format_exc())
    return Finding(words, PASSES) if sentence is None else Finding(words, BROKEN, sentence)


def _described(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def _exemption(rule: str, target: AnyTarget) -> str | None:
    """Return the reason for which a learner need not obey a rule, as its class says it."""
    if not isinstance(target, Target) or rule not in EXEMPTABLE:
        return None
    kind: type[Algorithm] = type(make(target).algorithm)
    return kind.exempt.get(rule)


def find(text: str, config_dir: str | None = None, overrides: tuple[str, ...] = ()) -> AnyTarget:
    """Return what a text names: an algorithm (`name` or `package.module:Class`), a task, a model or a noise.

    The latter are `task=name`, `model=name` and `dropout=name`.

    Args:
        text: what is examined.
        config_dir: a folder with further yaml files, or None.
        overrides: options of a task, a model or a noise, and the task on which a model is examined.

    Raises:
        AltpropError: for what cannot be found.
    """
    folder = None if config_dir is None else config_folder(config_dir)
    if text.startswith("task="):
        return find_task(text.removeprefix("task="), folder, overrides)
    for group in PART_RULES:
        if text.startswith(f"{group}="):
            return find_part(group, text.removeprefix(f"{group}="), folder, overrides)
    if overrides:
        raise AltpropError(f"{overrides[0]}: options are for a task, a model or a dropout; {text} is an algorithm")
    return find_target(text.removeprefix("algorithm="), folder)


def check(target: AnyTarget) -> Iterator[Finding]:
    """Yield a finding for each rule; a target that cannot even be built has one finding."""
    rules: dict[str, Callable[[Any], str | None]]
    try:
        if isinstance(target, TaskTarget):
            rules = dict(TASK_RULES)
            make_task(target)
        elif isinstance(target, PartTarget):
            rules = dict(PART_RULES[target.group])
            make_part(target)
        else:
            rules = dict(RULES)
            make(target)
    except AltpropError as error:
        yield Finding("can be built", BROKEN, str(error))
        return
    except Exception as error:
        yield Finding("can be built", BROKEN, _described(error), traceback.format_exc())
        return
    for rule in rules.values():
        yield apply(rule, target)


def gradient(target: AnyTarget) -> Direction:
    """Hold a learner's first direction against central differences.

    Raises:
        AltpropError: where it has none.
    """
    if not isinstance(target, Target):
        raise AltpropError(f"{target.name} has no gradient; name an algorithm")
    try:
        return first_direction(target)
    except NotApplicable as reason:
        raise AltpropError(f"{target.name} has no direction to check: {reason}") from reason


def gradient_line(target: AnyTarget) -> str:
    """Return the worst relative error of each layer in one line."""
    errors = gradient(target).errors.items()
    return "against central differences: " + ", ".join(f"{layer} {error:.1e}" for layer, error in errors)
