"""All that a report is made of in one file: the same records give the same bytes."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Collection, Iterator
from pathlib import Path

from altprop.records.folders import SUFFIX, Folders, record_folders
from altprop.records.frame import read_all
from altprop.records.oracle_checks import FOLDER as ORACLE_CHECKS
from altprop.records.oracle_checks import load_oracle_checks
from altprop.records.timing import FOLDER as TIMINGS
from altprop.records.timing import load_timings

NAME = f"records{SUFFIX}"


def pack(runs: Folders, out: Path, keys: Collection[str] | None = None) -> Path:
    """Write records, oracle checks and timing passes into `records.tar.xz`, an argument for all that reads records.

    Args:
        runs: as for `load`; of two records of one key the one that `load` takes.
        out: folder to write to.
        keys: run keys to pack, where the folders hold more; all by default.

    Returns:
        The archive. Runs of one learner stand side by side and files of one kind together, which packs best.

    Raises:
        OSError: it cannot be written.
    """
    folders = record_folders(runs)
    archive = out / NAME
    with tarfile.open(archive, "w:xz", preset=9, format=tarfile.PAX_FORMAT) as file:
        for name, path in _files(folders, keys):
            content = path.read_bytes()
            member = tarfile.TarInfo(name)
            member.size = len(content)
            file.addfile(member, io.BytesIO(content))
    return archive


def _files(folders: list[Path], keys: Collection[str] | None) -> Iterator[tuple[str, Path]]:
    found = []
    for rank, record in enumerate(record for record in read_all(folders)[0] if keys is None or record.key in keys):
        for path in record.folder.rglob("*"):
            name = path.relative_to(record.folder).as_posix()
            if path.is_file() and not _passing(name):
                found.append((name.rsplit("/", 1)[-1], rank, f"{record.key}/{name}", path))
    yield from ((name, path) for _, _, name, path in sorted(found))
    oracle_checks = [
        (f"{ORACLE_CHECKS}/{one.path.name}", one.fingerprint, one.path) for one in load_oracle_checks(folders)[0]
    ]
    timings = [(f"{TIMINGS}/{one.path.name}", one.digest, one.path) for one in load_timings(folders)[0]]
    taken = set()
    for name, content, path in oracle_checks + timings:
        # Of several folders, two files can have one name.
        yield f"{name.removesuffix('.json')}-{content[:8]}.json" if name in taken else name, path
        taken.add(name)


def _passing(name: str) -> bool:
    """Whether a file of a run's folder is of the moment: a lease, a checkpoint, a temporary or put-aside file."""
    return name.startswith((".", "lease")) or name == "checkpoint.pt" or ".unreadable" in name
