"""A published claim at a scale that one core can train: what is learned there and what is not."""

import pytest

from altprop import run


@pytest.mark.slow
def test_identity_weights_and_relu_learn_to_add_where_tanh_does_not(tmp_path) -> None:
    """Le, Jaitly and Hinton 2015: the IRNN adds over lengths at which a tanh network stays at chance, 1/6.

    Theirs have 100 units, T from 150 to 400 and up to millions of updates by SGD; here 32 units, T = 30 and 1,600
    updates by Adam. Seen: .0053 and .178.
    """
    common = ["task=adding", "task.length=30", "task.hidden=[32]", "algorithm=bptt", "model=rnn", "report=false"]
    budget = ["budget.currency=steps", "budget.amount=1600", "budget.grid=4", "probes=off"]
    found = []
    for kind in (["model.initialisation=identity", "model.activation=relu"], ["model.activation=tanh"]):
        step = ["optimizer.lr=0.01", "optimizer.clip_norm=1.0", f"runs_dir={tmp_path}"]
        found.append(float(run([*common, *kind, *budget, *step])["test"][0]))
    assert found[0] < 0.02
    assert found[1] > 0.15
