"""What is said of the learning signal, from probes that are written by hand and from nets that are trained."""

import re
from pathlib import Path

import pytest

from altprop.report.model import Run
from altprop.report.signal import backward, forward


class Record:
    data = {"config": {"model": {"activation": "sigmoid", "initialisation": "lecun_normal"}}}  # noqa: RUF012


def run(slopes: list[float], layers: int = 6, frozen: tuple[int, ...] = (), passed: float = 0.25) -> Run:
    """A run with a probe for each backward slope, evenly over the budget."""
    made = Run(Record(), "x")  # type: ignore[arg-type]
    vars(made)["probes"] = [
        {
            "fraction": place / len(slopes),
            "layers": {
                f"blocks.{i}": {
                    "gradient_rms": 1.0,
                    "update_ratio": None if i in frozen else 1e-3,
                    "backward_signal": 10 ** (slope * (layers - 1 - i)),
                    "forward_signal": 1.0,
                    "passed": passed,
                }
                for i in range(layers)
            },
        }
        for place, slope in enumerate(slopes)
    ]
    return made


@pytest.mark.parametrize(
    ("slopes", "verdict"),
    [
        ([-1.1, -1.1, 0, 0, 0, 0, 0, 0, 0, 0], "vanishing until 20 % of the budget"),
        ([-0.3] * 4, "vanishing throughout"),
        ([0, 0, -0.3, -0.3], "vanishing from 50 % of the budget on"),
        ([0, -0.3, 0, -0.3, 0], "vanishing for 40 % of the budget"),
        ([0.5, 0.5, 0, 0], "exploding until 50 % of the budget"),
        ([0.3, -0.15, 0.1], "healthy throughout"),
    ],
)
def test_a_verdict_says_what_and_when(slopes: list[float], verdict: str) -> None:
    found = backward([run(slopes)])
    assert found.verdict == verdict
    assert bool(found.cause) == ("healthy" not in verdict)
    assert forward([run(slopes)]).verdict == "healthy throughout"


def test_a_probe_speaks_until_the_next_one() -> None:
    made = run([0, -0.3, 0, -0.3, 0])
    for row, fraction in zip(made.probes, (0, 0.1, 0.5, 0.6, 0.9), strict=True):
        row["fraction"] = fraction
    assert backward([made]).verdict == "vanishing for 70 % of the budget"


def test_the_figures_are_those_of_the_stretch_and_the_cause_is_the_product() -> None:
    found = backward([run([-1.0, -1.0, 0.0, 0.0])])
    assert found.figures == "−1.00 decades a layer: the first layer has 10⁻⁵ of the last"
    assert found.cause == (
        "a layer's sigmoid lets 0.25 of the signal pass and its weights, N(0, 1/n) at first, multiply it by 0.4, "
        "together 0.1 a layer; weights that multiply it by 4 would keep it"
    )


@pytest.mark.parametrize(
    ("layers", "frozen", "verdict"),
    [
        (3, (), "3 trained layers: not judged"),
        (6, (0, 1, 2), "3 trained layers: not judged"),
        (6, (0, 1), "vanishing throughout"),
        (6, tuple(range(5)), "1 trained layer: not judged"),
    ],
)
def test_shallow_nets_and_frozen_layers_are_not_judged(layers: int, frozen: tuple[int, ...], verdict: str) -> None:
    assert backward([run([-0.9] * 3, layers, frozen)]).verdict == verdict


def test_what_is_not_recorded_is_not_judged() -> None:
    old = run([0.0])
    for layer in old.probes[0]["layers"].values():
        del layer["backward_signal"]
    assert backward([old]).verdict == "not recorded"


@pytest.mark.parametrize(
    ("hidden", "activation", "cause"),
    [
        (6, "sigmoid", r"lets 0\.2\d .*, N\(0, 1/n\) at first, multiply it by (0\.9|1)"),
        (10, "relu", r"lets 0\.[67]\d* .*, N\(0, 1/n\) at first, multiply it by (0\.9|1)"),
    ],
)
def test_deep_nets_are_diagnosed_from_the_page_alone(hidden: int, activation: str, cause: str, tmp_path: Path) -> None:
    """A 6 x 32 sigmoid net and a relu net of ten layers, both from N(0, 1/n); the weights' gradients hide both."""
    from altprop.cli.run import run as command

    widths = ",".join(["32"] * hidden)
    options = [f"model.hidden=[{widths}]", f"model.activation={activation}", "model.initialisation=lecun_normal"]
    budget = ["budget.amount=3e7", "budget.grid=2"]
    here = f"runs_dir={tmp_path / 'runs'}"
    assert command(["algorithm=backprop", "optimizer=sgd", "task=digits", "seeds=2", *options, *budget, here]) == 0
    health = (tmp_path / "runs/report/report.md").read_text().split("## 4 ")[1].split("## 5 ")[0]
    assert "vanishing" in health
    assert re.search(cause, health)
