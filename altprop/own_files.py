"""Files of a user's from which tasks are made, looked at without torch: what is not there is told before a run."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from altprop.errors import AltpropError

IMAGES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})
"""Endings of the files that are taken for images."""


def look_for_arrays(path: str, inputs: Any, target: Any) -> None:
    """Look whether the files of arrays are there, and whether an .npz holds what is asked for.

    Args:
        path: of an .npz, or of an .npy of inputs.
        inputs, target: names of arrays, None to look for the usual ones; with an .npy, `target` is another .npy.

    Raises:
        AltpropError: for what is not there.
    """
    place = Path(path).expanduser()
    if not place.is_file():
        raise AltpropError(f"task.path: there is no file {path}")
    if place.suffix == ".npy":
        if target is None or not Path(str(target)).expanduser().is_file():
            raise AltpropError(f"task.path={path} holds the inputs alone; say task.target=FILE.npy for the targets")
        return
    if not zipfile.is_zipfile(place):
        raise AltpropError(f"task.path={path} is neither .npz nor .npy; write it with numpy.savez or numpy.save")
    with zipfile.ZipFile(place) as archive:
        names = [name.removesuffix(".npy") for name in archive.namelist()]
    find_arrays(names, path, inputs, target)


def find_arrays(names: Iterable[str], path: str, inputs: Any, target: Any) -> tuple[str, str, str | None, str | None]:
    """Return the names of the arrays of inputs and targets, and of those of a test set where there are both.

    Args:
        names: of all arrays.
        path: of the file, for the sentence.
        inputs, target: as they are asked for, None to look for the usual ones.

    >>> find_arrays(["x_train", "y_train", "x_test", "y_test"], "mnist.npz", None, None)
    ('x_train', 'y_train', 'x_test', 'y_test')

    Raises:
        AltpropError: where they are not there.
    """
    known, found = list(names), []
    for option, asked, usual in (
        ("inputs", inputs, ("x", "X", "inputs", "data", "x_train", "X_train", "train_x", "train_images")),
        ("target", target, ("y", "Y", "targets", "labels", "target", "y_train", "train_y", "train_labels")),
    ):
        name = next((one for one in usual if one in known), None) if asked is None else str(asked)
        if name not in known:
            what = f"no array {asked}" if asked is not None else f"none of the arrays {', '.join(usual)}"
            raise AltpropError(f"{path} has {what}; say task.{option}= one of {', '.join(known)}")
        found.append(name)
    tests = [name.replace("train", "test") for name in found]
    apart = all(test in known and test != name for test, name in zip(tests, found, strict=True))
    return found[0], found[1], tests[0] if apart else None, tests[1] if apart else None


def class_folders(path: str) -> dict[str, dict[str, list[str]]]:
    """Return split -> class -> sorted paths of its images: the splits train and test where folders are called so.

    Raises:
        AltpropError: where there are no two classes, or the test set has others.
    """
    place = Path(path).expanduser()
    if not place.is_dir():
        raise AltpropError(f"task.path: there is no folder {path}")
    apart = (place / "train").is_dir() and (place / "test").is_dir()
    roots = {name: place / name for name in ("train", "test")} if apart else {"train": place}
    found = {}
    for split, root in roots.items():
        listed = {
            folder.name: sorted(str(file) for file in folder.rglob("*") if file.suffix.lower() in IMAGES)
            for folder in sorted(root.iterdir())
            if folder.is_dir()
        }
        found[split] = {name: files for name, files in listed.items() if files}
    if len(found["train"]) < 2 or any(set(split) != set(found["train"]) for split in found.values()):
        raise AltpropError(
            f"task.path={path} must hold a folder of images for each of at least two classes, or train and test "
            f"folders of the same classes; found {', '.join(found['train']) or 'none'}"
        )
    return found
