"""Image archives in idx format: where they are looked for, how they are checked, and how they are read.

In this order: an explicit path; the cache; an installed Python distribution that holds the files; the system's data
folders; a download. What is found is believed by the SHA-256 of its uncompressed content alone, so no other data can
take the place of these.
"""

import contextlib
import gzip
import hashlib
import os
import struct
import tarfile
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path

import numpy as np

from altprop import AltpropError
from altprop.tasks.common import Array

NAMES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
SYSTEM_FOLDER = Path("/usr/share/datasets")
TIMEOUT_SECONDS = 30
Finder = Callable[[str], bytes | None]


@dataclass(frozen=True, eq=False)
class Archive:
    """Four idx files and where they come from. Two archives are equal where they are one object.

    Attributes:
        name: of the task.
        folder: name of its folder in the cache and in the system's data folder.
        url: of the folder from which NAME.gz is downloaded.
        by_hand: commands that fetch it from a package registry, for the message.
        sha256: file name -> hash of the uncompressed file.
    """

    name: str
    folder: str
    url: str
    by_hand: str
    sha256: Mapping[str, str]

    def load(self, path: str | None = None) -> tuple[dict[str, Array], str]:
        """Return (file name -> array of uint8, where it came from in words).

        Args:
            path: a folder that holds the files at any depth, plain or as .gz, or a .tgz of one; None looks everywhere.

        Raises:
            AltpropError: where they are not found; with a path, nothing else is tried.
        """
        if path is not None:
            found = self._take(_in_path(Path(path).expanduser()))
            if found is None:
                raise AltpropError(f"task.path={path} does not hold the four files of {self.name}: {', '.join(NAMES)}")
            return found, f"path {Path(path).name}"
        cache = cache_folder() / self.folder
        places: list[tuple[str, Finder]] = [
            ("cache", _in_folder(cache)),
            ("installed Python package", _in_distributions),
            ("system data folder", _in_folder(SYSTEM_FOLDER / self.folder)),
        ]
        for where, finder in places:
            found = self._take(finder, strict=False)
            if found is not None:
                return found, where
        if os.environ.get("ALTPROP_OFFLINE", "0") not in ("", "0"):
            raise AltpropError(self._nowhere("ALTPROP_OFFLINE is set, so nothing was downloaded"))
        found = self._take(self._download(cache))
        if found is None:
            raise AltpropError(self._nowhere(f"the download from {self.url} failed"))
        return found, f"download from {self.url}"

    def _take(self, finder: Finder, strict: bool = True) -> dict[str, Array] | None:
        """Return the four arrays; None where a file is missing, or, unless `strict`, is another one."""
        found = {}
        for name in NAMES:
            content = finder(name)
            if content is None:
                return None
            if hashlib.sha256(content).hexdigest() != self.sha256[name]:
                if strict:
                    raise AltpropError(f"{name} is not the file of {self.name}: its SHA-256 differs")
                return None
            found[name] = read_idx(content)
        return found

    def _download(self, cache: Path) -> Finder:
        def finder(name: str) -> bytes | None:
            try:
                with urllib.request.urlopen(f"{self.url}{name}.gz", timeout=TIMEOUT_SECONDS) as answer:
                    content = gzip.decompress(answer.read())
            except (OSError, EOFError, zlib.error, urllib.error.URLError):
                return None
            if hashlib.sha256(content).hexdigest() == self.sha256[name]:
                _keep(cache / name, content)
            return content

        return finder

    def _nowhere(self, why: str) -> str:
        return (
            f"the data of task {self.name} were not found, and {why}. Ways to provide them: task.path=FOLDER_OR_TGZ; "
            f"the cache {cache_folder() / self.folder}; an installed Python package that holds the files; "
            f"the folder {SYSTEM_FOLDER / self.folder}; by hand: {self.by_hand}; or a connection to {self.url}"
        )


def files_at(path: str) -> tuple[str, ...]:
    """Return the paths of the files that `Archive.load` may read at a path: the archive, or those in the folder."""
    place = Path(path).expanduser()
    if not place.is_dir():
        return (str(place),)
    return tuple(str(found) for name in NAMES for ending in ("", ".gz") for found in sorted(place.rglob(name + ending)))


def cache_folder() -> Path:
    """Return ALTPROP_CACHE, or altprop in XDG_CACHE_HOME or in ~/.cache."""
    named = os.environ.get("ALTPROP_CACHE")
    if named:
        return Path(named).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "altprop"


def read_idx(content: bytes) -> Array:
    """Read an idx file of unsigned bytes: two zeros, type 8, the number of dimensions, sizes as big-endian, values.

    Raises:
        AltpropError: for any other content.

    >>> read_idx(bytes([0, 0, 8, 1, 0, 0, 0, 2, 7, 9]))
    array([7, 9], dtype=uint8)
    """
    if len(content) < 4 or content[:3] != b"\x00\x00\x08":
        raise AltpropError("not an idx file of unsigned bytes: wrong magic number")
    dims = content[3]
    start = 4 + 4 * dims
    if len(content) < start:
        raise AltpropError("idx file is cut off in its header")
    shape = struct.unpack(f">{dims}I", content[4:start])
    if len(content) - start != int(np.prod(shape, dtype=np.int64)):
        raise AltpropError(f"idx file holds {len(content) - start} values where its header says {shape}")
    return np.frombuffer(content, dtype=np.uint8, offset=start).reshape(shape)


def _read(path: Path) -> bytes | None:
    try:
        content = path.read_bytes()
        return gzip.decompress(content) if path.suffix == ".gz" else content
    except (OSError, EOFError, zlib.error):
        return None


def _in_folder(folder: Path) -> Finder:
    def finder(name: str) -> bytes | None:
        matches = sorted(p for ending in ("", ".gz") for p in folder.rglob(name + ending)) if folder.is_dir() else []
        return _read(matches[0]) if matches else None

    return finder


def _in_path(path: Path) -> Finder:
    if not path.exists():
        raise AltpropError(f"task.path={path} does not exist")
    if path.is_dir():
        return _in_folder(path)

    def finder(name: str) -> bytes | None:
        try:
            with tarfile.open(path) as tar:
                for member in tar:
                    base = Path(member.name).name
                    if member.isfile() and base in (name, f"{name}.gz"):
                        stream = tar.extractfile(member)
                        content = stream.read() if stream else b""
                        return gzip.decompress(content) if base.endswith(".gz") else content
        except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
            raise AltpropError(f"task.path={path} is neither a folder nor a readable tar archive: {error}") from error
        return None

    return finder


def _in_distributions(name: str) -> bytes | None:
    """Look into installed distributions with mnist in their name."""
    for distribution in distributions():
        if "mnist" in (distribution.metadata["Name"] or "").lower():
            for file in distribution.files or ():
                if file.name in (name, f"{name}.gz"):
                    return _read(Path(str(file.locate())))
    return None


def _keep(path: Path, content: bytes) -> None:
    """Write a verified file into the cache, whole or not at all; a cache that cannot be written is done without."""
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(content)
        part.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            part.unlink()
