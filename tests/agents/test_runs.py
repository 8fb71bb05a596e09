"""Metrics of a training run: one row per policy update."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from stable_baselines3 import DQN, PPO
from stable_baselines3.common.callbacks import BaseCallback

from agents import TransformerPolicy
from agents.report import read_history
from agents.runs import SelectionMetrics, run_logger
from synthselect_env import FeatureBank, SelectionVecEnv, SyntheticSelectionEnv
from synthselect_env.envs.wrappers import PerCandidateWrapper


def learnt(bank: FeatureBank, directory: Path, steps: int, n_steps: int, *callbacks) -> None:
    model = PPO(
        TransformerPolicy,
        SelectionVecEnv(bank, n_envs=4),
        n_steps=n_steps,
        batch_size=16,
        policy_kwargs={"width": 8, "n_layers": 1},
        seed=0,
        device="cpu",
    )
    model.set_logger(run_logger(directory))
    model.learn(steps, callback=[*callbacks, SelectionMetrics()], log_interval=None)
    model.logger.close()


def test_one_row_per_policy_update(toy: FeatureBank, tmp_path: Path) -> None:
    class CountRollouts(BaseCallback):
        rollouts = 0

        def _on_rollout_start(self) -> None:
            self.rollouts += 1

        def _on_step(self) -> bool:
            return True

    counter = CountRollouts()
    learnt(toy, tmp_path, 96, 8, counter)
    history = read_history(tmp_path / "metrics.csv")
    assert counter.rollouts == 3
    assert history["time/total_timesteps"].tolist() == [32, 64, 96]
    # A row holds its own update, not the one before.
    assert history["train/n_updates"].tolist() == [10, 20, 30]
    validation = ["validation/accuracy", "validation/log_likelihood", "validation/auc"]
    for name in [*validation, "rollout/selected", "rollout/ep_rew_mean", "train/approx_kl"]:
        assert np.isfinite(history[name]).all()


def test_metrics_that_come_late_have_a_column(toy: FeatureBank, tmp_path: Path) -> None:
    """A rollout in which no episode ends has no return yet."""
    learnt(toy, tmp_path, 64, 4)
    history = read_history(tmp_path / "metrics.csv")
    assert history["time/total_timesteps"].tolist() == [16, 32, 48, 64]
    assert np.isfinite(history["rollout/ep_rew_mean"]).tolist() == [False, True, True, True]
    assert np.isfinite(history["validation/accuracy"]).tolist() == [False, True, False, True]
    assert np.isfinite(history["train/loss"]).all()


def test_excluded_values_are_not_written(tmp_path: Path) -> None:
    logger = run_logger(tmp_path)
    logger.record("train/loss", 1.0)
    logger.record("images/kept", object(), exclude=("csv", "tensorboard"))
    logger.dump(1)
    logger.close()
    assert list(read_history(tmp_path / "metrics.csv")) == ["train/loss"]


def test_off_policy_algorithms_are_refused(toy: FeatureBank) -> None:
    env = PerCandidateWrapper(SyntheticSelectionEnv(toy))
    model = DQN("MlpPolicy", env, buffer_size=100, device="cpu")
    with pytest.raises(ValueError, match="DQN makes none"):
        model.learn(8, callback=SelectionMetrics())
