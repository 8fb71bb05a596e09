"""Find and read images as people keep them: class folders, splits, patients, tables of labels."""

from __future__ import annotations

import importlib.util
import re
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import features

from synthselect_env.data.dataset import Dataset
from synthselect_env.data.decoding import Window
from synthselect_env.data.file_tree import FileContents, FileTree, open_tree
from synthselect_env.data.hugging_face import parquet_files, read_hugging_face, saved_files
from synthselect_env.data.images import EncodedImages, ImageSet
from synthselect_env.data.label_tables import SUFFIXES as TABLE_SUFFIXES
from synthselect_env.data.label_tables import read_table
from synthselect_env.data.layouts import (
    Place,
    by_pattern,
    canonical_split,
    find_layout,
    is_split,
    natural_key,
)
from synthselect_env.data.medmnist import read_medmnist
from synthselect_env.data.pcam import pcam_splits, read_pcam

SUFFIXES = frozenset(
    ".png .jpg .jpeg .jpe .jfif .tif .tiff .webp .bmp .gif .ppm .pgm .pnm .jp2 .j2k .jpx".split()
)
"""Suffixes of the files that are read as images."""

WITH_EXTRA = {
    ".heic": "pillow_heif",
    ".heif": "pillow_heif",
    ".dcm": "pydicom",
    ".dicom": "pydicom",
}
"""Suffixes to the module that reads them, of the extra "formats"."""

BESIDE = frozenset(
    ".csv .tsv .txt .json .jsonl .xml .md .html .yaml .yml .pdf .db .ini .log .py .lock".split()
)
"""Suffixes of files that often lie beside images, and are no loss."""

UNREADABLE = frozenset(
    ".svs .ndpi .mrxs .scn .czi .vsi .nii .gz .npy .npz .mat .raw .exr .heic .heif .dcm .dicom .avif "
    ".jxl .cr2 .nef .dng .tga .psd .svg .mha .mhd .nrrd".split()
) | {""}
"""Suffixes of files that are likely to be images, although they are not read."""


@dataclass(frozen=True)
class FoundImages:
    """Images of a directory or archive, and what was found out about them.

    .. code-block:: python

        found = find_images("breakhis.zip")
        print(found.describe())
        train = found["train"]

    :param path: directory or archive
    :param datasets: images by split; the key is None where there are no splits
    :param layout: folders or table that the classes were read from, in words
    :param notes: sentences on what was left out or taken for granted
    """

    path: Path
    datasets: Mapping[str | None, Dataset]
    layout: str
    notes: tuple[str, ...] = ()

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in label order."""
        return next(iter(self.datasets.values())).classes

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits; empty where there are none."""
        return tuple(name for name in self.datasets if name is not None)

    def __getitem__(self, split: str | None) -> Dataset:
        """Return the images of a split, or of all if there are no splits.

        :param split: "train", "valid" or "test" in any usual spelling; None for images without
        :raises ValueError: if there is no such split
        """
        wanted = canonical_split(split) if split else None
        if wanted in self.datasets:
            return self.datasets[wanted]
        if wanted is None and len(self.datasets) == 1:
            return next(iter(self.datasets.values()))
        if wanted is None:
            raise ValueError(
                f"{self.path}: there are splits ({', '.join(self.splits)}); name one, or give a "
                "path to one of them"
            )
        there = ", ".join(self.splits) or "no splits"
        raise ValueError(
            f"{self.path}, split {split!r}: no images; expected SPLIT/CLASS/NAME.png, "
            f"found {self.layout} ({there})"
        )

    def describe(self) -> str:
        """Return what was found, one line for each split, and what was left out."""
        lines = [f"{self.path}: {self.layout}"]
        for split, data in self.datasets.items():
            counts = np.bincount(data.labels, minlength=len(data.classes))
            of_class = ", ".join(f"{name} {count:,}" for name, count in zip(data.classes, counts))
            line = f"  {split or 'images':10} {len(data):6,} ({of_class})"
            if data.groups:
                line += f", {len(set(data.groups)):,} patients"
            lines.append(line)
        return "\n".join([*lines, *(f"  {note}" for note in self.notes)])


def find_images(
    path: str | Path,
    classes: Sequence[str] | None = None,
    group: str | None = None,
    layout: str | None = None,
    labels: str | Path | None = None,
    label_column: str | None = None,
    window: Window | None = None,
    page: int = 0,
    split: str | None = None,
) -> FoundImages:
    """Find labelled images in a directory, in which links are followed, or in a zip archive.

    Folders that are named like a split or differ throughout tell split, class and patient. Where no
    folder tells the class, a table of labels does: CSV, ``metadata.jsonl``, or ``dataset.json`` of
    StyleGAN. MedMNIST's npz files, PCam's HDF5 files, and data sets of Hugging Face's library
    (``save_to_disk`` or parquet) are read, too. Images are decoded when their pixels are asked for.

    .. code-block:: python

        find_images("pcam.zip")["train"]  # pcam/train/normal/ID.webp, …

    :param path: directory, zip, npz or parquet file
    :param classes: class names in label order, some of which may have no image. By default all
        that are found, sorted
    :param group: regular expression that finds the patient or slide in the image's name, e.g.
        ``"^[^_]+"`` for all before the first underscore. If it has groups of its own, the first
        one that matched counts
    :param layout: folders from the top, e.g. "split/patient/class" or "class/*"; None to find it
    :param labels: file of the table of labels; None to look for one where folders tell no class
    :param label_column: name of its column of classes; None to find it
    :param window: values of black and white of images of more than 8 bits; None to find them
    :param page: number of the page in files of several
    :param split: name of a split that is no usual one
    :raises FileNotFoundError: if the path does not exist
    :raises ValueError: if nothing is found, what is found could be read in several ways, or a class
        has no image that can be read; the message says what to do
    """
    path = Path(path)
    special = _other_formats(path, label_column, window, page)
    if special is not None:
        if layout is not None or labels is not None:
            raise ValueError(f"{path}: {special.layout} tell the classes; give no layout or table")
        return _in_classes(_grouped(special, group), classes)
    tree = open_tree(path)
    visible = [name for name in tree.names if not _is_hidden(name)]
    suffixes = _readable_suffixes()
    images = [name for name in visible if PurePosixPath(name).suffix.lower() in suffixes]
    if not images:
        raise ValueError(f"{path}: no images ({', '.join(sorted(suffixes))}) in it")
    _check_names(images, path)
    try:
        places, told, notes = _places(
            tree, visible, images, classes or (), layout, labels, label_column, split or ""
        )
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    labelled = {name: place for name, place in places.items() if place.label is not None}
    if not labelled:
        raise ValueError(
            f"{path}: nothing tells the classes of {len(images)} images (first: {images[0]}); put "
            "them into class folders, CLASS/NAME.png, or give a table of labels"
        )
    if labels is None and layout is None:
        notes = [*notes, *_unread(visible, labelled, suffixes, path)]
    found = _datasets(tree, labelled, group, path, window, page)
    return _in_classes(FoundImages(path, found, told, tuple(notes)), classes)


def read_class_folders(
    path: str | Path,
    split: str | None = None,
    classes: tuple[str, ...] | None = None,
    group: str | None = None,
) -> Dataset:
    """Return the images of a split. What is left out is said in a warning.

    .. code-block:: python

        read_class_folders("pcam.zip", "train")  # pcam/train/normal/ID.webp, …

    :param path: directory or archive; see :func:`find_images`
    :param split: name of the split; None where there is none
    :param classes: class names in label order; see :func:`find_images`
    :param group: regular expression of the patient; see :func:`find_images`
    :raises FileNotFoundError: if the path does not exist
    :raises ValueError: see :func:`find_images`
    """
    found = find_images(path, classes, group, split=split)
    if found.notes:
        warnings.warn(f"{path}: {'; '.join(found.notes)}", stacklevel=2)
    return found[split]


def _places(
    tree: FileTree,
    visible: Sequence[str],
    images: Sequence[str],
    classes: Sequence[str],
    layout: str | None,
    labels: str | Path | None,
    label_column: str | None,
    split: str,
) -> tuple[dict[str, Place], str, list[str]]:
    """Return the place of each image, what tells it in words, and notes."""

    def same(one: str, other: str) -> bool:
        return tree.size(one) == tree.size(other) and tree.read(one) == tree.read(other)

    if layout is not None and labels is not None:
        raise ValueError("a layout and a table of labels were given; give one of them")
    if layout is not None:
        asked = by_pattern(images, layout)
        return dict(asked.places), asked.pattern, list(asked.notes)
    if labels is None:
        found = find_layout(images, same, classes, split)
        names = {place.label for place in found.places.values()} - {None}
        tables = [] if len(names) > 1 else _tables(visible)
        if not tables:
            return dict(found.places), found.pattern, list(found.notes)
    else:
        tables = [str(labels)]

    # Folders tell no class. Take the tables that do.
    places: dict[str, Place] = {}
    told, errors = [], []
    for table in tables:
        name = PurePosixPath(table).name
        try:
            content = tree.read(table) if labels is None else Path(table).read_bytes()
            read = read_table(content, name, images, label_column)
        except (ValueError, OSError) as error:
            errors.append(str(error))
            continue
        if places.keys() & read.places.keys():
            raise ValueError(f"{name} and another table name the same images; give --labels")
        own = _split_in(name) if len(tables) > 1 else None
        places |= {n: replace(p, split=p.split or own) for n, p in read.places.items()}
        told.append(read.told)
    if not places and labels is None and names and names <= set(classes):
        return dict(found.places), found.pattern, list(found.notes)
    if not places:
        raise ValueError("; ".join(errors))
    if all(place.split is None for place in places.values()):
        folders = found if labels is None else find_layout(images, same, (), split)
        split_of = {name: place.split for name, place in folders.places.items()}
        places = {n: replace(place, split=split_of.get(n)) for n, place in places.items()}
    missing = len(images) - len(places)
    named = ", ".join(PurePosixPath(table).name for table in tables)
    note = [f"{missing} images that {named} does not name are left out"]
    return places, "; ".join(told), note * bool(missing)


def _split_in(table: str) -> str | None:
    """Return the split that a table's name holds, e.g. "train_labels.csv"."""
    words = re.split(r"[^A-Za-z]+", PurePosixPath(table).stem)
    return next((canonical_split(w) for w in words if is_split(w)), None)


def _tables(names: Sequence[str]) -> list[str]:
    """Return the tables among files, those at the top first."""
    tables = [name for name in names if PurePosixPath(name).suffix.lower() in TABLE_SUFFIXES]
    return sorted(tables, key=lambda name: (name.count("/"), name))


def _datasets(
    tree: FileTree,
    places: Mapping[str, Place],
    group: str | None,
    path: Path,
    window: Window | None,
    page: int,
) -> dict[str | None, Dataset]:
    """Return the images by split."""
    classes = sorted({str(place.label) for place in places.values()}, key=natural_key)
    label_of = {name: i for i, name in enumerate(classes)}
    names = sorted(places)
    shown = ImageSet(FileContents(tree, names), [tree.written[n] for n in names], window, page)
    images = EncodedImages(shown)
    by_split: dict[str | None, list[int]] = {}
    for position, name in enumerate(names):
        by_split.setdefault(places[name].split, []).append(position)
    datasets: dict[str | None, Dataset] = {}
    for split in sorted(by_split, key=lambda s: ("train", "valid", "test", s).index(s)):
        positions = by_split[split]
        own = [names[i] for i in positions]
        groups: tuple[str, ...] | None = None
        if group is not None:
            groups = tuple(_find_group(PurePosixPath(name).name, group, path) for name in own)
        elif any(places[name].patient for name in own):
            unknown = [name for name in own if not places[name].patient]
            if unknown:
                raise ValueError(
                    f"{path}: no patient is known of {len(unknown)} of {len(own)} images (first: "
                    f"{unknown[0]}); name theirs, or give --layout without patients"
                )
            groups = tuple(str(places[name].patient) for name in own)
        datasets[split] = Dataset.of_images(
            images[positions],
            np.array([label_of[str(places[name].label)] for name in own], np.int64),
            _ids(own),
            tuple(classes),
            groups,
        )
    return datasets


def _ids(names: Sequence[str]) -> tuple[str, ...]:
    """Return an id per image of a split: its path below what all of them share."""
    parts = [name.split("/") for name in names]
    shared = 0
    while all(len(p) > shared + 2 and p[shared] == parts[0][shared] for p in parts):
        shared += 1
    return tuple("/".join(p[shared:]) for p in parts)


def _in_classes(found: FoundImages, classes: Sequence[str] | None) -> FoundImages:
    """Return the images with labels in a given order of the classes."""
    if not classes:
        return found
    unknown = sorted(set(found.classes) - set(classes))
    if unknown:
        raise ValueError(
            f"{found.path}: class folders {unknown} are none of the classes {list(classes)}; "
            "rename them, or give the layout"
        )
    position = np.array([list(classes).index(name) for name in found.classes], np.int64)
    datasets = {
        split: replace(data, labels=position[data.labels], classes=tuple(classes))
        for split, data in found.datasets.items()
    }
    return replace(found, datasets=datasets)


def _unread(
    visible: Sequence[str], places: Mapping[str, Place], readable: frozenset[str], path: Path
) -> list[str]:
    """Return notes on files in class folders that are no images.

    :raises ValueError: if a class has no other files
    """
    folder_of = {
        PurePosixPath(name).parent.as_posix(): place.label for name, place in places.items()
    }
    above = {PurePosixPath(folder).parent.as_posix() for folder in folder_of}
    left: Counter[tuple[str, str]] = Counter()
    lost: dict[str, Counter[str]] = {}
    for name in visible:
        file = PurePosixPath(name)
        suffix, folder = file.suffix.lower(), file.parent.as_posix()
        if suffix in readable or suffix in BESIDE:
            continue
        if folder in folder_of:
            left[str(folder_of[folder]), suffix or "no suffix"] += 1
        elif suffix in UNREADABLE and len(file.parts) > 1 and _above(file) in above:
            lost.setdefault(folder, Counter())[suffix or "no suffix"] += 1
    if lost:
        listed = "; ".join(
            f"{folder}: " + ", ".join(f"{count} × {suffix}" for suffix, count in found.items())
            for folder, found in sorted(lost.items())
        )
        raise ValueError(
            f"{path}: folders beside those of the classes have no image that can be read "
            f"({listed}); convert the files to PNG, or move the folders away"
        )
    counts = [f"{count} × {suffix} of {label}" for (label, suffix), count in sorted(left.items())]
    extra = any(suffix in WITH_EXTRA for _, suffix in left)
    remedy = " (pip install 'synthselect[formats]' reads DICOM and HEIC)" if extra else ""
    return [f"files that are left out: {', '.join(counts)}{remedy}"] if counts else []


def _above(file: PurePosixPath) -> str:
    """Return the folder that a file's folder lies in."""
    return file.parent.parent.as_posix()


def _is_hidden(name: str) -> bool:
    return any(part.startswith((".", "__MACOSX")) for part in name.split("/"))


def _check_names(names: Sequence[str], path: Path) -> None:
    """Refuse names that cannot be kept."""
    for name in names:
        try:
            name.encode()
        except UnicodeEncodeError as error:
            raise ValueError(
                f"{path}: the name {name!a} is not UTF-8 and could not be kept with the image; "
                "rename it"
            ) from error


def _readable_suffixes() -> frozenset[str]:
    """Return the suffixes of the formats that this installation reads."""
    found = set(SUFFIXES)
    if features.check("avif"):
        found.add(".avif")
    for suffix, module in WITH_EXTRA.items():
        if importlib.util.find_spec(module):
            found.add(suffix)
    if ".heic" in found:
        importlib.import_module("pillow_heif").register_heif_opener()
    return frozenset(found)


def _find_group(name: str, pattern: str, path: Path) -> str:
    """Return the patient or slide in an image's name."""
    try:
        found = re.search(pattern, name)
    except re.error as error:
        raise ValueError(f"{pattern!r} is not a regular expression ({error})") from error
    part = None
    if found:
        part = next(filter(None, found.groups()), None) if found.re.groups else found[0]
    if not part:
        raise ValueError(f"{path}: {pattern!r} finds no patient or slide in the name {name!r}")
    return part


def _other_formats(
    path: Path, label_column: str | None, window: Window | None, page: int
) -> FoundImages | None:
    """Return the images of a file format of its own, or None if it is none."""
    if path.suffix.lower() == ".npz" and path.is_file():
        return FoundImages(path, read_medmnist(path), "MedMNIST's arrays")
    splits = pcam_splits(path)
    if splits:
        return FoundImages(path, {s: read_pcam(path, s) for s in splits}, "PCam's HDF5 files")
    files = saved_files(path) or parquet_files(path, SUFFIXES)
    if not files:
        return None
    datasets, told, notes = read_hugging_face(path, files, label_column, window, page)
    return FoundImages(path, datasets, told, tuple(notes))


def _grouped(found: FoundImages, pattern: str | None) -> FoundImages:
    """Return images with the patients that a pattern finds in their names, if there is one."""
    if pattern is None:
        return found
    datasets = {}
    for split, data in found.datasets.items():
        groups = tuple(_find_group(name, pattern, found.path) for name in data.ids or ())
        datasets[split] = replace(data, groups=groups)
    return replace(found, datasets=datasets)
