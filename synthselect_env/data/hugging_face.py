"""Data sets of Hugging Face's library on disk: ``save_to_disk`` folders, and parquet files."""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from synthselect_env.data.dataset import Dataset
from synthselect_env.data.decoding import Window
from synthselect_env.data.images import EncodedImages, ImageSet
from synthselect_env.data.label_tables import LABEL_COLUMNS, PATIENT_COLUMNS, first_of
from synthselect_env.data.layouts import canonical_split, is_split, natural_key

IMAGE_COLUMNS = ("image", "img")
"""Names of a column of images, where the library does not note which it is."""

STATE, SPLITS = "state.json", "dataset_dict.json"
"""Files that ``save_to_disk`` writes into the folder of a data set, and of a set of splits."""

SHARD = re.compile(r"-\d{5}-of-\d{5}$")
"""End of the name of one of several parquet files of a split."""

Files = dict[str | None, list[Path]]
"""Split to its data files; the key is None where there are no splits."""


@dataclass(frozen=True)
class Table:
    """One split of a data set, as it is stored.

    :param rows: pyarrow's table
    :param folder: folder of its files, to which paths of images are relative
    :param features: type of each column, as the library notes it; empty where it does not
    """

    rows: Any
    folder: Path
    features: dict[str, Any]

    @property
    def columns(self) -> list[str]:
        """Names of the columns."""
        return list(self.rows.column_names)

    def is_a(self, column: str, kind: str) -> bool:
        """Return whether the library notes a column as of that kind, e.g. "Image"."""
        noted = self.features.get(column)
        return isinstance(noted, dict) and noted.get("_type") == kind

    @property
    def class_names(self) -> dict[str, list[str]]:
        """Names of the classes, by column of numbers that stand for them."""
        found = [name for name in self.columns if self.is_a(name, "ClassLabel")]
        return {name: self.features[name].get("names") or [] for name in found}


def saved_files(path: Path) -> Files:
    """Return the data files of a folder that ``save_to_disk`` wrote; nothing if it is none.

    :param path: directory
    """
    splits = _noted(path / SPLITS, "splits")
    folders: dict[str | None, Path] = {None: path}
    if splits:
        folders = {canonical_split(str(name)): path / str(name) for name in splits}
    files: Files = {}
    for split, folder in folders.items():
        names = [str(file["filename"]) for file in _noted(folder / STATE, "_data_files")]
        if names:
            files[split] = [folder / name for name in names]
    return files


def _noted(file: Path, key: str) -> list[Any]:
    """Return a list in a JSON file; an empty one if there is no such thing."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    found = content.get(key) if isinstance(content, dict) else None
    return found if isinstance(found, list) else []


def parquet_files(path: Path, image_suffixes: Collection[str]) -> Files:
    """Return the parquet files of a data set; nothing if there are none.

    :param path: directory, or one file
    :param image_suffixes: suffixes of image files, beside which a table is no data set
    :raises ValueError: if there are several data sets
    """
    if path.is_file():
        return {_split_of(path): [path]} if path.suffix.lower() == ".parquet" else {}
    files: Files = {}
    folders: dict[str | None, set[str]] = {}
    found = sorted(f for depth in ("*", "*/*", "*/*/*") for f in path.glob(f"{depth}.parquet"))
    if found and any(file.suffix.lower() in image_suffixes for file in path.rglob("*")):
        return {}
    for file in found:
        split = _split_of(file)
        files.setdefault(split, []).append(file)
        folders.setdefault(split, set()).add(file.parent.relative_to(path).as_posix())
    several = sorted(next((names for names in folders.values() if len(names) > 1), ()))
    if several:
        raise ValueError(
            f"{path}: there are several data sets, in {', '.join(several)}; give a path to one"
        )
    return files


def _split_of(file: Path) -> str | None:
    """Return the split of a parquet file, by its name or that of its folder."""
    names = (SHARD.sub("", file.stem), file.parent.name)
    return next((canonical_split(name) for name in names if is_split(name)), None)


def read_hugging_face(
    path: Path,
    files: Files,
    label_column: str | None = None,
    window: Window | None = None,
    page: int = 0,
) -> tuple[dict[str | None, Dataset], str, list[str]]:
    """Read a data set of images and classes. Images are decoded when they are asked for.

    :param path: where the data set lies, for messages
    :param files: files of :func:`saved_files` or :func:`parquet_files`
    :param label_column: name of the column of classes; None to find it
    :param window: values of black and white of images of more than 8 bits; None to find them
    :param page: number of the page in files of several
    :return: images by split, the columns in words, and notes on what was left out
    :raises ValueError: if pyarrow is missing, a file is damaged, there is no column of images or of
        classes, or an image lacks a patient
    """
    tables = {split: _read(path, own) for split, own in files.items()}
    first = next(iter(tables.values()))
    image_column = _image_column(first, path)
    label_column = _label_column(first, path, label_column)
    patient_column = first_of(PATIENT_COLUMNS, first.columns)
    for table in tables.values():
        if (table.columns, table.class_names) != (first.columns, first.class_names):
            raise ValueError(f"{path}: the splits have different columns or classes")

    # Classes without an image are left out, in the order of the others.
    labels = {split: _labels(table, label_column, path) for split, table in tables.items()}
    used = {label for own in labels.values() for label in own if label is not None}
    if not used:
        raise ValueError(f"{path}: no image has a class in {label_column!r}")
    names = first.class_names.get(label_column) or sorted(used, key=natural_key)
    classes = tuple(name for name in names if name in used)

    datasets: dict[str | None, Dataset] = {}
    notes = []
    for split, table in tables.items():
        contents = Contents(table.rows.column(image_column), table.folder)
        ids = contents.names(split)
        kept = [i for i, label in enumerate(labels[split]) if label is not None]
        if len(kept) < len(ids):
            of_split = f" of {split}" if split else ""
            notes.append(f"{len(ids) - len(kept)} images{of_split} without a class are left out")
        if not kept:
            continue  # published test splits are often without labels
        datasets[split] = Dataset.of_images(
            EncodedImages(ImageSet(contents, ids, window, page, in_files=False))[kept],
            np.array([classes.index(str(labels[split][i])) for i in kept], np.int64),
            tuple(ids[i] for i in kept),
            classes,
            _patients(table, patient_column, kept, path) if patient_column else None,
        )
    told = f"images by {image_column!r}, classes by {label_column!r}"
    told += f", patients by {patient_column!r}" if patient_column else ""
    return datasets, f"Hugging Face data set, {told}", notes


class Contents:
    """Contents of the image files in a column.

    :param column: pyarrow's column of images: files, their paths, or both
    :param folder: folder of files that are stored by their path
    """

    def __init__(self, column: Any, folder: Path) -> None:
        self.column = column
        self.folder = folder

    def __len__(self) -> int:
        return len(self.column)

    def __getitem__(self, position: int) -> bytes:
        entry = self.column[position].as_py()
        if isinstance(entry, dict):
            entry = entry.get("path") if entry.get("bytes") is None else entry["bytes"]
        if isinstance(entry, str):
            return (self.folder / entry).read_bytes()
        if not isinstance(entry, bytes):
            raise ValueError("it has no content")
        return entry

    def names(self, split: str | None) -> list[str]:
        """Return a name per image: that of its file if these differ, else its number.

        :param split: name of the split
        """
        numbered = [f"{split or 'image'}-{i}" for i in range(len(self))]
        types = importlib.import_module("pyarrow").types
        column, kind = self.column, self.column.type
        if types.is_struct(kind) and kind.get_field_index("path") >= 0:
            column = importlib.import_module("pyarrow.compute").struct_field(column, "path")
        if not types.is_string(column.type):
            return numbered
        names = [PurePosixPath(file or "").name for file in column.to_pylist()]
        return names if all(names) and len(set(names)) == len(names) else numbered


def _read(path: Path, files: Sequence[Path]) -> Table:
    """Return the rows of some files. Those of ``save_to_disk`` stay on disk."""
    try:
        arrow = importlib.import_module("pyarrow")
        parquet = importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise ValueError(
            f"{path} is a data set of Hugging Face's library; pip install 'synthselect[formats]' "
            "reads it"
        ) from error
    tables = []
    for file in files:
        try:
            if file.suffix == ".parquet":
                tables.append(parquet.ParquetFile(file).read())
            else:
                tables.append(arrow.ipc.open_stream(arrow.memory_map(str(file))).read_all())
        except (OSError, arrow.ArrowException) as error:
            raise ValueError(f"{file} cannot be read ({error}); is it whole?") from error
    metadata = tables[0].schema.metadata or {}
    noted = json.loads(metadata.get(b"huggingface", b"{}"))
    features = noted.get("info", {}).get("features", {})
    return Table(arrow.concat_tables(tables), files[0].parent, features)


def _image_column(table: Table, path: Path) -> str:
    """Return the name of the column of images."""
    noted = [name for name in table.columns if table.is_a(name, "Image")]
    found = [*noted, first_of(IMAGE_COLUMNS, table.columns)][0]
    if found is None:
        raise ValueError(f"{path}: no column ({', '.join(table.columns)}) holds images")
    return found


def _label_column(table: Table, path: Path, asked: str | None) -> str:
    """Return the name of the column of classes."""
    columns = ", ".join(table.columns)
    if asked is not None and asked not in table.columns:
        raise ValueError(f"{path}: there is no column {asked!r}; one of {columns}")
    if asked is None and len(table.class_names) > 1:
        several = " or ".join(table.class_names)
        raise ValueError(f"{path}: the classes may be the columns {several}; give --label-column")
    found = asked or next(iter(table.class_names), first_of(LABEL_COLUMNS, table.columns))
    if found is None:
        raise ValueError(f"{path}: no column ({columns}) tells the classes; give --label-column")
    return found


def _labels(table: Table, column: str, path: Path) -> list[str | None]:
    """Return the class of each row; None where it has none."""
    entries = table.rows.column(column).to_pylist()
    if any(isinstance(entry, list) for entry in entries):
        raise ValueError(
            f"{path}: {column!r} holds several classes per image, which is not supported"
        )
    names = table.class_names.get(column)
    if not names:
        return [None if entry in (None, "") else str(entry) for entry in entries]
    beyond = [entry for entry in entries if entry is not None and entry >= len(names)]
    if beyond:
        raise ValueError(f"{path}: {column!r} holds class {beyond[0]}, and has {len(names)} names")
    return [None if entry is None or entry < 0 else names[entry] for entry in entries]


def _patients(table: Table, column: str, kept: Sequence[int], path: Path) -> tuple[str, ...]:
    """Return the patient of each row that is kept."""
    entries = table.rows.column(column).to_pylist()
    unknown = sum(entries[i] in (None, "") for i in kept)
    if unknown:
        raise ValueError(f"{path}: {unknown} of {len(kept)} images have no patient in {column!r}")
    return tuple(str(entries[i]) for i in kept)
