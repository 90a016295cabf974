"""Every task that is installed against every rule; neither list is kept by hand."""

import pytest

from altprop.conformance.suite import apply, tasks
from altprop.conformance.task_rules import TASK_RULES, find_task


@pytest.mark.parametrize("rule", TASK_RULES)
@pytest.mark.parametrize("task", tasks())
def test_task(task: str, rule: str) -> None:
    finding = apply(TASK_RULES[rule], find_task(task))
    if finding.verdict == "not applicable":
        pytest.skip(finding.sentence)
    assert finding.verdict == "passes", f"{finding.sentence}\n{finding.details}"


def test_discovery_finds_what_the_folder_holds() -> None:
    assert {"digits", "iris", "quadratic"} <= set(tasks())
