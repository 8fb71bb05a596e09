"""PolicySelector and TrainingSelector: what a trained policy keeps."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import VecNormalize

from agents import (
    REINFORCE,
    GRUAttentionPolicy,
    GRUPolicy,
    TransformerPolicy,
    best_random_rate,
    warm_start,
)
from agents.policies import SelectionPolicy
from agents.selectors import PolicySelector, TrainingSelector, mask_of_episode
from synthselect_env import FeatureBank, SelectionVecEnv, SyntheticSelectionEnv
from synthselect_env.bank.embedded import toy_bank
from synthselect_env.evaluators import Evaluations, Evaluator

TINY = {"width": 8, "n_layers": 1}
SETTINGS = {"n_steps": 8, "batch_size": 8, "n_epochs": 2, "policy_kwargs": TINY, "device": "cpu"}


def tiny_model(env: SelectionVecEnv | VecNormalize, policy=TransformerPolicy, **kwargs) -> PPO:
    return PPO(policy, env, seed=0, **{**SETTINGS, **kwargs})


class TestPolicySelector:
    def test_keeps_the_expected_number_of_each_class(self, small: FeatureBank) -> None:
        policy_kwargs = {**TINY, "initial_rate": 0.3}
        model = tiny_model(SelectionVecEnv(small, 2), policy_kwargs=policy_kwargs)
        selection = PolicySelector(model).select(small, 0)
        for label in (0, 1):
            members = small.candidates.labels == label
            kept = selection.scores[members & selection.mask]
            left = selection.scores[members & ~selection.mask]
            assert len(kept) == round(selection.scores[members].sum())
            assert kept.min() >= left.max()

    @pytest.mark.parametrize("policy", [TransformerPolicy, GRUPolicy, GRUAttentionPolicy])
    def test_reads_batches_of_another_size(
        self, toy: FeatureBank, small: FeatureBank, policy: type[SelectionPolicy]
    ) -> None:
        model = tiny_model(SelectionVecEnv(toy, 2), policy)
        selection = PolicySelector(model).select(small, 0)
        assert len(selection) == 26
        assert ((selection.scores > 0) & (selection.scores < 1)).all()

    def test_does_not_read_the_test_split(self, toy: FeatureBank) -> None:
        other = replace(toy, test=replace(toy.test, features=-toy.test.features))
        selector = PolicySelector(tiny_model(SelectionVecEnv(toy, 2)))
        assert (selector.select(toy, 0).scores == selector.select(other, 0).scores).all()

    @pytest.mark.parametrize("n_batches", [*range(2, 21), 33, 64])
    def test_shows_batches_of_the_size_in_training(self, toy: FeatureBank, n_batches: int) -> None:
        """64 candidates do not divide evenly into most numbers of batches."""
        env = SelectionVecEnv(toy, 1, n_batches=n_batches)
        selector = PolicySelector(tiny_model(env))
        shown: list[int] = []

        def record(rows: torch.Tensor) -> torch.Tensor:
            shown.append(rows.shape[1])
            return torch.full(rows.shape[:2], 0.5)

        selector.policy.keep_probabilities = record
        selector.select(toy, 0)
        assert set(shown) == {env.observation_space.shape[0]}

    def test_batches_can_be_given(self, toy: FeatureBank) -> None:
        model = tiny_model(SelectionVecEnv(toy, 2, n_batches=4))
        selectors = [PolicySelector(model), PolicySelector(model, 4), PolicySelector(model, 8)]
        default, four, eight = (selector.select(toy, 0).scores for selector in selectors)
        assert (default == four).all()
        assert (default != eight).any()

    @pytest.mark.parametrize("n", [57, 90])
    def test_shows_any_pool_as_in_training(self, n: int) -> None:
        """Other numbers of batches have a longest batch of the same size; eight are preferred."""
        bank = toy_bank(candidates_per_class=45)
        bank = replace(bank, candidates=bank.candidates.subset(np.arange(n)))
        model = tiny_model(SelectionVecEnv(bank, 2))
        expected = PolicySelector(model, n_batches=8).select(bank, 0)
        assert (PolicySelector(model).select(bank, 0).scores == expected.scores).all()

    def test_policy_with_a_features_extractor(self, toy: FeatureBank) -> None:
        class FiveNumbers(BaseFeaturesExtractor):
            def __init__(self, space: gym.Space) -> None:
                super().__init__(space, 5)
                self.layer = torch.nn.Linear(space.shape[-1], 5)

            def forward(self, rows: torch.Tensor) -> torch.Tensor:
                return self.layer(rows)

        policy_kwargs = {**TINY, "features_extractor_class": FiveNumbers}
        model = tiny_model(SelectionVecEnv(toy, 2), policy_kwargs=policy_kwargs).learn(16)
        assert len(PolicySelector(model).select(toy, 0)) == 64

    def test_normalised_observations_are_refused(self, toy: FeatureBank) -> None:
        """The policy would select from other rows than it was trained on."""
        normalised = VecNormalize(SelectionVecEnv(toy, 2), norm_obs=True)
        with pytest.raises(ValueError, match="norm_obs=False"):
            PolicySelector(tiny_model(normalised))
        rewards_only = VecNormalize(SelectionVecEnv(toy, 2), norm_obs=False)
        assert len(PolicySelector(tiny_model(rewards_only)).select(toy, 0)) == 64

    def test_scores_are_read_on_a_pool_with_other_features(self, toy: FeatureBank) -> None:
        by_scores = PolicySelector(tiny_model(SelectionVecEnv(toy, 2)))
        assert len(by_scores.select(toy_bank(n_features=9), 0)) == 64

    def test_other_policies_and_features_are_refused(self, toy: FeatureBank) -> None:
        by_features = tiny_model(SelectionVecEnv(toy, 2, observation="features"))
        with pytest.raises(ValueError, match="same extractor"):
            PolicySelector(by_features).select(toy_bank(n_features=9), 0)
        with pytest.raises(ValueError, match="not ActorCriticPolicy"):
            PolicySelector(PPO("MlpPolicy", "CartPole-v1", device="cpu"))


class EighthEvaluator(Evaluator):
    """Likes selections of an eighth of the pool best."""

    def evaluate(self, selections: np.ndarray, seed: int) -> Evaluations:
        return Evaluations.from_metrics({"log_likelihood": -abs(selections.mean(1) - 0.125)})


class TestTrainingSelector:
    def test_trains_and_selects(self, toy: FeatureBank) -> None:
        selector = TrainingSelector(PPO, evaluations=32, n_envs=4, name="ours", **SETTINGS)
        first, again, other = (selector.select(toy, seed) for seed in (3, 3, 4))
        assert (first.scores == again.scores).all()
        assert (first.scores != other.scores).any()
        assert first.source == "ours"

    def test_stays_within_the_evaluations(self, toy: FeatureBank) -> None:
        selector = TrainingSelector(PPO, evaluations=38, n_envs=32, **SETTINGS)
        assert selector.train(toy, 0).num_timesteps == selector.timesteps == 32
        assert selector.evaluations == 32 + warm_start.EVALUATIONS
        cold = TrainingSelector(PPO, evaluations=38, warm_start=False, **SETTINGS)
        assert cold.evaluations == cold.timesteps == 32
        with pytest.raises(ValueError, match="less than a rollout"):
            TrainingSelector(PPO, evaluations=4)
        with pytest.raises(ValueError, match="n_envs must be at least 1"):
            TrainingSelector(PPO, n_envs=0)

    def test_begins_at_the_best_size(self, toy: FeatureBank) -> None:
        """The rate is that of the evaluator, unless it is given."""
        wanted = best_random_rate(toy, EighthEvaluator(toy))
        assert wanted == pytest.approx(0.125, rel=0.3)
        common = {"evaluations": 16, "n_envs": 2, "evaluator": EighthEvaluator(toy), **SETTINGS}
        for options, rate in (
            ({}, wanted),
            ({"warm_start": False}, 0.5),
            ({"policy_kwargs": {"initial_rate": 0.7, **TINY}}, 0.7),
        ):
            model = TrainingSelector(PPO, **{**common, **options}).train(toy, 0)
            assert model.policy.initial_rate == pytest.approx(rate)

    def test_features_alone(self, toy: FeatureBank) -> None:
        selector = TrainingSelector(
            PPO, evaluations=16, n_envs=2, observation="features", **SETTINGS
        )
        agent, selection = selector.train(toy, 0), selector.select(toy, 0)
        assert agent.observation_space.shape[1] == toy.n_features
        assert (selection.mask == PolicySelector(agent).select(toy, 0).mask).all()

    def test_settings_name_the_device(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Random numbers depend on the kind of device, and so does the selection."""

        def device(**kwargs: str) -> object:
            return TrainingSelector(PPO, **kwargs).settings()["device"]

        monkeypatch.setattr("torch.cuda.is_available", lambda: True)
        assert device() == device(device="auto") == "cuda"
        assert device(device="cpu") == "cpu"
        monkeypatch.setattr("torch.cuda.is_available", lambda: False)
        assert device() == "cpu"


def test_episode_of_a_model_with_normalised_observations(toy: FeatureBank) -> None:
    env = VecNormalize(SelectionVecEnv(toy, 2), norm_reward=False)
    model = PPO("MlpPolicy", env, n_steps=8, batch_size=16, seed=0, device="cpu").learn(64)
    env.training = False
    observations = env.reset()
    expected = np.zeros(len(toy.candidates), bool)
    for batch in toy.batches:
        actions, _ = model.predict(observations, deterministic=True)
        expected[batch] = actions[0, : len(batch)] > 0
        observations, *_ = env.step(actions)
    assert (mask_of_episode(model, SyntheticSelectionEnv(toy), 0) == expected).all()


@pytest.mark.parametrize("policy", [TransformerPolicy, GRUPolicy, GRUAttentionPolicy])
def test_policies_are_saved_without_pickle(
    toy: FeatureBank, tmp_path: Path, policy: type[SelectionPolicy]
) -> None:
    env = SelectionVecEnv(toy, 2)
    model = PPO(policy, env, n_steps=8, batch_size=8, policy_kwargs={"width": 8}, device="cpu")
    selector = PolicySelector(model.learn(16))
    selector.save(tmp_path, {"bank": "toy"})
    assert {file.name for file in tmp_path.iterdir()} == {
        "policy.safetensors",
        "policy.json",
        "README.md",
    }
    assert "**bank**: toy" in (tmp_path / "README.md").read_text()
    loaded = PolicySelector.load(tmp_path, "cpu")
    assert (loaded.select(toy, 0).scores == selector.select(toy, 0).scores).all()
    assert (loaded.name, loaded.evaluations) == ("PPO", model.num_timesteps)

    # A file that is damaged, or of another policy, is named.
    (tmp_path / "policy.safetensors").write_bytes(b"nonsense")
    with pytest.raises(ValueError, match="holds no policy that can be read"):
        PolicySelector.load(tmp_path)
    with pytest.raises(ValueError, match="holds no policy that can be read"):
        PolicySelector.load(tmp_path / "nowhere")


def test_policies_of_other_classes_are_not_saved(toy: FeatureBank, tmp_path: Path) -> None:
    class Mine(TransformerPolicy):
        pass

    env = SelectionVecEnv(toy, 2)
    model = PPO(Mine, env, n_steps=8, batch_size=8, policy_kwargs={"width": 8}, device="cpu")
    with pytest.raises(ValueError, match="Mine is not one of TransformerPolicy, GRUPolicy"):
        PolicySelector(model).save(tmp_path)


@pytest.mark.parametrize("algorithm", [PPO, A2C, REINFORCE])
def test_policies_refuse_to_learn_from_changed_observations(
    toy: FeatureBank, tmp_path: Path, algorithm: type[OnPolicyAlgorithm]
) -> None:
    """A loaded model would not know what its observations had been changed by."""
    steps = {"n_steps": 8} | ({"batch_size": 8} if algorithm is PPO else {})
    options = {"policy_kwargs": TINY, "device": "cpu", **steps}
    changed = VecNormalize(SelectionVecEnv(toy, 2))
    with pytest.raises(ValueError, match="changes the observations, so that padding and classes"):
        algorithm(TransformerPolicy, changed, **options).learn(16)
    kept = VecNormalize(SelectionVecEnv(toy, 2), norm_obs=False)
    model = algorithm(TransformerPolicy, kept, **options).learn(16)
    model.save(tmp_path / "model")
    loaded = algorithm.load(tmp_path / "model", env=SelectionVecEnv(toy, 2), device="cpu")
    assert len(PolicySelector(loaded.learn(16)).select(toy, 0)) == 64
