"""Claims of papers that an experiment puts to the test: what is said of whom, beside the runs that tell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any, ClassVar, final

from altprop.errors import AltpropError, near
from altprop.records.documents import Document, load_documents, write_document
from altprop.records.folders import Folders

SAYS = ("better", "worse", "equivalent", "as_good", "sooner", "falls_with_depth")
"""What a claim can say of a learner beside another: of the final metric (`as_good` is equivalent or better), of the
cost of a target, of the trend."""


CURRENCIES = ("flops", "steps", "forward_equivalents", "cpu_seconds")


@dataclass(frozen=True)
class Claim:
    """What a paper says of some learners beside another.

    Attributes:
        claim: in one sentence, as a reader should see it.
        source: where it is said.
        learners: of whom, by their names on the page.
        than: beside whom; None for the report's reference.
        workloads: by their names on the page; of a trend with depth, tasks. Empty for all where both ran.
        says: one of `SAYS`.
        at_least: of how many comparisons it must be so; None for all.
        target: of `sooner`: one that the task declares.
        currency: of `sooner`.
        remark: what differs here from where it was said.
    """

    claim: str
    source: str
    learners: tuple[str, ...]
    than: str | None = None
    workloads: tuple[str, ...] = ()
    says: str = "better"
    at_least: int | None = None
    target: str = "90%"
    currency: str = "flops"
    remark: str = ""


def read_claims(given: Any) -> list[Claim]:
    """Return the claims that a configuration lists.

    Raises:
        AltpropError: One is no mapping, lacks its sentence, its source or its learners, has an unknown key, or says
            what cannot be tested.
    """
    if given is None:
        return []
    if not isinstance(given, (list, tuple)):
        raise AltpropError("claims must be a list, each with claim, source and learners")
    return [_claim(place, one) for place, one in enumerate(given)]


def _claim(place: int, given: Any) -> Claim:
    if not isinstance(given, Mapping):
        raise AltpropError(f"claims[{place}] must be a mapping with claim, source and learners")
    known = tuple(Claim.__dataclass_fields__)
    for name in given:
        if name not in known:
            raise AltpropError(f"claims[{place}] has no key {name!r}; {near(str(name), known)}")
    for name in ("claim", "source", "learners"):
        if not given.get(name):
            raise AltpropError(f"claims[{place}] lacks {name}")
    values = {name: value for name, value in given.items() if value is not None}
    for name in ("learners", "workloads"):
        values[name] = _names(values.get(name, ()))
    for name in sorted({"claim", "source", "than", "target", "remark"} & values.keys()):
        if not isinstance(values[name], str):
            raise AltpropError(f"claims[{place}].{name} must be text; got {values[name]!r}")
    found = Claim(**values)
    if found.says not in SAYS:
        raise AltpropError(f"claims[{place}].says={found.says!r} cannot be tested; {near(str(found.says), SAYS)}")
    if found.currency not in CURRENCIES:
        raise AltpropError(
            f"claims[{place}].currency={found.currency!r} is none; {near(str(found.currency), CURRENCIES)}"
        )
    if found.than is not None and found.says == "falls_with_depth":
        raise AltpropError(
            f"claims[{place}] says falls_with_depth, which is beside the report's reference; leave than out"
        )
    if found.at_least is not None and (type(found.at_least) is not int or found.at_least < 1):
        raise AltpropError(f"claims[{place}].at_least must be a whole number of at least 1")
    return found


def _names(given: Any) -> tuple[str, ...]:
    return (given,) if isinstance(given, str) else tuple(str(one) for one in given)


@final
class ClaimsRecord(Document):
    """The claims that a folder of runs is to test; a later list takes the place of an earlier one."""

    folder: ClassVar[str] = "claims"
    fields: ClassVar[Mapping[str, type]] = {"claims": list, "measured": dict}

    @property
    def identity(self) -> tuple[str, ...]:
        return ("claims",)

    @classmethod
    def problem_of(cls, data: Mapping[str, Any]) -> str | None:
        try:
            read_claims(data["claims"])
        except AltpropError as error:
            return str(error)
        return None


def write_claims(runs_dir: str | PathLike[str], claims: Sequence[Mapping[str, Any]], finished: str) -> ClaimsRecord:
    """Make a list of claims permanent, in place of an older one.

    Args:
        runs_dir: The folder of records.
        claims: As a configuration lists them.
        finished: Date and time, as in a run's record.

    Raises:
        AltpropError: A claim cannot be read, the disk is full or the folder cannot be written, in one line.
    """
    read_claims(claims)
    data = {"claims": [dict(one) for one in claims], "measured": {"finished": finished}}
    return write_document(runs_dir, ClaimsRecord, "claims.json", data)


def load_claims(runs: Folders = "runs") -> tuple[list[ClaimsRecord], list[str]]:
    """Return the latest list of claims of folders of records; the second list is as for `load_documents`."""
    return load_documents(ClaimsRecord, runs)
