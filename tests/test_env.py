from __future__ import annotations

import gc
import json
import pickle
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import BuiltinFunctionType, FunctionType, ModuleType

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from stable_baselines3.common.env_checker import check_env as check_env_sb3
from stable_baselines3.common.vec_env import DummyVecEnv

import synthselect_env
from synthselect_env import FeatureBank, SelectionVecEnv, SyntheticSelectionEnv, load_bank
from synthselect_env.bank.embedded import toy_bank
from synthselect_env.envs.rewards import REWARDS
from synthselect_env.envs.selection_env import OBSERVATION_LIMIT, observations
from synthselect_env.evaluators import (
    CachedEvaluator,
    DatamodelEvaluator,
    Evaluations,
    Evaluator,
    LinearProbeEvaluator,
    ParallelEvaluator,
)
from synthselect_env.evaluators.candidate_scores import label_fit
from synthselect_env.metrics import METRICS
from synthselect_env.registration import ENV_IDS


class CountEvaluator(Evaluator):
    """A fake oracle: every metric is the share kept."""

    def evaluate_on(self, selections, seed, *splits):
        share = self.checked(selections).mean(1, keepdims=True)
        return [Evaluations.from_epochs({m: share for m in METRICS}) for _ in splits]


def rollout(env: gym.Env, seed: int, action_seed: int = 0) -> list[tuple]:
    rng = np.random.default_rng(action_seed)
    observation, info = env.reset(seed=seed)
    trace, done = [(observation.sum(), tuple(info.items()))], False
    while not done:
        observation, reward, done, truncated, info = env.step(
            rng.integers(2, size=env.action_space.shape)
        )
        assert not truncated
        trace.append((observation.sum(), reward, tuple(info.items())))
    return trace


@pytest.mark.parametrize("env_id", ENV_IDS)
class TestRegistered:
    def test_gymnasium_check(self, env_id: str) -> None:
        check_env(gym.make(env_id, render_mode="rgb_array").unwrapped)

    def test_stable_baselines_check(self, env_id: str) -> None:
        check_env_sb3(
            gym.make(env_id).unwrapped, warn=False
        )  # its one warning: observations are not flat

    def test_bank_none_is_the_ids_own(self, env_id: str) -> None:
        assert len(gym.make(env_id, bank=None).unwrapped.bank.candidates) == len(
            load_bank(ENV_IDS[env_id]).candidates
        )

    def test_same_seed_same_rollout(self, env_id: str) -> None:
        first, again = (rollout(gym.make(env_id), seed=3) for _ in range(2))
        assert first == again and len(first) == 9

    def test_infos_are_the_same_small_scalars(self, env_id: str) -> None:
        env = gym.make(env_id)
        _, info = env.reset(seed=0)
        keys = list(info)
        assert set(METRICS) | {"step", "selected", "selection_rate"} == set(keys)
        *_, info = env.step(env.action_space.sample())
        assert list(info) == keys and json.dumps(info)


def test_pcam_is_eight_batches_of_512() -> None:
    env = gym.make("synthselect_env:SynthSelect-PCam-v0", context=False)
    assert env.observation_space.shape == (512, 512) and env.observation_space.dtype == np.float32
    assert (
        np.isfinite(env.observation_space.low).all()
        and np.isfinite(env.observation_space.high).all()
    )
    assert env.action_space == gym.spaces.MultiBinary(512)


def test_rewards_come_from_retrainings_where_the_bank_has_some(toy: FeatureBank) -> None:
    env = gym.make("SynthSelect-PCam-v0").unwrapped
    assert (
        isinstance(env.evaluator, DatamodelEvaluator) and len(env.bank.retrainings.selections) >= 48
    )
    truth, predicted = env.evaluator.figures.log_likelihood, env.evaluator.leave_one_out()
    assert np.corrcoef(truth, predicted)[0, 1] > 0.7
    assert isinstance(SyntheticSelectionEnv(toy).evaluator, LinearProbeEvaluator)
    assert isinstance(
        gym.make("SynthSelect-PCam-v0", evaluator="linear_probe").unwrapped.evaluator,
        LinearProbeEvaluator,
    )


def test_selection_accumulates_where_the_action_says() -> None:
    bank = load_bank("toy")
    env = SyntheticSelectionEnv(
        bank, evaluator=CountEvaluator(bank), reward={"metric": "accuracy", "baseline": "zero"}
    )
    env.reset(seed=0)
    expected = np.zeros(64, bool)
    rng = np.random.default_rng(0)
    for batch in bank.batches:
        action = rng.integers(2, size=8)
        expected[batch] = action == 1
        _, reward, *_ = env.step(action)
        assert (env.selection == expected).all()
        assert reward == pytest.approx(expected.mean())
    env.reset()
    assert not env.selection.any()


def test_rewards_are_the_evaluators_figures(toy: FeatureBank) -> None:
    env = SyntheticSelectionEnv(toy, reward={"metric": "log_likelihood", "baseline": "none"})
    env.reset(seed=0)
    for _ in range(3):
        _, reward, _, _, info = env.step(env.action_space.sample())
        masks = np.stack([env.selection, np.zeros(64, bool)])
        kept, none = env.evaluator.evaluate(masks, 0).log_likelihood
        assert reward == pytest.approx(kept - none) and info["log_likelihood"] == pytest.approx(
            kept
        )


def test_pool_that_does_not_divide_is_padded(small: FeatureBank) -> None:
    env = SyntheticSelectionEnv(small)
    assert env.observation_space.shape[0] == max(map(len, small.batches)) == 4
    observation, _ = env.reset(seed=0)
    for batch in small.batches:
        assert (observation[: len(batch), -1] == 1).all() and (observation[len(batch) :] == 0).all()
        observation, *_ = env.step(np.ones(4, np.int8))
    assert env.selection.all()


def test_observations_are_standardised_features(toy: FeatureBank) -> None:
    table = observations(toy, toy.batches, context=False)
    expected = (toy.candidates.features - toy.train.features.mean(0)) / toy.train.features.std(0)
    for rows, batch in zip(table, toy.batches):
        assert rows == pytest.approx(
            np.clip(expected[batch], -OBSERVATION_LIMIT, OBSERVATION_LIMIT), abs=1e-5
        )
    wide = observations(toy, toy.batches, context=True)
    assert (wide[:, :, :8] == table).all()
    labels = toy.candidates.labels[toy.batches[0]]
    assert (wide[0, :, 8:10] == np.eye(2)[labels]).all()
    assert 1 - wide[0, :, 10] == pytest.approx(toy.centroid_distances[toy.batches[0]], abs=1e-5)
    assert (
        wide[0, :, 12] == pytest.approx(label_fit(toy)[toy.batches[0]], abs=1e-5)
        and (wide[0, :, 13] == 0).all()
    )  # looks unknown
    planted = load_bank("pcam-planted")
    unlike = observations(planted, planted.batches, context=True)[0, :, -2]
    assert unlike == pytest.approx(np.log(planted.atypicality[planted.batches[0]]), abs=1e-5)


def test_neither_test_split_nor_flaws_reach_an_episode(toy: FeatureBank) -> None:
    hidden = replace(
        toy,
        test=replace(toy.test, features=-3 * toy.test.features, labels=1 - toy.test.labels),
        candidates=replace(toy.candidates, flaw=1 - toy.candidates.flaw),
    )
    assert rollout(SyntheticSelectionEnv(toy), 0) == rollout(SyntheticSelectionEnv(hidden), 0)


def reachable(*roots: object) -> Iterator[object]:
    """Everything that can be got at from the roots, but for what code, types and modules hold."""
    seen, waiting = set(), list(roots)
    while waiting:
        item = waiting.pop()
        if id(item) in seen or isinstance(
            item, type | ModuleType | FunctionType | BuiltinFunctionType
        ):
            continue
        seen.add(id(item))
        yield item
        waiting += gc.get_referents(item)
        waiting += [] if not hasattr(item, "base") else [item.base]  # what an array is a view of


@pytest.mark.parametrize("make", [SyntheticSelectionEnv, SelectionVecEnv])
@pytest.mark.parametrize("evaluator", ["linear_probe", "instance", "cached", "parallel"])
def test_no_way_from_an_environment_to_the_test_split(
    make: type, evaluator: str, tmp_path: Path
) -> None:
    """Not through its attributes, nor theirs, and so on to the end."""
    bank = toy_bank(candidates_per_class=8)
    probe = LinearProbeEvaluator(bank)
    given = {
        "instance": probe,
        "cached": CachedEvaluator(probe, tmp_path),
        "parallel": ParallelEvaluator(probe, 1),
    }.get(evaluator, evaluator)
    env = make(bank, evaluator=given, n_batches=2)
    env.reset()
    secrets = {
        id(value)
        for value in (
            bank.test,
            bank.test.features,
            bank.test.labels,
            bank.test.images,
            bank.test.ids,
        )
    }
    assert not secrets & {id(item) for item in reachable(env)}
    assert secrets <= {id(item) for item in reachable(bank)}  # the search would have found it


@pytest.mark.parametrize("reward", REWARDS)
def test_an_explicit_seed_begins_afresh(toy: FeatureBank, reward: str) -> None:
    env = SyntheticSelectionEnv(toy, reward=reward)
    first = rollout(env, 0)
    assert rollout(env, 0) == first
    vec = SelectionVecEnv(toy, n_envs=2, reward=reward)
    rewards = []
    for _ in range(2):
        vec.seed(0)
        vec.reset()
        rewards.append([vec.step(np.ones((2, 8)))[1].tolist() for _ in range(8)])
    assert rewards[0] == rewards[1]


def test_moving_average_runs_on_without_a_seed(toy: FeatureBank) -> None:
    env = SyntheticSelectionEnv(toy, reward="paper")
    env.reset(seed=0)
    for _ in range(8):
        _, last, *_ = env.step(np.ones(8))
    env.reset()
    _, reward, _, _, info = env.step(np.zeros(8))
    assert reward == pytest.approx(0.8 * last + 0.2 * info["accuracy"])


def test_steps_out_of_turn(toy: FeatureBank) -> None:
    env = SyntheticSelectionEnv(toy)
    with pytest.raises(gym.error.ResetNeeded):
        env.step(np.zeros(8))
    rollout(env, 0)
    with pytest.raises(gym.error.ResetNeeded):
        env.step(np.zeros(8))
    env.reset()
    with pytest.raises(ValueError, match="expected an action of 8 bits"):
        env.step(np.zeros(7))
    many = SelectionVecEnv(toy, n_envs=4)
    with pytest.raises(gym.error.ResetNeeded):
        many.step(np.zeros((4, 8)))
    many.reset()
    for shape in ((1, 8), (4, 1), (4, 9)):
        with pytest.raises(ValueError, match="each of 4 episodes"):
            many.step(np.zeros(shape))


@pytest.mark.parametrize("n_envs", [0, -1])
def test_there_is_an_environment(toy: FeatureBank, n_envs: int) -> None:
    with pytest.raises(ValueError, match="n_envs must be at least 1"):
        SelectionVecEnv(toy, n_envs=n_envs)


@pytest.mark.parametrize(
    "wrong",
    [{"evaluator": "svm"}, {"reward": "papr"}, {"render_mode": "human"}, {"bank": "pcan.h5"}],
)
def test_unknown_arguments(wrong: dict) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=next(iter(wrong.values()))):
        SyntheticSelectionEnv(**{"bank": "toy", **wrong})


def test_misspelt_argument() -> None:
    with pytest.raises(TypeError, match="evaluater"):
        gym.make("SynthSelect-Toy-v0", disable_env_checker=True, evaluater="linear_probe")


@pytest.mark.parametrize("reward", REWARDS)
def test_every_reward_plays(reward: str) -> None:
    assert len(rollout(gym.make("SynthSelect-Toy-v0", reward=reward), 0)) == 9


def test_retraining_plays(toy: FeatureBank) -> None:
    config = synthselect_env.envs.selection_env.make_evaluator("resnet34", toy).config
    env = SyntheticSelectionEnv(
        toy,
        "resnet34",
        "paper",
        n_batches=2,
        evaluator_kwargs={
            "architecture": "resnet18",
            "config": replace(config, epochs=1, steps_per_epoch=1),
            "device": "cpu",
        },
    )
    assert len(rollout(env, 0)) == 3


def test_render(toy: FeatureBank) -> None:
    env = SyntheticSelectionEnv(toy, render_mode="rgb_array")
    assert env.render()[0, 0].tolist() == [128, 128, 128]
    env.reset(seed=0)
    assert env.render()[0, 0].tolist() == [128, 128, 128]
    env.step(np.arange(8) % 2)
    picture = env.render()
    assert picture.dtype == np.uint8 and picture.shape == (24, 32 * 24, 3)
    assert picture[0, 0].tolist() == [200, 50, 40] and picture[0, 24].tolist() == [40, 160, 60]
    assert SyntheticSelectionEnv(toy).render() is None


def test_environment_pickles(toy: FeatureBank) -> None:
    env = SyntheticSelectionEnv(toy)
    assert rollout(pickle.loads(pickle.dumps(env)), 4) == rollout(env, 4)
    assert rollout(pickle.loads(pickle.dumps(env)), 5) == rollout(env, 5)


def test_the_empty_selection_is_scored_once_a_seed(toy: FeatureBank) -> None:
    seeds: list[int] = []

    class Counting(CountEvaluator):
        def evaluate(self, selections, seed):
            seeds.append(seed)
            return super().evaluate(selections, seed)

    env = SyntheticSelectionEnv(toy, evaluator=Counting(toy))
    for seed in (1, None, 1, 2, 1):
        env.reset(seed=seed)
    first, second, third = seeds
    assert first == third != second


def test_registering_again_changes_nothing() -> None:
    before = dict(gym.registry)
    synthselect_env.register_envs()
    assert dict(gym.registry) == before


@pytest.mark.parametrize("reward", ["paper", "log_likelihood_gain"])
def test_vec_env_is_many_environments(toy: FeatureBank, reward: str) -> None:
    n = 3
    ours = SelectionVecEnv(toy, n_envs=n, reward=reward)
    theirs = DummyVecEnv([lambda: SyntheticSelectionEnv(toy, reward=reward)] * n)
    assert (
        ours.observation_space == theirs.observation_space
        and ours.action_space == theirs.action_space
    )
    for env in (ours, theirs):
        env.seed(5)
    assert (ours.reset() == theirs.reset()).all()
    rng = np.random.default_rng(0)
    for t in range(20):
        actions = rng.integers(2, size=(n, 8))
        (o1, r1, d1, i1), (o2, r2, d2, i2) = ours.step(actions), theirs.step(actions)
        assert (o1 == o2).all() and r1 == pytest.approx(r2, abs=1e-6) and (d1 == d2).all()
        assert d1.all() == (t % 8 == 7)
        for a, b in zip(i1, i2):
            shared = {k: v for k, v in a.items() if k not in ("terminal_observation", "episode")}
            assert shared == pytest.approx(
                {k: v for k, v in b.items() if k != "terminal_observation"}, abs=1e-9
            )
            assert ("episode" in a) == d1.all()
            if d1.all():
                assert (a["terminal_observation"] == b["terminal_observation"]).all()


def test_another_evaluator_makes_another_environment(toy: FeatureBank) -> None:
    """Setting it would be without effect."""
    env = SelectionVecEnv(toy, n_envs=2)
    with pytest.raises(AttributeError):
        env.set_attr("evaluator", LinearProbeEvaluator(toy))


def test_vec_env_reports_returns(toy: FeatureBank) -> None:
    env = SelectionVecEnv(toy, n_envs=2, reward={"metric": "accuracy", "baseline": "previous"})
    env.seed(0)
    env.reset()
    none = env.reset_infos[0]["accuracy"]
    for _ in range(8):
        *_, infos = env.step(np.ones((2, 8)))
    assert (
        infos[0]["episode"]["r"] == pytest.approx(infos[0]["accuracy"] - none)
        and infos[0]["episode"]["l"] == 8
    )
    assert infos[0]["selected"] == 64 and not env.selections.any()  # a new episode has begun
    with pytest.raises(ValueError, match="share their attributes"):
        env.set_attr("bank", None, indices=[0])
