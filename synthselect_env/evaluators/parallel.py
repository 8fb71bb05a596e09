"""ParallelEvaluator: an evaluator's work spread over processes of this machine."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import threading
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, TypeVar

import numpy as np
import torch

from synthselect_env.bank import FeatureBank
from synthselect_env.data import Dataset
from synthselect_env.evaluators.base import Evaluator, EvaluatorWrapper
from synthselect_env.training.device import available_cores, default_workers

Self = TypeVar("Self", bound="SpreadEvaluator")

_evaluator: Evaluator
"""A worker process's own evaluator."""


class SpreadEvaluator(EvaluatorWrapper):
    """Base of wrappers whose workers score a few selections at a time.

    Workers start with the first call. They end with :meth:`close`, or at the end of a ``with``
    block.
    """

    def __enter__(self: Self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the workers; a later call starts new ones."""

    def parts(self, selections: np.ndarray) -> list[np.ndarray]:
        """Return the selections in parts, as many in each as a worker works on at a time."""
        size = self.evaluator.batch_size
        return [selections[i : i + size] for i in range(0, len(selections), size)]


class ParallelEvaluator(SpreadEvaluator):
    """Score selections in several processes.

    Each worker gets as many selections at a time as its evaluator trains side by side, which is one
    on a CPU. Processes share the cores out.

    Workers import the main script: as with all multiprocessing, it must do its work under
    ``if __name__ == "__main__":``.

    .. code-block:: python

        with ParallelEvaluator(RetrainEvaluator(bank)) as evaluator:
            evaluator.evaluate(selections, seed=0)

    :param evaluator: evaluator that scores; each worker gets a copy
    :param workers: number of processes; None for one per core, or one alone on a GPU
    """

    def __init__(self, evaluator: Evaluator, workers: int | None = None) -> None:
        super().__init__(evaluator)
        self.workers = workers or default_workers(evaluator.device)
        self.batch_size = self.workers * evaluator.batch_size
        self._pool: ProcessPoolExecutor | None = None

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_pool": None}

    def close(self) -> None:
        """End the processes; a later call starts new ones."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None

    def answers(
        self, method: str, selections: np.ndarray, seed: int, *arguments: Dataset
    ) -> list[Any]:
        """Return the workers' answers, each to a few selections.

        :raises RuntimeError: if a worker ended abruptly
        """
        if self._pool is None:
            sent_evaluator: Any = _Sent(self.evaluator)  # which arrives as an Evaluator
            # Spawned, because a forked torch may hang.
            self._pool = ProcessPoolExecutor(
                self.workers,
                mp_context=multiprocessing.get_context("spawn"),
                initializer=_prepare_worker,
                initargs=(sent_evaluator, max(1, available_cores() // self.workers)),
            )
        sent = [name_of_split(self.bank, dataset) for dataset in arguments]
        work = partial(_work, method, seed=seed, arguments=sent)
        try:
            return list(self._pool.map(work, self.parts(selections)))
        except BrokenProcessPool as error:
            self.close()
            raise RuntimeError(
                f"one of {self.workers} workers ended abruptly: too little memory for all "
                "(take fewer workers), or the main script does its work outside "
                '`if __name__ == "__main__":`'
            ) from error


def spread(evaluator: Evaluator, workers: int | None = None) -> AbstractContextManager[Evaluator]:
    """Spread an evaluator over the cores, unless a GPU does its work.

    .. code-block:: python

        with spread(RetrainEvaluator(bank)) as evaluator:
            evaluator.evaluate(selections, seed=0)

    :param evaluator: evaluator that scores
    :param workers: number of processes; None for one per core
    """
    if evaluator.device.type == "cuda":
        return nullcontext(evaluator)
    return ParallelEvaluator(evaluator, workers)


class _Sent:
    """An evaluator on its way into a worker, which gets a copy.

    It is pickled to bytes first. torch would share tensors on a GPU, which many containers refuse.
    """

    def __init__(self, evaluator: Evaluator) -> None:
        self.evaluator = evaluator

    def __reduce__(self) -> tuple[Any, tuple[bytes]]:
        return pickle.loads, (pickle.dumps(self.evaluator),)


def _prepare_worker(evaluator: Evaluator, threads: int) -> None:
    """Prepare a new worker process.

    :param evaluator: worker's own copy, which arrives as a :class:`_Sent`
    :param threads: torch threads of the worker
    """
    global _evaluator
    threading.Thread(target=_die_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    _evaluator = evaluator


def _die_with_parent() -> None:
    """End the worker when its parent ends. A parent that is killed cannot tell it to."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _work(method: str, selections: np.ndarray, seed: int, arguments: list[str | Dataset]) -> Any:
    return answer_of(_evaluator, method, selections, seed, arguments)


def name_of_split(bank: FeatureBank, dataset: Dataset) -> str | Dataset:
    """Return the name of a bank's own split, which a worker has already; else the dataset."""
    names = [name for name, split in bank.splits.items() if split is dataset]
    return names[0] if names else dataset


def answer_of(
    evaluator: Evaluator,
    method: str,
    selections: np.ndarray,
    seed: int,
    arguments: list[str | Dataset],
) -> Any:
    """Call a method of a worker's evaluator.

    :param evaluator: worker's evaluator
    :param method: "evaluate" or "predict"
    :param selections: bool (k, n)
    :param seed: random seed of the training
    :param arguments: datasets, or names of the bank's splits
    """
    datasets = [getattr(evaluator.bank, a) if isinstance(a, str) else a for a in arguments]
    return getattr(evaluator, method)(selections, seed, *datasets)
