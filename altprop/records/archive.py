"""All that a report is made of in one file: the same records give the same bytes.

The files that every run has lie in the archive as columns over all runs (see `altprop.records.columns`), of which
`record_folders` makes folders again. What a run has beside these lies there as it is, and so do oracle checks and
timing passes.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from altprop.errors import AltpropError
from altprop.records import columns, encode
from altprop.records.cards import load_cards
from altprop.records.claims import load_claims
from altprop.records.folders import LEFT_OUT, SUFFIX, Folders, left_out, record_folders
from altprop.records.frame import read_all
from altprop.records.oracle_checks import load_oracle_checks
from altprop.records.record import PACKED_TRACE, Record
from altprop.records.thinning import LADDER, Thinning
from altprop.records.timing import load_timings

NAME = f"records{SUFFIX}"


@dataclass(frozen=True)
class _Run:
    """A run to pack: its record, and the rows of each of its files that can be read."""

    record: Record
    rows: dict[str, list[Any]]


def pack(runs: Folders, out: Path, keys: Collection[str] | None = None, limit: int | None = None) -> Path:
    """Write records, and all documents beside them, into `records.tar.xz`, an argument for all that reads records.

    Args:
        runs: As for `load`; of two records of one key the one that `load` takes.
        out: Folder to write to.
        keys: Run keys to pack, where the folders hold more; all by default.
        limit: Bytes that the archive may have: traces are thinned, as little as that takes (see
            `altprop.records.thinning`), and `left_out` says how. Without it nothing is left out.

    Returns:
        The archive.

    Raises:
        AltpropError: The archive does not fit the limit, thinned as far as is allowed.
        OSError: It cannot be written.
    """
    given = [Path(runs)] if isinstance(runs, (str, PathLike)) else [Path(one) for one in runs]
    if keys is None and len(given) == 1 and limit is not None and (content := _made_here(given[0], limit)):
        (out / NAME).write_bytes(content)
        return out / NAME
    folders = record_folders(given)
    packed = [_read(record) for record in read_all(folders)[0] if keys is None or record.key in keys]
    others = [*_beside(packed), *_documents(folders)]
    said = left_out(folders)
    content = b""
    for thinning in LADDER if limit is not None else LADDER[:1]:
        sentences = [*said, *(thinning.sentences if thinning else [])]
        members = [*_columns(packed, thinning), *others]
        if sentences:
            members.append((LEFT_OUT, json.dumps(list(dict.fromkeys(sentences)), indent=1).encode()))
        content = _archive(members)
        if limit is None or len(content) <= limit:
            archive = out / NAME
            archive.write_bytes(content)
            return archive
    raise AltpropError(f"the records take {len(content):,} bytes packed, more than the {limit:,} of a published report")


def _made_here(archive: Path, limit: int) -> bytes:
    """Return an archive that `pack` made and that fits the limit, as it is; nothing else."""
    if not (archive.is_file() and archive.name.endswith(SUFFIX) and archive.stat().st_size <= limit):
        return b""
    with tarfile.open(archive) as file:
        first = file.next()
        packed = first is not None and first.name.startswith(f"{columns.FOLDER}/")
    return archive.read_bytes() if packed else b""


def _archive(members: Sequence[tuple[str, bytes]]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:xz", preset=9, format=tarfile.PAX_FORMAT) as file:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            file.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def _read(record: Record) -> _Run:
    rows = {name: columns.read_rows(record.folder / name) for name in columns.FILES}
    return _Run(record, {name: found for name, found in rows.items() if found is not None})


def _columns(runs: Sequence[_Run], thinning: Thinning | None) -> list[tuple[str, bytes]]:
    thinned = [run if thinning is None else _thinned(run, thinning) for run in runs]
    return [
        (
            f"{columns.FOLDER}/{name}",
            columns.to_columns([(run.record.key, run.rows[name]) for run in thinned if name in run.rows]),
        )
        for name in columns.FILES
    ]


def _thinned(run: _Run, thinning: Thinning) -> _Run:
    """Thin a run's trace and clock; its record notes the hash of what is left of the trace."""
    rows = dict(run.rows)
    if "trace.jsonl" in rows:
        rows["trace.jsonl"] = thinning.trace(run.record, rows["trace.jsonl"])
        left = hashlib.sha256(encode.dump_lines(rows["trace.jsonl"])).hexdigest()
        rows["record.json"] = [{**rows["record.json"][0], PACKED_TRACE: left}]
    if "clock.jsonl" in rows:
        rows["clock.jsonl"] = thinning.clock(run.record, rows["clock.jsonl"])
    return _Run(run.record, rows)


def _beside(runs: Sequence[_Run]) -> Iterator[tuple[str, bytes]]:
    """Yield what runs have beside the files of all, and files that could not be read as rows."""
    for run in runs:
        for path in sorted(run.record.folder.rglob("*")):
            name = path.relative_to(run.record.folder).as_posix()
            if path.is_file() and name not in run.rows and not _passing(name):
                yield f"{run.record.key}/{name}", path.read_bytes()


def _documents(folders: list[Path]) -> Iterator[tuple[str, bytes]]:
    """Yield oracle checks, cards, claims and timing passes; of several folders, two files can have one name."""
    loaders = (load_oracle_checks, load_cards, load_claims, load_timings)
    documents = [one for load in loaders for one in load(folders)[0]]
    taken = set()
    for one in documents:
        name = f"{one.folder}/{one.path.name}"
        yield f"{name.removesuffix('.json')}-{one.digest[:8]}.json" if name in taken else name, one.path.read_bytes()
        taken.add(name)


def _passing(name: str) -> bool:
    """Return whether a file of a run's folder is passing: a lease, a checkpoint, a temporary or put-aside file."""
    return name.startswith((".", "lease")) or name == "checkpoint.pt" or ".unreadable" in name
