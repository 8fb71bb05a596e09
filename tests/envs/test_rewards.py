"""Rewards by hand: windows, references, moving average."""

from __future__ import annotations

import numpy as np
import pytest

from synthselect_env.envs.rewards import REWARDS, Reward, RewardTracker, resolve_reward
from synthselect_env.evaluators import Evaluations
from synthselect_env.metrics import METRICS


def evaluations(*values: list[float]) -> Evaluations:
    """The same values for every metric, one list of epochs per selection."""
    return Evaluations.from_epochs({name: np.array(values, float) for name in METRICS})


def test_the_papers_reward() -> None:
    tracker = RewardTracker(REWARDS["paper"], evaluations([0.5]), 1)
    # The best of the last five epochs is 0.7; 0.9 came before.
    first = tracker(evaluations([0.9, 0.6, 0.7, 0.65, 0.7, 0.68]))
    second = tracker(evaluations([0.8, 0.75]))
    tracker.restart(evaluations([0.5]))  # the average runs on in a new episode
    third = tracker(evaluations([0.6]))
    assert first == pytest.approx([0.7])
    assert second == pytest.approx([0.8 * 0.7 + 0.2 * 0.8])
    assert third == pytest.approx([0.8 * 0.72 + 0.2 * 0.6])


def test_gains_over_the_previous_step_add_up() -> None:
    tracker = RewardTracker(Reward(reference="previous", scale=10), evaluations([-0.5]), 2)
    first = tracker(evaluations([-0.4], [-0.6]))
    second = tracker(evaluations([-0.45], [-0.3]))
    assert first + second == pytest.approx(10 * (np.array([-0.45, -0.3]) + 0.5))
    tracker.restart(evaluations([-0.2]))
    assert tracker(evaluations([-0.1], [-0.2])) == pytest.approx([1, 0])


def test_gains_over_no_candidates() -> None:
    tracker = RewardTracker(Reward(reference="empty"), evaluations([0.25]), 1)
    rewards = [tracker(evaluations([value]))[0] for value in (0.5, 0.75)]
    assert rewards == pytest.approx([0.25, 0.5])


def test_brier_score_counts_negative() -> None:
    reward = Reward(metric="brier", window=2)
    assert reward.value(evaluations([0.1, 0.4, 0.3])) == pytest.approx([-0.3])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("papr", "unknown reward"),
        ({"metrik": "auc"}, "unknown reward parameter metrik"),
        ({"metric": "f1"}, "unknown metric"),
        ({"reference": "mean"}, "unknown reference 'mean'; one of None, 'empty', 'previous'"),
        ({"smoothing": 1.0}, "smoothing in"),
        ({"window": 0}, "window must be at least 1"),
    ],
)
def test_errors(wrong: str | dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        resolve_reward(wrong)


def test_names_dictionaries_and_rewards() -> None:
    assert resolve_reward("paper") == Reward("accuracy", 5, None, 0.8)
    assert resolve_reward({"metric": "auc"}) == Reward("auc")
    assert resolve_reward(Reward("brier")) == Reward("brier")
