"""What the sections compute from records: results, identity, health, cost and the view across tasks."""

from __future__ import annotations

import math
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from altprop.report.across import across, shares, stratum
from altprop.report.cost import cost_rows
from altprop.report.cost_figures import Point, frontier, points
from altprop.report.health import layer_matrix, layer_names, own, own_names, track
from altprop.report.health_figures import brought
from altprop.report.health_section import examine
from altprop.report.identity import checks, origins
from altprop.report.model import Report, Table
from altprop.report.profiles import performance_ratios, profile_area
from altprop.report.reading import read
from altprop.report.results import limits_of, rows
from altprop.report.statistics import bca_interval, interquartile_mean
from altprop.report.task_panels import task_panels
from altprop.report.times import horizon, outcomes, ranking_flips, target_times


@pytest.fixture(scope="module")
def report(tour: Path) -> Report:
    return read([tour], "tour")


def table(report: Report, name: str) -> Table:
    return next(one for one in report.tables if one.workload == name)


def test_order_and_roles(report: Report) -> None:
    assert report.learners[0].reference
    assert [one.name for one in report.learners if one.control] == ["null", "random_direction"]
    assert [one.control for one in report.learners] == sorted(one.control for one in report.learners)
    assert [one.workload for one in report.tables] == ["adding", "digits", "mnist1d"]


def test_the_reference_can_be_named(tour: Path) -> None:
    report = read([tour], "tour", reference="dfa+adam")
    assert [one.name for one in report.learners if one.reference] == ["dfa+adam"]
    assert report.learners[0].name == "dfa+adam"
    assert [table.reference for table in report.tables if "dfa+adam" in table.runs] == ["dfa+adam"] * 3
    digits = table(report, "digits")
    row = next(row for row in rows(report, digits) if row.learner.name == "backprop+adam")
    assert row.comparison is not None
    assert row.comparison.direction == 1
    assert row.difference is not None
    assert row.difference.estimate > 0


def test_rows_are_in_the_metrics_own_direction(report: Report) -> None:
    adding = table(report, "adding")
    row = next(row for row in rows(report, adding) if row.learner.name == "backprop+sgd")
    values = [run.value("test") for run in adding.tried("backprop+sgd")]
    assert row.median == pytest.approx(float(np.median(values)))
    assert row.mean is not None
    assert row.mean.low is not None
    assert row.mean.high is not None
    assert row.mean.low < np.mean(values) < row.mean.high
    reference = [run.value("test") for run in adding.tried("backprop+adam")]
    assert row.difference is not None
    assert row.difference.estimate == pytest.approx(np.mean(np.subtract(values, reference)))
    assert row.comparison is not None
    assert row.comparison.direction == -1  # a larger error is worse
    assert row.to_oracle == pytest.approx(row.median)  # the oracle is an error of 0


def test_rows_of_a_metric_that_wants_more(report: Report) -> None:
    digits = table(report, "digits")
    row = next(row for row in rows(report, digits) if row.learner.name == "dfa+adam")
    values = [run.value("test") for run in digits.tried("dfa+adam")]
    assert row.mean is not None
    assert row.mean.estimate == pytest.approx(np.mean(values))
    assert row.difference is not None
    assert row.difference.estimate < 0


@pytest.mark.parametrize(
    ("metric", "scale", "expected"),
    [
        ("accuracy", 1.0, (0.0, 1.0)),
        ("val_loss", 1.0, (0.0, math.inf)),
        ("accuracy", 100.0, None),
        ("return", 1.0, None),
    ],
)
def test_intervals_end_where_the_metric_does(
    metric: str, scale: float, expected: tuple[float, float] | None, synthetic: ModuleType, tmp_path: Path
) -> None:
    """An accuracy in per cent contradicts what its name says, and so nothing is cut off."""

    def change(record: dict, trace: list, clock: list) -> None:
        record["result"] |= {"metric": metric, "test": scale * (0.9 if record["seed"] else 0.999)}

    found = read([synthetic.write(tmp_path, synthetic.LEARNERS[:1], synthetic.TASKS[:1], 3, change=change)], "x")
    (row,) = rows(found, found.tables[0])
    assert row.mean is not None
    assert row.mean.low is not None
    assert row.mean.high is not None
    assert limits_of(found.tables[0]) == (expected or (-math.inf, math.inf))
    assert (row.mean.high == 1.0) == (expected == (0.0, 1.0))
    assert row.mean.low > 0


def test_flops_are_named_as_seconds_are(synthetic: ModuleType, tmp_path: Path) -> None:
    def change(record: dict, trace: list, clock: list) -> None:
        if record["axes"]["algorithm"] == "dfa" and record["result"]:
            kinds = {"block_forward": 3.0, "block_backward": 4.0, "jvp": 1.0, "hvp": 1.0, "environment": 1.0}
            record["result"]["flops_by_kind"] = kinds

    found = read([synthetic.write(tmp_path / "runs", change=change)], "changed")
    row = next(row for row in cost_rows(found, table(found, "digits")) if row.learner.name == "dfa+adam")
    assert {kind: share for kind, share in row.kinds.items() if share} == pytest.approx(
        {"block passes": 0.7, "products": 0.2, "other": 0.1}
    )


def test_a_diverged_run_is_failed_whatever_value_it_left(synthetic: ModuleType, tmp_path: Path) -> None:
    def change(record: dict, trace: list, clock: list) -> None:
        if record["status"] == "diverged":
            record["result"]["test"] = 0.99

    learners = [synthetic.LEARNERS[0], synthetic.Learner("x", statuses={"digits": {0: "diverged"}})]
    report = read([synthetic.write(tmp_path, learners, synthetic.TASKS[:1], change=change)], "x")
    assert report.tables[0].scores("x")[0] == -math.inf
    row = rows(report, report.tables[0])[1]
    assert row.summary is not None
    assert (row.summary.failed, row.mean) == (1, None)


def test_share_of_the_gap_undoes_the_targets(report: Report) -> None:
    digits = table(report, "digits")
    assert digits.unit == pytest.approx((0.1, 0.845))
    adding = table(report, "adding")
    assert adding.unit == pytest.approx((1 / 6, 0.004 - 1 / 6))
    value = adding.tried("null")[0].value("test")
    assert value is not None
    assert shares(adding, "null")[0] == pytest.approx((1 / 6 - value) / (1 / 6 - 0.004))
    assert list(digits.targets) == ["50%", "90%", "99%"]
    assert list(adding.targets) == ["50%", "90%", "99%"]  # the easiest first, downwards too


def test_target_times_are_those_of_the_records(report: Report) -> None:
    digits = table(report, "digits")
    found = next(row for row in target_times(digits, "flops") if row.target == "90%")
    hits = [run.result["hits"]["90%"]["flops"][1] for run in digits.tried("backprop+sgd")]
    assert found.learners["backprop+sgd"].mean == pytest.approx(np.mean(hits))
    found = next(row for row in target_times(digits, "steps") if row.target == "90%")
    assert found.learners["backprop+sgd"].mean == found.horizon  # it hits, but later than the shortest learner ran
    assert found.horizon == min(run.spent("steps") or 0 for name in digits.runs for run in digits.tried(name))
    assert horizon(digits, "flops") == pytest.approx(2e9, rel=0.01)


def test_a_diverged_run_never_hits_but_counts(report: Report) -> None:
    mnist = table(report, "mnist1d")
    hard = next(row for row in target_times(mnist, "flops") if row.target == "99%").learners["newton_cg"]
    assert hard.n == 3
    assert math.inf in [one.time for one in outcomes(mnist, "newton_cg", "99%", "flops")]
    assert "som" not in next(iter(target_times(table(report, "adding"), "flops"))).learners  # refused


@pytest.mark.parametrize("currency", ["forward_equivalents", "cpu_seconds"])
def test_hits_are_carried_to_other_currencies(report: Report, currency: str) -> None:
    run = table(report, "digits").tried("backprop+sgd")[0]
    step = run.result["hits"]["90%"]["step"][1]
    rows_ = run.trace if currency == "forward_equivalents" else run.record.clock()
    expected = next(row[currency] for row in rows_ if row["step"] == step and (currency in row))
    found = run.hit("90%", currency)
    assert found is not None
    assert found[1] == pytest.approx(expected)
    assert run.hit("no such target", currency) is None


def test_ranking_flips_between_currencies(synthetic: ModuleType, tmp_path: Path) -> None:
    quick = synthetic.Learner("many_cheap_steps", speed=9, step_flops=1e5)
    slow = synthetic.Learner("few_dear_steps", speed=5, step_flops=1e8, reference=True)
    report = read([synthetic.write(tmp_path, [quick, slow], synthetic.TASKS[:1])], "x")
    flips = ranking_flips(report.tables[0], "90%")
    assert flips == [("many_cheap_steps", "few_dear_steps", "flops", "steps")]


def test_pooled_iqm_is_stratified_and_ranked(report: Report) -> None:
    found = across(report)
    assert found is not None
    assert found.absent == ["dfa+adam", "manual_backprop", "som"]
    top = found.pooled[0]
    groups = [stratum([one], top.learner.name) for one in report.tables]
    assert top.iqm == bca_interval(groups)
    assert [row.rank for row in found.pooled] == list(range(1, len(found.pooled) + 1))
    iqms = [
        float(interquartile_mean(np.concatenate([stratum([t], r.learner.name) for t in report.tables])))
        for r in found.pooled
    ]
    assert iqms == sorted(iqms, reverse=True)


def test_profile_area_and_wins(report: Report) -> None:
    found = across(report)
    assert found is not None
    names = [row.learner.name for row in found.pooled]
    times = {
        name: [row.learners[name].median for one in report.tables for row in target_times(one, "flops")]
        for name in names
    }
    areas = {name: profile_area(ratios) for name, ratios in performance_ratios(times).items()}
    assert {row.learner.name: row.area for row in found.pooled} == pytest.approx(areas)
    share, pairs = found.wins["backprop+adam", "null"]
    assert (share.estimate, pairs) == (1.0, 9)
    assert share.low == pytest.approx(0.7009, abs=1e-4)  # Wilson's, 9 of 9
    a, b = found.wins["backprop+adam", "newton_cg"], found.wins["newton_cg", "backprop+adam"]
    assert a[0].estimate + b[0].estimate == pytest.approx(1.0)


def test_one_task_is_not_pooled(synthetic: ModuleType, tmp_path: Path) -> None:
    assert across(read([synthetic.write(tmp_path, synthetic.LEARNERS[:2], synthetic.TASKS[:1])], "x")) is None


def test_health_reads_the_probes(report: Report) -> None:
    health = {row.learner: row for row in examine(table(report, "digits"))}
    assert health["som"].words == "not applicable"
    assert health["null"].words == "no update"
    assert health["null"].ratio is None
    reference = health["backprop+adam"]
    assert (reference.back.verdict, reference.words) == ("healthy throughout", "")
    assert reference.alignment == pytest.approx(0.96, abs=0.05)
    assert reference.inside == 0.0
    assert health["random_direction"].inside == 1.0
    assert health["random_direction"].efficiency is None
    assert reference.dead == pytest.approx(0.15)


def test_health_tells_what_learners_measure_of_themselves(report: Report) -> None:
    digits = table(report, "digits")
    health = {row.learner: row for row in examine(digits)}
    assert health["newton_cg"].own == {"damping": pytest.approx(1e-3), "gap": None}
    assert health["som"].own == {"dead units": 12.0}  # where the basic probes do not apply too
    assert [name for name, row in health.items() if row.own] == ["newton_cg", "som"]
    runs = digits.tried("som")
    assert own_names(runs) == ["dead units"]
    (line, *_) = track(runs, "dead units", own).values
    assert np.isnan(line[:3]).all()
    assert line[3:] == pytest.approx(12 * np.linspace(0.2, 1, 17))


def test_what_a_task_wants_drawn_is_drawn_of_every_learner(report: Report) -> None:
    assert task_panels(report, table(report, "digits")) == []
    stream = table(report, "mnist1d")
    curves, trajectory, matrix, unknown = task_panels(report, stream)
    tried = sum(1 for name in stream.runs if stream.tried(name))
    assert [panel.title for panel in (curves, trajectory, matrix)] == [
        "loss",
        "Trajectory: accuracy, loss",
        "accuracy after each context",
    ]
    assert all(panel.caption.startswith("So. ") for panel in (curves, trajectory, matrix))
    assert (len(curves.figures), len(trajectory.figures), len(matrix.figures)) == (1, tried, tried)
    assert (unknown.figures, unknown.caption) == (
        [],
        "It is not drawn: this version of the report does not know that kind.",
    )
    line = next(p[0] for p in trajectory.figures[0].canvas._paths if p[3] == 1.1)  # of the first seed
    assert line[0, 0] < line[20, 0]  # accuracy rises to the right
    assert line[0, 1] < line[20, 1]  # and the loss falls
    halves = [text for _, _, text, *_ in matrix.figures[0].canvas._texts if text[:1].isdigit() or text == "–"]
    assert halves[1] == "–"
    assert float(halves[2]) == pytest.approx(float(halves[0]) / 2, abs=0.01)


def test_each_diagnostic_has_a_panel_that_names_it(report: Report) -> None:
    labels = [figure.canvas.label for figure in brought(report, table(report, "digits"))]
    assert [label.split(" over ")[0] for label in labels] == [
        "damping",
        "gap",
        "dead units",
    ]
    assert labels[1].endswith("gap: never finite")
    assert all("newton_cg, digits" in label for label in labels[:2])


def test_heat_is_the_median_over_seeds(report: Report) -> None:
    runs = table(report, "digits").tried("backprop+adam")
    layers = layer_names(runs)
    assert layers == ["blocks.0", "blocks.1", "blocks.2", "blocks.3"]
    fraction, values = layer_matrix(runs, "gradient_rms", layers)
    assert values.shape == (4, 20)
    assert fraction[-1] == pytest.approx(1.0, rel=0.01)
    expected = np.median([run.probes[7]["layers"]["blocks.1"]["gradient_rms"] for run in runs])
    assert values[1, 7] == pytest.approx(expected)


def test_cost_is_the_median_run(report: Report) -> None:
    row = next(row for row in cost_rows(report, table(report, "digits")) if row.learner.name == "dfa+adam")
    assert row.counts["steps"] == 2000
    assert row.octets == {"saved_bytes": 60_000, "state_bytes": 60_080, "peak_bytes": 1_320_080}
    assert row.uncounted == {"aten.bernoulli_": 12}
    assert sum(row.kinds.values()) == pytest.approx(1.0)


def test_frontier_is_what_nobody_beats(report: Report) -> None:
    found = points(report, table(report, "digits"), "peak_bytes")
    edge = frontier(found)
    for point in found:
        beaten = any(
            (o.cost <= point.cost and o.score > point.score) or (o.cost < point.cost and o.score >= point.score)
            for o in found
        )
        assert (point in edge) != beaten


def test_frontier_keeps_the_cheaper_of_two_equals() -> None:
    one, two, three = (Point(None, [], [], cost, 0.5, score) for cost, score in ((1.0, 0.5), (2.0, 0.5), (3.0, 0.6)))
    assert frontier([three, two, one]) == [one, three]


def test_identity(report: Report) -> None:
    found = checks(report)
    assert len(found) == 12
    assert {check.state for check in found} == {"equal"}
    weights = next(c for c in found if c.workload == "digits" and c.what == "initial weights")
    assert "24 runs compared. 3 runs have a model of their own." in weights.sentence


@pytest.mark.parametrize("field", ["data", "split", "initial_weights", "batch_order"])
def test_identity_sees_every_difference(field: str, synthetic: ModuleType, tmp_path: Path) -> None:
    def change(record: dict, trace: list, clock: list) -> None:
        if record["label"] == "newton_cg" and record["seed"] == 0:
            record["result"]["identity"][field] = "other"

    runs = synthetic.write(tmp_path, synthetic.LEARNERS[:6], synthetic.TASKS[:1], change=change)
    found = checks(read([runs], "x"))
    assert [check.state for check in found].count("different") == 1
    wrong = next(check for check in found if check.state == "different")
    assert wrong.what == field.replace("_", " ")
    assert "newton_cg" in wrong.sentence


def test_another_batch_size_is_another_group(synthetic: ModuleType, tmp_path: Path) -> None:
    def change(record: dict, trace: list, clock: list) -> None:
        if record["label"] == "newton_cg":
            record["config"]["task"]["batch_size"] = "full"
            record["result"]["identity"]["batch_order"] = f"other{record['seed']}"

    runs = synthetic.write(tmp_path, synthetic.LEARNERS[:6], synthetic.TASKS[:1], change=change)
    assert "different" not in {check.state for check in checks(read([runs], "x"))}


def test_origins_keep_all_versions(report: Report) -> None:
    named = {origin.name: origin.values for origin in origins(report)}
    assert named["hydra"] == [("1.3.8", 81)]
    assert next(iter(named)) == "fingerprint"


def test_older_runs_of_one_seed_are_left_out(synthetic: ModuleType, tmp_path: Path) -> None:
    synthetic.write(tmp_path, synthetic.LEARNERS[:1], synthetic.TASKS[:1], 1)

    def again(record: dict, trace: list, clock: list) -> None:
        record["key"] = "f" * 32
        record["measured"]["finished"] = "2024-02-01T00:00:00Z"

    synthetic.write(tmp_path, synthetic.LEARNERS[:1], synthetic.TASKS[:1], 1, change=again)
    report = read([tmp_path], "x")
    assert [run.record.key for run in report.runs] == ["f" * 32]
    assert len(report.superseded) == 1
