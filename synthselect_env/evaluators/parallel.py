"""An evaluator's work spread over processes of this machine."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import threading
from abc import abstractmethod
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from typing import Any, TypeVar, cast

import numpy as np
import torch

from synthselect_env.bank import FeatureBank
from synthselect_env.data.dataset import Split
from synthselect_env.evaluators.base import Evaluations, Evaluator, EvaluatorWrapper
from synthselect_env.training.device import available_cores, default_workers

Self = TypeVar("Self", bound="SpreadEvaluator")

_evaluator: Evaluator  # a worker process's own


def _prepare(evaluator: Evaluator, threads: int) -> None:
    global _evaluator
    threading.Thread(target=_die_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    _evaluator = evaluator


def _die_with_parent() -> None:
    """A parent that is killed cannot tell its workers to end."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


class _Sent:
    """An evaluator on its way into a worker, which gets a copy: torch would share tensors on a GPU, which many containers refuse."""

    def __init__(self, evaluator: Evaluator) -> None:
        self.evaluator = evaluator

    def __reduce__(self) -> tuple[Any, tuple[bytes]]:
        return pickle.loads, (pickle.dumps(self.evaluator),)


def splits_by_name(bank: FeatureBank, splits: Sequence[Split]) -> list[str | Split]:
    """The bank's own splits as names, in which form they travel: a worker has them, and its evaluator knows them by identity."""
    return [next((name for name, own in bank.splits.items() if own is split), split) for split in splits]


def answer(evaluator: Evaluator, method: str, selections: np.ndarray, seed: int, splits: Sequence[str | Split]) -> list[Any]:
    """What a worker does: one of the evaluator's methods that score splits, which may have been sent as names.

    :param evaluator: the worker's own
    :param method: "evaluate_on" or "predict_on"
    :param selections: bool (k, n)
    :param seed: of whatever is random in training
    :param splits: of :func:`splits_by_name`
    """
    own = [getattr(evaluator.bank, split) if isinstance(split, str) else split for split in splits]
    return getattr(evaluator, method)(selections, seed, *own)


def _work(method: str, selections: np.ndarray, seed: int, splits: list[str | Split]) -> list[Any]:
    return answer(_evaluator, method, selections, seed, splits)


class SpreadEvaluator(EvaluatorWrapper):
    """Scores selections in several places, one selection each at a time; what the places are is up to subclasses.

    They are made with the first call and end with :meth:`close`, or when used as a context manager.

    :param evaluator: what scores; each place gets a copy
    """

    def __enter__(self: Self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @abstractmethod
    def close(self) -> None:
        """End the places; a later call makes new ones."""

    @abstractmethod
    def each(self, method: str, selections: np.ndarray, seed: int, splits: list[str | Split]) -> list[list[Any]]:
        """The answers of :func:`answer` to one selection each, in their order."""

    def evaluate_on(self, selections: np.ndarray, seed: int, *splits: Split) -> list[Evaluations]:
        """Score k selections, as many at a time as there are places."""
        parts = self.each("evaluate_on", self.checked(selections), seed, splits_by_name(self.bank, splits))
        return [Evaluations.concatenate([part[i] for part in parts]) for i in range(len(splits))]

    def predict_on(self, selections: np.ndarray, seed: int, *splits: Split) -> list[np.ndarray]:
        """Predict by k selections, as many at a time as there are places."""
        parts = self.each("predict_on", self.checked(selections), seed, splits_by_name(self.bank, splits))
        return [np.concatenate([part[i] for part in parts]) for i in range(len(splits))]


class ParallelEvaluator(SpreadEvaluator):
    """Scores selections in several processes, one selection each at a time.

    Two retrainings side by side with one thread each are done sooner than one after the other with two. The processes start
    with the first call and end with :meth:`close`, or when used as a context manager. They import the main script: as with all
    multiprocessing, it must do its work under ``if __name__ == "__main__":``.

    :param evaluator: what scores; each process gets a copy
    :param workers: processes; None for one a core, or one alone where the evaluator computes on a GPU
    :param threads: torch threads a process; None to share the cores out
    """

    def __init__(self, evaluator: Evaluator, workers: int | None = None, threads: int | None = None) -> None:
        super().__init__(evaluator)
        self.workers = self.batch_size = workers or default_workers(evaluator.device)
        self.threads = threads or max(1, available_cores() // self.workers)
        self._pool: ProcessPoolExecutor | None = None

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_pool": None}

    def close(self) -> None:
        """End the processes; a later call starts new ones."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None

    def each(self, method: str, selections: np.ndarray, seed: int, splits: list[str | Split]) -> list[list[Any]]:
        """The workers' answers."""
        if self._pool is None:
            self._pool = ProcessPoolExecutor(
                self.workers, multiprocessing.get_context("spawn"), _prepare, (cast(Evaluator, _Sent(self.evaluator)), self.threads)
            )  # spawn: a forked torch may hang
        try:
            return list(self._pool.map(partial(_work, method, seed=seed, splits=splits), selections[:, None]))
        except BrokenProcessPool as error:
            self.close()
            raise RuntimeError(
                f"one of {self.workers} workers ended abruptly: too little memory for all (take fewer workers), or the main script "
                'does its work outside `if __name__ == "__main__":`'
            ) from error
