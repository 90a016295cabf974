"""A gradient checker: what a rule calls the gradient, against central differences of the objective."""

from collections.abc import Mapping

import torch
from torch import Tensor

from altprop.data import Batch
from altprop.errors import AltpropError
from altprop.problem import Problem
from altprop.randomness import generator_for

STEP = 1e-5
# Below this error a coordinate is right; above it, it is measured once more with a smaller step.
CLOSE = 1e-7


def check_gradient(
    problem: Problem, batch: Batch, grads: Mapping[str, Tensor], *, coordinates: int = 200, step: float = STEP
) -> dict[str, float]:
    """Return the worst relative error of a gradient, layer by layer.

    For each coordinate of a parameter, (E(theta + h) - E(theta - h)) / 2h is held against the gradient; the difference
    is divided by the largest central difference of the layer (by 1 where all are 0). A correct gradient in float64 is
    below 1e-7, a wrong one above 1e-2. Where the two disagree a step of h / 10 decides, since a step may cross the
    kink of a relu.

    Under noise, take the gradient and call this inside one `problem.same_noise()`. Nothing is counted, and parameters,
    buffers and streams are left as they were.

    Args:
        problem: in float64.
        batch: that the gradient was taken on.
        grads: parameter name -> gradient.
        coordinates: how many of a parameter's are checked, drawn at random (the same ones each time) where it has more.
        step: h, relative to the size of the weight where that is above 1.

    Returns:
        module that holds the parameters, such as "blocks.0" -> worst relative error.

    Raises:
        AltpropError: in another dtype than float64, and for a gradient that is missing or of another shape.

    >>> from altprop.testing import toy
    >>> problem, batch = toy()
    >>> errors = check_gradient(problem, batch, problem.gradient(batch)[1])
    >>> {layer: error < 1e-7 for layer, error in errors.items()}
    {'blocks.0': True, 'blocks.1': True, 'blocks.2': True}
    """
    if problem.dtype != torch.float64:
        raise AltpropError(f"central differences need float64; the problem is in {problem.dtype}")
    params = problem.params
    for name, parameter in params.items():
        if name not in grads:
            raise AltpropError(f"there is no gradient for {name}")
        if grads[name].shape != parameter.shape:
            shapes = f"{tuple(grads[name].shape)}, the parameter {tuple(parameter.shape)}"
            raise AltpropError(f"the gradient for {name} has the shape {shapes}")
    differences: dict[str, float] = {}
    scales: dict[str, float] = {}
    with problem.observing():
        for name, parameter in params.items():
            layer = name.rpartition(".")[0] or name
            for index in _chosen(name, parameter.numel(), coordinates):
                given = float(grads[name].flatten()[index])
                measured = _central_difference(problem, batch, parameter, index, step)
                difference = abs(given - measured)
                if not difference <= CLOSE * max(1.0, abs(measured)):
                    again = _central_difference(problem, batch, parameter, index, step / 10)
                    # `min` would drop a NaN that the gradient holds.
                    difference = difference if difference <= abs(given - again) else abs(given - again)
                if not difference <= differences.get(layer, 0.0):
                    differences[layer] = difference
                differences.setdefault(layer, 0.0)
                scales[layer] = max(scales.get(layer, 0.0), abs(measured))
    return {layer: differences[layer] / (scales[layer] or 1.0) for layer in differences}


def _chosen(name: str, size: int, count: int) -> list[int]:
    """Return the coordinates to check, in order."""
    if size <= count:
        return list(range(size))
    drawn = torch.randperm(size, generator=generator_for(0, "gradient check", name), device="cpu")[:count]
    return sorted(int(i) for i in drawn)


def _central_difference(problem: Problem, batch: Batch, parameter: Tensor, index: int, step: float) -> float:
    """Differentiate the objective in one coordinate of one parameter; the coordinate is put back exactly."""
    with torch.no_grad():
        flat = parameter.detach().view(-1)
        kept = flat[index].clone()
        h = step * max(1.0, abs(float(kept)))
        values = []
        try:
            for sign in (1.0, -1.0):
                flat[index] = kept + sign * h
                values.append(float(problem.objective(batch)))
        finally:
            flat[index] = kept
        # The two points as they were in floating point, not as they were meant.
        distance = float((kept + h) - (kept - h))
    return (values[0] - values[1]) / distance
