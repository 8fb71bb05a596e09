"""Changed copies of images are found, and other images are not."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from synthselect_env import FeatureBank
from synthselect_env.data import find_near_copies


@pytest.fixture(scope="module")
def patches(pcam: FeatureBank) -> np.ndarray:
    """Test patches of the embedded PCam bank, uint8 (80, 96, 96, 3)."""
    return pcam.test.images[:80].decode()


def cropped(image: np.ndarray) -> np.ndarray:
    part = Image.fromarray(image).crop((8, 3, 92, 87))
    return np.asarray(part.resize((96, 96), Image.Resampling.BICUBIC))


CHANGES = {
    "same": lambda image: image,
    "turned": lambda image: np.rot90(image),
    "flipped": lambda image: image[:, ::-1],
    "turned and flipped": lambda image: np.rot90(image, 3)[::-1],
    "darker": lambda image: (image * 0.7 + 10).astype(np.uint8),
    "cropped": cropped,
}


@pytest.mark.parametrize("change", CHANGES)
def test_copies_are_found(patches: np.ndarray, change: str) -> None:
    copies = np.stack([CHANGES[change](image) for image in patches[20:40]])
    pairs = find_near_copies(copies, patches)
    assert len(pairs) >= (16 if change == "cropped" else 20)
    assert all(pair.original == pair.copy + 20 for pair in pairs)


def test_other_images_are_no_copies(patches: np.ndarray, pcam: FeatureBank) -> None:
    assert find_near_copies(pcam.train.images[:100], patches) == []
    assert find_near_copies(patches[:0], patches) == []
