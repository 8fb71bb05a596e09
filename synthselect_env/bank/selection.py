"""Selection: which candidates to add, and how sure."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from synthselect_env.bank.feature_bank import FeatureBank
from synthselect_env.storage import atomic_write

COLUMNS = ("id", "label", "selected", "score")


@dataclass(frozen=True, eq=False)
class Selection:
    """A keep or discard for each candidate.

    :param mask: bool (n,), True to keep
    :param scores: float (n,), the higher the more wanted
    :param ids: a name a candidate
    :param labels: class name of each candidate
    :param source: what made the selection
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
        """A selection from a bank's candidates; candidates without ids are named by position.

        :raises ValueError: when mask or scores do not have one entry a candidate
        """
        n = len(bank.candidates)
        if np.shape(mask) != (n,) or np.shape(scores) != (n,):
            raise ValueError(
                f"{source}: mask {np.shape(mask)} and scores {np.shape(scores)} must both be ({n},), one a candidate of {bank.source}"
            )
        ids = bank.candidates.ids or tuple(f"candidate-{i}" for i in range(n))
        labels = tuple(bank.classes[i] for i in bank.candidates.labels)
        return cls(np.asarray(mask, bool), np.asarray(scores, np.float64), ids, labels, source)

    def save(self, path: str | Path) -> None:
        """Write a CSV with a row a candidate: id, label, selected (0 or 1), score."""
        with (
            atomic_write(path) as temporary,
            temporary.open("w", newline="", encoding="utf-8") as file,
        ):
            writer = csv.writer(file)
            writer.writerow(COLUMNS)
            writer.writerows(
                zip(
                    self.ids,
                    self.labels,
                    self.mask.astype(int).tolist(),
                    map(repr, self.scores.tolist()),
                )
            )

    @classmethod
    def load(cls, path: str | Path) -> Selection:
        """Read a CSV of :meth:`save`.

        :raises ValueError: when a column is missing or a value is not of its kind
        """
        path = Path(path)
        with path.open(
            newline="", encoding="utf-8-sig"
        ) as file:  # with a mark in front, if a spreadsheet saved it
            rows = list(csv.DictReader(file))
        if not rows or set(COLUMNS) - set(rows[0]):
            raise ValueError(f"{path}: expected columns {', '.join(COLUMNS)} and a row a candidate")
        for line, row in enumerate(rows, start=2):
            if row["selected"] not in ("0", "1"):
                raise ValueError(
                    f"{path}, line {line}: selected is {row['selected']!r}, expected 0 or 1"
                )
        mask = np.array([row["selected"] == "1" for row in rows])
        try:
            scores = np.array([float(row["score"]) for row in rows])
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path}: a score is not a number ({error})") from error
        return cls(
            mask,
            scores,
            tuple(row["id"] for row in rows),
            tuple(row["label"] for row in rows),
            str(path),
        )
