from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from synthselect_env import Dataset, FeatureBank


def test_centroid_distance_by_hand() -> None:
    features = np.array([[1, 0], [3, 0], [0, 2], [0, 4]], np.float32)
    candidates = np.array([[5, 0], [0, 1], [1, 1], [0, -3]], np.float32)
    real = Dataset(features, np.array([0, 0, 1, 1]))
    bank = FeatureBank(real, real, real, Dataset(candidates, np.array([0, 0, 1, 1])), ["a", "b"])
    assert bank.centroid_distances == pytest.approx([0, 1, 1 - np.sqrt(0.5), 2], abs=1e-6)


@pytest.mark.parametrize(
    "expected",
    ["64 candidates", "left 12, right 12", "512 (left 256", "flaw", "centroid distance"],
)
def test_description_counts_every_split(toy: FeatureBank, expected: str) -> None:
    assert expected in toy.describe()


def test_sealed_bank_is_a_bank_without_test_split(toy: FeatureBank, tmp_path: Path) -> None:
    sealed = toy.sealed
    assert sealed.test is None and toy.test is not None and sealed.sealed is sealed
    assert sealed.train is toy.train and sealed.digest == toy.digest
    assert set(sealed.splits) == {"train", "valid", "candidates"}
    assert "test " not in sealed.describe()
    assert not any("test" in warning for warning in sealed.warnings())
    sealed.save(tmp_path / "sealed.h5")
    loaded = FeatureBank.load(tmp_path / "sealed.h5")
    assert loaded.test is None and loaded.digest == toy.digest


def test_digest_follows_all_that_a_selection_can_depend_on(toy: FeatureBank) -> None:
    pool = toy.candidates
    changed = {
        "features": pool.features + 1,
        "labels": 1 - pool.labels,
        "flaw": 1 - pool.flaw,
        "ids": pool.ids[::-1],
        "groups": tuple(f"patient {i}" for i in range(64)),
        "images": pool.images[::-1],
        "image_stats": np.zeros((64, 2)),
    }
    banks = [replace(toy, candidates=replace(pool, **{k: v})) for k, v in changed.items()]
    fewer = replace(toy, train=toy.train.subset(np.arange(20)))
    assert len({bank.digest for bank in (toy, fewer, *banks)}) == 9
    other_test = replace(toy, test=toy.test.subset(np.arange(0, 512, 2)), source="elsewhere")
    assert other_test.digest == toy.digest


@pytest.mark.parametrize("missing", [None, float("nan"), ""])
def test_every_patient_has_a_name(toy: FeatureBank, missing: object) -> None:
    """Those without would be one patient."""
    groups = [missing if i == 3 else f"p{i}" for i in range(len(toy.valid))]
    message = r"valid/groups has 1 entries without a name \(first: 3\); name each, or give groups="
    with pytest.raises(ValueError, match=message):
        replace(toy, valid=replace(toy.valid, groups=groups))


def test_image_statistics_must_fit(toy: FeatureBank) -> None:
    pool = replace(toy.candidates, image_stats=np.full((64, 3), np.nan))
    with pytest.raises(ValueError, match="candidates/appearance .* not finite"):
        replace(toy, candidates=pool)
    train = replace(toy.train, image_stats=np.zeros((24, 2)))
    pool = replace(toy.candidates, image_stats=np.zeros((64, 3)))
    with pytest.raises(ValueError, match="image statistics differ in length"):
        replace(toy, train=train, candidates=pool)


def test_features_are_needed(toy: FeatureBank) -> None:
    images = Dataset.of_images(toy.valid.images, toy.valid.labels, toy.valid.ids, toy.classes)
    with pytest.raises(ValueError, match="valid/features is missing; extract features"):
        replace(toy, valid=images)


def test_class_names_of_numpy(toy: FeatureBank, tmp_path: Path) -> None:
    bank = replace(toy, classes=np.unique(["sound", "ill"]))
    assert bank.classes == ("ill", "sound") and type(bank.classes[0]) is str
    bank.save(tmp_path / "bank.h5")
    assert FeatureBank.load(tmp_path / "bank.h5").classes == ("ill", "sound")


@pytest.mark.parametrize(
    ("attribute", "value", "message"),
    [
        ("classes", "sound,ill", "attribute classes is 'sound,ill'; it must be an array of names"),
        ("provenance", "[1, 2]", r"attribute provenance is \[1, 2\]; it must be a JSON object"),
        ("provenance", "x", "attribute provenance is not JSON"),
    ],
)
def test_malformed_attributes(
    toy: FeatureBank, tmp_path: Path, attribute: str, value: str, message: str
) -> None:
    toy.save(tmp_path / "bank.h5")
    with h5py.File(tmp_path / "bank.h5", "r+") as file:
        file.attrs[attribute] = value
    with pytest.raises(ValueError, match=message):
        FeatureBank.load(tmp_path / "bank.h5")
