"""Class folders, in a directory or a zip: ``[split/]class/picture.png``."""

from __future__ import annotations

import zipfile
from pathlib import Path, PurePosixPath

import numpy as np

from synthselect_env.data.images import EncodedImages, LabelledImages

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp"})


def read_class_folders(path: str | Path, split: str | None = None, classes: tuple[str, ...] | None = None) -> LabelledImages:
    """Read pictures whose folder names their class.

    The tree may be a directory or a zip archive. Anything above the class folders is ignored, so ``pcam.zip`` with
    ``pcam/train/normal/ID.webp`` is read by ``read_class_folders("pcam.zip", "train")``. Pictures are sorted by path.

    :param path: directory or zip
    :param split: name of the folder that holds the class folders; None where the class folders are at the top
    :param classes: class names in label order; by default the folders' names, sorted
    :return: the pictures, still encoded; ids are ``class/picture.png``
    :raises FileNotFoundError: when the path does not exist
    :raises ValueError: when no picture is found, a class is unknown or empty, or an id occurs twice
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; give a directory of class folders or a zip of one")
    files = _zip_files(path) if path.is_file() else _directory_files(path)
    where = f"{path}" + (f", split {split!r}" if split else "")
    pictures = [(name, blob) for name, blob in files if split is None or split in PurePosixPath(name).parts[:-2]]
    if not pictures:
        raise ValueError(
            f"{where}: no pictures ({', '.join(sorted(SUFFIXES))}) in class folders; expected {'SPLIT/' if split else ''}CLASS/NAME.png"
        )
    parents = [PurePosixPath(name).parts[-2] for name, _ in pictures]
    classes = classes or tuple(sorted(set(parents)))
    unknown, empty = sorted(set(parents) - set(classes)), sorted(set(classes) - set(parents))
    if unknown or empty:
        raise ValueError(
            f"{where}: class folders {sorted(set(parents))} do not match the classes {list(classes)}; rename or add folders"
            + (f"; is {split or 'the split'} named?" if split is None else "")
        )
    ids = tuple("/".join(PurePosixPath(name).parts[-2:]) for name, _ in pictures)
    if len(set(ids)) < len(ids):
        twice = next(i for i in ids if ids.count(i) > 1)
        raise ValueError(f"{where}: {twice!r} occurs twice, in different folders; name the split, or rename one")
    labels = np.array([classes.index(parent) for parent in parents], np.int64)
    return LabelledImages(EncodedImages(blob for _, blob in pictures), labels, ids, classes)


def _is_picture(name: str) -> bool:
    parts = PurePosixPath(name).parts
    hidden = any(part.startswith((".", "__MACOSX")) for part in parts)
    return len(parts) >= 2 and not hidden and PurePosixPath(name).suffix.lower() in SUFFIXES


def _zip_files(path: Path) -> list[tuple[str, bytes]]:
    try:
        with zipfile.ZipFile(path) as archive:
            return [(name, archive.read(name)) for name in sorted(archive.namelist()) if _is_picture(name)]
    except zipfile.BadZipFile as error:
        raise ValueError(f"{path} is neither a directory nor a readable zip ({error})") from error


def _directory_files(path: Path) -> list[tuple[str, bytes]]:
    names = sorted(p.relative_to(path).as_posix() for p in path.rglob("*") if p.is_file())
    return [(name, (path / name).read_bytes()) for name in names if _is_picture(name)]
