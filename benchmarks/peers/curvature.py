"""Curvature by other libraries, where they can be imported: curvlinops 3 and ASDL (the distribution asdfghjkl).

They drag other versions in; put them into a folder of their own and on PYTHONPATH:
`pip install --no-deps --target peers curvlinops-for-pytorch backpack-for-pytorch einconv einops unfoldNd
linear_operator jaxtyping wadler_lindig asdfghjkl`.
"""

import importlib
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from altprop.data import Batch

DAMPING = 0.03
EVERY = 10
Steps = Callable[[int], float]
"""How many steps -> the same number, when they are done."""


def missing(name: str) -> str:
    """Return why a peer is left out; empty where it is there."""
    try:
        importlib.import_module(name)
    except ImportError as error:
        return f"{name} is left out: {error}"
    return ""


def curvlinops_kfac(model: nn.Module, batches: Sequence[Batch]) -> Steps:
    """Return steps of SGD along K-FAC's direction, with factors (MC) and inverses anew every `EVERY` steps."""
    library: Any = importlib.import_module("curvlinops")
    params = list(model.parameters())
    optimizer = torch.optim.SGD(params, lr=0.03, momentum=0.9)
    inverse: Any = None

    def steps(count: int) -> float:
        nonlocal inverse
        for step in range(count):
            batch = batches[step % len(batches)]
            optimizer.zero_grad()
            functional.cross_entropy(model(batch.inputs), batch.targets).backward()
            if step % EVERY == 0:
                factors = library.KFACLinearOperator(
                    model,
                    nn.CrossEntropyLoss(),
                    params,
                    [(batch.inputs, batch.targets)],
                    check_deterministic=False,
                    separate_weight_and_bias=False,
                )
                inverse = library.KFACInverseLinearOperator(factors, damping=DAMPING, use_heuristic_damping=True)
            for p, direction in zip(params, inverse @ [p.grad for p in params], strict=True):
                p.grad = direction
            optimizer.step()
        return count

    return steps


def asdl_kfac(model: nn.Module, batches: Sequence[Batch]) -> Steps:
    """Return the same by ASDL's gradient maker."""
    library: Any = importlib.import_module("asdl")
    made: Any = importlib.import_module("asdl.precondition.natural_gradient")
    for module in list(sys.modules.values()):  # its ranges for a profiler need a CUDA build
        if getattr(module, "__name__", "").startswith("asdl") and hasattr(module, "nvtx"):
            module.nvtx = SimpleNamespace(range=lambda *named: nullcontext())  # type: ignore[attr-defined]
    config = library.PreconditioningConfig(
        preconditioner_upd_interval=EVERY, curvature_upd_interval=EVERY, damping=DAMPING, ema_decay=0.05, data_size=64
    )
    maker = made.KfacGradientMaker(model, config, fisher_type="fisher_mc")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.03, momentum=0.9)

    def steps(count: int) -> float:
        for step in range(count):
            batch = batches[step % len(batches)]
            optimizer.zero_grad()
            predicted = maker.setup_model_call(model, batch.inputs)
            maker.setup_loss_call(functional.cross_entropy, predicted, batch.targets)
            maker.forward_and_backward()
            optimizer.step()
        return count

    return steps


def curvlinops_hessian(model: nn.Module, batch: Batch) -> Any:
    """Return the Hessian of the cross-entropy on a batch as a linear operator."""
    library: Any = importlib.import_module("curvlinops")
    data = [(batch.inputs, batch.targets)]
    return library.HessianLinearOperator(
        model, nn.CrossEntropyLoss(), list(model.parameters()), data, check_deterministic=False
    )


def eigsh(operator: Any, start: Tensor) -> tuple[float, int]:
    """Return the largest eigenvalue by scipy over an operator, to its defaults, and the products that it took."""
    linalg: Any = importlib.import_module("scipy.sparse.linalg")
    wrapped, count = operator.to_scipy(), 0

    def product(v: Any) -> Any:
        nonlocal count
        count += 1
        return wrapped @ v.astype(wrapped.dtype)

    counted = linalg.LinearOperator(wrapped.shape, product, dtype=wrapped.dtype)
    (found,) = linalg.eigsh(counted, k=1, which="LA", v0=np.asarray(start), return_eigenvectors=False)
    return float(found), count
