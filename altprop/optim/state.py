"""Optimizer state by parameter name, in types that `torch.load(weights_only=True)` reads.

torch's own `state_dict` numbers the parameters, casts what it loads, and leaves out what classes keep in attributes; a
resumed run would differ. Here everything that changes is written down as it is.
"""

import sys
from collections import deque
from collections.abc import Mapping
from enum import Enum
from typing import Any

import numpy as np
import torch
from torch import Tensor

from altprop.errors import AltpropError

Named = Mapping[str, Tensor]
_PLAIN = (bool, int, float, str, type(None))


def export(optimizer: torch.optim.Optimizer, params: Named) -> dict[str, Any]:
    """Return an optimizer's state.

    Args:
        optimizer: any.
        params: name -> the parameter that it steps.

    Returns:
        state (parameter name -> values), shared (state under no parameter), groups (counters and rates), attributes,
        own (what the class adds to its `state_dict`), shapes.
    """
    names = {id(p): name for name, p in params.items()}
    by_name: dict[str, Any] = {}
    shared: dict[str, Any] = {}
    for key, value in optimizer.state.items():
        if id(key) in names:
            by_name[names[id(key)]] = _encode(value, names)
        else:
            shared[str(key)] = _encode(value, names)
    return {
        "state": by_name,
        "shared": shared,
        "groups": [
            {key: _encode(value, names) for key, value in group.items() if key != "params" and _changes(value)}
            for group in optimizer.param_groups
        ],
        "attributes": {
            key: _encode(value, names)
            for key, value in vars(optimizer).items()
            if not key.startswith("_") and isinstance(value, (*_PLAIN, Tensor))
        },
        "own": _encode(_own(optimizer), names),
        "shapes": {name: list(p.shape) for name, p in params.items()},
    }


def restore(optimizer: torch.optim.Optimizer, params: Named, saved: Mapping[str, Any]) -> None:
    """Put the state of `export` into an optimizer on parameters of the same names.

    The state of a name that is gone, or whose shape differs, is left out; so is all of L-BFGS's, which is one vector.
    """
    same = {name for name, p in params.items() if saved["shapes"].get(name) == list(p.shape)}
    if isinstance(optimizer, torch.optim.LBFGS) and same != set(saved["shapes"]) | set(params):
        return
    for group, values in zip(optimizer.param_groups, saved["groups"], strict=True):
        group.update({key: _decode(value, params, None) for key, value in values.items()})
    for key, value in saved["attributes"].items():
        setattr(optimizer, key, _decode(value, params, None))
    _put_state(optimizer, params, saved, same)
    own = _decode(saved["own"], params, None)
    if own:
        # The class's loader may cast the state on its way; ours goes in once more afterwards.
        optimizer.load_state_dict({**optimizer.state_dict(), **own})
        _put_state(optimizer, params, saved, same)


def _put_state(optimizer: torch.optim.Optimizer, params: Named, saved: Mapping[str, Any], same: set[str]) -> None:
    for name, value in saved["state"].items():
        if name in same:
            optimizer.state[params[name]] = _decode(value, params, params[name].device)
    free: Any = optimizer.state
    for key, value in saved["shared"].items():
        free[key] = _decode(value, params, None)


def _own(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Return what a class adds to `state_dict` beyond state and groups; a wrapper's inner state is reached directly."""
    if type(optimizer).state_dict is torch.optim.Optimizer.state_dict:
        return {}
    return {k: v for k, v in optimizer.state_dict().items() if k not in ("state", "param_groups", "base")}


def _changes(value: Any) -> bool:
    """Return whether a group's value may change over steps; what is left out is configuration."""
    return isinstance(value, (*_PLAIN, Tensor)) or (
        isinstance(value, (tuple, list)) and all(isinstance(item, (*_PLAIN, Tensor)) for item in value)
    )


def _encode(value: Any, names: Mapping[int, str]) -> Any:
    if isinstance(value, Tensor):
        return {"parameter": names[id(value)]} if id(value) in names else value.detach().clone()
    if isinstance(value, Enum):
        return {"enum": [_path(value), value.name]}
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, _PLAIN):
        return value
    if isinstance(value, torch.dtype):
        return {"dtype": str(value).removeprefix("torch.")}
    if isinstance(value, torch.Size):
        return {"size": list(value)}
    if isinstance(value, deque):
        return {"deque": [value.maxlen, [_encode(item, names) for item in value]]}
    if isinstance(value, tuple):
        return {"tuple": [_encode(item, names) for item in value]}
    if isinstance(value, list):
        return [_encode(item, names) for item in value]
    if isinstance(value, Mapping):
        return {"items": [[_encode(k, names), _encode(v, names)] for k, v in value.items()]}
    if hasattr(value, "__dict__"):
        return {"object": [_path(value), _encode(vars(value), names)]}
    raise AltpropError(f"the optimizer's state holds a {type(value).__name__}, which cannot be saved")


def _path(value: Any) -> str:
    return f"{type(value).__module__}:{type(value).__qualname__}"


def _class(path: str) -> Any:
    """Return a class of the optimizer's own library; it is looked up among loaded modules, never imported."""
    module, _, name = path.partition(":")
    found = getattr(sys.modules.get(module), name, None)
    if module.partition(".")[0] != "pytorch_optimizer" or not isinstance(found, type):
        raise AltpropError(f"the saved optimizer state names {path}, which is no class of its library")
    return found


def _decode(value: Any, params: Named, device: torch.device | None) -> Any:
    if isinstance(value, Tensor):
        # Step counters are scalars that torch keeps on the CPU.
        return value.clone() if device is None or value.dim() == 0 else value.to(device, copy=True)
    if isinstance(value, list):
        return [_decode(item, params, device) for item in value]
    if not isinstance(value, dict):
        return value
    ((kind, inner),) = value.items()
    if kind == "parameter":
        return params[inner]
    if kind == "enum":
        return _class(inner[0])[inner[1]]
    if kind == "dtype":
        return getattr(torch, inner)
    if kind == "size":
        return torch.Size(inner)
    if kind == "deque":
        return deque(_decode(inner[1], params, device), maxlen=inner[0])
    if kind == "tuple":
        return tuple(_decode(inner, params, device))
    if kind == "items":
        return {_decode(k, params, device): _decode(v, params, device) for k, v in inner}
    rebuilt = _class(inner[0])
    made = object.__new__(rebuilt)
    made.__dict__.update(_decode(inner[1], params, device))
    return made
