"""Labels of images in a table beside them: CSV, ``metadata.jsonl``, StyleGAN's ``dataset.json``."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from synthselect_env.data.layouts import Place, canonical_split

SUFFIXES = (".csv", ".tsv", ".jsonl", ".json")
"""Suffixes of tables."""

LABEL_COLUMNS = (
    "label",
    "class",
    "target",
    "diagnosis",
    "dx",
    "category",
    "benign_malignant",
    "malignant",
    "tumor",
    "y",
)
"""Names of a column of labels, the likeliest first."""

PATIENT_COLUMNS = ("patient", "patient_id", "subject", "subject_id", "case_id", "lesion_id")
"""Names of a column of patients."""

SPLIT_COLUMNS = ("split", "set", "partition")
"""Names of a column of splits."""


@dataclass(frozen=True)
class LabelTable:
    """Places of images that a table names.

    :param places: place by image
    :param told: columns that were read, in words
    """

    places: Mapping[str, Place]
    told: str


def read_table(
    content: bytes, table: str, images: Sequence[str], label_column: str | None = None
) -> LabelTable:
    """Read the labels of images from a table.

    :param content: content of the table's file
    :param table: name of that file
    :param images: files with forward slashes
    :param label_column: name of the column of labels; None to find it
    :raises ValueError: if images or labels are not found in it
    """
    rows = _rows(content, table)
    if not rows:
        raise ValueError(f"{table} is empty")
    columns = [column for column in rows[0] if column]
    by_key = _keys(images)

    # The images' column is the one that names most of them. Labels may look like names of files.
    of_labels = {label_column, first_of(LABEL_COLUMNS, columns)}
    counts = {
        column: len({_entry(row, column) for row in rows} & by_key.keys())
        for column in columns
        if column not in of_labels
    }
    id_column = max(counts, key=lambda column: counts[column], default="")
    if not counts.get(id_column):
        raise ValueError(
            f"{table}: no column ({', '.join(columns)}) names the images, such as {images[0]}"
        )
    others = [column for column in columns if column != id_column]
    patients = first_of(PATIENT_COLUMNS, others)
    splits = first_of(SPLIT_COLUMNS, others)
    others = [column for column in others if column not in (patients, splits)]
    labels, told = _labels(rows, others, table, label_column)

    # Look each row's image up.
    places = {}
    for row, label in zip(rows, labels):
        key = _entry(row, id_column)
        name = by_key.get(key)
        if key in by_key and name is None:
            raise ValueError(
                f"{table}: {key!r} is the name of several images; give their folders, too"
            )
        if name is None or label == "":
            continue
        if name in places:
            raise ValueError(f"{table} names {name} twice; keep one row")
        split = canonical_split(_entry(row, splits)) if splits else ""
        patient = _entry(row, patients) if patients else ""
        places[name] = Place(split or None, label, patient or None)
    told = f"{table}: images by {id_column!r}, classes by {told}"
    if patients:
        told += f", patients by {patients!r}"
    if splits:
        told += f", splits by {splits!r}"
    return LabelTable(places, told)


def _rows(content: bytes, table: str) -> list[dict[str, object]]:
    """Return the rows of a table, as column to entry."""
    suffix = PurePosixPath(table).suffix.lower()
    try:
        text = content.decode("utf-8-sig")
        if suffix == ".json":
            labels = json.loads(text).get("labels") or []
            return [{"file": name, "label": label} for name, label in labels]
        if suffix == ".jsonl":
            lines = [json.loads(line) for line in text.splitlines() if line.strip()]
            if not all(isinstance(line, dict) for line in lines):
                raise ValueError("a line is no JSON object")
            return lines
        first = text.split("\n", 1)[0]
        delimiter = max(",;\t", key=first.count)
        return list(csv.DictReader(io.StringIO(text), delimiter=delimiter))  # type: ignore[arg-type]
    except (ValueError, TypeError, AttributeError, csv.Error) as error:
        raise ValueError(f"{table} is no table of labels ({error})") from error


def _entry(row: Mapping[str, object], column: str) -> str:
    """Return an entry as text; empty where there is none."""
    entry = row.get(column)
    return "" if entry is None else str(entry).strip()


def _keys(images: Sequence[str]) -> dict[str, str | None]:
    """Return what a table may call each image: path, file name, stem.

    :return: name to the image; None for a name that several images have
    """
    keys: dict[str, str | None] = {}
    for name in images:
        path = PurePosixPath(name)
        ends = {"/".join(path.parts[start:]) for start in range(len(path.parts))}
        for key in ends | {path.stem}:
            keys[key] = None if key in keys else name
    return keys | {name: name for name in images}


def first_of(wanted: Sequence[str], columns: Sequence[str]) -> str | None:
    """Return the first of some columns that a table has, in capitals or not.

    :param wanted: names in small letters, the likeliest first
    :param columns: the table's columns
    """
    small = {column.lower().replace(" ", "_"): column for column in columns}
    return next((small[name] for name in wanted if name in small), None)


def _labels(
    rows: Sequence[Mapping[str, object]],
    columns: Sequence[str],
    table: str,
    label_column: str | None,
) -> tuple[list[str], str]:
    """Return each row's label, and the columns that it was read from in words."""
    if label_column is not None and label_column not in columns:
        raise ValueError(f"{table} has no column {label_column!r}; it has {', '.join(columns)}")
    column = label_column or first_of(LABEL_COLUMNS, columns)
    if column is None and len(columns) == 1:
        column = columns[0]
    if column is not None:
        return [_entry(row, column) for row in rows], repr(column)

    # One column per class, with a 1 for the image's own.
    marks = [[_number(row.get(c)) for c in columns] for row in rows]
    if columns and all(mark in (0.0, 1.0) for row in marks for mark in row):
        if any(sum(row) != 1 for row in marks):
            raise ValueError(
                f"{table} gives some images several classes, or none; images of several classes "
                "are not supported"
            )
        return [columns[row.index(1.0)] for row in marks], "one column each"
    raise ValueError(
        f"{table}: which column holds the classes is not clear ({', '.join(columns)}); "
        "name it, e.g. --label-column diagnosis"
    )


def _number(entry: object) -> float:
    try:
        return float(str(entry))
    except ValueError:
        return float("nan")
