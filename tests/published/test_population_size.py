"""The published study of population sizes: the README's steps are those of its records."""

from pathlib import Path

from altprop.records.frame import load

RECORDS = Path(__file__).parents[2] / "reports" / "population_size" / "records.tar.xz"
STEPS = {10: 48, 20: 36, 40: 31, 80: 23, 160: 22}
"""Population -> median steps to the 99 % target, of 12 seeds."""


def test_steps_fall_less_than_individuals_rise() -> None:
    frame = load(RECORDS)
    assert set(frame.status) == {"completed"}
    assert (frame.groupby("label").seed.nunique() == 12).all()
    population = frame.config.map(lambda config: config["algorithm"]["population"])
    steps = frame.hits.map(lambda hits: hits["99%"]["step"][1])
    assert steps.groupby(population).median().to_dict() == STEPS
