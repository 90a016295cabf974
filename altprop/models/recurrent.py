"""Recurrent models: a cell and a readout, written by hand so that every derivative and transform works.

torch's fused RNN, GRU and LSTM stop vmap, forward mode and FLOP counting; these are plain products and element-wise
functions.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from itertools import pairwise
from types import MappingProxyType
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from altprop.capabilities import Capability
from altprop.checks import ACTIVATIONS, CELLS, INITIALISATIONS, check_name, check_number, check_widths
from altprop.data import ModelSpec
from altprop.errors import AltpropError, Refused
from altprop.models.parts import initialise, make_activation, withhold_derivatives
from altprop.noise import MixingNoise, Noise

# Layers by which the noise of a recurrent model is keyed.
INPUT, STATE, READOUT = 0, 1, 2


def _fill(
    weight: Tensor, bias: Tensor, name: str, fan_in: int, fan_out: int, gain: float, draw: torch.Generator
) -> None:
    """Fill a weight that does not recur, and its bias; beside an identity it is drawn of N(0, .001^2)."""
    initialise(weight, bias, "small_normal" if name == "identity" else name, fan_in, fan_out, gain, draw)
    if name == "identity":
        weight.mul_(0.1)


class Synapse(NamedTuple):
    """How a parameter of a cell acts: row g W + k of it, on unit k alone, through gate g of what it is summed into.

    Attributes:
        onto: "input", the projected input, or "recurrent", the recurrent product.
        of: what multiplies it: "input" x_t, "state" the exposed part of h_(t-1), or "one".
        first: the first gate that it has rows for; it has them for all that follow.
    """

    onto: str
    of: str
    first: int = 0


class Cell(nn.Module, ABC):
    """Abstract cell `(x_t, h) -> h`, split into `advance(project(x_t), h)`: a sequence is projected in one product.

    Args:
        inputs: F, values of one time step.
        width: W, units.
        initialisation: name from `altprop.models.parts`, applied to each gate's matrices; "torch" draws
            all of U(-1/sqrt(W), 1/sqrt(W)), as torch's cells do.
        gain: of the activation, for initialisations.
        generator: CPU generator of the initialisation stream.

    Attributes:
        weight_input: (G W, F), the gates one after the other.
        weight_state: (G W, W).
        bias: (G W,), one for both products.
        state_size: S, values of the state, of which the first W are seen by the readout.
        synapses: name -> how each parameter acts, where `local` is written; S = s W for `states` = s values a unit.
    """

    gates: ClassVar[int] = 1
    states: ClassVar[int] = 1
    synapses: ClassVar[Mapping[str, Synapse]] = MappingProxyType(
        {
            "weight_input": Synapse("input", "input"),
            "weight_state": Synapse("recurrent", "state"),
            "bias": Synapse("input", "one"),
        }
    )

    def __init__(self, inputs: int, width: int, initialisation: str, gain: float, generator: torch.Generator) -> None:
        super().__init__()
        self.width, self.state_size = width, self.states * width
        self._noise: tuple[Noise | None] = (None,)
        rows = self.gates * width
        self.weight_input = nn.Parameter(torch.empty(rows, inputs, device="cpu"))
        self.weight_state = nn.Parameter(torch.empty(rows, width, device="cpu"))
        self.bias = nn.Parameter(torch.empty(rows, device="cpu"))
        for gate in range(self.gates):
            part = slice(gate * width, (gate + 1) * width)
            seen = width if initialisation == "torch" else inputs
            _fill(self.weight_input.data[part], self.bias.data[part], initialisation, seen, width, gain, generator)
            if initialisation == "identity":
                nn.init.eye_(self.weight_state.data[part])
            else:
                initialise(self.weight_state.data[part], None, initialisation, width, width, gain, generator)

    def attach(self, noise: Noise | None) -> None:
        """Take the model's noise (held in a tuple, so that it is registered once, by the model)."""
        self._noise = (noise,)

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        """Map one time step (B, F) and the state (B, S) to the next state (B, S)."""
        return self.advance(self.project(x), h)

    def project(self, x: Tensor) -> Tensor:
        """Return x W_x^T + b: (..., F) -> (..., G W)."""
        noise = self._noise[0]
        weight = self.weight_input if noise is None else noise(self.weight_input, "weight", INPUT)
        return functional.linear(x, weight, self.bias)

    def recurrent(self, h: Tensor) -> Tensor:
        """Return h W_h^T: (B, W) -> (B, G W). Noise on state and weights is the same at all times (Gal 2016)."""
        noise = self._noise[0]
        if noise is None:
            return functional.linear(h, self.weight_state)
        weight = noise(self.weight_state, "weight", STATE)
        return functional.linear(noise(h, "state", STATE), weight)

    def updated(self, g: Tensor) -> Tensor:
        """Return the candidate that a gated cell adds to its state, (B, W), under noise at the clock's moment."""
        noise = self._noise[0]
        return g if noise is None else noise(g, "update", STATE)

    @abstractmethod
    def advance(self, a: Tensor, h: Tensor) -> Tensor:
        """Map the projected input (B, G W) and the state (B, S) to the next state (B, S)."""

    def local(self, a: Tensor, back: Tensor, h: Tensor) -> Tensor:
        """Map the projected input and the recurrent product, (B, G W), and the state (B, S) to the next state (B, S).

        It is `advance` with the recurrent product given, in which units do not meet: each value of the next state
        depends on entries of its own unit alone, of all three.
        """
        raise Refused(f"{type(self).__name__} does not say what each unit does by itself; use algorithm=rtrl or bptt")


class RNNCell(Cell):
    """h' = f(x W_x^T + h W_h^T + b) (Elman 1990).

    Args:
        activation: f.
        others: see `Cell`.
    """

    def __init__(
        self, inputs: int, width: int, initialisation: str, activation: str, generator: torch.Generator
    ) -> None:
        self_activation = make_activation(activation)
        super().__init__(inputs, width, initialisation, self_activation.gain, generator)
        self.activation = self_activation

    def advance(self, a: Tensor, h: Tensor) -> Tensor:
        return self.local(a, self.recurrent(h), h)

    def local(self, a: Tensor, back: Tensor, h: Tensor) -> Tensor:
        return self.activation.function(a + back)


class LeakyCell(Cell):
    """h' = (1 - leak) h + leak f(x W_x^T + h W_h^T + b), a rate unit whose time constant is 1 / leak steps.

    Args:
        activation: f.
        leak: in (0, 1]; 1 is the plain recurrent network.
        others: see `Cell`.
    """

    def __init__(
        self, inputs: int, width: int, initialisation: str, activation: str, leak: float, generator: torch.Generator
    ) -> None:
        self_activation = make_activation(activation)
        super().__init__(inputs, width, initialisation, self_activation.gain, generator)
        self.activation, self.leak = self_activation, leak

    def advance(self, a: Tensor, h: Tensor) -> Tensor:
        return self.local(a, self.recurrent(h), h)

    def local(self, a: Tensor, back: Tensor, h: Tensor) -> Tensor:
        return (1 - self.leak) * h + self.leak * self.activation.function(a + back)


class GRUCell(Cell):
    """Gated recurrent unit (Cho et al. 2014), in torch's form: the reset gate acts after the product.

    r, z = sigmoid(x W_x^T + b + h W_h^T), two gates;  n = tanh(x W_n^T + b_n + r * (h U_n^T + c_n));
    h' = (1 - z) * n + z * h. `bias_state` is c_n, which b cannot stand in for.

    Args:
        inputs, width, initialisation, generator: see `Cell`.
    """

    gates: ClassVar[int] = 3
    synapses: ClassVar[Mapping[str, Synapse]] = MappingProxyType(
        {**Cell.synapses, "bias_state": Synapse("recurrent", "one", 2)}
    )

    def __init__(self, inputs: int, width: int, initialisation: str, generator: torch.Generator) -> None:
        super().__init__(inputs, width, initialisation, 1.0, generator)
        self.bias_state = nn.Parameter(torch.zeros(width, device="cpu"))

    def advance(self, a: Tensor, h: Tensor) -> Tensor:
        return self.local(a, self.recurrent(h), h)

    def local(self, a: Tensor, back: Tensor, h: Tensor) -> Tensor:
        cut = 2 * self.width
        r, z = (a[..., :cut] + back[..., :cut]).sigmoid().chunk(2, -1)
        n = self.updated(torch.tanh(a[..., cut:] + r * (back[..., cut:] + self.bias_state)))
        return n + z * (h - n)


class LSTMCell(Cell):
    """Long short-term memory with a forget gate (Hochreiter and Schmidhuber 1997; Gers et al. 2000).

    i, f, g, o = x W_x^T + b + h W_h^T;  c' = sigmoid(f) * c + sigmoid(i) * tanh(g);  h' = sigmoid(o) * tanh(c').
    The state is [h, c], so S = 2 W.

    Args:
        inputs, width, initialisation, generator: see `Cell`.
        forget_bias: added to the forget gate's bias at the start, so that it begins open (Jozefowicz et al. 2015).
    """

    gates: ClassVar[int] = 4
    states: ClassVar[int] = 2

    def __init__(
        self, inputs: int, width: int, initialisation: str, forget_bias: float, generator: torch.Generator
    ) -> None:
        super().__init__(inputs, width, initialisation, 1.0, generator)
        self.bias.data[width : 2 * width] += forget_bias

    def advance(self, a: Tensor, h: Tensor) -> Tensor:
        exposed, c = h.split(self.width, -1)
        return self._gated(a, self.recurrent(exposed), c)

    def local(self, a: Tensor, back: Tensor, h: Tensor) -> Tensor:
        return self._gated(a, back, h[..., self.width :])

    def _gated(self, a: Tensor, back: Tensor, c: Tensor) -> Tensor:
        i, f, g, o = (a + back).chunk(4, -1)
        c = f.sigmoid() * c + i.sigmoid() * self.updated(g.tanh())
        return torch.cat([o.sigmoid() * c.tanh(), c], -1)


class Layers(nn.Module):
    """Cells one above the other: each reads what the one below shows at the same time.

    The state holds those of all, the uppermost first, so that its first values are what the readout sees. Rules that
    follow units one by one know no such thing: a unit acts through the layer above at the same time.

    Args:
        cells: from the lowest to the uppermost.
    """

    def __init__(self, cells: Sequence[Cell]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(cells)
        self.width, self.state_size = cells[-1].width, sum(cell.state_size for cell in cells)

    def attach(self, noise: Noise | None) -> None:
        """Take no noise: its keys tell no layers apart."""
        if noise is not None:
            raise Refused("noise is for one recurrent layer; use dropout=none or a model.hidden of one width")

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        """Map one time step (B, F) and the state (B, S) to the next state (B, S)."""
        return self.advance(self.project(x), h)

    def project(self, x: Tensor) -> Tensor:
        """Return what the lowest cell makes of its input, (..., F) -> (..., G W)."""
        projected: Tensor = self.layers[0].project(x)  # type: ignore[operator]
        return projected

    def advance(self, a: Tensor, h: Tensor) -> Tensor:
        """Map the projected input (B, G W) of the lowest cell and the state (B, S) to the next state (B, S)."""
        after: list[Tensor] = []
        end, seen = self.state_size, a
        for cell in self.layers:
            assert isinstance(cell, Cell)
            given = cell.project(seen) if after else a
            after.append(cell.advance(given, h[..., end - cell.state_size : end]))
            seen = after[-1][..., : cell.width]
            end -= cell.state_size
        return torch.cat(after[::-1], -1)


class Readout(nn.Module):
    """An affine map of the part of the state that is seen, under the unit noise.

    Args:
        width: W, of that part.
        outputs: C.
        initialisation, generator: as for `Cell`.
    """

    def __init__(self, width: int, outputs: int, initialisation: str, generator: torch.Generator) -> None:
        super().__init__()
        self.width = width
        self._noise: tuple[Noise | None] = (None,)
        self.weight = nn.Parameter(torch.empty(outputs, width, device="cpu"))
        self.bias = nn.Parameter(torch.empty(outputs, device="cpu"))
        _fill(self.weight.data, self.bias.data, initialisation, width, outputs, 1.0, generator)

    def attach(self, noise: Noise | None) -> None:
        """Take the model's noise."""
        self._noise = (noise,)

    def forward(self, h: Tensor, start: int = 0) -> Tensor:
        """Map one state per row (B, S), or one per time start, start + 1, ... (T, B, S), to outputs (..., C)."""
        noise, seen = self._noise[0], h[..., : self.width]
        if noise is None:
            return functional.linear(seen, self.weight, self.bias)
        seen = noise.over_time(seen, "unit", STATE, start) if h.dim() == 3 else noise(seen, "unit", STATE)
        return functional.linear(seen, noise(self.weight, "weight", READOUT), self.bias)


class RecurrentModel(nn.Module):
    """A cell, or several one above the other, that runs over a sequence, and a readout.

    Noise: `input` on each x_t and `unit` on what the readout sees, drawn anew at each time; `state` on what enters the
    recurrent product and `weight` on the three matrices, the same at all times of a sequence; `update` on what a gated
    cell adds to its state, `carry` where a state follows another.

    Args:
        spec: shapes on both sides, of sequences.
        cell: rnn, leaky_rnn, gru or lstm.
        hidden: width of each layer, from the lowest up.
        activation: of rnn and leaky_rnn; gru and lstm have their own.
        initialisation: name from `altprop.models.parts`; or "identity" of rnn and leaky_rnn, for the recurrent weights,
            with all others small: with activation=relu the IRNN of Le, Jaitly and Hinton 2015.
        forget_bias: of lstm.
        leak: of leaky_rnn, in (0, 1].
        noise: the run's noise, or None.
        generator: CPU generator of the initialisation stream.

    Raises:
        AltpropError: for an unknown name, a width below 1 or no width.
        Refused: for a task whose inputs are no sequences, and for noise on several layers.

    >>> model = RecurrentModel(ModelSpec((2,), 3, sequence=True), "lstm", [4], generator=torch.Generator("cpu"))
    >>> model(torch.zeros(7, 5, 2)).shape, model.initial_state(5).shape
    (torch.Size([5, 3]), torch.Size([5, 8]))
    """

    offers: ClassVar[frozenset[Capability]] = frozenset(
        {Capability.GRADIENT, Capability.CURVATURE, Capability.RECURRENT}
    )

    def __init__(
        self,
        spec: ModelSpec,
        cell: str = "gru",
        hidden: Sequence[int] = (32,),
        activation: str = "tanh",
        initialisation: str = "torch",
        forget_bias: float = 1.0,
        leak: float = 0.2,
        *,
        noise: Noise | None = None,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        if not spec.sequence or len(spec.input_shape) != 1:
            raise Refused(f"model={cell} reads sequences of vectors, and this task's inputs are none; try model=mlp")
        check_name(cell, "model.cell", CELLS)
        check_name(activation, "model.activation", ACTIVATIONS)
        check_name(initialisation, "model.initialisation", INITIALISATIONS)
        if initialisation == "identity" and cell in ("gru", "lstm"):
            raise AltpropError(f"model.initialisation=identity is for model=rnn and leaky_rnn; {cell} has gates")
        if initialisation in ("critical", "lsuv"):
            raise AltpropError(
                f"model.initialisation={initialisation} is for layered models; use orthogonal for a recurrent one"
            )
        rate = check_number(leak, "model.leak", above=0.0, high=1.0)
        bias = check_number(forget_bias, "model.forget_bias", -1e3, 1e3)
        widths = check_widths(hidden)
        if not widths:
            raise AltpropError("model.hidden of a recurrent model holds at least one width; got []")
        self.spec = spec

        def layer(inputs: int, width: int) -> Cell:
            if cell == "rnn":
                return RNNCell(inputs, width, initialisation, activation, generator)
            if cell == "leaky_rnn":
                return LeakyCell(inputs, width, initialisation, activation, rate, generator)
            if cell == "gru":
                return GRUCell(inputs, width, initialisation, generator)
            return LSTMCell(inputs, width, initialisation, bias, generator)

        cells = [layer(*sizes) for sizes in pairwise([spec.input_shape[0], *widths])]
        width = widths[-1]
        self.cell: Cell | Layers = cells[0] if len(cells) == 1 else Layers(cells)
        self.readout = Readout(width, spec.outputs, initialisation, generator)
        self.noise = noise
        self.cell.attach(noise)
        self.readout.attach(noise)
        if cell in ("rnn", "leaky_rnn") and make_activation(activation).flat:
            withhold_derivatives(self)

    @property
    def plain_recurrence(self) -> bool:
        """Whether it is one vanilla layer and its readout, without noise, and nobody watches it by a hook."""
        if type(self) is not RecurrentModel or self.noise is not None:
            return False
        watched = (
            one._forward_hooks
            or one._forward_pre_hooks
            or one._backward_hooks
            or one._backward_pre_hooks
            or any(p._backward_hooks for p in one.parameters(recurse=False))
            for one in (self, self.cell, self.readout)
        )
        return type(self.cell) is RNNCell and type(self.readout) is Readout and not any(watched)

    def initial_state(self, rows: int) -> Tensor:
        """Return the state (B, S) before the first time: zeros."""
        return self.readout.weight.new_zeros(rows, self.cell.state_size)

    def unroll(
        self, x: Tensor, h: Tensor, mask: Tensor | None = None, reset: Tensor | None = None, start: int = 0
    ) -> tuple[Tensor, Tensor]:
        """Run the cell over a window of a sequence.

        Args:
            x: (T, B, F).
            h: (B, S) state before it.
            mask: (T, B) bool; where False the state stands still.
            reset: (B,) bool, rows that begin at the initial state and not at `h`.
            start: time of the window's first element, for the noise.

        Returns:
            The states after each time (T, B, S), and the last of them (B, S).
        """
        if reset is not None:
            h = torch.where(reset[:, None], self.initial_state(h.shape[0]), h)
        if mask is not None:
            # Whatever stands in the padding, even NaN, reaches no gradient.
            x = torch.where(mask[..., None], x, 0.0)
        noise = self.noise
        if noise is not None:
            x = noise.over_time(x, "input", INPUT, start)
        states = []
        for t, a in enumerate(self.cell.project(x).unbind(0)):
            if noise is not None:
                noise.clock.moment = start + t
            after = self.cell.advance(a, h)
            if isinstance(noise, MixingNoise):
                after = noise.mix(after, h, STATE, start + t)
            h = after if mask is None else torch.where(mask[t][:, None], after, h)
            states.append(h)
        return torch.stack(states), h

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Map sequences (T, B, F) to outputs (B, C) after the last valid element, or (T, B, C) with `spec.per_step`."""
        states, h = self.unroll(x, self.initial_state(x.shape[1]), mask)
        outputs: Tensor = self.readout(states if self.spec.per_step else h)
        return outputs
