from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from stable_baselines3 import A2C, DQN, PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import VecNormalize

from agents import REINFORCE, GRUAttentionPolicy, GRUPolicy, TransformerPolicy
from agents.controllers import GRUAttentionController, GRUController, TransformerController
from agents.controllers.transformer import sinusoidal_positions
from agents.policies import SelectionPolicy, distinct
from agents.report import read_history
from agents.runs import SelectionMetrics, run_logger
from agents.selectors import SELECTORS, PolicySelector, TrainingSelector, mask_of_episode
from synthselect_env import FeatureBank, SelectionVecEnv, SyntheticSelectionEnv
from synthselect_env.bank.embedded import toy_bank
from synthselect_env.envs.wrappers import PerCandidateWrapper

TINY = {"width": 8, "n_layers": 1}


POLICIES = [TransformerPolicy, GRUPolicy, GRUAttentionPolicy]


def tiny_model(bank: FeatureBank, algorithm=PPO, policy=TransformerPolicy, **kwargs):
    kwargs = (
        {"n_steps": 8, "policy_kwargs": TINY, "seed": 0, "device": "cpu"}
        | ({"batch_size": 16} if algorithm is PPO else {})
        | kwargs
    )
    return algorithm(policy, SelectionVecEnv(bank, n_envs=4), **kwargs)


def test_attention_by_hand() -> None:
    """One layer of the controller against softmax(QKᵀ/√d)V written out."""
    controller = TransformerController(5, width=8, n_layers=1, n_heads=2).double().eval()
    x = torch.randn(2, 6, 5, generator=torch.Generator().manual_seed(0)).double()
    layer = controller.encoder.layers[0]
    h = controller.project(x) + sinusoidal_positions(6, 8, x.device).double()
    q, k, v = torch.nn.functional.linear(
        layer.norm1(h), layer.self_attn.in_proj_weight, layer.self_attn.in_proj_bias
    ).chunk(3, dim=2)
    heads = [
        torch.softmax(q[..., s] @ k[..., s].transpose(1, 2) / 2.0, dim=2) @ v[..., s]
        for s in (slice(0, 4), slice(4, 8))
    ]  # √4 = 2
    h = h + layer.self_attn.out_proj(torch.cat(heads, dim=2))
    h = h + layer.linear2(torch.nn.functional.gelu(layer.linear1(layer.norm2(h))))
    states, pooled = controller(x)
    assert torch.allclose(states, controller.encoder.norm(h), atol=1e-6)
    assert torch.allclose(pooled, states.mean(1))


def test_positions() -> None:
    table = sinusoidal_positions(3, 4, torch.device("cpu"))
    assert table[2].tolist() == pytest.approx(
        [np.sin(2), np.cos(2), np.sin(0.02), np.cos(0.02)], abs=1e-6
    )
    with pytest.raises(ValueError, match="not a multiple"):
        TransformerController(5, width=6, n_heads=2)


def test_rank_is_all_that_breaks_equivariance() -> None:
    controller = TransformerController(5, width=8).eval()
    x = torch.randn(1, 7, 5, generator=torch.Generator().manual_seed(0))
    order = torch.tensor([3, 1, 0, 2, 6, 5, 4])
    assert not torch.allclose(controller(x)[0][:, order], controller(x[:, order])[0], atol=1e-4)
    project = controller.project
    positions = sinusoidal_positions(7, 8, x.device)
    controller.project = torch.nn.Identity()
    a, b = (
        controller(project(x)[:, o] - positions)[0] for o in (slice(None), order)
    )  # the positions taken off again
    assert torch.allclose(a[:, order], b, atol=1e-5)


@pytest.mark.parametrize("bidirectional", [False, True])
def test_gated_recurrence_by_hand(bidirectional: bool) -> None:
    """The controllers against the equations of Cho et al. (2014) and Luong et al. (2015) written out."""
    plain, attentive = (
        c(5, width=6, bidirectional=bidirectional).double()
        for c in (GRUController, GRUAttentionController)
    )
    attentive.load_state_dict(plain.state_dict(), strict=False)
    x = torch.randn(2, 7, 5, generator=torch.Generator().manual_seed(0)).double()
    inputs = plain.project(x)

    def unroll(inputs: torch.Tensor, suffix: str) -> torch.Tensor:
        w_in, w_h, b_in, b_h = (
            getattr(plain.recurrence, f"{name}_l0{suffix}")
            for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        )
        h, states = torch.zeros(2, w_h.shape[1], dtype=torch.float64), []
        for t in range(7):
            (r_i, z_i, n_i), (r_h, z_h, n_h) = (
                (inputs[:, t] @ w_in.T + b_in).chunk(3, 1),
                (h @ w_h.T + b_h).chunk(3, 1),
            )
            r, z = (r_i + r_h).sigmoid(), (z_i + z_h).sigmoid()
            h = (1 - z) * (n_i + r * n_h).tanh() + z * h
            states.append(h)
        return torch.stack(states, dim=1)

    expected = unroll(inputs, "")
    if bidirectional:
        expected = torch.cat([expected, unroll(inputs.flip(1), "_reverse").flip(1)], dim=2)
    states, pooled = plain(x)
    assert torch.allclose(states, expected) and torch.allclose(pooled, expected.mean(1))
    weights = torch.softmax(
        torch.einsum("bih,gh,bjg->bij", expected, attentive.score.weight, expected) / 6**0.5, dim=2
    )
    attended = torch.tanh(attentive.combine(torch.cat([expected, weights @ expected], dim=2)))
    assert torch.allclose(attentive(x)[0], attended)


@pytest.mark.parametrize("policy", POLICIES)
def test_distributions_can_be_differentiated_twice(toy: FeatureBank, policy: type) -> None:
    """Which TRPO needs."""
    policy = tiny_model(toy, policy=policy).policy
    distribution = policy.get_distribution(torch.from_numpy(toy_env_observation(toy))[None])
    parameters = [p for name, p in policy.named_parameters() if "value_net" not in name]
    first = torch.autograd.grad(
        distribution.entropy().sum(), parameters, create_graph=True, allow_unused=True
    )
    sum(g.pow(2).sum() for g in first if g is not None).backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in parameters)


def test_distinct_observations() -> None:
    base = torch.randn(3, 4, 9, generator=torch.Generator().manual_seed(0))
    mixed = base[[2, 0, 0, 1, 2]]
    unique, inverse = distinct(mixed)
    assert len(unique) == 3 and torch.equal(unique[inverse], mixed)
    clash = base[:2].clone()
    clash[1, :, :8] = clash[0, :, :8]  # same key, different rows
    unique, inverse = distinct(clash)
    assert torch.equal(unique[inverse], clash)


def test_one_decision_is_one_linear_layer_on_its_state(toy: FeatureBank) -> None:
    policy = tiny_model(toy).policy
    observations = torch.from_numpy(np.stack([toy_env_observation(toy)] * 2))
    actions, values, log_prob = policy(observations)
    assert actions.shape == (2, 8) and values.shape == (2, 1) and log_prob.shape == (2,)
    p = policy.keep_probabilities(observations)
    assert p == pytest.approx(torch.full((2, 8), 0.5), abs=0.05)  # initial selection rate
    expected = torch.where(actions > 0, p, 1 - p).log().sum(1)
    assert log_prob.detach() == pytest.approx(expected, abs=1e-5)
    assert sum(w.numel() for w in policy.action_net.parameters()) == 8 + 1


def toy_env_observation(bank: FeatureBank) -> np.ndarray:
    return SyntheticSelectionEnv(bank).reset(seed=0)[0]


@pytest.mark.parametrize("rate", [0.1, 0.9])
def test_initial_selection_rate(toy: FeatureBank, rate: float) -> None:
    model = tiny_model(toy, policy_kwargs={**TINY, "initial_rate": rate})
    assert model.policy.keep_probabilities(
        torch.zeros(1, 8, model.policy.features_dim)
    ).mean().item() == pytest.approx(rate, abs=0.05)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("algorithm", [PPO, A2C, REINFORCE])
def test_learn_save_load_predict(
    toy: FeatureBank, tmp_path: Path, algorithm: type, policy: type
) -> None:
    model = tiny_model(toy, algorithm, policy).learn(64)
    model.save(tmp_path / "model.zip")
    read = algorithm.load(tmp_path / "model.zip", env=SelectionVecEnv(toy, n_envs=4), device="cpu")
    observation = toy_env_observation(toy)
    for deterministic in (True, False):
        torch.random.default_generator.manual_seed(0)
        first = model.predict(observation, deterministic=deterministic)[0]
        torch.random.default_generator.manual_seed(0)
        assert (first == read.predict(observation, deterministic=deterministic)[0]).all()
    assert first.shape == (8,) and set(np.unique(first)) <= {0, 1}
    assert (
        PolicySelector(model).select(toy, 0).scores == PolicySelector(read).select(toy, 0).scores
    ).all()
    read.learn(32)


def test_same_seed_same_policy(toy: FeatureBank) -> None:
    first, again = (
        PolicySelector(tiny_model(toy).learn(64)).select(toy, 0).scores for _ in range(2)
    )
    assert (first == again).all()


@pytest.mark.parametrize("policy", POLICIES)
def test_first_ratio_is_one(toy: FeatureBank, policy: type) -> None:
    """What PPO's clipping rests on: log-probabilities do not change between collection and update."""
    model = tiny_model(toy, policy=policy)
    model.learn(32)
    buffer = model.rollout_buffer
    old = next(buffer.get(32))
    _, log_prob, _ = model.policy.evaluate_actions(old.observations, old.actions)
    model.policy.set_training_mode(True)
    _, training, _ = model.policy.evaluate_actions(old.observations, old.actions)
    assert torch.allclose(log_prob, training, atol=1e-5)


def test_ppo_finds_the_sound_candidates() -> None:
    """Known truth: half of the pool has the wrong label, and the policy must learn which from rewards alone."""
    bank = toy_bank(candidates_per_class=64, noise=0.6)
    env = SelectionVecEnv(
        bank, n_envs=16, evaluator="linear_probe", evaluator_kwargs={"ridge": 1.0}
    )
    env.seed(0)
    model = PPO(
        TransformerPolicy,
        env,
        n_steps=8,
        batch_size=64,
        n_epochs=4,
        learning_rate=2e-3,
        gamma=0.0,
        policy_kwargs={"width": 16},
        seed=0,
        device="cpu",
    )
    before = roc_auc_score(bank.candidates.flaw == 0, PolicySelector(model).select(bank, 0).scores)
    model.learn(128 * 60)
    after = roc_auc_score(bank.candidates.flaw == 0, PolicySelector(model).select(bank, 0).scores)
    assert after > 0.8 and after > before + 0.1


@pytest.mark.parametrize("policy", POLICIES)
def test_reads_batches_of_another_size(toy: FeatureBank, small: FeatureBank, policy: type) -> None:
    selection = PolicySelector(tiny_model(toy, policy=policy)).select(small, 0)
    assert len(selection) == 26 and ((selection.scores > 0) & (selection.scores < 1)).all()


def test_shows_the_pool_as_in_training(toy: FeatureBank) -> None:
    model = PPO(
        TransformerPolicy,
        SelectionVecEnv(toy, n_envs=2, n_batches=4),
        n_steps=4,
        batch_size=8,
        policy_kwargs=TINY,
        device="cpu",
    )
    assert (
        PolicySelector(model).select(toy, 0).scores
        == PolicySelector(model, n_batches=4).select(toy, 0).scores
    ).all()
    assert (
        PolicySelector(model).select(toy, 0).scores
        != PolicySelector(model, n_batches=8).select(toy, 0).scores
    ).any()


@pytest.mark.parametrize("n_batches", [*range(2, 21), 33, 64])
def test_shows_batches_of_the_size_in_training(toy: FeatureBank, n_batches: int) -> None:
    """64 candidates do not divide evenly into most numbers of batches."""
    env = SelectionVecEnv(toy, n_envs=1, n_batches=n_batches)
    model = PPO(TransformerPolicy, env, n_steps=2, batch_size=2, policy_kwargs=TINY, device="cpu")
    shown = toy.make_batches(PolicySelector(model)._default_batches(toy))
    assert max(map(len, shown)) == env.observation_space.shape[0]


def test_policy_errors(toy: FeatureBank) -> None:
    wider = toy_bank(n_features=9)
    with pytest.raises(ValueError, match="same extractor"):
        PolicySelector(tiny_model(toy)).select(wider, 0)
    with pytest.raises(ValueError, match="not ActorCriticPolicy"):
        PolicySelector(PPO("MlpPolicy", "CartPole-v1", device="cpu"))
    with pytest.raises(ValueError, match="answers MultiBinary"):
        PPO(TransformerPolicy, "CartPole-v1", device="cpu")
    with pytest.raises(TypeError, match="controller_kwargs"):
        tiny_model(toy, policy_kwargs={"controller_kwargs": {"width": 8}})
    with pytest.raises(ValueError, match="two directions need an even one"):
        tiny_model(toy, policy=GRUPolicy, policy_kwargs={"width": 7, "bidirectional": True})
    with pytest.raises(ValueError, match="initial_rate must lie"):
        tiny_model(toy, policy_kwargs={"initial_rate": 1.0})


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_trains_on_cuda(toy: FeatureBank) -> None:
    model = tiny_model(toy, device="auto").learn(64)
    assert model.device.type == "cuda" and len(PolicySelector(model).select(toy, 0)) == 64


def test_metrics_have_a_row_a_policy_update(toy: FeatureBank, tmp_path: Path) -> None:
    updates: list[int] = []

    class Count(BaseCallback):
        def _on_rollout_start(self) -> None:
            updates.append(self.model._n_updates)

        def _on_step(self) -> bool:
            return True

    model = tiny_model(toy)
    model.set_logger(run_logger(tmp_path))
    model.learn(96, callback=[Count(), SelectionMetrics()], log_interval=None)
    model.logger.close()
    rows = np.genfromtxt(tmp_path / "metrics.csv", delimiter=",", names=True)
    assert len(rows) == len(updates) == 3
    assert rows["timetotal_timesteps"].tolist() == [32, 64, 96]
    assert rows["trainn_updates"].tolist() == [
        10,
        20,
        30,
    ]  # the row holds its own update, not the one before
    for column in (
        "validationaccuracy",
        "validationlog_likelihood",
        "rolloutselected",
        "rolloutep_rew_mean",
        "trainapprox_kl",
    ):
        assert np.isfinite(rows[column]).all()


@pytest.mark.parametrize("name", ["none", "all", "random", "centroid"])
@pytest.mark.parametrize("seed", [0, 1])
def test_selectors(toy: FeatureBank, name: str, seed: int) -> None:
    selection, again = (SELECTORS[name]().select(toy, seed) for _ in range(2))
    assert (selection.mask == again.mask).all() and selection.source == name
    labels, expected = (
        toy.candidates.labels,
        {"none": 0, "all": 32, "random": 16, "centroid": 16}[name],
    )
    assert np.bincount(labels[selection.mask], minlength=2).tolist() == [expected, expected]
    if name in ("random", "centroid"):
        for label in (0, 1):
            kept, left = (
                selection.scores[(labels == label) & (selection.mask == k)] for k in (True, False)
            )
            assert kept.min() >= left.max()


def test_oracle(toy: FeatureBank) -> None:
    assert (SELECTORS["oracle"]().select(toy, 0).mask == (toy.candidates.flaw == 0)).all()
    with pytest.raises(ValueError, match="candidates/flaw is missing"):
        SELECTORS["oracle"]().select(replace(toy, candidates=replace(toy.candidates, flaw=None)), 0)


def test_training_selector(toy: FeatureBank) -> None:
    settings = {"n_steps": 8, "batch_size": 16, "policy_kwargs": TINY, "device": "cpu"}
    selector = TrainingSelector(PPO, evaluations=64, n_envs=4, name="ours", **settings)
    first, again, other = (selector.select(toy, seed) for seed in (3, 3, 4))
    assert (
        (first.scores == again.scores).all()
        and (first.scores != other.scores).any()
        and first.source == "ours"
    )
    assert selector.train(toy, 0).num_timesteps == 64
    assert (
        TrainingSelector(PPO, evaluations=70, n_envs=32, **settings).train(toy, 0).num_timesteps
        == 64
    )  # not more than was allowed
    with pytest.raises(ValueError, match="less than a rollout"):
        TrainingSelector(PPO, evaluations=4)


def test_an_agent_may_see_features_alone(toy: FeatureBank) -> None:
    selector = TrainingSelector(
        PPO, evaluations=16, n_envs=2, context=False, batch_size=8, device="cpu"
    )
    agent, selection = selector.train(toy, 0), selector.select(toy, 0)
    assert agent.observation_space.shape[1] == toy.n_features
    assert (selection.mask == PolicySelector(agent).select(toy, 0).mask).all()


def test_random_selector_is_random(toy: FeatureBank) -> None:
    masks = np.stack([SELECTORS["random"]().select(toy, s).mask for s in range(200)])
    assert np.abs(masks.mean(0) - 0.5).max() < 0.2


def test_centroid_selector_keeps_the_nearest(toy: FeatureBank) -> None:
    selection = SELECTORS["centroid"](ratio=0.25).select(toy, 0)
    for label in (0, 1):
        members = np.flatnonzero(toy.candidates.labels == label)
        nearest = members[np.argsort(toy.centroid_distances[members])[:8]]
        assert set(np.flatnonzero(selection.mask)) & set(members) == set(nearest)


@pytest.mark.parametrize("name", ["random", "centroid"])
def test_ratio_must_be_a_share(name: str) -> None:
    with pytest.raises(ValueError, match="ratio must lie between 0 and 1"):
        SELECTORS[name](ratio=50)


def test_selectors_do_not_read_the_test_split(toy: FeatureBank) -> None:
    hidden = replace(toy, test=replace(toy.test, features=-toy.test.features))
    selectors = [*(SELECTORS[s]() for s in SELECTORS), PolicySelector(tiny_model(toy))]
    for selector in selectors:
        assert (selector.select(toy, 0).scores == selector.select(hidden, 0).scores).all()


def test_policy_selector_keeps_the_expected_number_of_each_class(small: FeatureBank) -> None:
    selection = PolicySelector(
        tiny_model(small, policy_kwargs={**TINY, "initial_rate": 0.3})
    ).select(small, 0)
    for label in (0, 1):
        members = small.candidates.labels == label
        assert selection.mask[members].sum() == round(selection.scores[members].sum())
        assert (
            selection.scores[members & selection.mask].min()
            >= selection.scores[members & ~selection.mask].max()
        )


def test_same_seed_same_policy_where_threads_share_the_work() -> None:
    """Large enough for torch to split over threads; sums must not depend on which thread is first."""
    bank = toy_bank(candidates_per_class=256, n_features=64)
    scores = [
        PolicySelector(
            tiny_model(bank, policy_kwargs={"width": 32}, batch_size=32, n_epochs=2).learn(64)
        )
        .select(bank, 0)
        .scores
        for _ in range(3)
    ]
    assert (scores[0] == scores[1]).all() and (scores[0] == scores[2]).all()


def test_metrics_that_come_late_have_a_column(toy: FeatureBank, tmp_path: Path) -> None:
    """A rollout without the end of an episode knows no return yet; the next one does."""
    model = tiny_model(toy, n_steps=4)
    model.set_logger(run_logger(tmp_path))
    model.learn(64, callback=SelectionMetrics(), log_interval=None)
    model.logger.close()
    history = read_history(tmp_path / "metrics.csv")
    assert history["time/total_timesteps"].tolist() == [16, 32, 48, 64]
    assert np.isfinite(history["rollout/ep_rew_mean"]).tolist() == [False, True, True, True]
    assert np.isfinite(history["validation/accuracy"]).tolist() == [False, True, False, True]
    assert np.isfinite(history["train/loss"]).all()


def test_what_is_not_for_a_table_is_not_in_it(tmp_path: Path) -> None:
    logger = run_logger(tmp_path)
    logger.record("train/loss", 1.0)
    logger.record("pictures/kept", object(), exclude=("csv", "tensorboard"))
    logger.dump(1)
    logger.close()
    assert list(read_history(tmp_path / "metrics.csv")) == ["train/loss"]


def test_metrics_are_of_on_policy_algorithms(toy: FeatureBank) -> None:
    model = DQN(
        "MlpPolicy", PerCandidateWrapper(SyntheticSelectionEnv(toy)), buffer_size=100, device="cpu"
    )
    with pytest.raises(ValueError, match="DQN makes none"):
        model.learn(8, callback=SelectionMetrics())


@pytest.mark.parametrize("n", [57, 64, 90])
def test_shows_any_pool_as_in_training(n: int) -> None:
    """The size of the longest batch does not tell how many there were where the pool does not divide."""
    bank = toy_bank(candidates_per_class=45)
    bank = replace(bank, candidates=bank.candidates.subset(np.arange(n)))
    model = tiny_model(bank).learn(32)
    expected = PolicySelector(model, n_batches=8).select(bank, 0)
    assert (PolicySelector(model).select(bank, 0).scores == expected.scores).all()


def test_a_policy_with_rows_of_its_own(toy: FeatureBank) -> None:
    class Half(BaseFeaturesExtractor):
        def __init__(self, space: gym.Space) -> None:
            super().__init__(space, 5)
            self.layer = torch.nn.Linear(space.shape[-1], 5)

        def forward(self, rows: torch.Tensor) -> torch.Tensor:
            return self.layer(rows)

    model = tiny_model(toy, policy_kwargs={**TINY, "features_extractor_class": Half}).learn(32)
    assert len(PolicySelector(model).select(toy, 0)) == 64


def test_normalised_observations_are_refused(toy: FeatureBank) -> None:
    """The selector would show the policy other rows than it was trained on."""
    for norm_obs in (True, False):
        env = VecNormalize(SelectionVecEnv(toy, 2), norm_obs=norm_obs)
        model = PPO(
            TransformerPolicy, env, n_steps=8, batch_size=16, policy_kwargs=TINY, device="cpu"
        )
        if norm_obs:
            with pytest.raises(ValueError, match="norm_obs=False"):
                PolicySelector(model)
        else:
            assert len(PolicySelector(model).select(toy, 0)) == 64


def test_an_episode_shows_a_model_what_it_was_trained_on(toy: FeatureBank) -> None:
    """Also where VecNormalize changes the observations."""
    env = VecNormalize(SelectionVecEnv(toy, 2), norm_reward=False)
    model = PPO("MlpPolicy", env, n_steps=8, batch_size=16, seed=0, device="cpu").learn(256)
    env.training = False
    observations, kept = env.reset(), []
    for _ in range(8):
        actions = model.predict(observations, deterministic=True)[0]
        kept.append(actions[0].astype(bool))
        observations = env.step(actions)[0]
    expected = np.zeros(len(toy.candidates), bool)
    for batch, action in zip(toy.batches, kept):
        expected[batch] = action[: len(batch)]
    assert (mask_of_episode(model, SyntheticSelectionEnv(toy), 0) == expected).all()


def test_a_policy_of_ones_own_is_saved(toy: FeatureBank, tmp_path: Path) -> None:
    class Mine(SelectionPolicy):
        controller_class = GRUController

    model = tiny_model(toy, policy=Mine, policy_kwargs={"controller_kwargs": {"width": 8}})
    model.policy.save(tmp_path / "policy.zip")
    rows = torch.zeros(1, 8, model.policy.observation_space.shape[1])
    assert torch.equal(
        Mine.load(tmp_path / "policy.zip", device="cpu").keep_probabilities(rows),
        model.policy.keep_probabilities(rows),
    )


def test_options_that_would_change_nothing_are_refused(toy: FeatureBank, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="takes the place of net_arch"):
        tiny_model(toy, policy_kwargs={**TINY, "net_arch": [256]})
    with pytest.raises(ValueError, match="n_envs must be at least 1"):
        TrainingSelector(PPO, n_envs=0)
    policy = tiny_model(toy).policy
    policy.save(tmp_path / "policy.zip")
    rows = torch.zeros(1, 8, policy.observation_space.shape[1])
    assert torch.equal(
        TransformerPolicy.load(tmp_path / "policy.zip", device="cpu").keep_probabilities(rows),
        policy.keep_probabilities(rows),
    )


def test_a_selection_is_remembered_for_the_device_that_it_was_trained_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Random numbers are a device's own, so that another one's selection is another."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    auto, cpu = (TrainingSelector(PPO, device=device).settings() for device in ("auto", "cpu"))
    assert (
        auto["device"] == TrainingSelector(PPO).settings()["device"] == "cuda"
        and cpu["device"] == "cpu"
    )
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert TrainingSelector(PPO).settings()["device"] == "cpu"
