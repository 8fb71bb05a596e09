"""Selections scored in other processes."""

from __future__ import annotations

import multiprocessing
import os
import time
from multiprocessing.queues import Queue
from pathlib import Path

import numpy as np
import pytest
import torch

from synthselect_env import Dataset, FeatureBank
from synthselect_env.evaluators import (
    CachedEvaluator,
    ClassifierEvaluator,
    Evaluations,
    Evaluator,
    LinearProbeEvaluator,
    ParallelEvaluator,
    RetrainEvaluator,
)
from synthselect_env.training.config import TrainingConfig


class Ensemble(ClassifierEvaluator):
    """A user's classifier: the mean log-probability of a probe and a retrained network."""

    def __init__(self, bank: FeatureBank, config: TrainingConfig) -> None:
        super().__init__(bank)
        self.members = [
            LinearProbeEvaluator(bank, device="cpu"),
            RetrainEvaluator(bank, config=config, device="cpu"),
        ]

    def settings(self) -> dict[str, object]:
        return {"members": [member.fingerprint for member in self.members]}

    def predict(self, selections: np.ndarray, seed: int, dataset: Dataset) -> np.ndarray:
        predictions = [member.predict(selections, seed, dataset) for member in self.members]
        return torch.from_numpy(np.mean(predictions, axis=0)).log_softmax(2).numpy()


@pytest.mark.slow
def test_workers_answer_as_the_evaluator_does(
    toy: FeatureBank, tiny: TrainingConfig, masks: np.ndarray, tmp_path: Path
) -> None:
    """On the validation split, on the bank's others, and on datasets that they have not."""
    alone = Ensemble(toy, tiny)
    with ParallelEvaluator(Ensemble(toy, tiny), workers=2) as parallel:
        assert parallel.batch_size == 2
        cached = CachedEvaluator(parallel, tmp_path)
        ours, theirs = (e.evaluate(masks[:3], 1) for e in (cached, alone))
        assert ours.epochs["brier"] == pytest.approx(theirs.epochs["brier"], abs=1e-6)
        for dataset in (toy.candidates, toy.test):
            expected = alone.predict(masks[1:2], 1, dataset)
            assert parallel.predict(masks[1:2], 1, dataset) == pytest.approx(expected, abs=1e-5)
    again = CachedEvaluator(alone, tmp_path)
    again.evaluate(masks[:3], 1)
    assert (again.hits, again.misses) == (3, 0)


class SlowEvaluator(Evaluator):
    """Take a while."""

    def evaluate(self, selections: np.ndarray, seed: int) -> Evaluations:
        time.sleep(0.2)
        return Evaluations.from_metrics({"accuracy": np.full(len(selections), os.getpid())})


def _work_for_long(bank: FeatureBank, pids: Queue) -> None:
    parallel = ParallelEvaluator(SlowEvaluator(bank), workers=1)
    nothing = np.zeros((1000, len(bank.candidates)), bool)
    pids.put(int(parallel.evaluate(nothing[:1], 0).accuracy[0]))
    parallel.evaluate(nothing, 0)


def _ended(pid: int) -> bool:
    """Return whether a process is gone, or a zombie that nobody waits for."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] == "Z"


@pytest.mark.slow
def test_workers_end_with_a_killed_parent(toy: FeatureBank) -> None:
    context = multiprocessing.get_context("spawn")
    pids = context.Queue()
    parent = context.Process(target=_work_for_long, args=(toy, pids))
    parent.start()
    worker = pids.get(timeout=300)
    assert not _ended(worker)
    parent.kill()
    parent.join()
    deadline = time.monotonic() + 20
    while not _ended(worker) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert _ended(worker)
