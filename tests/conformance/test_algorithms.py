"""Every algorithm that is installed against every rule; neither list is kept by hand."""

import pytest

from altprop.conformance.case import find_target
from altprop.conformance.rules import RULES
from altprop.conformance.suite import algorithms, apply


@pytest.mark.parametrize("rule", [name for name in RULES if name != "passes_its_oracles"])  # tests/algorithms does that
@pytest.mark.parametrize("algorithm", algorithms())
def test_algorithm(algorithm: str, rule: str) -> None:
    finding = apply(RULES[rule], find_target(algorithm))
    if finding.verdict == "not applicable":
        pytest.skip(finding.sentence)
    assert finding.verdict == "passes", f"{finding.sentence}\n{finding.details}"


def test_discovery_finds_what_the_folder_holds() -> None:
    found = set(algorithms())
    assert {"backprop", "null", "som"} <= found
    assert "custom" not in found
