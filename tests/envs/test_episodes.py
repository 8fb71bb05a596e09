"""Rules of an episode: selections accumulate, rewards are the evaluator's, credit adds up."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest

from synthselect_env import FeatureBank, SelectionVecEnv, SyntheticSelectionEnv
from synthselect_env.envs.rewards import REFERENCES
from synthselect_env.evaluators import Evaluations, Evaluator, LinearProbeEvaluator
from synthselect_env.metrics import METRICS


class ShareEvaluator(Evaluator):
    """Every metric is the share kept."""

    def __init__(self, bank: FeatureBank) -> None:
        super().__init__(bank)
        self.seeds: list[int] = []

    def evaluate(self, selections: np.ndarray, seed: int) -> Evaluations:
        self.seeds.append(seed)
        share = self.checked(selections).mean(1)
        return Evaluations.from_metrics({metric: share for metric in METRICS})


def test_selection_accumulates_where_the_action_says(toy: FeatureBank) -> None:
    reward = {"metric": "accuracy", "reference": None}
    env = SyntheticSelectionEnv(toy, evaluator=ShareEvaluator(toy), reward=reward)
    env.reset(seed=0)
    expected = np.zeros(64, bool)
    rng = np.random.default_rng(0)
    for batch in toy.batches:
        action = rng.integers(2, size=8)
        expected[batch] = action == 1
        _, reward, *_ = env.step(action)
        assert (env.selection == expected).all()
        assert reward == pytest.approx(expected.mean())
    env.reset()
    assert not env.selection.any()


def test_rewards_are_the_evaluators_metrics(toy: FeatureBank) -> None:
    env = SyntheticSelectionEnv(toy, reward={"metric": "log_likelihood", "reference": "empty"})
    env.reset(seed=0)
    for _ in range(3):
        _, reward, _, _, info = env.step(env.action_space.sample())
        masks = np.stack([env.selection, np.zeros(64, bool)])
        kept, empty = env.evaluator.evaluate(masks, 0).log_likelihood
        assert reward == pytest.approx(kept - empty)
        assert info["log_likelihood"] == pytest.approx(kept)


def test_moving_average_runs_on_without_a_seed(toy: FeatureBank) -> None:
    env = SyntheticSelectionEnv(toy, reward="paper")
    env.reset(seed=0)
    for _ in range(8):
        _, last, *_ = env.step(np.ones(8))
    env.reset()
    _, reward, _, _, info = env.step(np.zeros(8))
    assert reward == pytest.approx(0.8 * last + 0.2 * info["accuracy"])


def test_the_empty_selection_is_scored_once_per_seed(toy: FeatureBank) -> None:
    env = SyntheticSelectionEnv(toy, evaluator=ShareEvaluator(toy))
    for seed in (1, None, 1, 2, 1):
        env.reset(seed=seed)
    first, second, third = env.evaluator.seeds
    assert first == third != second


def test_steps_out_of_turn(toy: FeatureBank) -> None:
    env = SyntheticSelectionEnv(toy)
    with pytest.raises(gym.error.ResetNeeded):
        env.step(np.zeros(8))
    env.reset()
    with pytest.raises(ValueError, match="expected an action of 8 bits"):
        env.step(np.zeros(7))
    for _ in range(8):
        env.step(np.zeros(8))
    with pytest.raises(gym.error.ResetNeeded):
        env.step(np.zeros(8))


def test_padding_cannot_be_kept(small: FeatureBank) -> None:
    """26 candidates do not fill eight batches evenly."""
    env = SyntheticSelectionEnv(small)
    rows = env.observation_space.shape[0]
    assert rows == max(map(len, small.batches)) == 4
    is_candidate = env.observation_columns["is candidate"].start
    observation, _ = env.reset(seed=0)
    padded = 0
    for batch in small.batches:
        n = len(batch)
        assert (observation[:n, is_candidate] == 1).all()
        assert (observation[n:] == 0).all()
        masks = env.action_masks().reshape(-1, 2)
        assert masks[:, 0].all()
        assert masks[:, 1].tolist() == [True] * n + [False] * (rows - n)
        padded += rows - n
        observation, *_ = env.step(np.ones(rows, np.int8))
    assert padded > 0
    assert env.selection.all()


@pytest.mark.parametrize("reference", REFERENCES)
def test_credit_is_the_gradient_of_the_last_reward(
    small: FeatureBank, reference: str | None
) -> None:
    """Padding has none, and the last step's credit outlives the episode."""
    env = SelectionVecEnv(small, n_envs=2, reward={"reference": reference, "scale": 100.0})
    evaluator = LinearProbeEvaluator(small)
    rng = np.random.default_rng(0)
    env.seed(0)
    env.reset()
    masks = np.zeros((2, 26), bool)
    before = np.zeros((2, 26))
    for t, batch in enumerate(small.batches):
        bits = rng.integers(0, 2, (2, env.action_space.n))
        masks[:, batch] = bits[:, : len(batch)] > 0
        env.step(bits)
        credit = env.credit()
        after = 100 * evaluator.credit(masks, 0)
        assert credit.shape == (2, t + 1, env.action_space.n)
        for s, earlier in enumerate(small.batches[: t + 1]):
            expected = after[:, earlier]
            if reference == "previous" and s < t:
                expected = expected - before[:, earlier]
            assert credit[:, s, : len(earlier)] == pytest.approx(expected, rel=1e-9, abs=1e-12)
            assert not credit[:, s, len(earlier) :].any()
        before = after


def test_credit_of_a_single_environment(small: FeatureBank) -> None:
    env = SyntheticSelectionEnv(small)
    env.reset(seed=0)
    with pytest.raises(gym.error.ResetNeeded, match="nothing has been decided"):
        env.credit()
    env.step(np.ones(4))
    assert env.credit().shape == (1, 4)


def test_credit_needs_an_evaluator_that_knows_it(toy: FeatureBank) -> None:
    env = SyntheticSelectionEnv(toy, evaluator=ShareEvaluator(toy))
    env.reset(seed=0)
    env.step(np.ones(8))
    assert not env.has_credit
    with pytest.raises(NotImplementedError, match="ShareEvaluator cannot say"):
        env.credit()


@pytest.mark.parametrize("wrong", [0.02, float("nan"), 2, -1])
def test_actions_are_decisions(toy: FeatureBank, wrong: float) -> None:
    env = SyntheticSelectionEnv(toy)
    env.reset(seed=0)
    action = np.ones(env.action_space.n)
    action[3] = wrong
    with pytest.raises(ValueError, match=r"0 \(discard\) or 1 \(keep\) for each candidate, got"):
        env.step(action)
    assert env.selection.sum() == 0
