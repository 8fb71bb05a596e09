"""A memory on disk for evaluations that cost minutes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np

from synthselect_env.data.dataset import Split
from synthselect_env.evaluators.base import Evaluations, Evaluator, EvaluatorWrapper
from synthselect_env.metrics import METRICS
from synthselect_env.storage import atomic_write

Figures = dict[str, list[float]]
"""Metric to its values at the end of each epoch."""
Answer = TypeVar("Answer")


class CachedEvaluator(EvaluatorWrapper):
    """Remembers another evaluator's figures on disk, so that no selection is scored twice with one seed.

    One small file an answer, JSON for figures and npy for predictions, named by the selection's bits, the seed, the split and the evaluator's
    :attr:`~synthselect_env.evaluators.Evaluator.fingerprint`. A file is written under a temporary name and renamed, so that
    several processes may share a directory and any of them may be killed: an answer is there whole, or it is computed again.
    ``print(evaluator)`` tells hits and misses.

    :param evaluator: what scores the selections that are not known yet
    :param directory: where the answers lie
    :param batch_size: how many unknown selections the evaluator gets at a time; what it has scored is kept if the next are
        interrupted. None for as many as a :class:`ParallelEvaluator` has workers, and 1 for another evaluator
    """

    def __init__(self, evaluator: Evaluator, directory: str | Path, batch_size: int | None = None) -> None:
        super().__init__(evaluator)
        self.batch_size = self.batch_size if batch_size is None else batch_size
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        self.directory = Path(directory) / evaluator.fingerprint[:16]
        self.hits = self.misses = 0

    def __str__(self) -> str:
        return f"{type(self.evaluator).__name__} cached in {self.directory}: {self.hits} hits, {self.misses} misses"

    def _file(self, mask: np.ndarray, seed: int, split: Split) -> Path:
        key = hashlib.sha256(f"{seed} {len(mask)} {self.digest_of(split)} ".encode() + np.packbits(mask).tobytes()).hexdigest()
        return self.directory / key[:2] / key[2:34]

    def evaluate_on(self, selections: np.ndarray, seed: int, *splits: Split) -> list[Evaluations]:
        """The figures of k selections, from disk where they are known on all the splits."""

        def ask(unknown: np.ndarray) -> list[list[Figures]]:
            parts = self.evaluator.evaluate_on(unknown, seed, *splits)
            return [[{m: values[i].tolist() for m, values in part.epochs.items()} for part in parts] for i in range(len(unknown))]

        known = self._remembered(selections, seed, splits, ".json", _read_json, _write_json, ask)
        return [Evaluations.from_epochs({m: np.array([row[i][m] for row in known]) for m in METRICS}) for i in range(len(splits))]

    def predict_on(self, selections: np.ndarray, seed: int, *splits: Split) -> list[np.ndarray]:
        """The predictions by k selections, from disk where they are known on all the splits."""

        def ask(unknown: np.ndarray) -> list[list[np.ndarray]]:
            return [list(row) for row in zip(*self.evaluator.predict_on(unknown, seed, *splits))]

        known = self._remembered(selections, seed, splits, ".npy", _read_array, np.save, ask)
        return [np.stack([row[i] for row in known]) for i in range(len(splits))]

    def _remembered(
        self,
        selections: np.ndarray,
        seed: int,
        splits: Sequence[Split],
        suffix: str,
        read: Callable[[Path], Answer],
        write: Callable[[Path, Answer], None],
        ask: Callable[[np.ndarray], list[list[Answer]]],
    ) -> list[list[Answer]]:
        """The answers for each selection, a split each: read, or asked for and written."""
        selections = self.checked(selections)
        files = [tuple(self._file(mask, seed, split).with_suffix(suffix) for split in splits) for mask in selections]
        position = {row: i for i, row in enumerate(files)}  # what is asked for twice is scored once
        answers: dict[tuple[Path, ...], list[Answer]] = {}
        unknown: list[tuple[Path, ...]] = []
        scored = 0
        for looked_at, row in enumerate(position, 1):
            known = _all(row, read)  # not before its turn: another process may have scored it meanwhile
            if known is None:
                unknown.append(row)
            else:
                answers[row] = known
            if len(unknown) < self.batch_size and not (unknown and looked_at == len(position)):
                continue
            for waiting, fresh in zip(unknown, ask(selections[[position[row] for row in unknown]])):
                answers[waiting] = fresh
                for file, answer in zip(waiting, fresh):
                    with atomic_write(file) as path:
                        write(path, answer)
            scored += len(unknown)
            unknown = []
        self.misses += scored
        self.hits += len(selections) - scored
        return [answers[row] for row in files]


def _all(row: tuple[Path, ...], read: Callable[[Path], Answer]) -> list[Answer] | None:
    """What is known of a selection, on all the splits or not at all."""
    try:
        return [read(file) for file in row]
    except (FileNotFoundError, EOFError, ValueError):  # the latter two after a power cut: renamed, but never on the disk
        return None


def _read_json(path: Path) -> Figures:
    return json.loads(path.read_text())


def _write_json(path: Path, figures: Figures) -> None:
    path.write_text(json.dumps(figures))


def _read_array(path: Path) -> np.ndarray:
    return np.load(path)
