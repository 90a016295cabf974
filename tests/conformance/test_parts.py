"""Every model and every noise that is installed against every rule, and planted ones that break them."""

from collections.abc import Callable
from pathlib import Path

import pytest

from altprop.conformance.part_rules import PART_RULES, find_part
from altprop.conformance.suite import apply, check, find, parts
from altprop.errors import AltpropError

EVERY = [(group, name, rule) for group, rules in PART_RULES.items() for name in parts(group) for rule in rules]


@pytest.mark.parametrize(("group", "name", "rule"), EVERY)
def test_part(group: str, name: str, rule: str) -> None:
    finding = apply(PART_RULES[group][rule], find_part(group, name))
    if finding.verdict == "not applicable":
        pytest.skip(finding.sentence)
    assert finding.verdict == "passes", f"{finding.sentence}\n{finding.details}"


def test_discovery_finds_what_the_folders_hold() -> None:
    assert {"mlp", "gru", "cnn"} <= set(parts("model"))
    assert {"standard", "gaussian"} <= set(parts("dropout"))


FAULTS = {
    "dropout": {
        "HonestNoise": None,
        "HasAnotherMean": "has_the_mean_one",
        "DrawsFromTorch": "repeats_where_it_is_held",
        "DrawsOneMask": "repeats_where_it_is_held",
        "ForgetsTheStep": "acts_in_every_step",
        "DrawsForAnotherLayer": "acts_in_every_step",
        "ActsInEvaluation": "is_the_identity_in_evaluation",
    },
    "model": {
        "DrawsItsWeightsFromNumpy": "builds_from_its_seed_alone",
        "GivesOneColumnMore": "gives_what_its_spec_says",
        "KeepsNoNoise": "takes_a_noise",
        "ReadsWhatWasAbove": "walks_as_a_chain",
        "LooksAhead": "steps_through_time",
    },
}


@pytest.fixture
def folder(tmp_path: Path) -> Callable[[str, str], str]:
    """Write the yaml of a faulty part and return the folder."""

    def write(group: str, kind: str) -> str:
        (tmp_path / group).mkdir()
        text = f"# Faulty.\nname: {kind}\n_target_: faulty_parts.{kind}\n"
        (tmp_path / group / f"{kind}.yaml").write_text(text)
        return str(tmp_path)

    return write


@pytest.mark.parametrize(("group", "kind"), [(group, kind) for group, kinds in FAULTS.items() for kind in kinds])
def test_a_faulty_part_breaks_its_rule(group: str, kind: str, folder: Callable[[str, str], str]) -> None:
    target = find(f"{group}={kind}", folder(group, kind))
    broken = {f.rule.replace(" ", "_") for f in check(target) if f.verdict == "broken"}
    rule = FAULTS[group][kind]
    assert rule in broken if rule else not broken


def test_a_noise_that_acts_nowhere_cannot_be_built(folder: Callable[[str, str], str]) -> None:
    (finding,) = check(find("dropout=ActsNowhere", folder("dropout", "ActsNowhere")))
    assert (finding.rule, finding.verdict) == ("can be built", "broken")
    assert "acts at nowhere" in finding.sentence


def test_what_needs_its_user_is_told() -> None:
    with pytest.raises(AltpropError, match=r"task=table needs task\.target; say task\.target="):
        find("task=table", None, ("task.path=a.csv",))
    with pytest.raises(AltpropError, match=r"model=custom needs model\._target_"):
        find("model=custom")


def test_an_unknown_part_is_told_the_near_ones() -> None:
    with pytest.raises(AltpropError, match="model=gruu is unknown; did you mean gru"):
        find("model=gruu")
