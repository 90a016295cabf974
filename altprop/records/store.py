"""The folder of records: one sub-folder a run, committed in one step, claimed by one worker at a time."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from altprop.errors import AltpropError
from altprop.records import artefacts as kept
from altprop.records import encode, files
from altprop.records import lease as leases
from altprop.records.lease import Lease
from altprop.records.record import SCHEMA, Record, UnreadableRecordError, committed, problem_of, read_record
from altprop.records.status import RunStatus

__all__ = ["Lease", "Record", "RunStore", "UnreadableRecordError", "committed", "read_record"]


class RunStore:
    """Reads, claims and commits runs below one folder, which need not exist yet.

    The life of a run: `settled` says cheaply whether there is anything to do; `claim` gives the right to do it; `read`,
    called again under the claim, says whether another worker was faster; `commit` makes the result permanent.

    Args:
        runs_dir: The folder of records, `runs` by default in the commands.
    """

    def __init__(self, runs_dir: str | Path) -> None:
        self.runs_dir = Path(runs_dir)

    def path(self, key: str) -> Path:
        """Return the folder of a run, which need not exist.

        Raises:
            AltpropError: `key` is not the plain name of an entry of `runs_dir`.
        """
        return self.runs_dir / files.check_name(key, "run key")

    def keys(self) -> list[str]:
        """Return the keys of all committed runs, sorted."""
        return sorted(folder.name for folder in committed(self.runs_dir))

    def read(self, key: str) -> Record | None:
        """Return a run's record, or None if there is none.

        Raises:
            UnreadableRecordError: There is one, but it cannot be used; `claim` puts it aside.
        """
        return read_record(self.path(key))

    def settled(self, key: str) -> Record | None:
        """Return a run's record if it is final, so that nothing is left to do; else None."""
        try:
            record = self.read(key)
        except UnreadableRecordError:
            return None
        return record if record is not None and record.status.final else None

    def claim(self, key: str, heartbeat: float = leases.HEARTBEAT, stale: float = leases.STALE) -> Lease | None:
        """Return the right to work on a run, or None while another living worker has it.

        Call `read` again afterwards: the worker that had the run before may have finished it. A record that cannot be
        read is put aside, beside a file that says why.

        Args:
            key: The run.
            heartbeat: Seconds between signs of life.
            stale: Seconds without any after which a worker on another machine counts as dead.
        """
        folder = self.path(key)
        with files.readable_errors(self.runs_dir):
            files.make_folder(folder)
            lease = leases.claim(folder, heartbeat, stale)
            if lease is not None:
                self._quarantine(folder)
            return lease

    def commit(
        self,
        key: str,
        record: Mapping[str, Any],
        trace: Iterable[Mapping[str, Any]],
        clock: Iterable[Mapping[str, Any]],
        config_yaml: str,
        artefacts: Mapping[str, Any] | None = None,
    ) -> Record:
        """Make a run permanent: after a crash at any moment there is the whole new record, or what was there before.

        Everything but `record.json` is written first; that file appears last, by a rename, and is what makes the run
        exist. When this returns all is on the disk. A checkpoint is removed unless the status says resume. A final
        record is never replaced by one that is not: then the final one is returned.

        Args:
            key: The run; the caller holds its lease.
            record: The fields of `record.json`; `schema`, `key` and `result.trace_sha256` are filled in here.
            trace: Rows of `trace.jsonl`, deterministic.
            clock: Rows of `clock.jsonl`, measured.
            config_yaml: The resolved configuration.
            artefacts: Name -> table, array, text or bytes, kept as plain files.

        Raises:
            AltpropError: The disk is full or the folder cannot be written, in one line; or the record lacks a field.
            TypeError: A value that a record cannot hold, with its path; nothing was written.
            ValueError: An artefact that no file can hold; nothing was written.
        """
        folder = self.path(key)
        lines = encode.dump_lines(trace)
        result = {**record.get("result", {}), "trace_sha256": hashlib.sha256(lines).hexdigest()}
        content = {"schema": SCHEMA, "key": key, **record, "result": result}
        if problem := problem_of(content, key):
            raise AltpropError(f"the record of run {key} cannot be committed: {problem}")
        status = RunStatus(content["status"])
        if not status.final and (settled := self.settled(key)) is not None:
            return settled
        before = {
            "config.yaml": config_yaml.encode(errors="replace"),
            "trace.jsonl": lines,
            "clock.jsonl": encode.dump_lines(clock),
        }
        extra = kept.encoded(artefacts or {})
        last = encode.dump_record(content)
        with files.readable_errors(self.runs_dir):
            files.make_folder(folder)
            kept.write(folder, extra)
            for name, data in before.items():
                files.write_durably(folder / name, data)
            files.sync_folder(folder)
            files.write_durably(folder / "record.json", last)
            files.sync_folder(folder)
            for name in (*before, "record.json"):
                files.sweep(folder, name)
            if not status.resume:
                (folder / "checkpoint.pt").unlink(missing_ok=True)
        written = read_record(folder)
        assert written is not None  # It was renamed into place above.
        return written

    def _quarantine(self, folder: Path) -> None:
        """Put an unreadable record aside, beside a file that says why."""
        try:
            read_record(folder)
        except UnreadableRecordError as error:
            count = len(list(folder.glob("record.unreadable-*.json")))
            aside = folder / f"record.unreadable-{count + 1}.json"
            (folder / "record.json").rename(aside)
            files.write_durably(aside.with_suffix(".txt"), f"{error}\n".encode())
            files.sync_folder(folder)
