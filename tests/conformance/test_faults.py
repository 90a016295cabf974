"""Planted faults: each breaks the rules that it should and no other, and the honest twin breaks none."""

from functools import cache
from pathlib import Path

import pytest

from altprop.conformance.case import find_target
from altprop.conformance.learning import LEARNING
from altprop.conformance.rules import RULES
from altprop.conformance.suite import Finding, apply
from altprop.conformance.task_rules import TASK_RULES, find_task

HIDDEN = {
    "same_seed_same_bits",
    "leaves_global_generators_alone",
    "resumes_to_the_bit",
    "restores_an_earlier_state",
}
FORGOTTEN = {"declares_all_that_it_changes", "resumes_to_the_bit", "restores_an_earlier_state"}

FAULTS: dict[str, set[str]] = {
    "Honest": set(),
    "HonestUnused": set(),
    "HidesItsDraws": {"stacks_as_it_steps"},
    "DrawsFromTorch": HIDDEN | {"stacks_as_it_steps"},
    "DrawsFromNumpy": HIDDEN | {"stacks_as_it_steps"},
    "DrawsFromPython": HIDDEN | {"stacks_as_it_steps"},
    "DrawsInVain": {"leaves_global_generators_alone"},
    "ForgetsACount": FORGOTTEN,
    "ForgetsInAnObject": FORGOTTEN | {"stacks_as_it_steps"},
    "ForgetsItsOptimizer": FORGOTTEN,
    # Nothing of the learner itself changes, so only its bits give it away.
    "RemembersEarlierRuns": {
        "same_seed_same_bits",
        "resumes_to_the_bit",
        "touches_no_task",
        "restores_an_earlier_state",
        "stacks_as_it_steps",
    },
    "HoldsAParameter": {"holds_no_parameter"},
    "NamesWhatIsNotThere": {"holds_no_parameter"},
    "OpensTheTask": {"touches_no_task"},
    # Through the frames of stacked seeds it sees another task.
    "PeeksThroughFrames": {"touches_no_task", "stacks_as_it_steps"},
    "LearnsFromTheTest": {"learns_from_its_labels", "learns_nothing_from_shuffled_labels"},
    "SellsAWrongGradient": {"gradient_is_exact"},
    "SkipsTheNoiseOfTheInputs": {"gradient_is_exact_under_noise"},
    "LeavesGrad": {"leaves_no_grad"},
    # A resumed run trains again: under dropout it ends elsewhere.
    "StopsTraining": {"keeps_the_mode", "resumes_to_the_bit"},
    "LearnsWhilePredicting": {"keeps_the_mode"},
    "SwitchesGradientsOff": {"leaves_torch_as_it_was"},
    "ForgetsADevice": {"names_its_devices"},
    "KnowsOnePrecision": {"works_in_both_precisions"},
    "HidesRareWork": {"counts_what_it_does"},
    "HidesPeriodicWork": {"counts_what_it_does"},
    "NamesPeriodicWork": set(),
    "HonestGrowth": set(),
    "HonestAndDone": set(),
    "GrowsAndForgets": {"resumes_to_the_bit", "restores_an_earlier_state"},
    "NeverShrinks": {"restores_an_earlier_state"},
    "CallsItWorkPerExample": {"counts_what_it_does"},
    "CallsItWorkPerCall": {"counts_what_it_does"},
    "HidesWorkInCharged": {"counts_what_it_does"},
    "CountsStepsTwice": {"counts_its_steps"},
    "TellsALaterLoss": {"tells_an_honest_loss"},
    "TellsAnAttachedLoss": {"tells_an_honest_loss", "stacks_as_it_steps"},
    "RefusesNothing": {"refuses_what_it_cannot_run"},
    "ReplacesAFinalMethod": {"writes_hooks_only", "refuses_what_it_cannot_run"},
    # What learns nothing from labels beats no control either, and is not at rest where every output is right.
    "IgnoresItsLabels": {"beats_the_controls", "learns_from_its_labels", "changes_nothing_without_an_error"},
    "WalksAtRandom": {"beats_the_controls", "learns_from_its_labels", "changes_nothing_without_an_error"},
    "FailsItsOracle": {"passes_its_oracles"},
    "HasAVacuousControl": {"passes_its_oracles"},
    "ExcusesItself": {"asks_for_few_exemptions"},
    "HonestDiagnostics": set(),
    "LearnsWhileMeasuring": {"measures_itself_unnoticed"},
    "DrawsFromTorchWhileMeasuring": {"measures_itself_unnoticed"},
    "MeasuresAWord": {"measures_itself_unnoticed"},
    "MeasuresNothingNamed": {"measures_itself_unnoticed"},
    "TakesANameOfTheProbes": {"measures_itself_unnoticed"},
}


@cache
def found(fault: str, rule: str) -> Finding:
    return apply(RULES[rule], find_target(f"faults:{fault}"))


@pytest.mark.parametrize(
    ("fault", "rule"), [(fault, rule) for fault, rules in FAULTS.items() for rule in sorted(rules)]
)
def test_each_fault_is_caught_by_its_rule(fault: str, rule: str) -> None:
    assert found(fault, rule).verdict == "broken"


@pytest.mark.parametrize("rule", RULES)
def test_the_honest_twin_passes(rule: str) -> None:
    for name in ("Honest", "HonestUnused", "NamesPeriodicWork", "HonestGrowth", "HonestAndDone", "HonestDiagnostics"):
        assert found(name, rule).verdict != "broken", found(name, rule).sentence


@pytest.mark.slow  # all rules on all faults: some 3 seconds each
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_breaks_no_other_rule(fault: str) -> None:
    # The rules that train are the slow ones: they are asked where one of them should speak.
    rules = RULES if FAULTS[fault] & set(LEARNING) else [name for name in RULES if name not in LEARNING]
    broken = {name: found(fault, name).sentence for name in rules if found(fault, name).verdict == "broken"}
    assert set(broken) == FAULTS[fault], broken


def test_every_rule_is_proven_by_a_fault() -> None:
    verified = set().union(*FAULTS.values())
    # The contract's own `step` asks for the batch.
    assert set(RULES) - verified == {"takes_what_it_asks_for"}


def test_an_exemption_is_shown_with_its_reason() -> None:
    finding = apply(RULES["learns_from_its_labels"], find_target("faults:ExemptWalk"))
    assert (finding.verdict, finding.sentence) == ("not applicable", "it walks at random and says so")
    assert apply(RULES["beats_the_controls"], find_target("faults:ExemptWalk")).verdict == "broken"


# Tasks.

TASK_FAULTS: dict[str, set[str]] = {
    "HonestTask": set(),
    "DrawsItsData": {"splits_by_its_data_seed_alone"},
    "MovesAGenerator": {"splits_by_its_data_seed_alone"},
    "TestsOnItsTrainingRows": {"keeps_its_splits_apart"},
    "NeedsOtherOutputs": {"fits_its_model", "differentiates_its_loss"},
    "HasAnotherLoss": {"says_whether_it_is_least_squares"},
    "DoublesTheGradientOfItsLoss": {"differentiates_its_loss"},
    "BendsItsLoss": {"differentiates_its_loss"},
    "AimsBelowChance": {"states_its_figures"},
}


@pytest.mark.parametrize("fault", TASK_FAULTS)
def test_a_faulty_task_breaks_its_rule_alone(fault: str, tmp_path: Path) -> None:
    aim = 0.1 if fault == "AimsBelowChance" else 0.8
    (tmp_path / "task").mkdir()
    (tmp_path / "task" / f"{fault.lower()}.yaml").write_text(
        f"# A task.\ndefaults:\n  - override /model@_global_.model: mlp\n\nname: {fault.lower()}\n"
        f"_target_: faulty_tasks.{fault}\nhidden: [4]\nloss: cross_entropy\n"
        f"chance: 0.5\ntargets: {{50%: {aim}}}\nbudget: {{currency: steps, amount: 20}}\n"
    )
    target = find_task(fault.lower(), str(tmp_path))
    found = {name: apply(rule, target) for name, rule in TASK_RULES.items()}
    broken = {name: f.sentence for name, f in found.items() if f.verdict == "broken"}
    assert set(broken) == TASK_FAULTS[fault], broken


def test_every_task_rule_is_proven_by_a_fault() -> None:
    assert set().union(*TASK_FAULTS.values()) == set(TASK_RULES)
