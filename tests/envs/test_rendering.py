"""Rendering: the last batch, framed by its decisions."""

from __future__ import annotations

import numpy as np
from numpy.testing import assert_array_equal

from synthselect_env import FeatureBank, SyntheticSelectionEnv
from synthselect_env.envs.rendering import DISCARDED, KEPT, UNDECIDED, framed_candidates


def test_frames_show_decisions(toy: FeatureBank) -> None:
    env = SyntheticSelectionEnv(toy, render_mode="rgb_array")
    assert_array_equal(env.render()[0, 0], UNDECIDED)
    env.reset(seed=0)
    assert_array_equal(env.render()[0, 0], UNDECIDED)
    env.step(np.arange(8) % 2)
    image = env.render()
    assert image.dtype == np.uint8
    assert image.shape == (24, 32 * 24, 3)
    assert_array_equal(image[0, 0], DISCARDED)
    assert_array_equal(image[0, 24], KEPT)


def test_nothing_is_drawn_unless_asked_for(toy: FeatureBank) -> None:
    assert SyntheticSelectionEnv(toy).render() is None


def test_images_keep_their_proportions(toy: FeatureBank, cervical: FeatureBank) -> None:
    height, width = cervical.candidates.image_size
    tile = framed_candidates(cervical, np.array([0]), None, width=44, columns=1)
    assert tile.shape == (round(40 * height / width) + 4, 44, 3)
