"""Every algorithm that is said to plug in does: learn, save, load, predict."""

from __future__ import annotations

from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from synthselect_env import FeatureBank, SyntheticSelectionEnv
from synthselect_env.envs.wrappers import BoxThresholdWrapper, PerCandidateWrapper


@pytest.mark.filterwarnings("ignore:.*is different from the unwrapped version")
@pytest.mark.parametrize("wrapper", [BoxThresholdWrapper, PerCandidateWrapper])
def test_wrapped_environments_pass_gymnasiums_checks(
    wrapper: type[gym.Wrapper], small: FeatureBank
) -> None:
    check_env(wrapper(SyntheticSelectionEnv(small)), skip_render_check=True)


@pytest.mark.parametrize("wrapper", [BoxThresholdWrapper, PerCandidateWrapper])
def test_wrappers_change_the_question_and_not_the_answer(
    wrapper: type[gym.Wrapper], small: FeatureBank
) -> None:
    """The same decisions give the same selection and the same rewards; 26 candidates do not fill 8 batches evenly."""
    plain, wrapped, rng = (
        SyntheticSelectionEnv(small),
        wrapper(SyntheticSelectionEnv(small)),
        np.random.default_rng(0),
    )
    observation, _ = plain.reset(seed=3)
    first, _ = wrapped.reset(seed=3)
    finished = False
    while not finished:
        bits = rng.integers(0, 2, plain.action_space.n)
        rows = int(observation.any(1).sum())
        if wrapper is PerCandidateWrapper:
            paid = []
            for i in range(rows):
                assert (first[:-2] == observation[i]).all() and first[-2] == pytest.approx(i / rows)
                assert first[-1] == pytest.approx(bits[:i].mean() if i else 0)
                first, reward, over, _, info = wrapped.step(int(bits[i]))
                paid.append(reward)
            assert not any(paid[:-1])
        else:
            first, reward, over, _, info = wrapped.step(
                np.where(bits, 0.3, -0.7).astype(np.float32)
            )
        observation, expected, finished, _, told = plain.step(bits)
        assert reward == pytest.approx(expected) and over == finished and info == told
    assert (plain.selection == wrapped.unwrapped.selection).all()
    if wrapper is PerCandidateWrapper:
        with pytest.raises(gym.error.ResetNeeded):
            wrapped.step(0)


@pytest.mark.parametrize("wrapper", [BoxThresholdWrapper, PerCandidateWrapper])
def test_only_selection_environments_are_wrapped(wrapper: type[gym.Wrapper]) -> None:
    with pytest.raises(ValueError, match="a selection environment has"):
        wrapper(gym.make("CartPole-v1"))


def test_single_decisions_have_masks_of_their_own(small: FeatureBank) -> None:
    env = PerCandidateWrapper(SyntheticSelectionEnv(small))
    env.reset(seed=0)
    assert env.get_wrapper_attr("action_masks")().tolist() == [True, True]


def test_padding_cannot_be_kept(small: FeatureBank) -> None:
    env = SyntheticSelectionEnv(small)
    observation, _ = env.reset(seed=0)
    finished, padded = False, 0
    while not finished:
        masks = env.action_masks().reshape(-1, 2)
        assert masks[:, 0].all() and (masks[:, 1] == observation.any(1)).all()
        padded += int((~masks[:, 1]).sum())
        observation, _, finished, _, _ = env.step(np.ones(env.action_space.n, np.int8))
    assert padded > 0


def test_a_candidate_of_zeros_is_no_padding(small: FeatureBank) -> None:
    """Without context, a candidate at the mean of the real images has a row of zeros."""
    features = small.candidates.features.copy()
    features[:] = small.train.features.mean(0)
    env = PerCandidateWrapper(
        SyntheticSelectionEnv(
            replace(small, candidates=replace(small.candidates, features=features)), context=False
        )
    )
    env.reset(seed=0)
    steps, over = 0, False
    while not over:
        *_, over, _, info = env.step(1)
        steps += 1
    assert steps == len(small.candidates) and info["selected"] == len(small.candidates)
