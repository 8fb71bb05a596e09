"""Answers on disk: their keys, their reuse, and sudden deaths of processes."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from synthselect_env import FeatureBank
from synthselect_env.evaluators import (
    CachedEvaluator,
    DatamodelEvaluator,
    Evaluations,
    Evaluator,
    LinearProbeEvaluator,
    ParallelEvaluator,
    RetrainEvaluator,
)
from synthselect_env.metrics import METRICS
from synthselect_env.storage import Cache
from synthselect_env.training.classifier import Classifier, build_network
from synthselect_env.training.config import TrainingConfig


class CountingEvaluator(Evaluator):
    """Count what is asked, and take time over it."""

    def __init__(self, bank: FeatureBank, seconds: float = 0.0) -> None:
        super().__init__(bank)
        self.seconds = seconds
        self.asked: list[int] = []

    def settings(self) -> dict[str, object]:
        return {}

    def evaluate(self, selections: np.ndarray, seed: int) -> Evaluations:
        self.asked.append(len(selections))
        time.sleep(self.seconds)
        values = selections.sum(1)[:, None] + np.array([seed, 0.5])  # two epochs
        return Evaluations.from_epochs(dict.fromkeys(METRICS, values))


def draw(bank: FeatureBank, k: int) -> np.ndarray:
    return np.random.default_rng(0).random((k, len(bank.candidates))) < 0.5


def test_answers_are_the_evaluators_and_asked_for_once(toy: FeatureBank, tmp_path: Path) -> None:
    evaluator, selections = CountingEvaluator(toy), draw(toy, 5)
    cached = CachedEvaluator(evaluator, tmp_path, batch_size=2)
    selections[4] = selections[0]  # the same selection twice in a call
    first = cached.evaluate(selections, 3)
    assert evaluator.asked == [2, 2] and (cached.hits, cached.misses) == (1, 4)
    assert str(cached).endswith("1 hits, 4 misses")

    # Another order, another object, another folder's name.
    again = CachedEvaluator(evaluator, str(tmp_path)).evaluate(selections[::-1], 3)
    assert evaluator.asked == [2, 2]
    expected = CountingEvaluator(toy).evaluate(selections, 3)
    for metric in METRICS:
        assert (first.epochs[metric] == expected.epochs[metric]).all()
        assert (again.epochs[metric] == expected.epochs[metric][::-1]).all()

    cached.evaluate(selections[:1], 3)
    assert cached.hits == 2
    cached.evaluate(selections[:1], 4)
    assert cached.misses == 5, "another seed is another question"
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        CachedEvaluator(evaluator, tmp_path, batch_size=0)


def test_looks_for_each_answer_once(
    toy: FeatureBank, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluator, selections = CountingEvaluator(toy), draw(toy, 9)
    CachedEvaluator(evaluator, tmp_path).evaluate(selections[3:5], 0)
    looked: list[str] = []
    get = Cache.get
    monkeypatch.setattr(Cache, "get", lambda cache, key: looked.append(key) or get(cache, key))
    metrics = CachedEvaluator(evaluator, tmp_path, batch_size=4).evaluate(selections, 0)
    assert evaluator.asked == [1, 1, 4, 3]
    assert len(looked) == len(set(looked)) == 9
    assert (metrics.accuracy == evaluator.evaluate(selections, 0).accuracy).all()


def test_predictions_are_remembered(toy: FeatureBank, tmp_path: Path) -> None:
    """Under the content of the dataset: a copy of a split is the split."""
    probe, selections = LinearProbeEvaluator(toy), draw(toy, 4)
    cached = CachedEvaluator(probe, tmp_path, batch_size=2)
    predicted = cached.predict(selections[:3], 0, toy.test)
    assert np.array_equal(predicted, probe.predict(selections[:3], 0, toy.test))
    again = CachedEvaluator(probe, tmp_path)
    copied = again.predict(selections[[3, 1, 0]], 0, replace(toy.test))
    assert np.array_equal(copied[1:], predicted[[1, 0]])
    assert (again.hits, again.misses) == (2, 1)
    assert again.predict(selections[:1], 0, toy.valid).shape == (1, 128, 2)
    assert again.misses == 2, "another dataset is another question"

    for file in tmp_path.rglob("*.npz"):
        file.write_bytes(b"")  # after a power cut
    repaired = CachedEvaluator(probe, tmp_path).predict(selections[:3], 0, toy.test)
    assert np.array_equal(repaired, predicted)


def test_everything_that_changes_the_answer_changes_the_key(
    toy: FeatureBank, tiny: TrainingConfig
) -> None:
    dark = replace(toy, train=replace(toy.train, images=toy.train.images // 2))
    started = Classifier(build_network(tiny, 2, seed=0), tiny, 2)
    evaluators = [
        LinearProbeEvaluator(toy),
        LinearProbeEvaluator(toy, ridge=2.0),
        LinearProbeEvaluator(toy, n_components=3),
        LinearProbeEvaluator(replace(toy, valid=toy.test)),
        RetrainEvaluator(toy, config=tiny),
        RetrainEvaluator(toy, "resnet34", tiny),
        RetrainEvaluator(toy, config=replace(tiny, learning_rate=1e-4)),
        RetrainEvaluator(dark, config=tiny),
        RetrainEvaluator(toy, config=tiny, initial=started),
    ]
    keys = [evaluator.fingerprint for evaluator in evaluators]
    assert len(set(keys)) == len(keys)
    same = RetrainEvaluator(toy, config=tiny, on_epoch=print)
    wrapped = CachedEvaluator(ParallelEvaluator(same), "never written")
    assert same.fingerprint == wrapped.fingerprint == evaluators[4].fingerprint


def test_the_datamodels_key_tells_what_ranks_are_made_from(
    retrained: FeatureBank, tmp_path: Path
) -> None:
    """Image statistics, and what retrained networks say of candidates, change its answers."""
    rng = np.random.default_rng(0)
    masks, held = rng.random((3, 400)) < 0.5, retrained.retrainings
    untold = replace(retrained, retrainings=replace(held, own_log_probability=None))
    seen = replace(
        retrained,
        train=replace(retrained.train, image_stats=rng.normal(size=(24, 2))),
        candidates=replace(retrained.candidates, image_stats=rng.normal(size=(400, 2))),
    )
    evaluators = [DatamodelEvaluator(bank) for bank in (retrained, untold, seen)]
    assert len({evaluator.fingerprint for evaluator in evaluators}) == 3
    for evaluator in evaluators:
        expected = evaluator.evaluate(masks, 0).log_likelihood
        cached = CachedEvaluator(evaluator, tmp_path).evaluate(masks, 0).log_likelihood
        assert cached == pytest.approx(expected, abs=1e-9)


def _fill(bank: FeatureBank, directory: Path) -> None:
    CachedEvaluator(CountingEvaluator(bank, seconds=0.05), directory).evaluate(draw(bank, 200), 0)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are not forked here")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_survives_company_and_sudden_death(toy: FeatureBank, tmp_path: Path) -> None:
    """Another process fills the same folder, and is killed while it does."""
    other = multiprocessing.get_context("fork").Process(target=_fill, args=(toy, tmp_path))
    other.start()
    while not any(tmp_path.rglob("*.npz")):
        time.sleep(0.005)
    ours = CachedEvaluator(CountingEvaluator(toy, seconds=0.01), tmp_path)
    ours.evaluate(draw(toy, 20), 0)
    other.kill()
    other.join()
    assert other.exitcode == -signal.SIGKILL
    again = CachedEvaluator(CountingEvaluator(toy), tmp_path)
    metrics = again.evaluate(draw(toy, 20), 0)
    assert (again.hits, again.misses) == (20, 0)
    assert (metrics.auc == CountingEvaluator(toy).evaluate(draw(toy, 20), 0).auc).all()
    assert len(again.evaluate(draw(toy, 200), 0)) == 200, "complete or missing, never half"
