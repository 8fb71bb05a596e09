"""A memory on disk for evaluations that cost minutes."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np

from synthselect_env.bank import Split
from synthselect_env.evaluators.base import Evaluations, Evaluator, EvaluatorWrapper
from synthselect_env.files import atomic_write
from synthselect_env.metrics import METRICS


class CachedEvaluator(EvaluatorWrapper):
    """Remembers another evaluator's figures on disk, so that no selection is scored twice with one seed.

    One small JSON file an answer, named by the selection's bits, the seed, the split and the evaluator's
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
        return self.directory / key[:2] / f"{key[2:34]}.json"

    def evaluate_on(self, selections: np.ndarray, seed: int, *splits: Split) -> list[Evaluations]:
        """The figures of k selections, from disk where they are known on all the splits."""
        selections = self.checked(selections)
        files = [tuple(self._file(mask, seed, split) for split in splits) for mask in selections]
        position = {row: i for i, row in enumerate(files)}  # what is asked for twice is scored once
        answers: dict[tuple[Path, ...], list[dict[str, list[float]]]] = {}
        scored = 0
        while True:
            # each time anew: another process may have scored some meanwhile
            answers |= {row: known for row in position.keys() - answers.keys() if (known := _read(row))}
            unknown = [row for row in position if row not in answers][: self.batch_size]
            if not unknown:
                break
            evaluations = self.evaluator.evaluate_on(selections[[position[row] for row in unknown]], seed, *splits)
            for i, row in enumerate(unknown):
                answers[row] = [{m: part.epochs[m][i].tolist() for m in METRICS} for part in evaluations]
                for file, figures in zip(row, answers[row]):
                    with atomic_write(file) as path:
                        path.write_text(json.dumps(figures))
            scored += len(unknown)
        self.misses += scored
        self.hits += len(selections) - scored
        return [
            Evaluations.from_epochs({m: np.array([answers[row][column][m] for row in files]) for m in METRICS})
            for column in range(len(splits))
        ]


def _read(row: tuple[Path, ...]) -> list[dict[str, list[float]]] | None:
    """What is known of a selection, on all the splits or not at all."""
    try:
        return [json.loads(file.read_text()) for file in row]
    except (FileNotFoundError, json.JSONDecodeError):  # the second after a power cut: renamed, but never on the disk
        return None
