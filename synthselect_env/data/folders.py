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


def read_class_folders(
    path: str | Path,
    split: str | None = None,
    classes: tuple[str, ...] | None = None,
    group: str | None = None,
) -> Dataset:
    """Read images whose folder names their class.

    The tree may be a directory, in which links are followed, or a zip archive. Anything above the class folders is ignored, so ``pcam.zip`` with
    ``pcam/train/normal/ID.webp`` is read by ``read_class_folders("pcam.zip", "train")``. Images are sorted by path.

    :param path: directory or zip
    :param split: name of the folder that holds the class folders; None where the class folders are at the top
    :param classes: class names in label order, some of which may have no folder; by default the folders' names, sorted
    :param group: a regular expression that finds the patient or slide in the image's name, e.g. ``"^[^_]+"`` for all before the
        first underscore; where it has groups of its own, the first that matched is what counts
    :return: the images, still encoded; ids are ``class/image.png``
    :raises FileNotFoundError: when the path does not exist
    :raises ValueError: when no image is found, class folders lie in several places, a class is unknown, or ``group`` is no regular
        expression or finds nothing in a name
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(
            f"{path} does not exist; give a directory of class folders or a zip of one"
        )
    where = f"{path}" + (f", split {split!r}" if split else "")
    files = _files(path)
    names = sorted(
        n
        for n in files
        if _is_picture(n) and (split is None or split in PurePosixPath(n).parts[:-2])
    )
    for name in names:
        try:
            name.encode()
        except UnicodeEncodeError as error:
            raise ValueError(
                f"{where}: the name {name!a} is not UTF-8 and could not be kept with the picture; rename it"
            ) from error
    if not names:
        raise ValueError(
            f"{where}: no pictures ({', '.join(sorted(SUFFIXES))}) in class folders; expected {'SPLIT/' if split else ''}CLASS/NAME.png"
        )
    tops = sorted({PurePosixPath(name).parent.parent.as_posix() for name in names})
    if (
        len(tops) > 1
    ):  # splits, or a folder a patient within the classes: together they would be one set of images
        remedy = (
            "name the split, or give a path to one of them"
            if split is None
            else "a picture must lie in its class's folder itself"
        )
        raise ValueError(
            f"{where}: there are class folders under {', '.join(tops[:3])}{' …' if len(tops) > 3 else ''}; {remedy}"
        )
    parents = [PurePosixPath(name).parts[-2] for name in names]
    classes = classes or tuple(sorted(set(parents)))
    places = {unicodedata.normalize("NFC", name): i for i, name in enumerate(classes)}
    if unknown := sorted(set(parents) - set(places)):
        raise ValueError(
            f"{where}: class folders {unknown} are none of the classes {list(classes)}; rename them"
            + ("; is the split named?" if split is None else "")
        )
    ids = tuple("/".join(PurePosixPath(name).parts[-2:]) for name in names)
    labels = np.array([places[parent] for parent in parents], np.int64)
    groups = (
        None
        if group is None
        else tuple(_group_in(PurePosixPath(name).name, group, where) for name in names)
    )
    return Dataset.of_images(
        EncodedImages(_read(path, [files[name] for name in names])), labels, ids, classes, groups
    )


def _group_in(name: str, pattern: str, where: str) -> str:
    """Patient or slide of a image of that name."""
    try:
        found = re.search(pattern, name)
    except re.error as error:
        raise ValueError(f"{pattern!r} is not a regular expression ({error})") from error
    part = found and (next(filter(None, found.groups()), None) if found.re.groups else found[0])
    if not part:
        raise ValueError(f"{where}: {pattern!r} finds no patient or slide in the name {name!r}")
    return part


def _is_picture(name: str) -> bool:
    parts = PurePosixPath(name).parts
    hidden = any(part.startswith((".", "__MACOSX")) for part in parts)
    return len(parts) >= 2 and not hidden and PurePosixPath(name).suffix.lower() in SUFFIXES


def _files(path: Path) -> dict[str, str]:
    """All files below a directory, or in a zip: each name in one spelling, and as it is written there.

    An umlaut may be one character or two, and a zip's folders be set apart by backslashes, as the system has it that wrote them.
    """
    if path.is_dir():
        walk = os.walk(path, followlinks=True)  # data sets are often put together from links
        written = [
            (Path(folder) / name).relative_to(path).as_posix()
            for folder, _, names in walk
            for name in names
        ]
        files = {unicodedata.normalize("NFC", name): name for name in written}
        if len(files) < len(written):
            twice = next(name for name in written if name not in files.values())
            raise ValueError(
                f"{path}: there are two files {twice!r}, whose names differ in how their letters are composed; rename one"
            )
        return files
    try:
        with zipfile.ZipFile(path) as archive:
            return {
                unicodedata.normalize("NFC", name.replace("\\", "/")): name
                for name in archive.namelist()
            }
    except zipfile.BadZipFile as error:
        raise ValueError(f"{path} is neither a directory nor a readable zip ({error})") from error


def _read(path: Path, names: list[str]) -> Iterator[bytes]:
    if path.is_dir():
        yield from ((path / name).read_bytes() for name in names)
        return
    with zipfile.ZipFile(path) as archive:
        yield from map(archive.read, names)
