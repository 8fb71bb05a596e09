"""Data sets of Hugging Face's library on disk: ``save_to_disk`` folders, and parquet files."""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from synthselect_env.data.dataset import Dataset
from synthselect_env.data.decoding import Window
from synthselect_env.data.images import EncodedImages, ImageSet
from synthselect_env.data.label_tables import LABEL_COLUMNS, PATIENT_COLUMNS
from synthselect_env.data.layouts import canonical_split, is_split

STATE, SPLITS = "state.json", "dataset_dict.json"
"""Files that ``save_to_disk`` writes into the folder of a data set, and of a set of splits."""

SHARD = re.compile(r"-\d{5}-of-\d{5}$")
"""End of the name of one of several parquet files of a split."""


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


def hugging_face_files(path: Path) -> dict[str | None, list[Path]]:
    """Return the data files of each split; nothing if the directory holds no such data set.

    :param path: directory
    """
    if (path / SPLITS).is_file():
        splits = json.loads((path / SPLITS).read_text(encoding="utf-8"))["splits"]
        return {canonical_split(name): _arrow_files(path / name) for name in splits}
    if (path / STATE).is_file():
        return {None: _arrow_files(path)}
    by_split: dict[str | None, list[Path]] = {}
    for file in sorted([*path.glob("*.parquet"), *path.glob("*/*.parquet")]):
        names = (SHARD.sub("", file.stem), file.parent.name)
        split = next((canonical_split(name) for name in names if is_split(name)), None)
        if split is not None or SHARD.search(file.stem):
            by_split.setdefault(split, []).append(file)
    return by_split


def _arrow_files(folder: Path) -> list[Path]:
    state = json.loads((folder / STATE).read_text(encoding="utf-8"))
    return [folder / file["filename"] for file in state["_data_files"]]


def read_hugging_face(
    path: Path,
    label_column: str | None = None,
    window: Window | None = None,
    page: int = 0,
) -> tuple[dict[str | None, Dataset], str, list[str]]:
    """Read a data set of images and classes. Images stay in their files until they are asked for.

    :param path: directory, for which :func:`hugging_face_files` finds files
    :param label_column: name of the column of classes; None to find it
    :param window: values of black and white of images of more than 8 bits; None to find them
    :param page: number of the page in files of several
    :return: images by split, the columns in words, and notes on what was left out
    :raises ValueError: if pyarrow is missing, a file is damaged, or there is no column of images or
        of classes
    """
    tables = {split: _read(path, files) for split, files in hugging_face_files(path).items()}
    first = next(iter(tables.values()))
    image_column = _image_column(first, path)
    label_column = _label_column(first, path, label_column)
    columns = first.rows.column_names
    patients = next((name for name in PATIENT_COLUMNS if name in columns), None)
    labels = {split: _labels(table, label_column) for split, table in tables.items()}
    names = first.features.get(label_column, {}).get("names")
    classes = names or sorted({y for own in labels.values() for y in own if y is not None})
    position = {name: i for i, name in enumerate(classes)}

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
        groups = None
        if patients:
            of_row = table.rows.column(patients).to_pylist()
            groups = tuple(str(of_row[i]) for i in kept)
        datasets[split] = Dataset.of_images(
            EncodedImages(ImageSet(contents, ids, window, page))[kept],
            np.array([position[str(labels[split][i])] for i in kept], np.int64),
            tuple(ids[i] for i in kept),
            tuple(classes),
            groups,
        )
    told = f"images by {image_column!r}, classes by {label_column!r}"
    told += f", patients by {patients!r}" if patients else ""
    return datasets, f"Hugging Face data set, {told}", notes


class Contents:
    """Contents of the image files in a column.

    :param column: pyarrow's column of images
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
            content, file = entry.get("bytes"), entry.get("path")
            if content is None and file:
                return (self.folder / file).read_bytes()
            entry = content
        if entry is None:
            raise ValueError("it has no content")
        return entry

    def names(self, split: str | None) -> list[str]:
        """Return a name per image: that of its file if these differ, else its number.

        :param split: name of the split
        """
        numbered = [f"{split or 'image'}-{i}" for i in range(len(self))]
        if "path" not in [field.name for field in self.column.type]:
            return numbered
        paths = importlib.import_module("pyarrow.compute").struct_field(self.column, "path")
        names = [PurePosixPath(file or "").name for file in paths.to_pylist()]
        return names if all(names) and len(set(names)) == len(names) else numbered


def _read(path: Path, files: Sequence[Path]) -> Table:
    """Return the rows of some files, which stay on disk where their format allows it."""
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
    if not tables:
        raise ValueError(f"{path} holds no rows")
    metadata = tables[0].schema.metadata or {}
    noted = json.loads(metadata.get(b"huggingface", b"{}"))
    return Table(
        arrow.concat_tables(tables), files[0].parent, noted.get("info", {}).get("features", {})
    )


def _image_column(table: Table, path: Path) -> str:
    """Return the name of the column of images."""
    columns = table.rows.column_names
    noted = [name for name in columns if table.features.get(name, {}).get("_type") == "Image"]
    found = noted or [name for name in ("image", "img") if name in columns]
    if not found:
        raise ValueError(f"{path}: no column ({', '.join(columns)}) holds images")
    return found[0]


def _label_column(table: Table, path: Path, asked: str | None) -> str:
    """Return the name of the column of classes."""
    columns = table.rows.column_names
    if asked is not None and asked not in columns:
        raise ValueError(f"{path}: there is no column {asked!r}; one of {', '.join(columns)}")
    classes = [
        name for name in columns if table.features.get(name, {}).get("_type") == "ClassLabel"
    ]
    if asked is None and len(classes) > 1:
        raise ValueError(
            f"{path}: the classes may be the columns {' or '.join(classes)}; give --label-column"
        )
    usual = [name for name in LABEL_COLUMNS if name in columns]
    found = [name for name in (asked, *classes, *usual) if name is not None]
    if not found:
        raise ValueError(
            f"{path}: no column ({', '.join(columns)}) tells the classes; give --label-column"
        )
    return found[0]


def _labels(table: Table, column: str) -> list[str | None]:
    """Return the class of each row; None where it has none.

    :raises ValueError: if rows have several classes
    """
    entries = table.rows.column(column).to_pylist()
    if any(isinstance(entry, list) for entry in entries):
        raise ValueError(f"{column!r} holds several classes per image, which is not supported")
    names = table.features.get(column, {}).get("names")
    if not names:
        return [None if entry in (None, "") else str(entry) for entry in entries]
    return [None if entry is None or entry < 0 else names[entry] for entry in entries]
