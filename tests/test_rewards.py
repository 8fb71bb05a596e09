from __future__ import annotations

import numpy as np
import pytest

from synthselect_env.envs.rewards import REWARDS, Reward, RewardTracker, resolve_reward
from synthselect_env.evaluators import Evaluations
from synthselect_env.metrics import METRICS


def evaluations(values: np.ndarray) -> Evaluations:
    """The same figures for every metric.  (k, e)"""
    return Evaluations.from_epochs({name: np.asarray(values, float) for name in METRICS})


def test_the_papers_reward_by_hand() -> None:
    tracker = RewardTracker(REWARDS["paper"], evaluations([[0.5]]), 1)
    first = tracker(
        evaluations([[0.9, 0.6, 0.7, 0.65, 0.7, 0.68]])
    )  # the .9 is not among the last five epochs
    second = tracker(evaluations([[0.8, 0.75]]))
    tracker.restart(evaluations([[0.5]]))  # a new episode: the average goes on
    third = tracker(evaluations([[0.6]]))
    assert first == pytest.approx([0.7])
    assert second == pytest.approx([0.8 * 0.7 + 0.2 * 0.8])
    assert third == pytest.approx([0.8 * 0.72 + 0.2 * 0.6])


def test_gains_add_up_to_the_difference_from_none() -> None:
    tracker = RewardTracker(Reward(baseline="previous", scale=10), evaluations([[-0.5]]), 2)
    steps = [np.array([[-0.4], [-0.6]]), np.array([[-0.45], [-0.3]])]
    total = sum(tracker(evaluations(step)) for step in steps)
    assert total == pytest.approx(10 * (steps[-1][:, 0] + 0.5))
    tracker.restart(evaluations([[-0.2]]))
    assert tracker(evaluations([[-0.1], [-0.2]])) == pytest.approx([1, 0])


def test_delta_is_against_none() -> None:
    tracker = RewardTracker(Reward(baseline="none"), evaluations([[0.25]]), 1)
    assert [tracker(evaluations([[v]]))[0] for v in (0.5, 0.75)] == pytest.approx([0.25, 0.5])


def test_brier_counts_negative() -> None:
    assert Reward(metric="brier", window=2).figure(evaluations([[0.1, 0.4, 0.3]])) == pytest.approx(
        [-0.3]
    )


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("papr", "unknown reward"),
        ({"metrik": "auc"}, "unknown reward parameter metrik"),
        ({"metric": "f1"}, "unknown metric"),
        ({"baseline": "mean"}, "unknown baseline"),
        ({"smoothing": 1.0}, "smoothing in"),
    ],
)
def test_errors(wrong: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        resolve_reward(wrong)


def test_names_dictionaries_and_rewards() -> None:
    assert resolve_reward("paper") == Reward("accuracy", 5, "zero", 0.8)
    assert resolve_reward({"metric": "auc"}) == Reward("auc")
    assert resolve_reward(Reward("brier")) == Reward("brier")
