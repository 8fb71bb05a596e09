"""Selection: the candidates to add, with a score for each candidate."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from synthselect_env.bank.feature_bank import FeatureBank
from synthselect_env.data import Dataset
from synthselect_env.storage import atomic_write

COLUMNS = ("id", "label", "selected", "score")
"""Columns of a saved selection."""


def candidate_ids(candidates: Dataset) -> Sequence[str]:
    """Return the names of candidates. Those without are named by their position.

    :param candidates: pool of candidates
    """
    return candidates.ids or tuple(f"candidate-{i}" for i in range(len(candidates)))


@dataclass(frozen=True, eq=False)
class Selection:
    """A decision to keep or discard for each candidate.

    .. code-block:: python

        selection = CentroidSelector().select(bank, seed=0)
        selection.save("selection.csv")

    :param mask: bool (n,), True to keep
    :param scores: float (n,); the higher, the more wanted
    :param ids: unique name of each candidate
    :param labels: class name of each candidate
    :param source: name of what made the selection
    """

    mask: np.ndarray
    scores: np.ndarray
    ids: Sequence[str]
    labels: Sequence[str]
    source: str

    def __len__(self) -> int:
        return len(self.mask)

    @property
    def count(self) -> int:
        """Number of candidates kept."""
        return int(self.mask.sum())

    @classmethod
    def of(cls, bank: FeatureBank, mask: np.ndarray, scores: np.ndarray, source: str) -> Selection:
        """Return a selection of a bank's candidates.

        Candidates without ids are named by their position.

        :param bank: feature bank
        :param mask: bool (n,), True to keep
        :param scores: float (n,); the higher, the more wanted
        :param source: name of what made the selection
        :raises ValueError: if the mask is not boolean, or mask or scores do not have one entry per
            candidate
        """
        n = len(bank.candidates)
        if np.asarray(mask).dtype != bool:
            raise ValueError(
                f"{source}: mask is {np.asarray(mask).dtype}, expected bool; compare scores with a "
                "threshold"
            )
        if np.shape(mask) != (n,) or np.shape(scores) != (n,):
            raise ValueError(
                f"{source}: mask {np.shape(mask)} and scores {np.shape(scores)} must both be "
                f"({n},), one per candidate of {bank.source}"
            )
        ids = candidate_ids(bank.candidates)
        labels = tuple(bank.classes[i] for i in bank.candidates.labels)
        return cls(np.asarray(mask, bool), np.asarray(scores, np.float64), ids, labels, source)

    def save(self, path: str | Path) -> None:
        """Write a CSV file with one row per candidate.

        Its columns are id, label, selected (0 or 1) and score.

        :param path: file to write
        """
        selected = self.mask.astype(int).tolist()
        scores = map(repr, self.scores.tolist())
        with atomic_write(path) as temporary:
            with temporary.open("w", newline="", encoding="utf-8") as file:
                writer = csv.writer(file)
                writer.writerow(COLUMNS)
                writer.writerows(zip(self.ids, self.labels, selected, scores))

    @classmethod
    def load(cls, path: str | Path) -> Selection:
        """Read a CSV file of :meth:`save`.

        :param path: file to read
        :raises ValueError: if a column is missing or a value is not of its kind
        """
        path = Path(path)
        # A spreadsheet may have put a byte order mark in front.
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
        if not rows or set(COLUMNS) - set(rows[0]):
            raise ValueError(
                f"{path}: expected columns {', '.join(COLUMNS)} and one row per candidate"
            )
        for line, row in enumerate(rows, start=2):
            if row["selected"] not in ("0", "1"):
                raise ValueError(
                    f"{path}, line {line}: selected is {row['selected']!r}, expected 0 or 1"
                )
        try:
            scores = np.array([float(row["score"]) for row in rows])
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path}: a score is not a number ({error})") from error
        return cls(
            mask=np.array([row["selected"] == "1" for row in rows]),
            scores=scores,
            ids=tuple(row["id"] for row in rows),
            labels=tuple(row["label"] for row in rows),
            source=str(path),
        )
