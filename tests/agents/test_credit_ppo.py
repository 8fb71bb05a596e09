"""CreditPPO: its credit against finite differences, its gradients against enumeration, its learning against PPO's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import configure
from stable_baselines3.common.vec_env import VecNormalize

from agents import CreditPPO, GRUPolicy, TransformerPolicy
from agents.credit_ppo import CREDITS, RATIOS, RidgeCritic
from agents.credit_ppo.credit_ppo import control_variate, mean_of_others
from agents.selectors import PolicySelector
from synthselect_env import FeatureBank, SelectionVecEnv, SyntheticSelectionEnv
from synthselect_env.bank.embedded import toy_bank
from synthselect_env.envs.rewards import BASELINES
from synthselect_env.evaluators import Evaluations, Evaluator, LinearProbeEvaluator

TINY = {"width": 8}


def tiny_model(bank: FeatureBank, n_envs: int = 4, **kwargs):
    kwargs = {"batch_size": 16, "policy_kwargs": TINY, "seed": 0, "device": "cpu"} | kwargs
    return CreditPPO(TransformerPolicy, SelectionVecEnv(bank, n_envs=n_envs), **kwargs)


def rollout(model: CreditPPO) -> None:
    model._ask()
    _, callback = model._setup_learn(model.n_steps * model.n_envs)
    model.collect_rollouts(model.env, callback, model.rollout_buffer, model.n_steps)


@pytest.mark.parametrize("baseline", BASELINES)
def test_the_environment_says_what_each_decision_was_worth(
    small: FeatureBank, baseline: str
) -> None:
    """Padding is worth nothing, and the last step's credit outlives the episode."""
    env, rng = (
        SelectionVecEnv(small, n_envs=2, reward={"baseline": baseline, "scale": 100.0}),
        np.random.default_rng(0),
    )
    env.seed(0)
    env.reset()
    masks, before = np.zeros((2, 26), bool), np.zeros((2, 26))
    for t, batch in enumerate(small.batches):
        bits = rng.integers(0, 2, (2, env.action_space.n))
        masks[:, batch] = bits[:, : len(batch)] > 0
        env.step(bits)
        credit = env.credit()
        after = 100 * LinearProbeEvaluator(small).credit(masks, 0)
        assert credit.shape == (2, t + 1, env.action_space.n)
        for s, earlier in enumerate(small.batches[: t + 1]):
            expected = after[:, earlier] - (
                before[:, earlier] if baseline == "previous" and s < t else 0
            )
            assert credit[:, s, : len(earlier)] == pytest.approx(expected, rel=1e-9, abs=1e-12)
            assert not credit[:, s, len(earlier) :].any()
        before = after
    single = SyntheticSelectionEnv(small)
    single.reset(seed=0)
    with pytest.raises(Exception, match="nothing has been decided"):
        single.credit()


@pytest.mark.parametrize("gamma", [0.0, 0.7, 1.0])
@pytest.mark.parametrize("baseline", BASELINES)
@pytest.mark.parametrize("n_steps", [8, 5])
def test_a_decision_is_credited_with_its_part_in_the_return(
    toy: FeatureBank, gamma: float, baseline: str, n_steps: int
) -> None:
    """Discounted rewards of the rest of the episode, as far as the rollout has them; an oracle that takes each selection's credit anew."""
    env = SelectionVecEnv(toy, n_envs=2, reward={"baseline": baseline, "scale": 100.0})
    model = CreditPPO(
        TransformerPolicy,
        env,
        n_steps=n_steps,
        gamma=gamma,
        policy_kwargs=TINY,
        seed=0,
        device="cpu",
    )
    rollout(model)
    buffer, evaluator = model.rollout_buffer, LinearProbeEvaluator(toy)
    masks, worth = np.zeros((2, len(toy.candidates)), bool), []
    for batch, bits in zip(toy.batches, buffer.actions):
        masks[:, batch] = bits > 0
        worth.append(100 * evaluator.credit(masks, 0))
    for t, batch in enumerate(toy.batches[:n_steps]):
        expected = np.zeros((2, len(batch)))
        for later in range(t, n_steps):
            reward = worth[later] - (
                worth[later - 1] if baseline == "previous" and later > t else 0
            )
            expected += gamma ** (later - t) * reward[:, batch]
        assert buffer.credits[t] == pytest.approx(expected, rel=1e-4, abs=1e-5)
    if gamma == 1 and baseline == "previous":
        assert buffer.credits[0] == pytest.approx(
            worth[-1][:, toy.batches[0]], rel=1e-4, abs=1e-5
        )  # of the final selection


@pytest.mark.parametrize("credit", CREDITS)
@pytest.mark.parametrize("ratio", RATIOS)
def test_learn_save_load(toy: FeatureBank, tmp_path: Path, credit: str, ratio: str) -> None:
    model = tiny_model(toy, credit=credit, ratio=ratio, budget=0.4).learn(64)
    model.save(tmp_path / "model.zip")
    read = CreditPPO.load(tmp_path / "model.zip", env=SelectionVecEnv(toy, n_envs=4), device="cpu")
    assert (
        PolicySelector(model).select(toy, 0).scores == PolicySelector(read).select(toy, 0).scores
    ).all()
    assert (read.credit, read.ratio, read.budget) == (credit, ratio, 0.4)
    read.learn(32)


def test_removed_options_of_saved_models(toy: FeatureBank, tmp_path: Path) -> None:
    """A model saved by an earlier version is read where they had no effect, and refused where they had one."""
    path, env = tmp_path / "model.zip", SelectionVecEnv(toy, n_envs=4)
    for removed, message in (
        ({"target_entropy": 0.0, "entropy_weight": 1.0}, None),
        (
            {"target_entropy": 0.2, "entropy_weight": 1.0},
            "target_entropy=0.2, which CreditPPO no longer has",
        ),
        ({"ratio": "mean"}, "ratio='mean', which CreditPPO no longer has"),
    ):
        model = tiny_model(toy)
        vars(model).update(removed)
        model.save(path)
        if message is None:
            assert not set(removed) & set(vars(CreditPPO.load(path, env=env, device="cpu")))
            continue
        with pytest.raises(ValueError, match=message):
            CreditPPO.load(path, env=env, device="cpu")
    assert CreditPPO.load(path, env=env, device="cpu", ratio="joint").ratio == "joint"


def test_same_seed_same_policy(toy: FeatureBank) -> None:
    first, again = (
        PolicySelector(tiny_model(toy).learn(64)).select(toy, 0).scores for _ in range(2)
    )
    assert (first == again).all()


def test_single_environments_in_sb3s_own_vec_env(toy: FeatureBank) -> None:
    env = make_vec_env(lambda: SyntheticSelectionEnv(toy), n_envs=3)
    model = CreditPPO(GRUPolicy, env, batch_size=8, policy_kwargs=TINY, seed=0, device="cpu").learn(
        24
    )
    rollout(model)
    assert model.rollout_buffer.credits.any()


@pytest.mark.parametrize("beta", [0.0, 0.9, -2.0])
def test_the_control_variate_keeps_the_expected_gradient(beta: float) -> None:
    """The mean gradient over all rollouts of two environments is that of the expected reward, worked out over all actions.

    The reward has interactions that no first-order credit sees, and the credit is that of the selection that was drawn.
    """
    p, worth = np.array([0.57, 0.31, 0.75]), np.array([1.0, -0.5, 0.7])
    actions = [np.array(bits, float) for bits in np.ndindex(2, 2, 2)]
    chance = [float(np.prod(np.where(a, p, 1 - p))) for a in actions]
    rewards = [float(a @ worth + 0.4 * a[0] * a[1] - 0.3 * a[1] * a[2]) for a in actions]
    credits = [
        worth + np.array([0.4 * a[1], 0.4 * a[0] - 0.3 * a[2], -0.3 * a[1]]) for a in actions
    ]
    exact = sum(c * r * (a - p) for c, r, a in zip(chance, rewards, actions))

    mean, square = np.zeros(3), np.zeros(3)
    for i in range(8):
        for j in range(8):
            pair, weight = [i, j], chance[i] * chance[j]
            returns, worths = (
                np.array([[rewards[k] for k in pair]]),
                np.array([[credits[k] for k in pair]]),
            )
            bits = torch.tensor(np.array([[actions[k] for k in pair]]))
            gain = torch.tensor(returns - mean_of_others(returns))
            rest, expected = control_variate(
                gain, torch.tensor(mean_of_others(worths)), bits, torch.tensor(p), beta
            )
            gradient = (
                (rest[..., None] * (bits - torch.tensor(p)) + expected * torch.tensor(p * (1 - p)))
                .mean((0, 1))
                .numpy()
            )
            mean, square = mean + weight * gradient, square + weight * gradient**2
    assert mean == pytest.approx(exact, abs=1e-12)
    plain = sum(
        ci * cj * (0.5 * (ri - rj) * (ai - aj)) ** 2
        for ci, ri, ai in zip(chance, rewards, actions)
        for cj, rj, aj in zip(chance, rewards, actions)
    )
    if beta == 0.9:
        assert (square - mean**2).sum() < 0.75 * (plain - exact**2).sum()  # and it is less noisy
    if beta == 0.0:
        assert square == pytest.approx(plain)


def test_the_first_step_follows_the_credit(toy: FeatureBank) -> None:
    """With the credit as advantage, a small step of gradient ascent raises ``Σ c_i log-odds_i``, whatever the rewards were."""
    model = tiny_model(toy, n_envs=32, n_epochs=1)
    model.batch_size = 8 * 32
    rollout(model)
    buffer = model.rollout_buffer
    rows = torch.as_tensor(buffer.observations[:, 0])
    before = model.policy.decide(rows)[0].detach()
    model._logger = configure(None, [])
    model.policy.optimizer = torch.optim.SGD(model.policy.parameters(), lr=0.3)
    model.train()
    moved = (model.policy.decide(rows)[0].detach() - before).numpy()
    worth = buffer.credits.mean(1)
    assert (moved * worth).sum() > 0


@pytest.mark.parametrize("budget", [0.2, 0.8])
def test_budget_is_kept(toy: FeatureBank, budget: float) -> None:
    model = tiny_model(toy, n_envs=8, budget=budget, budget_weight=50.0, learning_rate=1e-2).learn(
        64 * 12
    )
    assert PolicySelector(model).select(toy, 0).scores.mean() == pytest.approx(budget, abs=0.08)


class Secretive(Evaluator):
    """The linear probe without its credit, as a full retraining has none."""

    def __init__(self, bank: FeatureBank) -> None:
        super().__init__(bank)
        self.probe = LinearProbeEvaluator(bank, ridge=1.0)

    def evaluate_on(self, selections, seed, *splits) -> list[Evaluations]:
        return self.probe.evaluate_on(selections, seed, *splits)


@pytest.mark.parametrize(
    ("credit", "secret"), [("advantage", False), ("control_variate", False), ("advantage", True)]
)
def test_finds_the_sound_candidates(credit: str, secret: bool) -> None:
    bank = toy_bank(candidates_per_class=64, noise=0.6)
    evaluator = Secretive(bank) if secret else LinearProbeEvaluator(bank, ridge=1.0)
    env = SelectionVecEnv(bank, n_envs=16, evaluator=evaluator)
    env.seed(0)
    model = CreditPPO(
        TransformerPolicy,
        env,
        learning_rate=2e-3,
        credit=credit,
        policy_kwargs={"width": 16},
        seed=0,
        device="cpu",
    )
    before = roc_auc_score(bank.candidates.flaw == 0, PolicySelector(model).select(bank, 0).scores)
    model.learn(128 * (40 if secret else 5))
    after = roc_auc_score(bank.candidates.flaw == 0, PolicySelector(model).select(bank, 0).scores)
    assert after > 0.75 and after > before + 0.1


def test_a_reward_without_a_derivative_is_left_to_the_critic(toy: FeatureBank) -> None:
    """The derivative of the likelihood says nothing of another metric."""
    weights = []
    for reward in ("log_likelihood_gain", "paper", {"metric": "sensitivity", "scale": 100.0}):
        model = CreditPPO(
            TransformerPolicy,
            SelectionVecEnv(toy, n_envs=8, reward=reward),
            policy_kwargs=TINY,
            seed=0,
            device="cpu",
        ).learn(128)
        assert (model._critic is None) == (reward == "log_likelihood_gain")
        weights.append(PolicySelector(model).select(toy, 0).scores)
    assert all((a != b).any() for a, b in zip(weights, weights[1:]))


@pytest.mark.parametrize("credit", ["advantage", "control_variate"])
def test_goes_on_after_loading_as_if_it_had_not_been_saved(
    toy: FeatureBank, credit: str, tmp_path: Path
) -> None:
    """With what the critic knows."""
    env = SelectionVecEnv(toy, n_envs=4, reward={"metric": "accuracy"})  # no derivative
    model = CreditPPO(
        TransformerPolicy, env, credit=credit, gamma=0.0, policy_kwargs=TINY, seed=0, device="cpu"
    ).learn(64)
    model.save(tmp_path / "model.zip")
    policies = []
    for one in (model, CreditPPO.load(tmp_path / "model.zip", env=env, device="cpu")):
        assert one._critic is not None
        env.seed(5)
        one.set_random_seed(5)
        one._last_obs = None
        one.learn(32, reset_num_timesteps=False)
        policies.append(torch.nn.utils.parameters_to_vector(one.policy.parameters()))
    assert torch.equal(*policies)


def test_normalised_observations_are_refused(toy: FeatureBank) -> None:
    env = VecNormalize(SelectionVecEnv(toy, n_envs=2), norm_obs=True)
    with pytest.raises(ValueError, match="norm_obs=False"):
        CreditPPO(TransformerPolicy, env, policy_kwargs=TINY, device="cpu").learn(16)


def test_exact_credit_needs_no_group(toy: FeatureBank) -> None:
    for n_steps in (8, 1):  # an update from a single step, too
        assert tiny_model(toy, n_envs=1, n_steps=n_steps).learn(8).num_timesteps == 8


def test_one_selection_has_no_group(toy: FeatureBank) -> None:
    for others in (
        {"credit": "none"},
        {"credit": "control_variate"},
        {"group_baseline": False, "credit": "control_variate"},
    ):
        with pytest.raises(ValueError, match="two environments or more"):
            tiny_model(toy, n_envs=1, **others).learn(8)


def test_critic_finds_a_linear_reward() -> None:
    rng = np.random.default_rng(0)
    w, critic = rng.normal(size=6), RidgeCritic()
    for _ in range(5):
        rows, kept = rng.normal(size=(4, 10, 6)), rng.integers(0, 2, (4, 8, 10))
        critic.update(
            rows, kept, np.einsum("ten,tnd,d->te", kept, rows, w) + rng.normal(size=(4, 1))
        )  # a constant a batch does not matter
    assert critic.credit(rows) == pytest.approx(rows @ w, abs=0.15)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"credit": "exact"}, "unknown credit 'exact'"),
        ({"ratio": "mean"}, "unknown ratio 'mean'"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"budget": 50}, "budget must lie between 0 and 1"),
        ({"target_kl": 0.01}, "CreditPPO has no target_kl"),
    ],
)
def test_errors(toy: FeatureBank, kwargs: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny_model(toy, **kwargs)


def test_needs_a_policy_over_a_controller(toy: FeatureBank) -> None:
    with pytest.raises(ValueError, match="not ActorCriticPolicy"):
        CreditPPO("MlpPolicy", SelectionVecEnv(toy, n_envs=2), batch_size=8, device="cpu")
