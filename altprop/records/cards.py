"""Cards of learners on disk: what their updates depend on and cost, told by intervention, beside the runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from os import PathLike
from typing import Any, ClassVar, final

from altprop.records.documents import Document, load_documents, write_document
from altprop.records.folders import Folders
from altprop.records.oracle_checks import file_name

KINDS: Mapping[str, tuple[type, ...]] = {
    "transport": (bool, type(None)),
    "slope": (bool, type(None)),
    "above": (bool, type(None)),
    "passes": (int, float),
    "memory": (int, float, type(None)),
}


@dataclass(frozen=True)
class Card:
    """What was measured of a learner. None stands where it cannot be: it trains no layers of the model.

    Attributes:
        transport: whether the first layer's update depends on the weights above other than through the forward pass.
        slope: whether it depends on the activations' derivative.
        above: whether it depends on the last layer.
        passes: FLOPs of a step in forward passes of its rows: 3 for backpropagation, less a bit at the bottom.
        memory: bytes kept for the way back at eight hidden layers, in units of backpropagation's.
    """

    transport: bool | None
    slope: bool | None
    above: bool | None
    passes: float
    memory: float | None


@final
class CardRecord(Document):
    """The card of one algorithm in one state of its code."""

    folder: ClassVar[str] = "cards"
    fields: ClassVar[Mapping[str, type]] = {
        "algorithm": str,
        "target": str,
        "code": str,
        "card": dict,
        "measured": dict,
        "provenance": dict,
    }

    @property
    def identity(self) -> tuple[str, ...]:
        return self.algorithm, self.target, self.code

    @classmethod
    def problem_of(cls, data: Mapping[str, Any]) -> str | None:
        for name, kinds in KINDS.items():
            if name not in data["card"]:
                return f"its card tells no {name!r}"
            if type(data["card"][name]) not in kinds:
                return f"its card's {name!r} is {data['card'][name]!r}"
        return None

    @property
    def algorithm(self) -> str:
        """The name of the algorithm, as on the axis of a run."""
        return str(self.data["algorithm"])

    @property
    def target(self) -> str:
        """The import path of its class."""
        return str(self.data["target"])

    @property
    def code(self) -> str:
        """The hash of its code, from `code_of`, which the runs of that code carry too."""
        return str(self.data["code"])

    @property
    def card(self) -> Card:
        """What was measured."""
        return Card(**{name: self.data["card"][name] for name in KINDS})


def write_card(
    runs_dir: str | PathLike[str],
    algorithm: str,
    target: str,
    code: str,
    card: Card,
    provenance: Mapping[str, Any],
    finished: str,
) -> CardRecord:
    """Make a card permanent, in place of an older one of the same code.

    Args:
        runs_dir: The folder of records.
        algorithm: As on the axis of a run.
        target: The import path of its class.
        code: The hash of its code, from `code_of`.
        card: What was measured.
        provenance: As in a run's record.
        finished: Date and time, as in a run's record.

    Raises:
        AltpropError: The disk is full or the folder cannot be written, in one line.
    """
    data = {
        "algorithm": algorithm,
        "target": target,
        "code": code,
        "card": asdict(card),
        "measured": {"finished": finished},
        "provenance": dict(provenance),
    }
    return write_document(runs_dir, CardRecord, file_name(algorithm, code), data)


def load_cards(runs: Folders = "runs") -> tuple[list[CardRecord], list[str]]:
    """Return the merged cards of folders of records; the second list and the argument are as for `load_documents`."""
    return load_documents(CardRecord, runs)
