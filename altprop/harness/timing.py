"""The timing pass: learners of one workload take turns in one process, and only their steps are timed.

Each learner is rebuilt from its record's configuration with the record's seed and data. It takes `WARM_STEPS` steps
from its initial state, so that a learner that gets slower as it goes is timed as it was then and in the steps that
follow, never in a state that was made for the purpose; where its run was shorter it returns to that point. Then the
learners go round robin, a block of steps each; the first rounds are discarded. Each round begins one learner later than
the one before, and every second one goes backwards, so that nobody is always first or always in the wake of the same
neighbour. Probes and evaluations do not run. Audits are left out, not spread over the steps: there is one at step 2^k -
1 only, so their share of a run goes to nothing, while a block that held one would be several times too slow.
"""

from __future__ import annotations

import contextlib
import gc
import os
import socket
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, TypeVar

import torch

from altprop.errors import AltpropError, near
from altprop.harness.cell import Cell
from altprop.harness.interleaved import BLOCK, LONGEST, SHORTEST, SIZING_STEPS, WARM_STEPS, Clock, TimedRun
from altprop.harness.planning import sources
from altprop.harness.run_end import failure_of
from altprop.harness.settings import Settings
from altprop.records import key as keys
from altprop.records.folders import Folders
from altprop.records.frame import read_all
from altprop.records.provenance import collect, differences
from altprop.records.record import Record
from altprop.records.status import RunStatus
from altprop.records.timing import KINDS, LEAST_ROUNDS, Timed, Timing, load_timings, write_timing

ROUNDS = 10
WARM_ROUNDS = 2
BREAKDOWN_ROUNDS = 3
PROTOCOL = {
    "order": "round robin, one process, one torch thread; begins one learner later each round, every second backwards",
    "warm_steps": WARM_STEPS,
    "warm_rounds": WARM_ROUNDS,
    "block": f"{BLOCK} steps; fewer where they take over {LONGEST:g} s, more where under {SHORTEST:g} s",
    "breakdown_rounds": BREAKDOWN_ROUNDS,
    "audits": "left out: they are ever rarer, so their share of a run goes to nothing",
    "probes": "off",
    "evaluations": "none",
}
_ENDED = frozenset({RunStatus.COMPLETED, RunStatus.REACHED_TARGET})
Say = Callable[[str], None]
Of = TypeVar("Of")


@dataclass
class Candidate:
    """A learner of a workload with its runs.

    Attributes:
        record: a run of it that ended, on the seed that most learners have; any run where none ended.
        reason: why it cannot be timed, empty where it can.
    """

    record: Record
    reason: str = ""
    cpu: list[float] = field(default_factory=list)
    wall: list[float] = field(default_factory=list)
    watched: list[dict[str, float]] = field(default_factory=list)
    turn: TimedRun | None = None
    failed: bool = False

    def timed(self) -> Timed:
        """Return what is written down."""
        data, turn = self.record.data, self.turn
        found = Timed(
            label=self.record.label,
            cell=str(data.get("cell") or ""),
            seed=self.record.seed,
            fingerprint=_fingerprint(self.record),
            reference=bool(data.get("reference")),
            control=bool(data.get("control")),
            reason=self.reason,
            failed=self.failed,
        )
        if self.reason or turn is None:
            return found
        breakdown = {kind: [one[kind] for one in self.watched] for kind in KINDS}
        return replace(
            found,
            cpu=tuple(self.cpu),
            wall=tuple(self.wall),
            breakdown={kind: values for kind, values in breakdown.items() if any(values)},
            block=turn.block,
            first=turn.first + min(SIZING_STEPS, turn.block) + WARM_ROUNDS * turn.block,
            again=turn.again,
        )


def candidates(records: Sequence[Record]) -> dict[str, list[Candidate]]:
    """Return workload -> its learners, the reference first and controls last; trials of tuning are none.

    All are rebuilt on one seed where they have it: the smallest of those that most of them ended on.
    """
    cells: dict[str, dict[str, list[Record]]] = defaultdict(lambda: defaultdict(list))
    for record in records:
        if record.data.get("role") != "trial":
            cells[record.workload][str(record.data.get("cell") or record.label)].append(record)
    found = {}
    for workload, by_cell in sorted(cells.items()):
        ended = {cell: {r.seed: r for r in group if r.status in _ENDED} for cell, group in by_cell.items()}
        often = Counter(seed for seeds in ended.values() for seed in seeds)
        order = sorted(often, key=lambda seed: (-often[seed], seed))
        made = []
        for cell, group in by_cell.items():
            seed = next((seed for seed in order if seed in ended[cell]), None)
            if seed is None:
                made.append(
                    Candidate(group[0], f"none of its runs ended ({group[0].status}: {group[0].data['reason']})")
                )
            else:
                made.append(Candidate(ended[cell][seed], unsuitable(ended[cell][seed])))
        found[workload] = sorted(made, key=lambda one: (_rank(one.record), one.record.label, one.record.key))
    return found


def _rank(record: Record) -> int:
    return 0 if record.data.get("reference") else 2 if record.data.get("control") else 1


def cell_of(record: Record) -> Cell:
    """Return the cell of a run, from its record's configuration.

    Raises:
        AltpropError: for a configuration that this version does not take.
    """
    config, provenance = dict(record.data["config"]), record.data["provenance"]
    precision = str(provenance.get("precision", "")).partition("/")[0]
    trainer = {"accelerator": "cpu", "threads": 1, "precision": precision, **(config.get("trainer") or {})}
    settings = Settings.read({**config, "trainer": trainer})
    about = (record.label, record.workload, (), settings, "")
    return Cell(config, dict(record.data["axes"]), *about, data=record.data_digest)


def unsuitable(record: Record) -> str:
    """Return why a run cannot be timed here, in one line, empty where it can."""
    provenance = record.data["provenance"]
    try:
        cell = cell_of(record)
        if provenance.get("device") != "cpu" or cell.settings.ranks > 1:
            return "it ran on other devices than one CPU, where seconds mean something else"
        if cell.settings.precision.partition("/")[0] not in ("32-true", "64-true"):
            return f"it ran at precision {cell.settings.precision}, which only a run of its own sets up"
        here = keys.cell_key(cell.config, sources(cell), record.data_digest, "cpu", cell.settings.precision, 1)
    except AltpropError as error:
        return " ".join(str(error).split())
    ours = collect("cpu", cell.settings.precision, 1)
    if ours["fingerprint"] != provenance.get("fingerprint"):
        return f"it ran elsewhere or otherwise ({', '.join(differences(provenance, ours)) or 'fingerprints differ'})"
    if here != record.data.get("cell"):
        return "its code or its settings have changed since it ran; run it again"
    return ""


def _fingerprint(record: Record) -> str:
    return str(collect("cpu", str(record.data["provenance"].get("precision")), 1)["fingerprint"])


def measure(group: Sequence[Candidate], rounds: int, clock: Clock | None = None, say: Say = print) -> None:
    """Time the learners of one workload, round robin; one that raises leaves the round with its reason.

    Args:
        group: learners; those with a reason are left alone. What is measured is written into them.
        rounds: counted ones.
        clock: where seconds come from.
        say: is told what goes on.
    """
    clock = clock or Clock()
    shared: dict[Any, Any] = {}

    def rebuild(one: Candidate) -> None:
        steps = int((one.record.result.get("ledger") or {}).get("steps") or 0)
        one.turn = TimedRun(cell_of(one.record), one.record.seed, steps, shared, clock)

    def count(one: Candidate) -> None:
        turn = _timed_run(one)
        cpu, wall = turn.go(turn.block)
        one.cpu.append(cpu / turn.block)
        one.wall.append(wall / turn.block)

    def watch(one: Candidate) -> None:
        turn = _timed_run(one)
        one.watched.append({kind: value / turn.block for kind, value in turn.watch(turn.block).items()})

    with _one_thread():
        _round(group, rebuild, say)
        with _old_objects_left_alone():
            for number in range(WARM_ROUNDS):
                _round(interleave(group, number), lambda one: _timed_run(one).go(_timed_run(one).block), say)
            for number in range(rounds):
                _round(interleave(group, number), count, say)
            for number in range(BREAKDOWN_ROUNDS):
                _round(interleave(group, number), watch, say)
    for one in group:
        if not one.reason and not all(value > 0 for value in (*one.cpu, *one.wall)):
            one.reason = "its steps are too short for the clock"


def interleave(group: Sequence[Of], number: int) -> list[Of]:
    """Return the order of a round: it begins one learner later than the last, and every second round goes backwards.

    >>> ["".join(interleave("ABC", number)) for number in range(6)]
    ['ABC', 'BAC', 'CAB', 'ACB', 'BCA', 'CBA']
    """
    start = number % len(group)
    order = [*group[start:], *group[:start]]
    return order if number % 2 == 0 else [order[0], *reversed(order[1:])]


def _timed_run(one: Candidate) -> TimedRun:
    assert one.turn is not None  # It was rebuilt, or it has a reason and gets no turn.
    return one.turn


def _round(group: Sequence[Candidate], do: Callable[[Candidate], object], say: Say) -> None:
    """Give every learner its turn; one that raises gets a reason and no further turn."""
    gc.collect()
    for one in group:
        if one.reason:
            continue
        try:
            do(one)
        except (Exception, SystemExit) as error:
            one.reason, one.failed, one.turn = failure_of(error)[1], True, None
            say(f"{one.record.label} on {one.record.workload} is not timed: {one.reason}")


@contextlib.contextmanager
def _old_objects_left_alone() -> Iterator[None]:
    """Let the collections before the rounds walk over what the rounds made, not over all that is imported and built."""
    frozen = gc.get_freeze_count() > 0
    gc.freeze()
    try:
        yield
    finally:
        if not frozen:  # whoever froze objects keeps them frozen
            gc.unfreeze()


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Run on one torch thread without warnings; put the global generator and the number of threads back."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.set_num_threads(before)


def time_runs(
    runs: Folders,
    rounds: int = ROUNDS,
    workloads: Collection[str] | None = None,
    missing: bool = False,
    clock: Clock | None = None,
    say: Say = print,
) -> list[Timing]:
    """Time the learners of finished sweeps and write one record a workload, into the first folder.

    Args:
        runs: folders of records, merged by run key.
        rounds: counted ones, at least five.
        workloads: names of those to time, all by default.
        missing: leave out the workloads whose learners all stand in a timing record that is there already.
        clock: where seconds come from.
        say: is told what goes on.

    Returns:
        What was written now.

    Raises:
        AltpropError: for too few rounds, an unknown workload, folders without records, or one that cannot be written.
    """
    if rounds < LEAST_ROUNDS:
        raise AltpropError(f"a timing pass takes {LEAST_ROUNDS} rounds or more; got {rounds}")
    folders = [runs] if isinstance(runs, (str, os.PathLike)) else list(runs)
    found = candidates(read_all(folders)[0])
    if not found:
        raise AltpropError(f"there are no records in {', '.join(repr(str(folder)) for folder in folders)}")
    unknown = sorted(set(workloads or ()) - set(found))
    if unknown:
        raise AltpropError(f"no run has the workload {unknown[0]!r}; {near(unknown[0], found)}")
    known = load_timings(folders)[0] if missing else []
    written = []
    for workload, group in found.items():
        if (workloads is not None and workload not in workloads) or any(_covers(one, workload, group) for one in known):
            continue
        if all(one.reason for one in group):
            say(f"{workload}: nothing can be timed: {group[0].record.label}: {group[0].reason}")
            continue
        say(f"{workload}: {len(group)} learners, {rounds} rounds")
        started, load = datetime.now(UTC), os.getloadavg()[0] if hasattr(os, "getloadavg") else None
        measure(group, rounds, clock, say)
        measured = {
            "started": started.isoformat(timespec="seconds"),
            "finished": datetime.now(UTC).isoformat(timespec="microseconds"),
            "load_before": load,
            "host": socket.gethostname(),
            "pid": os.getpid(),
        }
        learners = [one.timed() for one in group]
        written.append(
            write_timing(folders[0], workload, rounds, learners, PROTOCOL, measured, collect("cpu", threads=1))
        )
    return written


def _covers(timing: Timing, workload: str, group: Sequence[Candidate]) -> bool:
    """Return whether a record holds all learners that can be timed, as they are now."""
    there = {(one.cell, one.fingerprint) for one in timing.learners if one.cpu or one.failed}
    wanted = {(one.timed().cell, one.timed().fingerprint) for one in group if not one.reason}
    return timing.workload == workload and wanted <= there
