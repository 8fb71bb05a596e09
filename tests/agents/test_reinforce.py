"""REINFORCE against returns, baselines and gradients written out by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import DummyVecEnv

from agents import REINFORCE, TransformerPolicy
from synthselect_env import FeatureBank, SelectionVecEnv

LEFT_OUT = np.nan
TINY = {"width": 8, "n_layers": 1}


class Scripted(gym.Env[np.ndarray, np.ndarray]):
    """Episodes of given rewards, one after the other, whatever is done."""

    observation_space = spaces.Box(-1, 1, (3, 2), np.float32)
    action_space = spaces.MultiBinary(3)

    def __init__(self, *episodes: list[float]) -> None:
        self.episodes = episodes
        self.played = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.rewards = self.episodes[self.played % len(self.episodes)]
        self.played += 1
        self.t = 0
        return np.zeros((3, 2), np.float32), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        reward = self.rewards[self.t]
        self.t += 1
        observation = np.full((3, 2), self.t / 10, np.float32)
        return observation, reward, self.t == len(self.rewards), False, {}


class LastRollout(BaseCallback):
    """Copy the last rollout, and the parameters before the update with it."""

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        buffer = self.model.rollout_buffer
        self.observations = torch.tensor(buffer.observations)
        self.actions = torch.tensor(buffer.actions).float()
        self.parameters = [p.detach().clone() for p in self.model.policy.parameters()]


CASES = {
    "discounted, the last episode does not end": (
        [Scripted([1, 2, 4])],
        {"n_steps": 7, "gamma": 0.5, "baseline": "none"},
        1,
        [[3], [4], [4], [3], [4], [4], [LEFT_OUT]],
    ),
    "mean of the others": (
        [Scripted([1, 0]), Scripted([2, 0]), Scripted([6, 3])],
        {"n_steps": 2, "gamma": 1.0, "baseline": "leave_one_out"},
        1,
        [[1 - 5.5, 2 - 5.0, 9 - 1.5], [0 - 1.5, 0 - 1.5, 3 - 0]],
    ),
    "a return without others is left out": (
        [Scripted([1] * 4), Scripted([1] * 6)],
        {"n_steps": 6, "gamma": 1.0, "baseline": "leave_one_out"},
        1,
        [[-2, 2]] * 4 + [[LEFT_OUT, LEFT_OUT]] * 2,
    ),
    "average of earlier rollouts at the same step": (
        [Scripted([1, 3], [1, 3], [3, 5], [3, 5])],
        {"n_steps": 4, "gamma": 1.0, "baseline": "moving_average", "baseline_decay": 0.5},
        2,
        [[8 - 4], [5 - 3], [8 - 4], [5 - 3]],
    ),
    "the average decays": (
        [Scripted([1, 3], [3, 5], [2, 2])],
        {"n_steps": 2, "gamma": 1.0, "baseline": "moving_average", "baseline_decay": 0.75},
        3,
        [[4 - 5.0], [2 - 3.5]],
    ),
    "no earlier rollout": (
        [Scripted([1, 3])],
        {"n_steps": 2, "gamma": 1.0, "baseline": "moving_average"},
        1,
        [[4], [3]],
    ),
}


@pytest.mark.parametrize("normalize_advantage", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_one_step_along_the_gradient(case: str, normalize_advantage: bool) -> None:
    """Parameters move by the gradient of mean(log π · (G − b)), computed here."""
    envs, settings, n_rollouts, advantages = CASES[case]
    vec_env = DummyVecEnv([lambda env=env: Scripted(*env.episodes) for env in envs])
    model = REINFORCE(
        TransformerPolicy,
        vec_env,
        learning_rate=0.1,
        normalize_advantage=normalize_advantage,
        max_grad_norm=1e9,
        policy_kwargs={**TINY, "optimizer_class": torch.optim.SGD},
        seed=0,
        device="cpu",
        **settings,
    )
    rollout = LastRollout()
    model.learn(n_rollouts * settings["n_steps"] * len(envs), callback=rollout)
    after = [p.detach().clone() for p in model.policy.parameters()]

    # The same step by hand
    weights = torch.tensor(np.array(advantages, float))
    steps = ~weights.isnan()
    if normalize_advantage:
        weights = weights / weights[steps].pow(2).mean().sqrt()
    with torch.no_grad():
        for parameter, before in zip(model.policy.parameters(), rollout.parameters):
            parameter.copy_(before)
    logits, _ = model.policy.decide(rollout.observations[steps])
    log_prob = torch.distributions.Bernoulli(logits=logits).log_prob(rollout.actions[steps])
    objective = (weights[steps] * log_prob.sum(1)).mean()
    parameters = list(model.policy.parameters())
    gradients = torch.autograd.grad(objective, parameters, allow_unused=True)
    for new, old, gradient in zip(after, rollout.parameters, gradients, strict=True):
        expected = old if gradient is None else old + 0.1 * gradient
        assert torch.allclose(new, expected.to(new.dtype), atol=1e-5)


def test_a_time_limit_adds_nothing() -> None:
    """SB3 adds the value of what would have come after a time limit. Here it stays zero."""
    env = DummyVecEnv([lambda: gym.wrappers.TimeLimit(Scripted([0.0] * 9), 4)] * 2)
    model = REINFORCE(TransformerPolicy, env, policy_kwargs=TINY, seed=0, device="cpu").learn(64)
    assert not model.rollout_buffer.rewards.any()
    assert not any(p.any() for p in model.policy.value_net.parameters())


def test_a_single_return_is_no_large_step(toy: FeatureBank) -> None:
    """Its standard deviation is zero; the root mean square is not."""
    model = REINFORCE(
        TransformerPolicy,
        SelectionVecEnv(toy, n_envs=1, n_batches=1),
        learning_rate=1e-3,
        n_steps=1,
        baseline="moving_average",
        policy_kwargs={**TINY, "optimizer_class": torch.optim.SGD},
        max_grad_norm=1e9,
        seed=0,
        device="cpu",
    )
    before = torch.nn.utils.parameters_to_vector(model.policy.parameters()).detach()
    model.learn(1)
    after = torch.nn.utils.parameters_to_vector(model.policy.parameters()).detach()
    assert (after - before).abs().max() < 1


@pytest.mark.parametrize("baseline", ["moving_average", "leave_one_out"])
def test_learns_the_toy_bank(baseline: str, toy: FeatureBank) -> None:
    model = REINFORCE(
        TransformerPolicy,
        SelectionVecEnv(toy, n_envs=8),
        gamma=0.0,
        learning_rate=1e-2,
        baseline=baseline,
        policy_kwargs={"width": 16, "n_layers": 1},
        seed=0,
        device="cpu",
    )
    rewards = []
    for n_rollouts in (1, 30):
        model.learn(64 * n_rollouts)
        rewards.append(np.mean([episode["r"] for episode in list(model.ep_info_buffer)[-8:]]))
    assert rewards[1] > rewards[0] + 5


@pytest.mark.parametrize(
    ("n_envs", "settings", "message"),
    [
        (2, {"baseline": "median"}, "unknown baseline 'median'"),
        (2, {"baseline_decay": 1.0}, "baseline_decay must be at least 0 and below 1"),
        (1, {}, "needs two environments"),
        (2, {"n_steps": 3}, "n_steps=3 in two environments at the same step"),
        (1, {"n_steps": 3, "baseline": "none"}, "no episode ended within n_steps=3, so"),
    ],
)
def test_errors(toy: FeatureBank, n_envs: int, settings: dict[str, object], message: str) -> None:
    env = SelectionVecEnv(toy, n_envs)
    with pytest.raises(ValueError, match=message):
        REINFORCE(TransformerPolicy, env, policy_kwargs=TINY, device="cpu", **settings).learn(6)


def test_goes_on_after_loading(toy: FeatureBank, tmp_path: Path) -> None:
    """With its moving average."""
    env = SelectionVecEnv(toy, n_envs=2)
    settings = {"baseline": "moving_average", "policy_kwargs": TINY, "device": "cpu"}
    model = REINFORCE(TransformerPolicy, env, seed=0, **settings).learn(32)
    model.save(tmp_path / "model.zip")
    vectors = []
    for one in (model, REINFORCE.load(tmp_path / "model.zip", env=env, device="cpu")):
        env.seed(5)
        one.set_random_seed(5)
        one.learn(16)
        vectors.append(torch.nn.utils.parameters_to_vector(one.policy.parameters()))
    assert torch.equal(*vectors)


def test_a_trained_model_plays_a_single_environment(toy: FeatureBank, tmp_path: Path) -> None:
    """Learning compares with other environments, predicting does not."""
    env = SelectionVecEnv(toy, n_envs=2)
    model = REINFORCE(TransformerPolicy, env, policy_kwargs=TINY, device="cpu").learn(16)
    model.save(tmp_path / "model.zip")
    single = gym.make("SynthSelect-Toy-v0")
    loaded = REINFORCE.load(tmp_path / "model.zip", env=single, device="cpu")
    action, _ = loaded.predict(single.reset(seed=0)[0])
    assert action.shape == single.action_space.shape


def test_sb3s_names_of_policies(toy: FeatureBank) -> None:
    env = SelectionVecEnv(toy, n_envs=2)
    assert REINFORCE("MlpPolicy", env, device="cpu").learn(16).num_timesteps == 16
