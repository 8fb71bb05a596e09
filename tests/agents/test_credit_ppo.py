"""CreditPPO: its credit by definition, its gradient by enumeration, and what it learns."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

from agents import CreditPPO, GRUPolicy, TransformerPolicy
from agents.credit_ppo import CREDITS, RATIOS, RidgeCritic
from agents.credit_ppo.credit_ppo import control_variate, mean_of_others
from agents.selectors import PolicySelector
from synthselect_env import FeatureBank, SelectionVecEnv, SyntheticSelectionEnv
from synthselect_env.bank.embedded import toy_bank
from synthselect_env.envs.rewards import REFERENCES
from synthselect_env.evaluators import Evaluations, Evaluator, LinearProbeEvaluator

TINY = {"width": 8, "n_layers": 1}
NO_DERIVATIVE = {"metric": "accuracy"}


def tiny_model(bank: FeatureBank, n_envs: int = 4, reward: object = None, **kwargs) -> CreditPPO:
    env = SelectionVecEnv(bank, n_envs, reward=reward or "log_likelihood_gain")
    settings = {"batch_size": 16, "n_epochs": 2, "policy_kwargs": TINY, "seed": 0, "device": "cpu"}
    return CreditPPO(TransformerPolicy, env, **{**settings, **kwargs})


def scores(model: CreditPPO, bank: FeatureBank) -> np.ndarray:
    return PolicySelector(model).select(bank, 0).scores


class TestCredit:
    @pytest.mark.parametrize("gamma", [0.0, 0.7, 1.0])
    @pytest.mark.parametrize("reference", REFERENCES)
    @pytest.mark.parametrize("n_steps", [8, 5])
    def test_is_the_derivative_of_the_return(
        self, toy: FeatureBank, gamma: float, reference: str | None, n_steps: int
    ) -> None:
        """Discounted rewards of the rest of the episode, as far as the rollout has them."""
        reward = {"reference": reference, "scale": 100.0}
        model = tiny_model(toy, 2, reward, n_steps=n_steps, gamma=gamma).learn(2 * n_steps)
        buffer, evaluator = model.rollout_buffer, LinearProbeEvaluator(toy)
        masks = np.zeros((2, len(toy.candidates)), bool)
        gradients = []  # of the value after each step
        for batch, bits in zip(toy.batches, buffer.actions):
            masks[:, batch] = bits > 0
            gradients.append(100 * evaluator.credit(masks, 0))
        for t, batch in enumerate(toy.batches[:n_steps]):
            expected = np.zeros((2, len(batch)))
            for later in range(t, n_steps):
                gradient = gradients[later]
                if reference == "previous" and later > t:
                    gradient = gradient - gradients[later - 1]
                expected += gamma ** (later - t) * gradient[:, batch]
            assert buffer.credits[t] == pytest.approx(expected, rel=1e-4, abs=1e-5)
        if gamma == 1 and reference == "previous":  # that of the final selection
            final = gradients[-1][:, toy.batches[0]]
            assert buffer.credits[0] == pytest.approx(final, rel=1e-4, abs=1e-5)

    def test_of_single_environments_in_sb3s_vec_env(self, toy: FeatureBank) -> None:
        env = make_vec_env(lambda: SyntheticSelectionEnv(toy), n_envs=3)
        settings = {"batch_size": 8, "policy_kwargs": TINY, "device": "cpu"}
        model = CreditPPO(GRUPolicy, env, seed=0, **settings).learn(24)
        assert model.rollout_buffer.credits.any()

    @pytest.mark.parametrize("reward", ["paper", {"metric": "sensitivity", "scale": 100.0}])
    def test_of_other_rewards_is_left_to_the_critic(self, toy: FeatureBank, reward: object) -> None:
        """The derivative of the likelihood says nothing of another metric."""
        model = tiny_model(toy, reward=reward).learn(64)
        assert not model.rollout_buffer.credits.any()
        without = tiny_model(toy, reward=reward, credit="none").learn(64)
        assert (scores(model, toy) != scores(without, toy)).any()

    def test_the_first_step_follows_it(self, toy: FeatureBank) -> None:
        """With credit as advantage, a small step raises Σ c_i log-odds_i."""
        policy_kwargs = {**TINY, "optimizer_class": torch.optim.SGD}
        model = tiny_model(
            toy, 32, learning_rate=0.3, n_epochs=1, batch_size=8 * 32, policy_kwargs=policy_kwargs
        )
        env = SyntheticSelectionEnv(toy)
        rows = [env.reset(seed=0)[0]]
        rows += [env.step(np.zeros(8))[0] for _ in range(7)]
        observations = torch.tensor(np.stack(rows))
        before = model.policy.decide(observations)[0].detach().numpy()
        model.learn(8 * 32)
        after = model.policy.decide(observations)[0].detach().numpy()
        assert ((after - before) * model.rollout_buffer.credits.mean(1)).sum() > 0


@pytest.mark.parametrize("beta", [0.0, 0.9, -2.0])
def test_the_control_variate_keeps_the_expected_gradient(beta: float) -> None:
    """The mean over all rollouts of two environments is the gradient of the expected reward.

    The reward has interactions, which no first-order credit sees. The credit is that of the
    selection that was drawn.
    """
    p = np.array([0.57, 0.31, 0.75])
    linear = np.array([1.0, -0.5, 0.7])
    actions = np.array(list(np.ndindex(2, 2, 2)), float)  # (8, 3)
    a0, a1, a2 = actions.T
    chance = np.where(actions > 0, p, 1 - p).prod(1)
    rewards = actions @ linear + 0.4 * a0 * a1 - 0.3 * a1 * a2
    credits = linear + np.stack([0.4 * a1, 0.4 * a0 - 0.3 * a2, -0.3 * a1], axis=1)
    exact = (chance * rewards) @ (actions - p)

    keep_prob = torch.tensor(p)
    mean, square, plain_square = np.zeros(3), np.zeros(3), np.zeros(3)
    for i, j in np.ndindex(8, 8):
        pair = [i, j]
        advantages = torch.tensor(rewards[pair][None] - mean_of_others(rewards[pair][None]))
        others_credit = torch.tensor(mean_of_others(credits[pair][None]))
        bits = torch.tensor(actions[pair][None])
        rest, weight = control_variate(advantages, others_credit, bits, keep_prob, beta)
        score = rest[..., None] * (bits - keep_prob) + weight * keep_prob * (1 - keep_prob)
        gradient = score.mean((0, 1)).numpy()
        plain = 0.5 * (rewards[i] - rewards[j]) * (actions[i] - actions[j])
        mean += chance[i] * chance[j] * gradient
        square += chance[i] * chance[j] * gradient**2
        plain_square += chance[i] * chance[j] * plain**2
    assert mean == pytest.approx(exact, abs=1e-12)
    if beta == 0.9:  # and it is less noisy
        assert (square - mean**2).sum() < 0.75 * (plain_square - exact**2).sum()
    if beta == 0.0:
        assert square == pytest.approx(plain_square)


class WithoutCredit(Evaluator):
    """A linear probe that does not know its derivative, as a full retraining does not."""

    def __init__(self, bank: FeatureBank) -> None:
        super().__init__(bank)
        self.probe = LinearProbeEvaluator(bank, ridge=1.0)

    def evaluate(self, selections: np.ndarray, seed: int) -> Evaluations:
        return self.probe.evaluate(selections, seed)


class TestLearning:
    @pytest.mark.parametrize(
        ("credit", "has_credit"),
        [("advantage", True), ("control_variate", True), ("advantage", False)],
    )
    def test_finds_the_sound_candidates(self, credit: str, has_credit: bool) -> None:
        """Half of the pool has the wrong label."""
        bank = toy_bank(candidates_per_class=64, noise=0.6)
        evaluator = LinearProbeEvaluator(bank, ridge=1.0) if has_credit else WithoutCredit(bank)
        settings = {"credit": credit, "learning_rate": 4e-3, "device": "cpu"}
        policy_kwargs = {"width": 16, "n_layers": 1}
        is_sound = bank.candidates.flaw == 0
        reached = []
        for seed in range(3):
            env = SelectionVecEnv(bank, n_envs=16, evaluator=evaluator)
            env.seed(0)
            model = CreditPPO(
                TransformerPolicy, env, policy_kwargs=policy_kwargs, seed=seed, **settings
            )
            before = roc_auc_score(is_sound, scores(model, bank))
            model.learn(128 * (4 if has_credit else 8))
            reached.append(roc_auc_score(is_sound, scores(model, bank)))
        after = np.mean(reached)
        assert after > 0.75
        assert after > before + 0.1

    @pytest.mark.parametrize("budget", [0.2, 0.8])
    def test_keeps_the_budget(self, toy: FeatureBank, budget: float) -> None:
        settings = {"learning_rate": 2e-2, "batch_size": 32, "n_epochs": 10}
        model = tiny_model(toy, budget=budget, budget_weight=50.0, **settings).learn(32 * 4)
        assert scores(model, toy).mean() == pytest.approx(budget, abs=0.08)

    def test_same_seed_same_policy(self, toy: FeatureBank) -> None:
        first, again = (scores(tiny_model(toy).learn(32), toy) for _ in range(2))
        assert (first == again).all()

    def test_value_head_in_the_place_of_the_group(self, toy: FeatureBank) -> None:
        settings = {"group_baseline": False, "gae_lambda": 0.9, "vf_coef": 0.5}
        model = tiny_model(toy, credit="none", **settings).learn(32)
        assert "train/value_loss" in model.logger.name_to_value

    @pytest.mark.parametrize("n_steps", [8, 1])
    def test_exact_credit_needs_no_group(self, toy: FeatureBank, n_steps: int) -> None:
        model = tiny_model(toy, n_envs=1, n_steps=n_steps).learn(8)
        assert model.num_timesteps == 8


class TestSavedModels:
    @pytest.mark.parametrize("credit", CREDITS)
    @pytest.mark.parametrize("ratio", RATIOS)
    def test_learn_save_load(
        self, toy: FeatureBank, tmp_path: Path, credit: str, ratio: str
    ) -> None:
        model = tiny_model(toy, credit=credit, ratio=ratio, budget=0.4).learn(32)
        model.save(tmp_path / "model.zip")
        env = SelectionVecEnv(toy, n_envs=4)
        read = CreditPPO.load(tmp_path / "model.zip", env=env, device="cpu")
        assert (scores(model, toy) == scores(read, toy)).all()
        assert (read.credit, read.ratio, read.budget) == (credit, ratio, 0.4)
        read.learn(32)

    @pytest.mark.parametrize("credit", ["advantage", "control_variate"])
    def test_go_on_with_what_the_critic_knows(
        self, toy: FeatureBank, tmp_path: Path, credit: str
    ) -> None:
        model = tiny_model(toy, reward=NO_DERIVATIVE, credit=credit, gamma=0.0).learn(64)
        model.save(tmp_path / "model.zip")
        env = SelectionVecEnv(toy, n_envs=4, reward=NO_DERIVATIVE)
        vectors = []
        for one in (model, CreditPPO.load(tmp_path / "model.zip", env=env, device="cpu")):
            one.get_env().seed(5)
            one.set_random_seed(5)
            one.learn(32)
            vectors.append(torch.nn.utils.parameters_to_vector(one.policy.parameters()))
        assert torch.equal(*vectors)

    def test_removed_options_without_effect_are_dropped(
        self, toy: FeatureBank, tmp_path: Path
    ) -> None:
        removed = {"target_entropy": 0.0, "entropy_weight": 1.0}
        read = self.saved_with(toy, tmp_path, removed)
        assert not set(removed) & set(vars(read))

    @pytest.mark.parametrize(
        ("removed", "remedy"),
        [
            ({"target_entropy": 0.2, "entropy_weight": 1.0}, {"target_entropy": 0}),
            ({"ratio": "mean"}, {"ratio": "joint"}),
        ],
    )
    def test_removed_options_with_an_effect_are_refused(
        self,
        toy: FeatureBank,
        tmp_path: Path,
        removed: dict[str, object],
        remedy: dict[str, object],
    ) -> None:
        name, value = next(iter(removed.items()))
        message = f"{name}={value!r}, which CreditPPO no longer has"
        with pytest.raises(ValueError, match=message):
            self.saved_with(toy, tmp_path, removed)
        assert self.saved_with(toy, tmp_path, removed, **remedy).learn(32)

    @staticmethod
    def saved_with(
        bank: FeatureBank, directory: Path, attributes: dict[str, object], **kwargs: object
    ) -> CreditPPO:
        """Load a model that an earlier version saved with these attributes."""
        model = tiny_model(bank)
        vars(model).update(attributes)
        model.save(directory / "model.zip")
        env = SelectionVecEnv(bank, n_envs=4)
        return CreditPPO.load(directory / "model.zip", env=env, device="cpu", **kwargs)

    def test_earlier_versions_name_the_buffer_so(self) -> None:
        """Their models are read only while the class can be imported from here."""
        from agents.credit_ppo.credit_ppo import CreditRolloutBuffer

        assert CreditRolloutBuffer.__name__ == "CreditRolloutBuffer"


class TestErrors:
    @pytest.mark.parametrize(
        ("kwargs", "message"),
        [
            ({"credit": "exact"}, "unknown credit 'exact'"),
            ({"ratio": "mean"}, "unknown ratio 'mean'"),
            ({"batch_size": 0}, "batch_size must be at least 1"),
            ({"budget": 50}, "budget must lie between 0 and 1"),
            ({"target_kl": 0.01}, "CreditPPO has no target_kl"),
            ({"vf_coef": 0.5}, "vf_coef is about a learned value"),
        ],
    )
    def test_arguments(self, toy: FeatureBank, kwargs: dict[str, object], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            tiny_model(toy, **kwargs)

    @pytest.mark.parametrize(
        "kwargs",
        [
            {"credit": "none"},
            {"credit": "control_variate"},
            {"credit": "control_variate", "group_baseline": False},
            {"reward": NO_DERIVATIVE},
        ],
    )
    def test_one_selection_has_no_group(self, toy: FeatureBank, kwargs: dict[str, object]) -> None:
        with pytest.raises(ValueError, match="two environments or more"):
            tiny_model(toy, n_envs=1, **kwargs).learn(8)

    def test_normalised_observations(self, toy: FeatureBank) -> None:
        env = VecNormalize(SelectionVecEnv(toy, n_envs=2), norm_obs=True)
        with pytest.raises(ValueError, match="norm_obs=False"):
            CreditPPO(TransformerPolicy, env, policy_kwargs=TINY, device="cpu").learn(16)

    def test_other_policies(self, toy: FeatureBank) -> None:
        with pytest.raises(ValueError, match="not ActorCriticPolicy"):
            CreditPPO("MlpPolicy", SelectionVecEnv(toy, n_envs=2), batch_size=8, device="cpu")


def test_critic_finds_a_linear_reward() -> None:
    rng = np.random.default_rng(0)
    weights = rng.normal(size=6)
    critic = RidgeCritic()
    assert not critic.credit(rng.normal(size=(4, 10, 6))).any()
    for _ in range(5):
        rows = rng.normal(size=(4, 10, 6))
        actions = rng.integers(0, 2, (4, 8, 10))
        rewards = np.einsum("ten,tnd,d->te", actions, rows, weights)
        constants = rng.normal(size=(4, 1))  # a constant per batch does not matter
        critic.update(rows, actions, rewards + constants)
    assert critic.credit(rows) == pytest.approx(rows @ weights, abs=0.15)
