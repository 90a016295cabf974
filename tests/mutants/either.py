"""Killers of the harness's own examples. pytest collects them where they are named, and nowhere else."""


def test_passes() -> None:
    """Notice nothing."""


def test_fails() -> None:
    """Fail on any code."""
    raise AssertionError("on any code")
