import pytest

from altprop.records.status import RunStatus


def test_the_statuses_and_what_follows_are_those_of_the_design():
    assert {status for status in RunStatus if status.final} == {
        "completed", "reached_target", "diverged", "non_finite", "refused",
    }  # fmt: skip
    assert {status for status in RunStatus if status.rerun} == {"failed", "out_of_memory", "timed_out"}
    assert {status for status in RunStatus if status.resume} == {"interrupted"}


@pytest.mark.parametrize("status", RunStatus)
def test_each_status_has_one_consequence_and_a_sentence_of_its_own(status):
    assert [status.final, status.rerun, status.resume].count(True) == 1
    assert status.sentence[0].isupper()
    assert status.sentence.endswith(".")
    assert sum(other.sentence == status.sentence for other in RunStatus) == 1


def test_a_status_is_its_text_and_an_unknown_text_is_none():
    assert RunStatus("timed_out") is RunStatus.TIMED_OUT
    assert f"{RunStatus.TIMED_OUT}" == RunStatus.TIMED_OUT.value == "timed_out"
    with pytest.raises(ValueError, match="exploded"):
        RunStatus("exploded")
