"""Images of yours: a folder of folders, one for each class."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from altprop import Source, Split, UnusableData, check_number, check_whole
from altprop.checks import check_images, check_name
from altprop.own_files import class_folders
from altprop.tasks.common import Array, optional_import, sha256_of
from altprop.tasks.own_data import OwnDataTask, Prepared, split_rows

MODES = {"grey": ("L", 1), "rgb": ("RGB", 3)}


class ImageFolderTask(OwnDataTask):
    """Images by class, `FOLDER/CLASS/FILE`, or `FOLDER/train/CLASS/FILE` and `FOLDER/test/CLASS/FILE`.

    Each is scaled to `size` x `size` pixels of values 0 .. 1, (1, H, W) or (3, H, W). Needs the extra `images`
    (Pillow).

    Args:
        path: of the folder.
        size: height and width of what the model is given.
        colour: grey or rgb.
        test_share: of the images that are the test set, where there is no folder of it.
        test_seed: of its draw.
        metric: see `OwnDataTask`.
        common: see `Task`.

    Raises:
        AltpropError: for what cannot be read.
    """

    def __init__(
        self,
        *,
        path: str,
        size: int = 32,
        colour: str = "grey",
        test_share: float = 0.3,
        test_seed: int = 0,
        metric: str | None = None,
        **common: Any,
    ) -> None:
        check_images(path)
        check_whole(size, "task.size", 1)
        check_name(colour, "task.colour", ("grey", "rgb"))
        check_number(test_share, "task.test_share", above=0, below=1)
        check_whole(test_seed, "task.test_seed", 0)
        folders = class_folders(str(path))
        files = tuple((split, place, file) for split, classes in folders.items()
                      for place, name in enumerate(classes) for file in classes[name])  # fmt: skip
        stamps = tuple(Path(file).stat().st_mtime_ns for *_, file in files)
        prepared = _prepared(str(path), files, tuple(folders["train"]), size, colour, (test_share, test_seed), stamps)
        super().__init__(prepared, metric, **common)


@cache
def _prepared(
    path: str,
    files: tuple[tuple[str, int, str], ...],
    classes: tuple[str, ...],
    size: int,
    colour: str,
    draw: tuple[float, int],
    stamps: tuple[int, ...],
) -> Prepared:
    pixels = np.stack([_pixels(file, size, colour) for *_, file in files])
    labels = np.array([place for _, place, _ in files], dtype=np.int64)
    given = np.array([split == "test" for split, *_ in files])
    if given.any():
        train, test = np.flatnonzero(~given), np.flatnonzero(given)
    else:
        train, test = split_rows(len(labels), draw[0], "images", draw[1], labels)
    rows = _split(pixels, labels, train)
    source = Source(
        rows,
        {"test": _split(pixels, labels, test)},
        f"{Path(path).name}: {len(labels)} images of {len(classes)} classes, {size}x{size} {colour}",
        sha256_of(pixels, labels),
        stratify=rows.targets,
        files=tuple(file for *_, file in files),
    )
    return Prepared(source, pixels.shape[1:], len(classes), classes)


def _pixels(file: str, size: int, colour: str) -> Array:
    """Return an image as (C, H, W), uint8."""
    pillow = optional_import("PIL.Image", "task=images", "pip install 'altprop[images]'")
    mode, channels = MODES[colour]
    try:
        with pillow.open(file) as image:
            scaled = image.convert(mode).resize((size, size), pillow.Resampling.BILINEAR)
    except (OSError, ValueError) as error:
        raise UnusableData(f"{file} is no image that can be read ({error}); take it out of the folder") from error
    return np.moveaxis(np.asarray(scaled, dtype=np.uint8).reshape(size, size, channels), -1, 0)


def _split(pixels: Array, labels: Array, rows: Array) -> Split:
    values = torch.from_numpy(pixels[rows].astype(np.float32) / np.float32(255))
    return Split(values, torch.from_numpy(labels[rows]), torch.from_numpy(rows.astype(np.int64)))
