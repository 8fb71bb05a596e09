"""CachedEvaluator: remember evaluations that cost minutes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from synthselect_env.data import Dataset
from synthselect_env.evaluators.base import (
    Evaluations,
    Evaluator,
    EvaluatorWrapper,
    check_evaluations,
)
from synthselect_env.storage import Cache, content_key

PREDICTIONS = "log_probabilities"
"""Name of the array in which a cache entry holds predictions."""


class CachedEvaluator(EvaluatorWrapper):
    """Remember another evaluator's answers on disk, so that nothing is trained twice.

    An answer is stored as soon as it is there. Several processes may share the directory, and any
    of them may be killed. ``print(evaluator)`` shows hits and misses.

    .. code-block:: python

        evaluator = CachedEvaluator(RetrainEvaluator(bank), "runs/retrained")

    :param evaluator: evaluator of the selections that are not known yet; it needs ``settings()``
    :param directory: folder of the cache
    :param batch_size: unknown selections that the evaluator gets at a time. What it has scored is
        kept if the next ones are interrupted. None for the evaluator's own batch size
    :raises ValueError: if the batch size is below 1
    """

    def __init__(
        self, evaluator: Evaluator, directory: str | Path, batch_size: int | None = None
    ) -> None:
        super().__init__(evaluator)
        self.batch_size = self.batch_size if batch_size is None else batch_size
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        self.cache = Cache(Path(directory) / evaluator.fingerprint[:16])
        self.hits = self.misses = 0

    def __str__(self) -> str:
        return (
            f"{type(self.evaluator).__name__} cached in {self.cache.directory}: "
            f"{self.hits} hits, {self.misses} misses"
        )

    def answers(
        self, method: str, selections: np.ndarray, seed: int, *arguments: Dataset
    ) -> list[Any]:
        """Return one answer per selection, from disk where it is known."""
        digests = [self.dataset_digest(dataset) for dataset in arguments]
        question = (method, int(seed), selections.shape[1], digests)
        keys = [content_key(*question, np.packbits(selection)) for selection in selections]
        position = {key: i for i, key in enumerate(keys)}  # equal selections are scored once
        known: dict[str, Any] = {}
        waiting: list[str] = []
        asked = 0
        for looked_at, key in enumerate(position, start=1):
            # Look when it is this key's turn: another process may have stored it meanwhile.
            entry = self.cache.get(key)
            if entry is None:
                waiting.append(key)
            else:
                known[key] = _from_arrays(entry)
            last = looked_at == len(position)
            if len(waiting) == self.batch_size or (last and waiting):
                asked += len(waiting)
                known |= self._ask(method, selections, seed, waiting, position, *arguments)
                waiting = []
        self.misses += asked
        self.hits += len(selections) - asked
        return [known[key] for key in keys]

    def _ask(
        self,
        method: str,
        selections: np.ndarray,
        seed: int,
        keys: list[str],
        position: dict[str, int],
        *arguments: Dataset,
    ) -> dict[str, Any]:
        """Ask the evaluator for some selections and store each answer."""
        rows = selections[[position[key] for key in keys]]
        answer = getattr(self.evaluator, method)(rows, seed, *arguments)
        if method == "evaluate":
            answer = check_evaluations(self.evaluator, answer, len(rows))
        found = {}
        for i, key in enumerate(keys):
            if isinstance(answer, Evaluations):
                arrays = {name: values[i] for name, values in answer.epochs.items()}
            else:
                arrays = {PREDICTIONS: answer[i]}
            found[key] = _from_arrays(self.cache.put(key, **arrays))
        return found


def _from_arrays(arrays: dict[str, np.ndarray]) -> Any:
    """Return the answer to one selection: predictions (1, m, c), or evaluations with k = 1."""
    if PREDICTIONS in arrays:
        return arrays[PREDICTIONS][None]
    return Evaluations.from_epochs({name: values[None] for name, values in arrays.items()})
