"""Changed copies of images are found, and other images are not."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from synthselect_env import FeatureBank
from synthselect_env.data import Dataset, Leak, find_leaks, find_near_copies


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


def test_leaks_are_told_by_split(pcam: FeatureBank, patches: np.ndarray) -> None:
    def dataset(images: np.ndarray) -> Dataset:
        ids = [str(i) for i in range(len(images))]
        return Dataset.of_images(images, np.zeros(len(images), np.int64), ids, ("one",))

    others = pcam.train.images[:6].decode()
    datasets = {
        "train": dataset(np.concatenate([others[:3], patches[21:22, :, ::-1]])),
        "valid": dataset(patches[:20]),
        "test": dataset(patches[20:]),
        "candidates": dataset(np.concatenate([patches[7:8], others[3:], patches[79:80]])),
    }
    done: list[int] = []
    leaks = find_leaks(datasets, done.append)
    assert sum(done) == 9
    assert set(leaks) == {
        Leak("train", 3, "test", 1),
        Leak("candidates", 0, "valid", 7),
        Leak("candidates", 4, "test", 59),
    }
