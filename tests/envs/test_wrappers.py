"""Wrappers change how decisions are asked for, and nothing else."""

from __future__ import annotations

from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from synthselect_env import FeatureBank, SyntheticSelectionEnv
from synthselect_env.envs.wrappers import BoxThresholdWrapper, PerCandidateWrapper

WRAPPERS = [BoxThresholdWrapper, PerCandidateWrapper]


@pytest.mark.filterwarnings("ignore:.*is different from the unwrapped version")
@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_gymnasium_check(wrapper: type[gym.Wrapper], small: FeatureBank) -> None:
    check_env(wrapper(SyntheticSelectionEnv(small)), skip_render_check=True)


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_only_selection_environments_are_wrapped(wrapper: type[gym.Wrapper]) -> None:
    with pytest.raises(ValueError, match="a selection environment has"):
        wrapper(gym.make("CartPole-v1"))


def test_real_numbers_above_zero_keep(small: FeatureBank) -> None:
    plain, wrapped = SyntheticSelectionEnv(small), BoxThresholdWrapper(SyntheticSelectionEnv(small))
    rng = np.random.default_rng(0)
    plain.reset(seed=3)
    wrapped.reset(seed=3)
    for _ in small.batches:
        bits = rng.integers(0, 2, plain.action_space.n)
        numbers = np.where(bits, 0.3, -0.7).astype(np.float32)
        observation, reward, *rest = wrapped.step(numbers)
        expected_observation, expected_reward, *expected_rest = plain.step(bits)
        assert (observation == expected_observation).all()
        assert reward == expected_reward
        assert rest == expected_rest
    assert (wrapped.unwrapped.selection == plain.selection).all()


def test_one_candidate_per_step(small: FeatureBank) -> None:
    """26 candidates do not fill eight batches evenly; padding is skipped."""
    plain, wrapped = SyntheticSelectionEnv(small), PerCandidateWrapper(SyntheticSelectionEnv(small))
    rng = np.random.default_rng(0)
    batch, _ = plain.reset(seed=3)
    observation, _ = wrapped.reset(seed=3)
    for positions in small.batches:
        n = len(positions)
        bits = rng.integers(0, 2, plain.action_space.n)
        rewards = []
        for i in range(n):
            kept_share = bits[:i].mean() if i else 0
            assert (observation[:-2] == batch[i]).all()
            assert observation[-2:] == pytest.approx([i / n, kept_share])
            assert wrapped.get_wrapper_attr("action_masks")().tolist() == [True, True]
            observation, reward, over, _, info = wrapped.step(int(bits[i]))
            rewards.append(reward)
        batch, expected_reward, expected_over, _, expected_info = plain.step(bits)
        assert rewards == [0] * (n - 1) + [expected_reward]
        assert over == expected_over
        assert info == expected_info
    assert (wrapped.unwrapped.selection == plain.selection).all()
    with pytest.raises(gym.error.ResetNeeded):
        wrapped.step(0)


def test_a_candidate_of_zeros_is_no_padding(small: FeatureBank) -> None:
    """Where rows are features, a candidate at the mean of the real images has such a row."""
    features = np.broadcast_to(small.train.features.mean(0), small.candidates.features.shape)
    candidates = replace(small.candidates, features=features.copy())
    bank = replace(small, candidates=candidates)
    env = PerCandidateWrapper(SyntheticSelectionEnv(bank, observation="features"))
    env.reset(seed=0)
    steps, over = 0, False
    while not over:
        *_, over, _, info = env.step(1)
        steps += 1
    assert steps == info["selected"] == len(small.candidates)
