"""The selectors that learn nothing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from agents.selectors import (
    AllSelector,
    CentroidSelector,
    NoneSelector,
    OracleSelector,
    RandomSelector,
)
from synthselect_env import FeatureBank


def test_none_and_all(toy: FeatureBank) -> None:
    assert NoneSelector().select(toy, 0).count == 0
    assert AllSelector().select(toy, 0).count == len(toy.candidates)


def test_oracle_keeps_the_sound_candidates(toy: FeatureBank) -> None:
    assert (OracleSelector().select(toy, 0).mask == (toy.candidates.flaw == 0)).all()
    unknown = replace(toy, candidates=replace(toy.candidates, flaw=None))
    with pytest.raises(ValueError, match="candidates/flaw is missing"):
        OracleSelector().select(unknown, 0)


def test_random_selector_is_random(toy: FeatureBank) -> None:
    masks = np.stack([RandomSelector().select(toy, seed).mask for seed in range(200)])
    assert np.abs(masks.mean(0) - 0.5).max() < 0.2


def test_centroid_selector_keeps_the_nearest(toy: FeatureBank) -> None:
    mask = CentroidSelector(ratio=0.25).select(toy, 0).mask
    for label in (0, 1):
        members = np.flatnonzero(toy.candidates.labels == label)
        nearest = members[np.argsort(toy.centroid_distances[members])[:8]]
        assert set(members[mask[members]]) == set(nearest)
