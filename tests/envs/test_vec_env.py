"""SelectionVecEnv against SB3's DummyVecEnv of single environments."""

from __future__ import annotations

import numpy as np
import pytest
from gymnasium.error import ResetNeeded
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import DummyVecEnv

from agents import TransformerPolicy
from synthselect_env import FeatureBank, SelectionVecEnv, SyntheticSelectionEnv
from synthselect_env.envs.rewards import REWARDS
from synthselect_env.evaluators import LinearProbeEvaluator

ONLY_OURS = ("episode",)
ARRAYS = ("terminal_observation",)


@pytest.mark.parametrize("reward", ["paper", "log_likelihood_gain"])
def test_is_many_environments(toy: FeatureBank, reward: str) -> None:
    ours = SelectionVecEnv(toy, n_envs=3, reward=reward)
    theirs = DummyVecEnv([lambda: SyntheticSelectionEnv(toy, reward=reward)] * 3)
    assert ours.observation_space == theirs.observation_space
    assert ours.action_space == theirs.action_space
    for env in (ours, theirs):
        env.seed(5)
    assert (ours.reset() == theirs.reset()).all()

    rng = np.random.default_rng(0)
    for t in range(20):
        actions = rng.integers(2, size=(3, 8))
        observations, rewards, dones, infos = ours.step(actions)
        expected_observations, expected_rewards, expected_dones, expected = theirs.step(actions)
        assert (observations == expected_observations).all()
        assert rewards == pytest.approx(expected_rewards, abs=1e-6)
        assert (dones == expected_dones).all()
        assert dones.all() == (t % 8 == 7)
        for info, expected_info in zip(infos, expected):
            assert ("episode" in info) == dones.all()
            for name in ARRAYS:
                assert np.array_equal(info.get(name), expected_info.get(name))
            numbers = {k: v for k, v in info.items() if k not in ONLY_OURS + ARRAYS}
            expected_numbers = {k: v for k, v in expected_info.items() if k not in ARRAYS}
            assert numbers == pytest.approx(expected_numbers, abs=1e-9)


def test_reports_returns(toy: FeatureBank) -> None:
    reward = {"metric": "accuracy", "reference": "previous"}
    env = SelectionVecEnv(toy, n_envs=2, reward=reward)
    env.seed(0)
    env.reset()
    empty = env.reset_infos[0]["accuracy"]
    for _ in range(8):
        *_, infos = env.step(np.ones((2, 8)))
    assert infos[0]["episode"]["r"] == pytest.approx(infos[0]["accuracy"] - empty)
    assert infos[0]["episode"]["l"] == 8
    assert infos[0]["selected"] == 64
    assert not env.selections.any()  # a new episode has begun


@pytest.mark.parametrize("reward", REWARDS)
def test_an_explicit_seed_begins_afresh(toy: FeatureBank, reward: str) -> None:
    env = SelectionVecEnv(toy, n_envs=2, reward=reward)
    rewards = []
    for _ in range(2):
        env.seed(0)
        env.reset()
        rewards.append([env.step(np.ones((2, 8)))[1].tolist() for _ in range(8)])
    assert rewards[0] == rewards[1]


def test_steps_out_of_turn(toy: FeatureBank) -> None:
    env = SelectionVecEnv(toy, n_envs=4)
    with pytest.raises(ResetNeeded):
        env.step(np.zeros((4, 8)))
    env.reset()
    for shape in ((1, 8), (4, 1), (4, 9)):
        with pytest.raises(ValueError, match="each of 4 episodes"):
            env.step(np.zeros(shape))


@pytest.mark.parametrize("n_envs", [0, -1])
def test_needs_an_environment(toy: FeatureBank, n_envs: int) -> None:
    with pytest.raises(ValueError, match="n_envs must be at least 1"):
        SelectionVecEnv(toy, n_envs=n_envs)


def test_attributes_are_shared(toy: FeatureBank) -> None:
    env = SelectionVecEnv(toy, n_envs=2)
    assert env.get_attr("has_credit") == [True, True]
    assert env.get_attr("has_credit", indices=[1]) == [True]
    with pytest.raises(ValueError, match="share their attributes"):
        env.set_attr("bank", None, indices=[0])


def test_the_evaluator_is_fixed(toy: FeatureBank) -> None:
    """Setting it would be without effect on the episodes."""
    env = SelectionVecEnv(toy, n_envs=2)
    with pytest.raises(AttributeError):
        env.set_attr("evaluator", LinearProbeEvaluator(toy))


def test_what_users_of_other_vector_environments_do(toy: FeatureBank) -> None:
    """Attributes, methods, episodes and images are those of environments in a DummyVecEnv."""
    ours = SelectionVecEnv(toy, n_envs=2, render_mode="rgb_array")
    ids = {"bank": toy, "render_mode": "rgb_array"}
    theirs = make_vec_env("SynthSelect-Toy-v0", 2, env_kwargs=ids)
    for env in (ours, theirs):
        env.seed(0)
        env.reset()
    actions = np.random.default_rng(0).integers(0, 2, (2, ours.action_space.n))
    frames = []
    for env in (ours, theirs):
        env.step(actions)
        frames.append(env.render())
    assert (frames[0] == frames[1]).all()
    for name in ("selection",):
        mine, other = ours.get_attr(name), theirs.get_attr(name)
        assert len(mine) == 2 and all((a == b).all() for a, b in zip(mine, other))
    credits = [env.env_method("credit", indices=[1]) for env in (ours, theirs)]
    assert np.allclose(credits[0], credits[1])
    model = PPO(TransformerPolicy, ours, n_steps=8, batch_size=8)
    mean, _ = evaluate_policy(model, ours, 2)  # no warning that episodes are not monitored
    assert np.isfinite(mean)
    assert SelectionVecEnv(toy, n_envs=2).get_images() == [None, None]
    with pytest.raises(ValueError, match="unknown render_mode 'human'"):
        SelectionVecEnv(toy, render_mode="human")
