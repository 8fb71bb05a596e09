"""Signs that a bank is doubtful: tiny classes, classes without candidates, leaks between splits."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from synthselect_env.data import Dataset
from synthselect_env.data.images import image_keys

MIN_PER_CLASS = 10
"""Images of a class in a split below which :func:`small_classes` warns."""

CHUNK_SIZE = 4096
"""Feature rows compared at once, which bounds memory."""

LEAKS = (
    ("train", "valid"),
    ("train", "test"),
    ("valid", "test"),
    ("candidates", "valid"),
    ("candidates", "test"),
)
"""Pairs of splits that must not share an image or a patient. Scores are taken on the second."""


def small_classes(splits: Mapping[str, Dataset], classes: tuple[str, ...]) -> list[str]:
    """Return a warning for each class with few images in a real split.

    :param splits: split name to dataset
    :param classes: class names in label order
    """
    found = []
    for name, split in splits.items():
        counts = np.bincount(split.labels, minlength=len(classes))
        for label, count in zip(classes, counts):
            if count < MIN_PER_CLASS and name != "candidates":
                found.append(
                    f"{name} has {count} images of class {label}; "
                    f"metrics of that class mean little below {MIN_PER_CLASS}"
                )
    return found


def classes_without_candidates(candidates: Dataset, classes: tuple[str, ...]) -> list[str]:
    """Return a warning that names the classes of which there is no candidate, if there are any.

    :param candidates: pool of candidates
    :param classes: class names in label order
    """
    counts = np.bincount(candidates.labels, minlength=len(classes))
    empty = [name for name, count in zip(classes, counts) if not count]
    return [f"no candidate of class {', '.join(empty)}"] if empty else []


def leaks(splits: Mapping[str, Dataset]) -> list[str]:
    """Return a warning for each pair of splits that share images or patients.

    Images are the same if they are stored alike, or if their features agree to half precision of a
    standard deviation of the real training features.

    :param splits: split name to dataset; "train" must be there
    """
    images = {
        name: set() if split.images is None else set(image_keys(split.images))
        for name, split in splits.items()
    }
    real = splits["train"].features
    mean = real.mean(0, np.float64)
    std = np.maximum(real.std(0, np.float64), 1e-12)
    rows = {name: _rounded_rows(split, mean, std) for name, split in splits.items()}
    found = []
    for name, other in LEAKS:
        if other not in splits:
            continue
        shared = max(len(rows[name] & rows[other]), len(images[name] & images[other]))
        if shared:
            found.append(
                f"{name} and {other} share {shared} images; scores on {other} are too good"
            )
        groups = set(splits[name].groups or ()) & set(splits[other].groups or ())
        if groups:
            found.append(
                f"{name} and {other} share {len(groups)} patients or slides, "
                f"e.g. {min(groups)}; split by group"
            )
    return found


def _rounded_rows(split: Dataset, mean: np.ndarray, std: np.ndarray) -> set[bytes]:
    """Return the feature rows as bytes, standardised and rounded to half precision."""
    rows: set[bytes] = set()
    for start in range(0, len(split), CHUNK_SIZE):
        with np.errstate(over="ignore"):
            part = (split.features[start : start + CHUNK_SIZE] - mean) / std
            rows.update(row.tobytes() for row in part.astype(np.float16))
    return rows
