"""Policies over a controller, trained by SB3's algorithms."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.base_class import BaseAlgorithm

from agents import REINFORCE, GRUAttentionPolicy, GRUPolicy, TransformerPolicy
from agents.controllers import GRUController
from agents.policies import SelectionPolicy, distinct
from agents.selectors import PolicySelector
from synthselect_env import FeatureBank, SelectionVecEnv, SyntheticSelectionEnv
from synthselect_env.bank.embedded import toy_bank

TINY = {"width": 8, "n_layers": 1}
POLICIES = [TransformerPolicy, GRUPolicy, GRUAttentionPolicy]


def tiny_model(
    bank: FeatureBank,
    algorithm: type[BaseAlgorithm] = PPO,
    policy: type[SelectionPolicy] = TransformerPolicy,
    **kwargs: object,
) -> BaseAlgorithm:
    settings = {"n_steps": 8, "policy_kwargs": TINY, "seed": 0, "device": "cpu"}
    if algorithm is PPO:
        settings |= {"batch_size": 16, "n_epochs": 2}
    return algorithm(policy, SelectionVecEnv(bank, n_envs=4), **{**settings, **kwargs})


def first_batch(bank: FeatureBank) -> torch.Tensor:
    observation, _ = SyntheticSelectionEnv(bank).reset(seed=0)
    return torch.from_numpy(observation)[None]


@pytest.mark.parametrize("policy", POLICIES)
def test_distributions_can_be_differentiated_twice(
    toy: FeatureBank, policy: type[SelectionPolicy]
) -> None:
    """TRPO needs it."""
    network = tiny_model(toy, policy=policy).policy
    entropy = network.get_distribution(first_batch(toy)).entropy().sum()
    parameters = [p for name, p in network.named_parameters() if "value_net" not in name]
    first = torch.autograd.grad(entropy, parameters, create_graph=True, allow_unused=True)
    sum(g.pow(2).sum() for g in first if g is not None).backward()
    assert any(p.grad is not None and p.grad.any() for p in parameters)


def test_distinct_observations() -> None:
    base = torch.randn(3, 4, 9, generator=torch.Generator().manual_seed(0))
    mixed = base[[2, 0, 0, 1, 2]]
    unique, inverse = distinct(mixed)
    assert len(unique) == 3
    assert torch.equal(unique[inverse], mixed)
    clash = base[:2].clone()
    clash[1, :, :8] = clash[0, :, :8]  # the same key, but other rows
    unique, inverse = distinct(clash)
    assert torch.equal(unique[inverse], clash)


def test_a_decision_is_a_linear_layer_on_its_state(toy: FeatureBank) -> None:
    policy = tiny_model(toy).policy
    observations = first_batch(toy).repeat(2, 1, 1)
    actions, values, log_prob = policy(observations)
    assert (actions.shape, values.shape, log_prob.shape) == ((2, 8), (2, 1), (2,))
    p = policy.keep_probabilities(observations)
    expected = torch.where(actions > 0, p, 1 - p).log().sum(1)
    assert log_prob.detach() == pytest.approx(expected, abs=1e-5)
    assert sum(w.numel() for w in policy.action_net.parameters()) == 8 + 1


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_initial_selection_rate(toy: FeatureBank, rate: float) -> None:
    policy = tiny_model(toy, policy_kwargs={**TINY, "initial_rate": rate}).policy
    mean = policy.keep_probabilities(first_batch(toy)).mean().item()
    assert mean == pytest.approx(rate, abs=0.05)


@pytest.mark.parametrize(
    ("algorithm", "policy"),
    [(PPO, policy) for policy in POLICIES] + [(A2C, GRUPolicy), (REINFORCE, TransformerPolicy)],
)
def test_learn_save_load_predict(
    toy: FeatureBank,
    tmp_path: Path,
    algorithm: type[BaseAlgorithm],
    policy: type[SelectionPolicy],
) -> None:
    model = tiny_model(toy, algorithm, policy).learn(32)
    model.save(tmp_path / "model.zip")
    read = algorithm.load(tmp_path / "model.zip", env=SelectionVecEnv(toy, n_envs=4), device="cpu")
    observation = first_batch(toy)[0].numpy()
    for deterministic in (True, False):
        predicted = []
        for one in (model, read):
            torch.manual_seed(0)
            predicted.append(one.predict(observation, deterministic=deterministic)[0])
        first, again = predicted
        assert (first == again).all()
        assert first.shape == (8,)
        assert set(np.unique(first)) <= {0, 1}
    scores, again = (PolicySelector(one).select(toy, 0).scores for one in (model, read))
    assert (scores == again).all()
    read.learn(32)


@pytest.mark.parametrize("controller_kwargs", [{}, {"width": 8}])
def test_policies_are_saved_by_themselves(
    toy: FeatureBank, tmp_path: Path, controller_kwargs: dict[str, int]
) -> None:
    """Also a user's own, which takes its controller's options as a dictionary."""

    class Own(SelectionPolicy):
        controller_class = GRUController

    policy_class = Own if controller_kwargs else TransformerPolicy
    options = {"controller_kwargs": controller_kwargs} if controller_kwargs else TINY
    policy = tiny_model(toy, policy=policy_class, policy_kwargs=options).policy
    policy.save(tmp_path / "policy.zip")
    read = policy_class.load(tmp_path / "policy.zip", device="cpu")
    rows = first_batch(toy)
    assert torch.equal(read.keep_probabilities(rows), policy.keep_probabilities(rows))


@pytest.mark.parametrize("policy", POLICIES)
def test_first_ratio_is_one(toy: FeatureBank, policy: type[SelectionPolicy]) -> None:
    """PPO's clipping needs the same log-probabilities in collection and update."""
    model = tiny_model(toy, policy=policy).learn(32)
    old = next(model.rollout_buffer.get(32))
    log_probs = []
    for training in (False, True):
        model.policy.set_training_mode(training)
        _, log_prob, _ = model.policy.evaluate_actions(old.observations, old.actions)
        log_probs.append(log_prob)
    assert torch.allclose(*log_probs, atol=1e-5)


@pytest.mark.slow
def test_same_seed_same_policy() -> None:
    """Large enough for torch to split over threads: sums do not depend on which comes first."""
    bank = toy_bank(candidates_per_class=256, n_features=64)
    settings = {"policy_kwargs": {"width": 32}, "batch_size": 32}
    models = [tiny_model(bank, **settings).learn(64) for _ in range(3)]
    first, *others = (PolicySelector(model).select(bank, 0).scores for model in models)
    for scores in others:
        assert (first == scores).all()


def test_ppo_finds_the_sound_candidates() -> None:
    """Half of the pool has the wrong label. The policy learns which from rewards alone."""
    bank = toy_bank(candidates_per_class=64, noise=0.6)
    probe = {"evaluator": "linear_probe", "evaluator_kwargs": {"ridge": 1.0}}
    env = SelectionVecEnv(bank, n_envs=16, **probe)
    env.seed(0)
    settings = {"batch_size": 64, "n_epochs": 4, "learning_rate": 6e-3, "gamma": 0.0}
    policy_kwargs = {"width": 16, "n_layers": 1}
    model = PPO(
        TransformerPolicy,
        env,
        n_steps=8,
        policy_kwargs=policy_kwargs,
        seed=0,
        device="cpu",
        **settings,
    )
    is_sound = bank.candidates.flaw == 0
    before = roc_auc_score(is_sound, PolicySelector(model).select(bank, 0).scores)
    model.learn(128 * 8)
    after = roc_auc_score(is_sound, PolicySelector(model).select(bank, 0).scores)
    assert after > 0.8
    assert after > before + 0.1


@pytest.mark.parametrize(
    ("policy", "options", "error", "message"),
    [
        (TransformerPolicy, {"controller_kwargs": {}}, TypeError, "controller_kwargs"),
        (GRUPolicy, {"width": 7, "bidirectional": True}, ValueError, "need an even one"),
        (TransformerPolicy, {"initial_rate": 1.0}, ValueError, "initial_rate must lie"),
        (TransformerPolicy, {"net_arch": [256]}, ValueError, "takes the place of net_arch"),
    ],
)
def test_options_that_are_refused(
    toy: FeatureBank,
    policy: type[SelectionPolicy],
    options: dict[str, object],
    error: type[Exception],
    message: str,
) -> None:
    with pytest.raises(error, match=message):
        tiny_model(toy, policy=policy, policy_kwargs=options)


def test_other_environments_are_refused() -> None:
    with pytest.raises(ValueError, match="answers MultiBinary"):
        PPO(TransformerPolicy, "CartPole-v1", device="cpu")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_trains_on_cuda(toy: FeatureBank) -> None:
    model = tiny_model(toy, device="auto").learn(64)
    assert model.device.type == "cuda"
    assert len(PolicySelector(model).select(toy, 0)) == 64
