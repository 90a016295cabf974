"""Where image archives are looked for, in order, and what is believed: on two small archives made here."""

import gzip
import hashlib
import http.server
import io
import re
import struct
import tarfile
import threading
from importlib.metadata import Distribution, PackagePath
from pathlib import Path

import numpy as np
import pytest

from altprop.errors import AltpropError
from altprop.tasks import archives
from altprop.tasks.archives import NAMES, Archive, files_at, read_idx
from altprop.tasks.mnist import Mnist


def idx(values: np.ndarray) -> bytes:
    head = struct.pack(f">BBBB{values.ndim}I", 0, 0, 8, values.ndim, *values.shape)
    return head + values.tobytes()


def contents(seed: int) -> dict[str, bytes]:
    draw = np.random.default_rng(seed)
    arrays = {}
    for part, rows in (("train", 20), ("t10k", 10)):
        arrays[f"{part}-images-idx3-ubyte"] = draw.integers(0, 256, (rows, 28, 28), dtype=np.uint8)
        arrays[f"{part}-labels-idx1-ubyte"] = np.arange(rows, dtype=np.uint8) % 10
    return {name: idx(arrays[name]) for name in NAMES}


FILES, OTHERS = contents(0), contents(1)


def fill(folder: Path, files=FILES, packed: bool = False) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / (f"{name}.gz" if packed else name)).write_bytes(gzip.compress(content) if packed else content)
    return folder


@pytest.fixture
def archive(tmp_path, monkeypatch) -> Archive:
    """A small archive in a world where every place is empty."""
    monkeypatch.setenv("ALTPROP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(archives, "SYSTEM_FOLDER", tmp_path / "system")
    monkeypatch.setattr(archives, "distributions", list)
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in FILES.items()}
    return Archive("small", "small", "http://127.0.0.1:9/", "fetch it by hand", hashes)


def test_idx_is_read_by_its_header() -> None:
    values = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    assert read_idx(idx(values)).tolist() == values.tolist()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "wrong magic"),
        (b"\x00\x00\x0d\x01\x00\x00\x00\x01\x00", "wrong magic"),
        (b"\x00\x00\x08\x03\x00\x00", "cut off in its header"),
        (idx(np.zeros(4, dtype=np.uint8))[:-1], "holds 3 values"),
        (idx(np.zeros(4, dtype=np.uint8)) + b"\x00", "holds 5 values"),
    ],
)
def test_broken_idx_files_are_refused(content, message) -> None:
    with pytest.raises(AltpropError, match=message):
        read_idx(content)


def test_nothing_anywhere_names_all_the_ways(archive, tmp_path) -> None:
    with pytest.raises(AltpropError) as caught:
        archive.load()
    sentence = str(caught.value)
    assert "\n" not in sentence
    for way in ("task.path=", str(tmp_path / "cache" / "small"), "installed Python package", "fetch it by hand"):
        assert way in sentence
    assert str(tmp_path / "system" / "small") in sentence
    assert "ALTPROP_OFFLINE" in sentence
    assert archive.url in sentence


@pytest.mark.parametrize("packed", [False, True])
def test_a_path_may_be_a_folder_at_any_depth(archive, tmp_path, packed) -> None:
    fill(tmp_path / "mine" / "deep" / "er", packed=packed)
    files, where = archive.load(str(tmp_path / "mine"))
    assert files["train-images-idx3-ubyte"].shape == (20, 28, 28)
    assert files["t10k-labels-idx1-ubyte"].tolist() == list(range(10))
    assert where == "path mine"


@pytest.mark.parametrize("packed", [False, True])
def test_a_path_may_be_a_tgz(archive, tmp_path, packed) -> None:
    with tarfile.open(tmp_path / "small.tgz", "w:gz") as tar:
        for name, content in FILES.items():
            content = gzip.compress(content) if packed else content
            member = tarfile.TarInfo(f"package/data/{name}{'.gz' if packed else ''}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    assert archive.load(str(tmp_path / "small.tgz"))[0]["train-labels-idx1-ubyte"].shape == (20,)


def test_a_path_that_does_not_serve_is_an_error_and_nothing_else_is_tried(archive, tmp_path) -> None:
    fill(tmp_path / "cache" / "small")
    (tmp_path / "empty").mkdir()
    (tmp_path / "text").write_text("no archive")
    wrong = fill(tmp_path / "wrong", OTHERS)
    for path, message in (
        ("absent", "does not exist"),
        ("empty", "does not hold the four files of small"),
        ("text", "neither a folder nor a readable tar archive"),
        (wrong.name, "train-images-idx3-ubyte is not the file of small: its SHA-256 differs"),
    ):
        with pytest.raises(AltpropError, match=message):
            archive.load(str(tmp_path / path))


def test_places_are_tried_in_order(archive, tmp_path, monkeypatch) -> None:
    fill(tmp_path / "system" / "small", packed=True)
    assert archive.load()[1] == "system data folder"
    monkeypatch.setattr(archives, "distributions", lambda: [_Installed(fill(tmp_path / "site" / "data"))])
    assert archive.load()[1] == "installed Python package"
    fill(tmp_path / "cache" / "small")
    assert archive.load()[1] == "cache"


class _Installed(Distribution):
    """A distribution called mnist-files that holds a folder of data."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def read_text(self, filename: str) -> str | None:
        if filename == "METADATA":
            return "Metadata-Version: 2.1\nName: MNIST-files\nVersion: 1\n"
        if filename == "RECORD":
            return "".join(f"data/{path.name},,\n" for path in self.folder.iterdir())
        return None

    def locate_file(self, path: str | PackagePath) -> Path:
        return self.folder.parent / path


@pytest.mark.parametrize("damage", [b"", b"not an archive", OTHERS["t10k-images-idx3-ubyte"]])
def test_a_damaged_or_foreign_cache_is_passed_over(archive, tmp_path, damage) -> None:
    (fill(tmp_path / "cache" / "small") / "t10k-images-idx3-ubyte").write_bytes(damage)
    fill(tmp_path / "system" / "small")
    assert archive.load()[1] == "system data folder"


@pytest.fixture
def server(tmp_path):
    """Serves the folder `web` on this machine."""
    folder = tmp_path / "web"
    folder.mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, directory=str(folder), **kwargs)

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as found:
        thread = threading.Thread(target=found.serve_forever)
        thread.start()
        yield folder, f"http://127.0.0.1:{found.server_port}/"
        found.shutdown()
        thread.join()


def test_a_download_is_checked_and_kept(archive, tmp_path, monkeypatch, server) -> None:
    folder, url = server
    fill(folder, packed=True)
    online = Archive("small", "small", url, "by hand", archive.sha256)
    with pytest.raises(AltpropError, match="ALTPROP_OFFLINE is set"):
        online.load()
    monkeypatch.setenv("ALTPROP_OFFLINE", "0")
    files, where = online.load()
    assert where == f"download from {url}"
    assert files["train-labels-idx1-ubyte"].tolist() == [i % 10 for i in range(20)]
    assert sorted(path.name for path in (tmp_path / "cache" / "small").iterdir()) == sorted(NAMES)
    assert online.load()[1] == "cache"


def test_a_download_of_something_else_is_refused_and_not_kept(archive, tmp_path, monkeypatch, server) -> None:
    folder, url = server
    fill(folder, OTHERS, packed=True)
    monkeypatch.setenv("ALTPROP_OFFLINE", "0")
    with pytest.raises(AltpropError, match="its SHA-256 differs"):
        Archive("small", "small", url, "by hand", archive.sha256).load()
    assert not (tmp_path / "cache").exists()
    for path in folder.iterdir():
        path.write_bytes(b"an error page")
    with pytest.raises(AltpropError, match=re.escape(f"the download from {url} failed")):
        Archive("small", "small", url, "by hand", archive.sha256).load()


def test_a_cache_that_cannot_be_written_is_done_without(archive, tmp_path, monkeypatch, server) -> None:
    folder, url = server
    fill(folder, packed=True)
    (tmp_path / "cache").write_text("a file stands where the folder should be")
    monkeypatch.setenv("ALTPROP_OFFLINE", "0")
    assert Archive("small", "small", url, "by hand", archive.sha256).load()[1].startswith("download")


def test_a_task_turns_files_into_vectors(archive, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(Mnist, "archive", archive)
    fill(tmp_path / "cache" / "small")
    source = Mnist(validation="none").data()
    assert source.train.inputs.shape == (20, 784)
    raw = read_idx(FILES["train-images-idx3-ubyte"])
    assert (source.train.inputs * 255).round().byte().numpy().reshape(20, 28, 28).tolist() == raw.tolist()
    assert source.tests["test"].targets.tolist() == list(range(10))
    assert source.source == "small: cache"
    with pytest.raises(AltpropError, match=r"task.path must name a folder or a \.tgz"):
        Mnist(path=3)


def test_the_files_at_a_path_are_the_archive_or_those_in_the_folder(tmp_path) -> None:
    deep = tmp_path / "data" / "deep"
    deep.mkdir(parents=True)
    for name in (NAMES[0], f"{NAMES[1]}.gz", "other"):
        (deep / name).write_bytes(b"")
    assert files_at(str(tmp_path / "data")) == (str(deep / NAMES[0]), str(deep / f"{NAMES[1]}.gz"))
    assert files_at(str(tmp_path / "data.tgz")) == (str(tmp_path / "data.tgz"),)
