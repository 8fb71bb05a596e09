"""Warnings about tiny classes, and about images and patients in two splits."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from synthselect_env import FeatureBank
from synthselect_env.data import EncodedImages


def test_sound_bank_gives_no_warning(toy: FeatureBank) -> None:
    assert not toy.warnings() and "warning" not in toy.describe()


def test_tiny_classes(toy: FeatureBank) -> None:
    few = replace(toy, train=toy.train.subset(np.arange(15)))
    assert few.warnings() == [
        "train has 3 images of class right; metrics of that class mean little below 10"
    ]


def test_classes_without_candidates(toy: FeatureBank) -> None:
    left = replace(toy, candidates=toy.candidates.subset(toy.candidates.labels == 0))
    assert left.warnings() == ["no candidate of class right"]
    assert "warning: no candidate of class right" in left.describe()


def test_images_in_two_splits_by_their_features(toy: FeatureBank) -> None:
    features = np.concatenate([toy.candidates.features[:-2], toy.test.features[:2]])
    leaking = replace(toy, candidates=replace(toy.candidates, features=features))
    assert leaking.warnings() == ["candidates and test share 2 images; scores on test are too good"]


def test_patients_in_two_splits(toy: FeatureBank) -> None:
    def with_groups(name: str) -> dict[str, tuple[str, ...]]:
        n = len(toy.splits[name])
        return {"groups": tuple(f"{name if i else 'both'}-{i}" for i in range(n))}

    train = replace(toy.train, **with_groups("train"))
    test = replace(toy.test, **with_groups("test"))
    shared = replace(toy, train=train, test=test)
    expected = "train and test share 1 patients or slides, e.g. both-0; split by group"
    assert shared.warnings() == [expected]
    assert f"warning: {expected}" in shared.describe()


@pytest.mark.parametrize("encoded", [False, True], ids=["pixels", "encoded"])
def test_images_in_two_splits_whatever_their_features(toy: FeatureBank, encoded: bool) -> None:
    """The images themselves are compared, not what a network sees of them."""
    train, valid = toy.train.images, toy.valid.images
    mixed = np.concatenate([train[:3], valid[3:]])
    if encoded:
        train, valid, mixed = map(EncodedImages.encode, (train, valid, mixed))
    bank = replace(
        toy, train=replace(toy.train, images=train), valid=replace(toy.valid, images=valid)
    )
    assert not bank.warnings()
    leaking = replace(bank, valid=replace(bank.valid, images=mixed))
    assert leaking.warnings() == ["train and valid share 3 images; scores on valid are too good"]


@pytest.mark.parametrize(("factor", "shift"), [(1.0, 0.0), (0.1, 1000.0), (1e6, 0.0), (1e-9, 0.0)])
def test_units_of_features_do_not_matter(toy: FeatureBank, factor: float, shift: float) -> None:
    moved = {
        name: replace(split, features=split.features * factor + shift)
        for name, split in toy.splits.items()
    }
    assert not [w for w in replace(toy, **moved).warnings() if "share" in w]
    moved["valid"] = moved["train"]
    warnings = replace(toy, **moved).warnings()
    assert len([w for w in warnings if w.startswith("train and valid share 24 images")]) == 1
