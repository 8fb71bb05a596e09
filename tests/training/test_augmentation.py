from __future__ import annotations

import pytest
import torch

from synthselect_env.training.augmentation import AUGMENTATIONS


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_augmentations_are_seeded_and_stay_in_range(name: str) -> None:
    images = torch.rand(6, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    first = AUGMENTATIONS[name](images, torch.Generator().manual_seed(1))
    again = AUGMENTATIONS[name](images, torch.Generator().manual_seed(1))
    assert torch.equal(first, again) and first.shape == images.shape
    assert 0 <= first.min() <= first.max() <= 1
    assert torch.equal(first, images) == (name == "none")
