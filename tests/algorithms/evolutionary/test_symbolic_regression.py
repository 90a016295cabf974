"""Formulas: what their oracles leave open."""

import math
import random

import pytest
import torch
from deap import gp

from altprop import Batch
from altprop.algorithms.evolutionary import symbolic_regression as module
from altprop.algorithms.evolutionary.symbolic_regression import SymbolicRegression
from altprop.errors import Refused
from altprop.testing import set_up, toy


def test_everyone_is_evaluated_on_the_present_batch():
    """Best and mean are those of the formulas before the step; the loss is the predictor's, before it as well."""
    learner, batch = module._posed(SymbolicRegression(30))
    for shift in range(6):
        present = Batch(batch.inputs, batch.targets + shift, batch.index)
        predicted = learner._predictor()(present.inputs)
        expected = float(learner.problem.output_loss(predicted, present))
        losses = []
        for text in learner.formulas:
            tree = gp.PrimitiveTree.from_string(text, learner.grammar)
            losses.append(float(learner.problem.output_loss(learner._function(tree)(present.inputs), present)))
        result = learner.step(present)
        assert result.scalars["best_fitness"] == min(losses)
        assert result.scalars["mean_fitness"] == pytest.approx(sum(losses) / 30)
        if shift:
            assert float(result.loss) == expected
        assert float(learner.problem.output_loss(learner._predictor()(present.inputs), present)) == min(losses)
        assert learner.best in learner.formulas


def test_no_formula_is_higher_than_allowed_and_elites_live_on():
    learner, batch = module._posed(SymbolicRegression(30, height=3, mutation_rate=0.9))
    best = []
    for _ in range(15):
        best.append(learner.step(batch).scalars["best_fitness"])
        heights = [gp.PrimitiveTree.from_string(text, learner.grammar).height for text in learner.formulas]
        assert max(heights) <= 3
    assert best == sorted(best, reverse=True)


def test_two_objectives_keep_small_formulas_and_good_ones():
    learner, batch = module._posed(SymbolicRegression(40, "nsga2"), seed=1)
    best = [learner.step(batch).scalars["best_fitness"] for _ in range(15)]
    assert best == sorted(best, reverse=True)
    sizes = [size for _, size, _ in learner.front]
    assert sizes[0] == 1
    assert len(sizes) > 2
    kept = learner.artefacts()["front"]
    assert kept["nodes"] == sizes
    assert kept["loss"] == sorted(kept["loss"], reverse=True)


def test_constants_survive_words_to_the_bit():
    learner, _ = module._posed(SymbolicRegression(200))
    with learner.problem.random.as_global():
        trees = [gp.PrimitiveTree(gp.genFull(learner.grammar, 3, 3)) for _ in range(50)]
    x = torch.linspace(-1, 1, 5, dtype=torch.float64)[:, None]
    for tree in trees:
        again = gp.PrimitiveTree.from_string(str(tree), learner.grammar)
        assert torch.equal(learner._function(tree)(x), learner._function(again)(x))


def test_division_is_protected_and_constants_alone_are_a_formula():
    one, zero = torch.tensor([1.0, 3.0]), torch.tensor([0.0, 2.0])
    assert module.divided(one, zero).tolist() == [1.0, 1.5]
    learner, batch = module._posed(SymbolicRegression(4))
    tree = gp.PrimitiveTree.from_string("sin(div(0.5, 0.25))", learner.grammar)
    assert learner._function(tree)(batch.inputs)[:, 0].tolist() == pytest.approx([math.sin(2.0)] * 20)


def test_formulas_that_are_no_numbers_rank_last():
    learner, batch = module._posed(SymbolicRegression(10))
    broken = Batch(batch.inputs * math.nan, batch.targets, batch.index)
    for _ in range(3):
        learner.step(broken)
    assert len(learner.formulas) == 10
    assert learner.step(batch).scalars["best_fitness"] < math.inf


def test_global_generators_are_left_alone():
    before = random.getstate()
    learner, batch = module._posed(SymbolicRegression(10))
    learner.step(batch)
    assert random.getstate() == before


def test_several_outputs_are_refused():
    problem, _ = toy(loss="half_squared_error")
    with pytest.raises(Refused, match=r"gives one output, and the task has inputs \[5\] and 3 outputs"):
        set_up(SymbolicRegression(), problem)
