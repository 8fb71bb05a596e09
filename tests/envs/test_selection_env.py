"""SyntheticSelectionEnv: registered ids, Gymnasium's contract, and what an episode may know."""

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

import synthselect_env
from synthselect_env import FeatureBank, SelectionVecEnv, SyntheticSelectionEnv, load_bank
from synthselect_env.bank.embedded import toy_bank
from synthselect_env.envs.rewards import REWARDS
from synthselect_env.evaluators import (
    CachedEvaluator,
    DatamodelEvaluator,
    LinearProbeEvaluator,
    ParallelEvaluator,
)
from synthselect_env.metrics import METRICS
from synthselect_env.registration import ENV_IDS


def rollout(env: gym.Env, seed: int) -> list[tuple]:
    """Play an episode of random actions, and return all that the environment said."""
    rng = np.random.default_rng(0)
    observation, info = env.reset(seed=seed)
    trace: list[tuple] = [(observation.sum(), tuple(info.items()))]
    done = False
    while not done:
        action = rng.integers(2, size=env.action_space.shape)
        observation, reward, done, truncated, info = env.step(action)
        assert not truncated
        trace.append((observation.sum(), reward, tuple(info.items())))
    return trace


@pytest.fixture(scope="module")
def banks(
    toy: FeatureBank,
    few: FeatureBank,
    pcam: FeatureBank,
    planted: FeatureBank,
    cervical: FeatureBank,
) -> dict[str, FeatureBank]:
    named = {"pcam": pcam, "pcam-planted": planted, "cervical": cervical}
    return {"toy": toy, "pcam-few": few, **named}


@pytest.mark.parametrize("env_id", ENV_IDS)
class TestRegistered:
    def test_default_bank_and_infos(self, env_id: str, banks: dict[str, FeatureBank]) -> None:
        env = gym.make(env_id, bank=None)
        expected = banks[ENV_IDS[env_id]]
        assert env.unwrapped.bank.candidates.ids == expected.candidates.ids
        _, info = env.reset(seed=0)
        keys = list(info)
        assert set(keys) == set(METRICS) | {"step", "selected", "selection_rate"}
        *_, info = env.step(env.action_space.sample())
        assert list(info) == keys
        assert json.dumps(info)

    def test_same_seed_same_rollout(self, env_id: str, banks: dict[str, FeatureBank]) -> None:
        bank = banks[ENV_IDS[env_id]]
        first, again = (rollout(gym.make(env_id, bank=bank), seed=3) for _ in range(2))
        assert first == again
        assert len(first) == 9

    def test_stable_baselines_check(self, env_id: str, banks: dict[str, FeatureBank]) -> None:
        env = gym.make(env_id, bank=banks[ENV_IDS[env_id]])
        # It would warn of observations that are not flat.
        check_env_sb3(env.unwrapped, warn=False)


def test_gymnasium_check() -> None:
    check_env(gym.make("SynthSelect-Toy-v0", render_mode="rgb_array").unwrapped)


def test_registering_again_changes_nothing() -> None:
    before = dict(gym.registry)
    synthselect_env.register_envs()
    assert dict(gym.registry) == before


def test_pcam_is_eight_batches_of_512(pcam: FeatureBank) -> None:
    env_id = "synthselect_env:SynthSelect-PCam-v0"
    env = gym.make(env_id, bank=pcam, observation="features")
    space = env.observation_space
    assert space.shape == (512, 512)
    assert space.dtype == np.float32
    assert np.isfinite(space.low).all() and np.isfinite(space.high).all()
    assert env.action_space == gym.spaces.MultiBinary(512)


def test_default_evaluator(toy: FeatureBank, pcam: FeatureBank) -> None:
    """Rewards come from retrainings where the bank has some."""
    env = SyntheticSelectionEnv(pcam)
    assert isinstance(env.evaluator, DatamodelEvaluator)
    assert len(env.bank.retrainings.selections) >= 48
    truth = env.evaluator.metrics.log_likelihood
    assert np.corrcoef(truth, env.evaluator.leave_one_out())[0, 1] > 0.7
    probe = SyntheticSelectionEnv(pcam, evaluator="linear_probe").evaluator
    for evaluator in (probe, SyntheticSelectionEnv(toy).evaluator):
        assert isinstance(evaluator, LinearProbeEvaluator)


def test_retraining_plays(toy: FeatureBank) -> None:
    training = {"epochs": 1, "steps_per_epoch": 1}
    arguments = {"architecture": "resnet18", "config": training, "device": "cpu"}
    env = SyntheticSelectionEnv(toy, "resnet34", "paper", 2, evaluator_kwargs=arguments)
    assert len(rollout(env, 0)) == 3


def test_neither_test_split_nor_flaws_reach_an_episode(toy: FeatureBank) -> None:
    test = replace(toy.test, features=-3 * toy.test.features, labels=1 - toy.test.labels)
    candidates = replace(toy.candidates, flaw=1 - toy.candidates.flaw)
    other = replace(toy, test=test, candidates=candidates)
    assert rollout(SyntheticSelectionEnv(toy), 0) == rollout(SyntheticSelectionEnv(other), 0)


def reachable(*roots: object) -> Iterator[object]:
    """Yield all objects that can be reached, except through code, types and modules."""
    closed = type | ModuleType | FunctionType | BuiltinFunctionType
    seen, waiting = set(), list(roots)
    while waiting:
        item = waiting.pop()
        if id(item) in seen or isinstance(item, closed):
            continue
        seen.add(id(item))
        yield item
        waiting += gc.get_referents(item)
        if hasattr(item, "base"):  # an array may be a view of another
            waiting.append(item.base)


@pytest.mark.parametrize(
    "evaluator",
    ["linear_probe", "instance", "cached", pytest.param("parallel", marks=pytest.mark.slow)],
)
def test_no_way_from_an_environment_to_the_test_split(evaluator: str, tmp_path: Path) -> None:
    bank = toy_bank(candidates_per_class=8)
    probe = LinearProbeEvaluator(bank)
    instances = {
        "instance": probe,
        "cached": CachedEvaluator(probe, tmp_path),
        "parallel": ParallelEvaluator(probe, 1),
    }
    given = instances.get(evaluator, evaluator)
    secrets = [bank.test, bank.test.features, bank.test.labels, bank.test.images, bank.test.ids]
    hidden = {id(secret) for secret in secrets}
    for make in (SyntheticSelectionEnv, SelectionVecEnv):
        env = make(bank, evaluator=given, n_batches=2)
        env.reset()
        assert not hidden & {id(item) for item in reachable(env)}
    assert hidden <= {id(item) for item in reachable(bank)}  # the search would have found them


@pytest.mark.parametrize("reward", REWARDS)
def test_an_explicit_seed_begins_afresh(toy: FeatureBank, reward: str) -> None:
    env = gym.make("SynthSelect-Toy-v0", bank=toy, reward=reward)
    first = rollout(env, 0)
    assert len(first) == 9
    assert rollout(env, 0) == first


def test_environment_pickles(toy: FeatureBank) -> None:
    env = SyntheticSelectionEnv(toy)
    for seed in (4, 5):
        copy = pickle.loads(pickle.dumps(env))
        assert rollout(copy, seed) == rollout(env, seed)


@pytest.mark.parametrize(
    "wrong",
    [{"evaluator": "svm"}, {"reward": "papr"}, {"render_mode": "human"}, {"bank": "pcan.h5"}],
)
def test_unknown_arguments(wrong: dict[str, str]) -> None:
    (value,) = wrong.values()
    with pytest.raises((ValueError, FileNotFoundError), match=value):
        SyntheticSelectionEnv(**{"bank": "toy", **wrong})


def test_misspelt_argument() -> None:
    with pytest.raises(TypeError, match="evaluator_"):
        gym.make("SynthSelect-Toy-v0", disable_env_checker=True, evaluator_="linear_probe")


def test_name_of_an_embedded_bank() -> None:
    assert SyntheticSelectionEnv("toy").bank.candidates.ids == load_bank("toy").candidates.ids
