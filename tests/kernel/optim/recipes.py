"""What the tests of the optimizer axis share: recipes from conf/optimizer, and runs of backprop under them."""

import io
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from altprop.algorithms.backprop.backprop import Backprop
from altprop.data import Batch
from altprop.optim import OptimizerFactory
from altprop.problem import Problem
from altprop.resolve import arguments
from altprop.testing import toy

FOLDER = Path(__file__).parents[3] / "conf" / "optimizer"
RECIPES = {path.stem: yaml.safe_load(path.read_text()) for path in sorted(FOLDER.glob("*.yaml"))}
TORCH = [name for name, recipe in RECIPES.items() if recipe["optimizer"].startswith("torch.")]
FOREIGN = [name for name, recipe in RECIPES.items() if recipe.get("algorithm")]


def recipe(name: str, **changes: Any) -> OptimizerFactory:
    return OptimizerFactory(**{**arguments(RECIPES[name]), **changes})


class Halving(torch.optim.SGD):
    """Somebody's own optimizer, which keeps what changes in attributes and draws from the global stream."""

    def __init__(self, params: Any, lr: float = 0.1) -> None:
        super().__init__(params, lr=lr)
        self.taken = 0
        self.mean = torch.zeros((), device="cpu")

    def step(self, closure: Any = None) -> None:
        self.taken += 1
        self.mean = 0.5 * self.mean + torch.rand((), device="cpu")
        self.param_groups[0]["lr"] = 0.1 * 0.5**self.taken * float(self.mean)
        super().step(closure)


class Run:
    """Backprop under one optimizer on a toy problem with mini-batches of 8 of its 24 rows.

    A hook on a block sends its gradients through automatic differentiation, whose bits a loop by hand has.
    """

    def __init__(self, factory: OptimizerFactory, **problem: Any) -> None:
        self.problem: Problem
        self.problem, self._all = toy(**{"rows": 24, **problem})
        self.problem.model.blocks[0].register_forward_hook(lambda *_: None)
        self.rule = Backprop(factory)
        self.rule.setup(self.problem)
        self.step = 0

    def batch(self, size: int = 8) -> Batch:
        index = torch.arange(self.step * size, (self.step + 1) * size, device="cpu") % 24
        return Batch(self._all.inputs[index], self._all.targets[index], index)

    def take(self, steps: int, of: int = 40) -> Tensor:
        """Take so many steps of a budget of `of` and return the weights."""
        for _ in range(steps):
            self.problem.progress = self.step / of
            self.rule.step(self.batch())
            self.step += 1
        return self.problem.flat()

    def save(self) -> bytes:
        buffer = io.BytesIO()
        state = {"problem": self.problem.state_dict(), "rule": self.rule.state_dict(), "step": self.step}
        torch.save(state, buffer)
        return buffer.getvalue()

    def load(self, saved: bytes) -> None:
        state = torch.load(io.BytesIO(saved), weights_only=True)
        self.problem.load_state_dict(state["problem"])
        self.rule.load_state_dict(state["rule"])
        self.step = state["step"]
