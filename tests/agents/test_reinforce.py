"""REINFORCE against returns, baselines and gradients written out by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.logger import configure
from stable_baselines3.common.vec_env import DummyVecEnv

from agents import REINFORCE, TransformerPolicy
from agents.reinforce import BASELINES
from synthselect_env import FeatureBank, SelectionVecEnv


class Scripted(gym.Env[np.ndarray, np.ndarray]):
    """Rewards from a list, whatever is done; episodes of the list's length."""

    def __init__(self, rewards: list[float]) -> None:
        self.observation_space, self.action_space = (
            spaces.Box(-1, 1, (3, 2), np.float32),
            spaces.MultiBinary(3),
        )
        self.rewards = rewards

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.t = 0
        return np.zeros((3, 2), np.float32), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.t += 1
        return (
            np.full((3, 2), self.t / 10, np.float32),
            self.rewards[self.t - 1],
            self.t == len(self.rewards),
            False,
            {},
        )


def collected(rewards: list[list[float]], n_steps: int, **kwargs: Any) -> REINFORCE:
    env = DummyVecEnv([lambda r=r: Scripted(r) for r in rewards])
    model = REINFORCE(
        TransformerPolicy,
        env,
        n_steps=n_steps,
        policy_kwargs={"width": 8},
        seed=0,
        device="cpu",
        **kwargs,
    )
    _, callback = model._setup_learn(n_steps * len(rewards))
    model.collect_rollouts(env, callback, model.rollout_buffer, n_steps)
    return model


def test_returns_are_discounted_within_episodes_and_cut_at_their_ends() -> None:
    model = collected([[1.0, 2.0, 4.0]], 7, gamma=0.5, baseline="none")
    returns, complete = model._returns()
    assert returns[:6, 0].tolist() == [3.0, 4.0, 4.0, 3.0, 4.0, 4.0]
    assert complete[:, 0].tolist() == [True] * 6 + [False]  # the third episode has not ended


def test_leave_one_out_is_the_mean_of_the_others() -> None:
    model = collected([[1.0, 0.0], [2.0, 0.0], [6.0, 3.0]], 4, gamma=1.0, baseline="leave_one_out")
    returns, complete = model._returns()
    baselines = model._baselines(returns, complete)
    assert returns[0].tolist() == [1.0, 2.0, 9.0] and baselines[0].tolist() == [5.5, 5.0, 1.5]
    assert baselines[1].tolist() == [1.5, 1.5, 0.0]


def test_moving_average_knows_earlier_rollouts_only() -> None:
    model = collected([[1.0, 3.0]], 4, gamma=1.0, baseline="moving_average", baseline_decay=0.5)
    returns, complete = model._returns()
    assert model._baselines(returns, complete)[:, 0].tolist() == [0.0] * 4
    assert model._baselines(returns + 2, complete)[:, 0].tolist() == [
        4.0,
        3.0,
        4.0,
        3.0,
    ]  # at each step of the episode
    assert model._average == {0: 5.0, 1: 4.0}


def test_a_return_without_others_is_left_out() -> None:
    """Episodes of 4 steps and of 6: of steps 5 and 6 in the rollout, the first environment's begin an episode that does not end."""
    model = collected(
        [[1.0] * 4, [1.0] * 6], 6, gamma=1.0, baseline="leave_one_out", normalize_advantage=False
    )
    returns, complete = model._returns()
    assert complete.sum(1).tolist() == [2] * 4 + [1] * 2
    seen: list[torch.Size] = []
    evaluate = model.policy.evaluate_actions
    model.policy.evaluate_actions = lambda *args: seen.append(args[0].shape) or evaluate(*args)  # type: ignore[method-assign]
    model._logger = configure(None, [])
    model.train()
    assert seen[0][0] == 8


def test_a_time_limit_adds_nothing() -> None:
    """SB3 adds the value of what would have come after a time limit; there is no value here."""
    env = DummyVecEnv([lambda: gym.wrappers.TimeLimit(Scripted([0.0] * 9), 4)] * 2)
    model = REINFORCE(
        TransformerPolicy,
        env,
        n_steps=8,
        gamma=1.0,
        policy_kwargs={"width": 8},
        seed=0,
        device="cpu",
    ).learn(64)
    assert not model._returns()[0].any() and not any(
        p.any() for p in model.policy.value_net.parameters()
    )


def test_a_single_return_is_no_large_step(toy: FeatureBank) -> None:
    env = SelectionVecEnv(toy, n_envs=1, n_batches=1)
    model = REINFORCE(
        TransformerPolicy,
        env,
        n_steps=1,
        baseline="moving_average",
        policy_kwargs={"width": 8},
        max_grad_norm=1e9,
        seed=0,
        device="cpu",
    )
    model.policy.optimizer = torch.optim.SGD(model.policy.parameters(), lr=1e-3)
    before = [p.detach().clone() for p in model.policy.parameters()]
    model.learn(1)
    assert (
        max(
            float((new.detach() - old).abs().max())
            for old, new in zip(before, model.policy.parameters(), strict=True)
        )
        < 1
    )


@pytest.mark.parametrize("baseline", BASELINES)
def test_one_step_along_the_gradient(baseline: str) -> None:
    """The parameters move by −lr · gradient of −mean(log π · (G − b)), computed here from the rollout."""
    kwargs: dict[str, Any] = {
        "baseline": baseline,
        "gamma": 0.9,
        "learning_rate": 0.1,
        "normalize_advantage": False,
        "max_grad_norm": 1e9,
    }
    model = collected([[1.0, 0.0], [2.0, -1.0]], 4, **kwargs)
    model.policy.optimizer = torch.optim.SGD(model.policy.parameters(), lr=0.1)
    buffer = model.rollout_buffer
    returns, complete = model._returns()
    weight = torch.as_tensor(
        returns - {"none": 0, "moving_average": 0, "leave_one_out": returns[:, ::-1]}[baseline]
    )
    before = [p.detach().clone() for p in model.policy.parameters()]
    total = 0.0
    for t in range(4):
        for env in range(2):
            observation, action = (
                torch.as_tensor(buffer.observations[t, env])[None],
                torch.as_tensor(buffer.actions[t, env]).float(),
            )
            logits = model.policy.action_net(model.policy.mlp_extractor.forward_actor(observation))[
                0
            ]
            total = (
                total
                + weight[t, env]
                * torch.distributions.Bernoulli(logits=logits).log_prob(action).sum()
            )
    gradients = torch.autograd.grad(-total / 8, list(model.policy.parameters()), allow_unused=True)
    model._logger = configure(None, [])
    model.train()
    for old, new, gradient in zip(before, model.policy.parameters(), gradients):
        assert torch.allclose(new, old - 0.1 * (0 if gradient is None else gradient), atol=1e-5)


@pytest.mark.parametrize("baseline", ["moving_average", "leave_one_out"])
def test_learns_the_toy_bank(baseline: str, toy: FeatureBank) -> None:
    env = SelectionVecEnv(toy, n_envs=8)
    model = REINFORCE(
        TransformerPolicy,
        env,
        gamma=0.0,
        learning_rate=3e-3,
        baseline=baseline,
        policy_kwargs={"width": 16},
        seed=0,
        device="cpu",
    )
    rewards = [
        np.mean([e["r"] for e in model.learn(64 * n, reset_num_timesteps=True).ep_info_buffer])
        for n in (1, 100)
    ]
    assert rewards[1] > rewards[0] + 0.02


def test_errors(toy: FeatureBank) -> None:
    with pytest.raises(ValueError, match="unknown baseline 'median'"):
        REINFORCE(TransformerPolicy, SelectionVecEnv(toy, n_envs=2), baseline="median")
    with pytest.raises(ValueError, match="needs two environments"):
        REINFORCE(TransformerPolicy, SelectionVecEnv(toy, n_envs=1), device="cpu").learn(8)
    with pytest.raises(ValueError, match="no episode ended within n_steps=3"):
        REINFORCE(TransformerPolicy, SelectionVecEnv(toy, n_envs=2), n_steps=3, device="cpu").learn(
            6
        )


def test_the_moving_average_is_saved(toy: FeatureBank, tmp_path: Path) -> None:
    env = SelectionVecEnv(toy, n_envs=2)
    model = REINFORCE(
        TransformerPolicy,
        env,
        baseline="moving_average",
        policy_kwargs={"width": 8},
        seed=0,
        device="cpu",
    ).learn(32)
    model.save(tmp_path / "model.zip")
    loaded = REINFORCE.load(tmp_path / "model.zip", env=env, device="cpu")
    assert loaded._average == model._average and set(model._average) == set(range(8))


def test_a_trained_model_plays_a_single_environment(toy: FeatureBank, tmp_path: Path) -> None:
    """Learning compares with others; predicting does not need them."""
    REINFORCE(
        TransformerPolicy, SelectionVecEnv(toy, n_envs=2), policy_kwargs={"width": 8}, device="cpu"
    ).learn(16).save(tmp_path / "m.zip")
    env = gym.make("SynthSelect-Toy-v0")
    action, _ = REINFORCE.load(tmp_path / "m.zip", env=env, device="cpu").predict(
        env.reset(seed=0)[0]
    )
    assert action.shape == env.action_space.shape


def test_sb3s_names_of_policies(toy: FeatureBank) -> None:
    assert (
        REINFORCE("MlpPolicy", SelectionVecEnv(toy, n_envs=2), device="cpu").learn(16).num_timesteps
        == 16
    )
