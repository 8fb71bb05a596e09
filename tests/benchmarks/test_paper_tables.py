"""Test the patches that can judge the paper's Table 2 instead of the bank's own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from synthselect_env import Dataset, FeatureBank
from synthselect_env.data import read_class_folders


@pytest.fixture(scope="module")
def unseen(import_benchmark: Callable[[str], ModuleType]) -> Callable[[FeatureBank, Path], Dataset]:
    return import_benchmark("paper_tables").unseen


def test_what_the_bank_does_not_hold_is_the_test_split(unseen: Callable, image_zip: Path) -> None:
    found = read_class_folders(image_zip, "train")
    half = found.subset(np.arange(0, len(found), 2))
    features = np.random.default_rng(0).normal(size=(len(half), 4)).astype(np.float32)
    train, other = Dataset(features, half.labels, ids=half.ids), Dataset(features, half.labels)
    bank = FeatureBank(
        train=train, valid=other, test=other, candidates=other, classes=found.classes
    )
    test = unseen(bank, image_zip)
    rest = found.subset(np.arange(1, len(found), 2))
    assert (
        test.ids == rest.ids
        and (test.labels == rest.labels).all()
        and test.features.shape == (len(rest), 4)
    )
    kept, original = (
        pictures.astype(float)[:, None] for pictures in (test.images.decode(), rest.pixels())
    )
    assert (
        np.square(kept - original.swapaxes(0, 1)).mean((2, 3, 4)).argmin(1) == np.arange(len(rest))
    ).all()  # but for WebP's losses


def test_nothing_is_left_of_a_set_that_the_bank_holds(unseen: Callable, image_zip: Path) -> None:
    found = read_class_folders(image_zip, "train")
    features = np.random.default_rng(0).normal(size=(len(found), 4)).astype(np.float32)
    split = Dataset(features, found.labels, ids=found.ids)
    bank = FeatureBank(
        train=split, valid=split, test=split, candidates=split, classes=found.classes
    )
    with pytest.raises(ValueError, match="holds all"):
        unseen(bank, image_zip)
