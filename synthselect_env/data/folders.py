"""Class folders, in a directory or a zip: ``[split/]class/image.png``."""

from __future__ import annotations

import os
import re
import unicodedata
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import numpy as np

from synthselect_env.data.dataset import Dataset
from synthselect_env.data.images import EncodedImages

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp", ".bmp"})
"""Suffixes of the files that are read as images."""


def read_class_folders(
    path: str | Path,
    split: str | None = None,
    classes: tuple[str, ...] | None = None,
    group: str | None = None,
) -> Dataset:
    """Read images whose folder names their class.

    The tree may be a directory, in which links are followed, or a zip archive. Anything above the
    class folders is ignored. Images are sorted by path.

    .. code-block:: python

        read_class_folders("pcam.zip", "train")  # pcam/train/normal/ID.webp, …

    :param path: directory or zip
    :param split: name of the folder that holds the class folders; None where they are at the top
    :param classes: class names in label order, some of which may have no folder. By default the
        folders' names, sorted
    :param group: regular expression that finds the patient or slide in the image's name, e.g.
        ``"^[^_]+"`` for all before the first underscore. If it has groups of its own, the first
        one that matched counts
    :return: encoded images; ids are ``class/image.png``
    :raises FileNotFoundError: if the path does not exist
    :raises ValueError: if no image is found, class folders lie in several places, a class is
        unknown, or ``group`` is no regular expression or finds nothing in a name
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(
            f"{path} does not exist; give a directory of class folders or a zip of one"
        )
    where = f"{path}, split {split!r}" if split else f"{path}"

    # Find the images.
    files = _files(path)
    names = sorted(name for name in files if _is_image(name, split))
    _check_names(names, split, where)
    _check_place(names, split, where)

    # Map folders to classes.
    folders = [PurePosixPath(name).parent.name for name in names]
    classes = classes or tuple(sorted(set(folders)))
    label_of = {unicodedata.normalize("NFC", name): i for i, name in enumerate(classes)}
    unknown = sorted(set(folders) - set(label_of))
    if unknown:
        question = "; is the split named?" if split is None else ""
        raise ValueError(
            f"{where}: class folders {unknown} are none of the classes {list(classes)}; "
            f"rename them{question}"
        )

    # Read the images.
    labels = np.array([label_of[folder] for folder in folders], np.int64)
    ids = tuple("/".join(PurePosixPath(name).parts[-2:]) for name in names)
    groups = None
    if group is not None:
        groups = tuple(_find_group(PurePosixPath(name).name, group, where) for name in names)
    images = EncodedImages(_read(path, [files[name] for name in names]))
    return Dataset.of_images(images, labels, ids, classes, groups)


def _files(path: Path) -> dict[str, str]:
    """Return all files of a directory or zip by their normalised names.

    Systems compose umlauts of one character or two. Some zips separate folders by backslashes.

    :return: normalised name to the name as it is written
    :raises ValueError: if the path is neither, or two names differ in how letters are composed
    """
    if path.is_dir():
        return _files_of_directory(path)
    try:
        with zipfile.ZipFile(path) as archive:
            written = archive.namelist()
    except zipfile.BadZipFile as error:
        raise ValueError(f"{path} is neither a directory nor a readable zip ({error})") from error
    return {unicodedata.normalize("NFC", name.replace("\\", "/")): name for name in written}


def _files_of_directory(path: Path) -> dict[str, str]:
    written = []
    # Data sets are often put together from links.
    for folder, _, names in os.walk(path, followlinks=True):
        relative = Path(folder).relative_to(path)
        written += [(relative / name).as_posix() for name in names]
    files = {unicodedata.normalize("NFC", name): name for name in written}
    if len(files) < len(written):
        kept = set(files.values())
        twice = next(name for name in written if name not in kept)
        raise ValueError(
            f"{path}: there are two files {twice!r}, whose names differ in how their letters are "
            "composed; rename one"
        )
    return files


def _is_image(name: str, split: str | None) -> bool:
    """Return whether a file is an image in a class folder of the split."""
    path = PurePosixPath(name)
    in_class_folder = len(path.parts) >= 2
    in_split = split is None or split in path.parts[:-2]
    hidden = any(part.startswith((".", "__MACOSX")) for part in path.parts)
    return in_class_folder and in_split and not hidden and path.suffix.lower() in SUFFIXES


def _check_names(names: list[str], split: str | None, where: str) -> None:
    if not names:
        suffixes = ", ".join(sorted(SUFFIXES))
        expected = "SPLIT/CLASS/NAME.png" if split else "CLASS/NAME.png"
        raise ValueError(f"{where}: no images ({suffixes}) in class folders; expected {expected}")
    for name in names:
        try:
            name.encode()
        except UnicodeEncodeError as error:
            raise ValueError(
                f"{where}: the name {name!a} is not UTF-8 and could not be kept with the image; "
                "rename it"
            ) from error


def _check_place(names: list[str], split: str | None, where: str) -> None:
    """Refuse class folders in several places.

    They may be several splits, or a folder per patient within the class folders. Together they
    would be one set of images.
    """
    places = sorted({PurePosixPath(name).parent.parent.as_posix() for name in names})
    if len(places) == 1:
        return
    listed = ", ".join(places[:3]) + (" …" if len(places) > 3 else "")
    remedy = "an image must lie in its class's folder itself"
    if split is None:
        remedy = "name the split, or give a path to one of them"
    raise ValueError(f"{where}: there are class folders under {listed}; {remedy}")


def _find_group(name: str, pattern: str, where: str) -> str:
    """Return the patient or slide in an image's name."""
    try:
        found = re.search(pattern, name)
    except re.error as error:
        raise ValueError(f"{pattern!r} is not a regular expression ({error})") from error
    part = None
    if found:
        part = next(filter(None, found.groups()), None) if found.re.groups else found[0]
    if not part:
        raise ValueError(f"{where}: {pattern!r} finds no patient or slide in the name {name!r}")
    return part


def _read(path: Path, names: list[str]) -> Iterator[bytes]:
    if path.is_dir():
        for name in names:
            yield (path / name).read_bytes()
        return
    with zipfile.ZipFile(path) as archive:
        for name in names:
            yield archive.read(name)
