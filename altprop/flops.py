"""FLOP formulas, and a lean dispatch mode that applies them.

By the field's convention products count (one multiply-add is 2 FLOPs) and element-wise work does not: torch's own
registry, and below formulas for what it leaves at 0. Every other operation that computes is listed by name.
"""

import math
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

aten = torch.ops.aten
Formula = Callable[..., int]


def _numel(tensor: Tensor) -> int:
    return int(tensor.numel())


def _batched(matrix: Tensor) -> tuple[int, int, int]:
    """Return (number of matrices, rows, columns)."""
    return math.prod(matrix.shape[:-2]), int(matrix.shape[-2]), int(matrix.shape[-1])


def _solve(a: Tensor, b: Tensor, *args: Any, **kwargs: Any) -> int:
    count, n, _ = _batched(a)
    return count * (2 * n**3 // 3) + 2 * n * _numel(b)


def _triangular(a: Tensor, b: Tensor, *args: Any, **kwargs: Any) -> int:
    return int(a.shape[-1]) * _numel(b)


def _cubic(factor: float) -> Formula:
    def formula(a: Tensor, *args: Any, **kwargs: Any) -> int:
        count, m, n = _batched(a)
        return round(count * factor * m * n * min(m, n))

    return formula


def _cdist(x: Tensor, y: Tensor, *args: Any, **kwargs: Any) -> int:
    count, n, d = _batched(x)
    return count * n * int(y.shape[-2]) * 3 * d


def _convolution_backward(g: Tensor, x: Tensor, w: Tensor, *rest: Any, **kwargs: Any) -> int:
    """Cost what the convolution itself costs, to each of input and weight that is wanted.

    torch's formula multiplies the weight's part by the number of groups, and vmap makes groups of examples.
    """
    transposed, wanted = rest[4], rest[7] if len(rest) > 7 else kwargs["output_mask"]
    one = 2 * _numel(x if transposed else g) * math.prod(w.shape[1:])
    return one * (int(wanted[0]) + int(wanted[1]))


OURS: dict[Any, Formula] = {
    aten.convolution_backward: _convolution_backward,
    aten.mv: lambda a, x, *r, **k: 2 * _numel(a),
    aten.addmv: lambda y, a, x, *r, **k: 2 * _numel(a),
    aten.dot: lambda x, y, *r, **k: 2 * _numel(x),
    aten.vdot: lambda x, y, *r, **k: 2 * _numel(x),
    aten.addr: lambda a, x, y, *r, **k: 2 * _numel(x) * _numel(y),
    aten.ger: lambda x, y, *r, **k: _numel(x) * _numel(y),
    aten.baddbmm: lambda c, a, b, *r, **k: 2 * _numel(a) * int(b.shape[-1]),
    aten._cdist_forward: _cdist,
    aten._euclidean_dist: _cdist,
    aten._cdist_backward: lambda g, x, y, *r, **k: 3 * _cdist(x, y),
    aten._linalg_solve_ex: _solve,
    aten.linalg_solve_triangular: _triangular,
    aten.triangular_solve: lambda b, a, *r, **k: _triangular(a, b),
    aten.linalg_lu_factor_ex: _cubic(2 / 3),
    aten.linalg_cholesky_ex: _cubic(1 / 3),
    aten.cholesky_solve: lambda b, a, *r, **k: 2 * _triangular(a, b),
    aten.cholesky_inverse: _cubic(2 / 3),
    aten.linalg_lu_solve: lambda a, pivots, b, *r, **k: 2 * _triangular(a, b),
    aten.linalg_inv_ex: _cubic(2),
    aten._linalg_det: _cubic(2 / 3),
    aten._linalg_slogdet: _cubic(2 / 3),
    aten.linalg_qr: _cubic(2),
    aten._linalg_eigh: _cubic(9),
    aten._linalg_svd: _cubic(20),
    aten.linalg_lstsq: lambda a, b, *r, **k: _cubic(2)(a),
}

# Operations that move, make or look at memory and compute nothing.
FREE = frozenset(
    """view _unsafe_view reshape t transpose permute expand squeeze unsqueeze slice select detach alias as_strided split
    split_with_sizes unbind chunk clone copy_ _to_copy empty empty_like empty_strided zeros zeros_like ones ones_like
    full full_like new_empty new_zeros new_ones new_full new_empty_strided scalar_tensor arange lift_fresh lift fill_
    zero_ cat stack index index_select gather index_put_ index_put _index_put_impl_ scatter scatter_ _local_scalar_dense
    is_same_size resize_ set_ diagonal flip roll repeat narrow movedim unfold view_as_real select_backward
    slice_backward _reshape_alias _reshape_copy one_hot tril triu eye nonzero masked_select constant_pad_nd
    expand_copy _foreach_copy_ _foreach_zero_ unsafe_split _make_dual _unpack_dual _fw_primal _has_same_storage_numel
    randperm detach_ requires_grad_ record_stream""".split()
)


class CountingMode(TorchDispatchMode):
    """Counts FLOPs by formula while active, split by the section that is open, and the peak of live storage.

    Attributes:
        flops: section -> FLOPs.
        uncounted: operation -> calls, for those that compute and have no formula.
        peak_bytes: largest total of storages that were made inside and alive at once.
        section: name that FLOPs go to at present.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flops: dict[str, int] = {}
        self.uncounted: dict[str, int] = {}
        self.peak_bytes = 0
        self.section = "other"
        self._live: dict[int, weakref.ref[Any]] = {}
        self._total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        packet = func._overloadpacket
        formula = OURS.get(packet)
        if formula is not None:
            self._add(int(formula(*args, **kwargs)))
        elif packet in flop_registry:
            self._add(int(flop_registry[packet](*args, **kwargs, out_val=out)))
        else:
            name = packet.__name__
            if name not in FREE:
                self.uncounted[name] = self.uncounted.get(name, 0) + 1
        if isinstance(out, Tensor):
            self._track(out)
        elif isinstance(out, (tuple, list)):
            for item in out:
                if isinstance(item, Tensor):
                    self._track(item)
        return out

    def _add(self, amount: int) -> None:
        self.flops[self.section] = self.flops.get(self.section, 0) + amount

    def _track(self, tensor: Tensor) -> None:
        if tensor.device.type == "meta":
            return
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._live:
            return

        def end(_: Any) -> None:
            del self._live[key]
            self._total -= size

        self._live[key] = weakref.ref(storage, end)
        self._total += size
        self.peak_bytes = max(self.peak_bytes, self._total)


def count_flops(function: Callable[[], Any]) -> int:
    """Return the FLOPs of a call.

    >>> x, w = torch.ones(3, 4), torch.ones(4, 5)
    >>> count_flops(lambda: x @ w)
    120
    """
    mode = CountingMode()
    with mode:
        function()
    return sum(mode.flops.values())
