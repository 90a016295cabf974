"""Every oracle of every learner holds, and so does every negative control: found by discovery, so none is forgotten."""

import pytest

from altprop import Oracle, catalogue
from altprop.algorithm import Algorithm
from altprop.resolve import resolve_class

LEARNERS: dict[str, type[Algorithm]] = {
    name: resolve_class(str(entry.values["_target_"]), Algorithm)  # type: ignore[type-abstract]
    for name, entry in catalogue.entries("algorithm").items()
    if name != "custom"
}
ORACLES = [(name, oracle) for name, kind in LEARNERS.items() for oracle in kind.oracles()]


@pytest.mark.parametrize(("learner", "oracle"), ORACLES, ids=[f"{name}: {oracle.name}" for name, oracle in ORACLES])
def test_oracle(learner: str, oracle: Oracle) -> None:
    error = oracle.measure()
    assert oracle.holds(error), f"{learner}: {oracle.name}: {error:.3g} against {oracle.tolerance:.3g}"


@pytest.mark.parametrize("learner", LEARNERS)
def test_each_learner_has_both_kinds_and_names_them_once(learner: str) -> None:
    oracles = LEARNERS[learner].oracles()
    assert {oracle.differs for oracle in oracles} == {True, False}
    assert len({oracle.name for oracle in oracles}) == len(oracles)
