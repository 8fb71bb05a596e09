"""Mistakes in selectors and evaluators that users write: each has one clear message."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest

from agents.evaluation import compare
from agents.selectors import CentroidSelector, RatioSelector
from synthselect_env import Dataset, FeatureBank, Selection
from synthselect_env.evaluators import (
    CachedEvaluator,
    ClassifierEvaluator,
    Evaluations,
    Evaluator,
)


class Answers(Evaluator):
    """Answers whatever it was given."""

    def __init__(self, bank: FeatureBank, answer: object) -> None:
        super().__init__(bank)
        self.answer = answer

    def evaluate(self, selections: np.ndarray, seed: int) -> Evaluations:
        return self.answer  # type: ignore[return-value]

    def settings(self) -> dict[str, object]:
        return {}


class Predicts(Answers, ClassifierEvaluator):
    """Predicts a constant, of any kind."""

    evaluate = ClassifierEvaluator.evaluate

    def predict(self, selections: np.ndarray, seed: int, dataset: Dataset) -> np.ndarray:
        assert not dataset.labels.any(), "a judge sees no labels"
        return np.full((len(selections), len(dataset), 2), self.answer)


class Scores(RatioSelector):
    name = "mine"

    def __init__(self, scores: object) -> None:
        super().__init__()
        self.scores = scores

    def score(self, bank: FeatureBank, seed: int) -> np.ndarray:
        return self.scores  # type: ignore[return-value]


ONE = Evaluations.from_metrics({"accuracy": [0.5]})


def test_reward_of_a_metric_that_is_not_given(toy: FeatureBank) -> None:
    env = gym.make("SynthSelect-Toy-v0", bank=toy, evaluator=Answers(toy, ONE))
    with pytest.raises(ValueError, match=r"Answers gives no log_likelihood .*\(accuracy\)"):
        env.reset(seed=0)
    reward = {"metric": "accuracy"}
    env = gym.make("SynthSelect-Toy-v0", bank=toy, evaluator=Answers(toy, ONE), reward=reward)
    assert env.reset(seed=0)[1]["accuracy"] == 0.5


@pytest.mark.parametrize(
    ("answer", "got"),
    [([0.5], "list"), (None, "NoneType"), (Evaluations.concatenate([ONE, ONE]), "2")],
)
def test_no_evaluations(
    toy: FeatureBank, answer: object, got: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    evaluator = Answers(toy, answer)
    cached = CachedEvaluator(evaluator, tmp_path_factory.mktemp("cache"))
    for asked in (evaluator, cached):
        env = gym.make("SynthSelect-Toy-v0", bank=toy, evaluator=asked)
        with pytest.raises(TypeError, match=f"Answers.evaluate must return .* got {got};"):
            env.reset(seed=0)


@pytest.mark.parametrize("probability", [0.5, 1.0, np.log(0.4)])
def test_predictions_that_are_no_log_probabilities(toy: FeatureBank, probability: float) -> None:
    with pytest.raises(ValueError, match="natural logarithms of probabilities that add up to 1"):
        compare(toy, ["none"], rounds=1, classifier=Predicts(toy, probability))
    sound = compare(toy, ["none"], rounds=1, classifier=Predicts(toy, np.log(0.5)))
    assert sound.outcomes[0].test["log_likelihood"] == pytest.approx(np.log(0.5))


@pytest.mark.parametrize("shape", [(128, 2), (1, 3, 2)])
def test_predictions_of_another_shape(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="128"):
        Evaluations.from_predictions(np.full(shape, np.log(0.5)), np.zeros(128, int))


def test_unknown_metric() -> None:
    with pytest.raises(ValueError, match="unknown metric acc; one of accuracy"):
        Evaluations.from_metrics({"acc": [0.5]})


@pytest.mark.parametrize(
    "scores", [np.full(64, np.nan), np.zeros(63), np.zeros((64, 1)), ["a"] * 64, None]
)
def test_scores(toy: FeatureBank, scores: object) -> None:
    with pytest.raises(ValueError, match=r"mine: score must return finite numbers \(64,\)"):
        Scores(scores).select(toy, 0)
    assert Scores(list(range(64))).select(toy, 0).count == 32


def test_mask_and_scores_swapped(toy: FeatureBank) -> None:
    with pytest.raises(ValueError, match="mine: mask is float64, expected bool"):
        Selection.of(toy, np.zeros(64), np.zeros(64, bool), "mine")


@pytest.mark.parametrize(
    ("selectors", "message"),
    [
        ("none", "must be a list of names or selectors, got 'none'"),
        ([], "must be a list"),
        ([CentroidSelector], "CentroidSelector is a class; give an object of it"),
        ([3], "3 has no name"),
    ],
)
def test_selectors(toy: FeatureBank, selectors: list, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        compare(toy, selectors)


def test_class_in_the_place_of_an_evaluator(toy: FeatureBank) -> None:
    with pytest.raises(ValueError, match=r"is no evaluator; .* super\(\).__init__\(bank\)"):
        gym.make("SynthSelect-Toy-v0", bank=toy, evaluator=Answers)
