"""What the page tells of units that fall silent and of the instruments of the standard and full tiers."""

import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from altprop.report.blocks import Points
from altprop.report.instruments import evidence, instrument_figures, last_hidden, worst_layer
from altprop.report.model import Report, Table
from altprop.report.reading import read

Put = Callable[[dict[str, Any], int], None]


@pytest.fixture
def made(synthetic: ModuleType, tmp_path: Path) -> Callable[[Put], tuple[Report, Table]]:
    """Write two learners on one task, the first one's probes changed, and return report and table."""

    def make(put: Put) -> tuple[Report, Table]:
        learners = synthetic.LEARNERS[:2]

        def change(record: dict[str, Any], trace: list[dict[str, Any]], clock: Any) -> None:
            record["config"]["model"] = {"hidden": [32, 32, 32]}
            probes = [row for row in trace if row["kind"] == "probe"]
            for place, row in enumerate(probes):
                for layer in row["layers"].values():
                    layer["dead_fraction"] = layer["saturated_fraction"] = 0.0
                if record["label"] == learners[0].name:
                    put(row, place)

        report = read([synthetic.write(tmp_path, learners, synthetic.TASKS[:1], change=change)], "x")
        return report, report.tables[0]

    return make


def words(table: Table) -> list[str]:
    return [sentence for block in evidence(table) if isinstance(block, Points) for sentence in block.sentences]


def test_nothing_is_said_or_drawn_of_what_did_not_happen(made: Any) -> None:
    report, table = made(lambda row, place: None)
    assert words(table) == []
    assert instrument_figures(report, table) == []


def put(**given: Any) -> Put:
    return lambda row, place: row["values"].update(given)


def in_layer(layer: str, **given: Any) -> Put:
    return lambda row, place: row["layers"][layer].update(given)


@pytest.mark.parametrize(
    ("change", "sentence", "title"),
    [
        (in_layer("blocks.1", dead_fraction=0.4), r"Dead units, .*\(40 % of blocks.1\)\.$", "dead units"),
        (in_layer("blocks.2", saturated_fraction=0.6), r"Saturated units, .*\(60 % of blocks.2\)\.$", "saturated"),
        (put(noise_scale=640.0), r"640 rows, 10\.0 times a batch of 64\); larger batches", "gradient noise scale"),
        (put(noise_scale="beyond n"), r"does not tell its gradient from 0, at the end: backprop\+adam", None),
        (put(edge=1.4), r"At the edge of stability or beyond it .*adam \(1\.4\)", "sharpness over what"),
        (in_layer("blocks.2", effective_rank=1.2), r"hardly told apart .*\(1\.20 of 32 directions\)", "effective rank"),
        (put(jacobian_largest=1e-5), r"Outputs hardly feel the inputs at first.*\(10⁻⁵\)", "largest singular value"),
        (put(jacobian_largest=1e5), r"Outputs blow up what differs .*\(10⁵\)", "largest singular value"),
        (in_layer("blocks.1", variance_shift=0.6), r"Batch normalisation divides by more.*\(0\.6\)", "variance shift"),
        (in_layer("blocks.1", variance_shift=0.9), None, "variance shift"),
        (put(diversity=0.1), None, "gradient diversity"),
        (put(snr=0.1), None, "signal to noise"),
        (put(sharpness=3.0), None, "sharpness,"),
        (put(edge=0.5), None, "sharpness over what"),
        (put(noise_scale=64.0), None, "gradient noise scale"),
        (in_layer("blocks.1", dead_fraction=0.1), None, "dead units"),
        (in_layer("blocks.1", dead_fraction=0.03), None, None),
        (in_layer("blocks.2", effective_rank=9.0), None, "effective rank"),
    ],
)
def test_evidence_is_told_with_its_figures_and_drawn(
    made: Any, change: Put, sentence: str | None, title: str | None
) -> None:
    report, table = made(change)

    said = words(table)
    assert len(said) == (sentence is not None)
    if sentence is not None:
        assert re.search(sentence, said[0]), said
        assert "sgd" not in said[0]
    drawn = [figure.canvas.label for figure in instrument_figures(report, table)]
    assert len(drawn) == (title is not None)
    assert title is None or drawn[0].startswith(title)


def test_what_is_measured_now_and_then_is_one_line(made: Any) -> None:
    _, table = made(
        lambda row, place: row["layers"]["blocks.2"].update(effective_rank=float(place)) if place % 4 == 0 else None
    )
    runs = table.tried("backprop+adam")
    found = last_hidden(runs, "effective_rank")
    assert [values.tolist() for values in found.values] == [[0.0, 4.0, 8.0, 12.0, 16.0]] * 3
    assert all(np.isfinite(fraction).all() and len(fraction) == 5 for fraction in found.fraction)


def test_the_worst_layer_is_another_at_each_probe(made: Any) -> None:
    def alternate(row: dict[str, Any], place: int) -> None:
        row["layers"][f"blocks.{place % 2}"]["dead_fraction"] = 0.1 * (place % 2 + 1)

    _, table = made(alternate)
    values = worst_layer(table.tried("backprop+adam"), "dead_fraction").values
    assert all(line.tolist() == pytest.approx([0.1, 0.2] * 10) for line in values)
