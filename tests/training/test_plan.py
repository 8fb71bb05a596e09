from __future__ import annotations

import numpy as np
import pytest
import torch

from synthselect_env.training import plan
from synthselect_env.training.augmentation import AUGMENTATIONS
from synthselect_env.training.plan import TrainingPlan


def test_learning_rate_is_one_cycle() -> None:
    shares = plan.one_cycle(100)
    highest = int(shares.argmax())
    assert shares.shape == (100,) and shares.max() == pytest.approx(1)
    assert (shares[1 : highest + 1] > shares[:highest]).all()
    assert (shares[highest + 1 :] < shares[highest:-1]).all()
    assert shares[-1] == pytest.approx(0, abs=1e-6)
    assert shares[0] > 0
    assert torch.isfinite(plan.one_cycle(1)).all()


def draw(chosen: np.ndarray, seed: int = 0) -> TrainingPlan:
    return TrainingPlan.draw(30, chosen, 10, 6, AUGMENTATIONS["histology"], seed)


def test_draws_are_those_of_the_seed() -> None:
    first, again, other = draw(np.arange(30)), draw(np.arange(30)), draw(np.arange(30), seed=1)
    for name in ("indices", "flips", "colours"):
        assert torch.equal(getattr(first, name), getattr(again, name))
        assert not torch.equal(getattr(first, name), getattr(other, name))


def test_trainings_on_other_images_share_their_augmentation() -> None:
    """Common random numbers: only the images differ."""
    ours, theirs = draw(np.arange(30)), draw(np.arange(0, 30, 2))
    assert torch.equal(ours.flips, theirs.flips) and torch.equal(ours.colours, theirs.colours)
    assert set(theirs.indices.flatten().tolist()) == set(range(0, 30, 2))
