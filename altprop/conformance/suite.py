"""Run all rules on one target and collect what they find."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from altprop import catalogue
from altprop.conformance.case import Target, find_target
from altprop.conformance.learning import LEARNING
from altprop.conformance.rules import RULES, NotApplicable
from altprop.conformance.task_rules import TASK_RULES
from altprop.errors import AltpropError


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


def all_rules() -> dict[str, Callable[[Target], str | None]]:
    """Return name -> rule for algorithms."""
    return {**RULES, **LEARNING}


def algorithms() -> list[str]:
    """Return the names of all algorithms that are installed, from discovery."""
    return [name for name, entry in catalogue.entries("algorithm").items() if name != "custom" and not entry.problem]


def tasks() -> list[str]:
    """Return the names of all tasks that are installed, from discovery."""
    return [name for name, entry in catalogue.entries("task").items() if not entry.problem]


def apply(rule: Callable[[Any], str | None], target: Any) -> Finding:
    """Apply one rule; an error that it meets is a finding too."""
    words = rule.__name__.replace("_", " ")
    try:
        sentence = rule(target)
    except NotApplicable as reason:
        return Finding(words, "not applicable", str(reason))
    except AltpropError as error:
        return Finding(words, "broken", str(error))
    except Exception as error:  # the learner's own error, which its author wants to see
        text = f"{type(error).__name__}: {' '.join(str(error).split())}"
        return Finding(words, "broken", text, traceback.format_exc())
    return Finding(words, "passes") if sentence is None else Finding(words, "broken", sentence)


def check(text: str, config_dir: str | None = None) -> Iterator[Finding]:
    """Yield a finding for each rule on an algorithm (`name` or `package.module:Class`) or a task (`task=name`).

    Raises:
        AltpropError: for a target that cannot be found.
    """
    if text.startswith("task="):
        name = text.removeprefix("task=")
        if name not in catalogue.entries("task", () if config_dir is None else (config_dir,)):
            raise AltpropError(f"{text} is unknown; known are: {', '.join(tasks())}")
        rules: Mapping[str, Callable[[Any], str | None]] = TASK_RULES
        target: Any = name
    else:
        rules, target = all_rules(), find_target(text, config_dir)
    for rule in rules.values():
        yield apply(rule, target)
