"""The contract: every evaluator keeps it, and a user's own needs no more than one method."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, log_loss, roc_auc_score

from agents.evaluation import compare
from synthselect_env import Dataset, FeatureBank, SelectionVecEnv
from synthselect_env.bank.embedded import toy_bank
from synthselect_env.evaluators import (
    CachedEvaluator,
    ClassifierEvaluator,
    DatamodelEvaluator,
    Evaluations,
    Evaluator,
    LinearProbeEvaluator,
    ParallelEvaluator,
    RetrainEvaluator,
    default_evaluator,
    has_credit,
    make_evaluator,
)
from synthselect_env.metrics import METRICS
from synthselect_env.training.config import TrainingConfig
from synthselect_env.training.trainer import TRAINING_VERSION


class FewIsBest(Evaluator):
    """A user's evaluator of one method."""

    def evaluate(self, selections: np.ndarray, seed: int) -> Evaluations:
        return Evaluations.from_metrics({"accuracy": 1 - selections.mean(1)})


class NearestMean(ClassifierEvaluator):
    """A user's classifier of one method: the nearest class mean of real + selected features."""

    def settings(self) -> dict[str, object]:
        return {}

    def predict(self, selections: np.ndarray, seed: int, dataset: Dataset) -> np.ndarray:
        real, pool = self.bank.train, self.bank.candidates
        predictions = []
        for selection in selections:
            features = np.concatenate([real.features, pool.features[selection]])
            labels = np.concatenate([real.labels, pool.labels[selection]])
            means = np.stack([features[labels == c].mean(0) for c in range(2)])
            distances = ((dataset.features[:, None] - means) ** 2).sum(2)  # (m, c)
            predictions.append(torch.from_numpy(-distances).log_softmax(1).numpy())
        return np.stack(predictions)


CLASSIFIERS = ["linear probe", "retraining", "user's", "cached"]


@pytest.fixture(scope="module")
def make(
    retrained_toy: FeatureBank, tiny: TrainingConfig, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Evaluator]:
    """Make an evaluator of the toy bank by the name of its kind."""

    def make_one(kind: str, bank: FeatureBank = retrained_toy) -> Evaluator:
        if kind == "linear probe":
            return LinearProbeEvaluator(bank, n_components=4, device="cpu")
        if kind == "retraining":
            return RetrainEvaluator(bank, config=tiny, device="cpu")
        if kind == "datamodel":
            return DatamodelEvaluator(bank)
        if kind == "cached":
            return CachedEvaluator(make_one("linear probe", bank), tmp_path_factory.mktemp("cache"))
        return NearestMean(bank)

    return make_one


@pytest.mark.parametrize("kind", [*CLASSIFIERS, "datamodel"])
class TestEveryEvaluator:
    def test_scores_each_selection_as_if_alone(
        self, make: Callable, masks: np.ndarray, kind: str
    ) -> None:
        """In any memory layout, and with any kind of integer as a seed."""
        together = make(kind).evaluate(masks, 5)
        alone = make(kind).evaluate(np.asfortranarray(masks[2:3]), np.int64(5))
        backwards = make(kind).evaluate(masks[:1:-1], 5)
        for metric in METRICS:
            values = getattr(together, metric)
            assert len(values) == len(together) == 4 and np.isfinite(values).all()
            assert getattr(alone, metric) == pytest.approx(values[2:3], abs=1e-9)
            assert getattr(backwards, metric) == pytest.approx(values[:1:-1], abs=1e-9)

    @pytest.mark.parametrize("copied", [lambda x: pickle.loads(pickle.dumps(x)), copy.deepcopy])
    def test_a_copy_is_the_same_evaluator(
        self, make: Callable, masks: np.ndarray, kind: str, copied: Callable
    ) -> None:
        original = make(kind)
        clone = copied(original)
        before, after = (e.evaluate(masks[:2], 1).log_likelihood for e in (original, clone))
        assert (before == after).all()
        assert clone.fingerprint == original.fingerprint
        assert has_credit(clone) == has_credit(original)
        if has_credit(original):
            assert (clone.credit(masks, 1) == original.credit(masks, 1)).all()

    def test_keeps_no_test_split_and_leaves_global_generators_alone(
        self, make: Callable, masks: np.ndarray, kind: str
    ) -> None:
        evaluator = make(kind)
        before = torch.random.get_rng_state(), np.random.get_state()[1].copy()
        evaluator.evaluate(masks[:1], 0)
        assert torch.equal(before[0], torch.random.get_rng_state())
        assert (before[1] == np.random.get_state()[1]).all()
        assert evaluator.bank.test is None


@pytest.mark.parametrize("kind", ["linear probe", "retraining", "cached", "datamodel"])
def test_selections_of_other_shapes_are_refused(make: Callable, kind: str) -> None:
    evaluator = make(kind)
    for shape, dtype in (((1, 5), bool), (64, bool), ((1, 64), float), ((0, 64), bool)):
        with pytest.raises(ValueError, match=r"must be bool \(k, 64\), k at least 1"):
            evaluator.evaluate(np.zeros(shape, dtype), 0)


@pytest.mark.parametrize("kind", CLASSIFIERS)
class TestEveryClassifier:
    def test_predictions_are_behind_the_metrics(
        self, make: Callable, toy: FeatureBank, masks: np.ndarray, kind: str
    ) -> None:
        """By scikit-learn's metrics, which know nothing of this project's."""
        classifier, labels = make(kind), toy.valid.labels
        predicted = classifier.predict(masks[:2], 3, toy.valid)
        metrics = classifier.evaluate(masks[:2], 3)
        assert predicted.shape == (2, len(labels), 2)
        assert np.exp(predicted).sum(2) == pytest.approx(1, abs=1e-5)
        for i, log_p in enumerate(predicted.astype(float)):
            p = np.exp(log_p) / np.exp(log_p).sum(1, keepdims=True)
            accuracy = accuracy_score(labels, p.argmax(1))
            assert metrics.accuracy[i] == pytest.approx(accuracy)
            assert metrics.log_likelihood[i] == pytest.approx(-log_loss(labels, p), rel=1e-4)
            assert metrics.auc[i] == pytest.approx(roc_auc_score(labels, p[:, 1]), abs=1e-3)

    def test_labels_any_dataset(
        self, make: Callable, toy: FeatureBank, masks: np.ndarray, kind: str
    ) -> None:
        """Joined or alone, and with labels and features of any type and layout."""
        classifier = make(kind)
        valid = classifier.predict(masks[:2], 0, toy.valid)
        joined = Dataset.concatenate([toy.valid, toy.test])
        both = classifier.predict(masks[:2], 0, joined)
        assert both.shape == (2, 640, 2)
        assert both[:, :128] == pytest.approx(valid, abs=1e-5)
        other = replace(
            toy.valid,
            labels=toy.valid.labels.astype(np.uint8),
            features=np.asfortranarray(toy.valid.features),
        )
        assert classifier.predict(masks[:2], 0, other) == pytest.approx(valid, abs=1e-5)


class TestEvaluations:
    def test_holds_metrics_by_name_and_epoch(self) -> None:
        epochs = np.array([[0.5, 0.7], [0.6, 0.4]])
        evaluations = Evaluations.from_epochs({"auc": epochs})
        assert evaluations.auc.tolist() == [0.7, 0.4]
        assert (evaluations.epochs["auc"] == epochs).all()
        assert np.isnan(evaluations.brier).all() and evaluations.epochs["brier"].shape == (2, 2)
        twice = Evaluations.concatenate([evaluations, evaluations])
        assert len(twice) == 4 and twice.auc.tolist() == [0.7, 0.4, 0.7, 0.4]

    def test_of_one_value_per_metric_has_one_epoch(self) -> None:
        values = [np.array([i, i + 0.5]) for i in range(7)]
        by_position = Evaluations(*values)
        by_name = Evaluations.from_metrics(dict(zip(METRICS, values)))
        for i, metric in enumerate(METRICS):
            assert getattr(by_position, metric).tolist() == values[i].tolist()
            assert by_position.epochs[metric].tolist() == by_name.epochs[metric].tolist()
            assert by_name.epochs[metric].shape == (2, 1)

    @pytest.mark.parametrize("metrics", [{}, {"auc": 0.5}, {"auc": [0.5], "brier": [0.5, 0.6]}])
    def test_refuses_what_is_no_metric(self, metrics: dict[str, object]) -> None:
        with pytest.raises(ValueError, match="of accuracy, .* or some of them, got"):
            Evaluations.from_metrics(metrics)


class TestUsersEvaluator:
    def test_of_one_method_rewards_an_environment(self, toy: FeatureBank) -> None:
        reward = {"metric": "accuracy"}
        options = {"bank": toy, "evaluator": FewIsBest(toy), "reward": reward}
        env = gym.make("SynthSelect-Toy-v0", **options)
        env.reset(seed=0)
        steps = [env.step(np.ones(env.action_space.n, np.int8)) for _ in range(8)]
        assert sum(step[1] for step in steps) == pytest.approx(-1)
        assert steps[-1][4]["accuracy"] == 0 and np.isnan(steps[-1][4]["auc"])

        vectorised = SelectionVecEnv(toy, 2, evaluator=FewIsBest(toy), reward=reward)
        vectorised.reset()
        actions = np.ones((2, *vectorised.action_space.shape), np.int8)
        actions[1] = 0
        rewards = np.sum([vectorised.step(actions)[1] for _ in range(8)], axis=0)
        assert rewards == pytest.approx([-1, 0])

    def test_that_predicts_judges_a_comparison(self, toy: FeatureBank, tmp_path: Path) -> None:
        comparisons = [
            compare(toy, ["none", "all"], rounds=1, classifier=classifier, directory=tmp_path)
            for classifier in (NearestMean(toy), CachedEvaluator(NearestMean(toy), tmp_path))
        ]
        everything = np.ones((1, 64), bool)
        expected = NearestMean(toy).predict(everything, 0, toy.test)[0]
        for comparison in comparisons:
            assert comparison.classifier == "NearestMean"
            assert comparison.of("all")[0].predictions == pytest.approx(expected, abs=1e-6)

    def test_that_predicts_nothing_judges_none(self, toy: FeatureBank) -> None:
        with pytest.raises(ValueError, match="FewIsBest trains no classifier"):
            compare(toy, ["none"], classifier=FewIsBest(toy))
        with pytest.raises(NotImplementedError, match="FewIsBest trains no classifier"):
            ParallelEvaluator(FewIsBest(toy)).predict(np.zeros((1, 64), bool), 0, toy.test)

    def test_without_settings_is_not_cached(self, toy: FeatureBank, tmp_path: Path) -> None:
        with pytest.raises(NotImplementedError, match="FewIsBest does not say what its results"):
            CachedEvaluator(FewIsBest(toy), tmp_path)


def test_fingerprints_follow_an_explicit_version(
    toy: FeatureBank, tiny: TrainingConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluators = [NearestMean(toy), RetrainEvaluator(toy, config=tiny)]
    assert [evaluator.version for evaluator in evaluators] == [1, TRAINING_VERSION]
    before = [evaluator.fingerprint for evaluator in evaluators]
    monkeypatch.setattr(NearestMean, "version", 2)
    monkeypatch.setattr(RetrainEvaluator, "version", 99)
    assert not set(before) & {evaluator.fingerprint for evaluator in evaluators}


def test_wrappers_have_credit_where_the_evaluator_has(toy: FeatureBank, tmp_path: Path) -> None:
    probe, nothing = LinearProbeEvaluator(toy, device="cpu"), np.zeros((1, 64), bool)
    wrapped = ParallelEvaluator(CachedEvaluator(probe, tmp_path))
    assert wrapped.unwrapped is probe and has_credit(wrapped)
    assert (wrapped.credit(nothing, 0) == probe.credit(nothing, 0)).all()
    assert not has_credit(ParallelEvaluator(NearestMean(toy)))


class TestMakeEvaluator:
    def test_takes_names_and_evaluators(
        self, toy: FeatureBank, retrained_toy: FeatureBank, tiny: TrainingConfig
    ) -> None:
        assert (default_evaluator(toy), default_evaluator(retrained_toy)) == (
            "linear_probe",
            "datamodel",
        )
        assert isinstance(make_evaluator(None, retrained_toy), DatamodelEvaluator)
        assert isinstance(make_evaluator("resnet34", toy), RetrainEvaluator)
        assert make_evaluator("linear_probe", toy, ridge=2.0).ridge == 2.0
        copied = LinearProbeEvaluator(toy_bank())
        assert make_evaluator(copied, toy) is copied, "the same bank, read twice"

        # Another extractor changes no retraining.
        retrain = RetrainEvaluator(toy, config=tiny, device="cpu")
        splits = {
            name: replace(split, features=2 * split.features) for name, split in toy.splits.items()
        }
        assert make_evaluator(retrain, replace(toy, **splits)) is retrain

    def test_refuses_what_does_not_fit(
        self, toy: FeatureBank, small: FeatureBank, tiny: TrainingConfig
    ) -> None:
        with pytest.raises(ValueError, match="unknown evaluator 'svm'"):
            make_evaluator("svm", toy)
        probe = LinearProbeEvaluator(toy)
        with pytest.raises(ValueError, match="ridge: arguments go with an evaluator's name"):
            make_evaluator(probe, toy, ridge=2.0)
        for other in (small, toy_bank(seed=9)):
            with pytest.raises(ValueError, match="made for another bank"):
                make_evaluator(probe, other)
        negatives = replace(toy.candidates, images=255 - toy.candidates.images)
        retrain = RetrainEvaluator(toy, config=tiny, device="cpu")
        with pytest.raises(ValueError, match="with other candidates; make one"):
            make_evaluator(retrain, replace(toy, candidates=negatives))
