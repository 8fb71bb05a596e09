"""The cervical phantom: images that are rendered when they are asked for."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from synthselect_env import FeatureBank, Dataset
from synthselect_env.data import (
    Dataset,
    RenderedImages,
    apportion,
    cervical_phantom,
    phantom_candidates,
    split_by_group,
)
from synthselect_env.data.flaws import FLAWS
from synthselect_env.data.phantom import (
    COUNTS,
    EOSIN,
    GRADES,
    HAEMATOXYLIN,
    Patient,
    render_phantom,
)


def test_the_papers_counts_and_split_by_patient() -> None:
    parts = cervical_phantom()
    assert sum(np.bincount(part.labels) for part in parts.values()).tolist() == list(COUNTS)
    groups = [set(part.groups) for part in parts.values()]
    assert not any(groups[i] & groups[j] for i in range(3) for j in range(i))
    shares = np.array(
        [np.bincount(part.labels) / COUNTS for part in parts.values()]
    )  # (part, grade)
    assert np.abs(shares - [[0.7], [0.1], [0.2]]).max() < 0.002
    assert [len(group) for group in groups] == pytest.approx(
        [42, 30, 60], abs=4
    )  # one may have been dealt no image
    ids = [i for part in parts.values() for i in part.ids]
    assert len(set(ids)) == sum(COUNTS) and all(part.classes == GRADES for part in parts.values())


def test_a_patient_is_mostly_of_one_grade_and_none_has_stains_that_brighten() -> None:
    part = cervical_phantom()["train"]
    patients, index = np.unique(part.groups, return_inverse=True)
    counts = np.zeros((len(patients), len(GRADES)))
    np.add.at(counts, (index, part.labels), 1)
    assert counts.max(1).sum() / counts.sum() > 0.8
    drawn = [Patient.draw(np.random.default_rng(i)) for i in range(200)]
    assert min(patient.stains.min() for patient in drawn) > 0
    assert all(np.linalg.norm(patient.stains, axis=1) == pytest.approx(1) for patient in drawn)


def test_pictures_do_not_depend_on_what_else_is_rendered() -> None:
    part = cervical_phantom()["valid"]
    few = part.images[[3, 70, 12]].decode()
    assert few.shape == (3, 256, 128, 3) and few.dtype == np.uint8
    assert (few[2] == part.images[[12]].decode()[0]).all()
    assert (
        (few != cervical_phantom(seed=5)["valid"].images[[3, 70, 12]].decode()).any((1, 2, 3)).all()
    )
    assert part.images[:2].decode((32, 16)).shape == (2, 32, 16, 3)


def ink_by_height(grade: int) -> np.ndarray:
    """Mean darkness of haematoxylin, which eosin does not have in red, in eight strips from the bottom up."""
    pictures = [
        render_phantom(grade, Patient.draw(np.random.default_rng(i)), np.random.default_rng((7, i)))
        for i in range(60)
    ]
    return (255 - np.stack(pictures)[..., 0].astype(float)).reshape(60, 8, -1).mean((0, 2))[::-1]


def test_atypia_reaches_higher_with_the_grade() -> None:
    ink = np.stack([ink_by_height(grade) for grade in range(4)])
    middle = ink[:, 3:7].mean(1)
    assert (np.diff(middle) > 1).all(), middle
    assert HAEMATOXYLIN[0] > EOSIN[0]


def test_candidates_of_known_truth() -> None:
    pool = phantom_candidates(16, {"wrong label": 0.25, "torn": 0.25}, seed=3)
    assert np.bincount(pool.flaw, minlength=len(FLAWS)).tolist() == [32, 16, 0, 0, 0, 16]
    clean = phantom_candidates(16, {}, seed=3)
    assert ((pool.labels != clean.labels) == (pool.flaw == 1)).all() and np.bincount(
        clean.labels
    ).tolist() == [16] * 4
    assert (np.diff(clean.labels) != 0).mean() > 0.5  # a position does not tell the grade
    changed = (pool.images.decode() != clean.images.decode()).any((1, 2, 3))
    assert (changed == (pool.flaw == FLAWS.index("torn"))).all()
    assert len(phantom_candidates().labels) == 4096


def bank_of(pictures: Dataset) -> FeatureBank:
    split = Dataset(
        np.random.default_rng(0).normal(size=(len(pictures), 3)),
        pictures.labels,
        images=pictures.images,
        flaw=pictures.flaw,
    )
    return FeatureBank(split, split, split, split, pictures.classes)


def test_a_bank_stores_the_recipe(tmp_path: Path) -> None:
    bank = bank_of(phantom_candidates(8, {"torn": 0.5}, seed=3))
    bank.save(tmp_path / "bank.h5")
    assert (tmp_path / "bank.h5").stat().st_size < 100_000
    again = FeatureBank.load(tmp_path / "bank.h5")
    assert (
        again.candidates.images == bank.candidates.images
        and again.images_digest == bank.images_digest
    )
    assert (again.candidates.images.decode() == bank.candidates.images.decode()).all()
    other = bank_of(phantom_candidates(8, {"torn": 0.5}, seed=4))
    assert other.images_digest != bank.images_digest


def test_recipes_that_this_release_cannot_render(tmp_path: Path) -> None:
    import h5py

    bank = bank_of(phantom_candidates(8, seed=3))
    bank.save(tmp_path / "bank.h5")
    with h5py.File(tmp_path / "bank.h5", "r+") as file:
        file["train/images"].attrs["renderer"] = "os:system"
    with pytest.raises(
        ValueError, match="bank.h5: train/images cannot be rendered .no renderer 'os:system'"
    ):
        FeatureBank.load(tmp_path / "bank.h5")
    old = RenderedImages("cervical phantom", {"seed": 0, "version": 0}, np.arange(2))
    with pytest.raises(ValueError, match="version 0 of the phantom"):
        old.decode()
    assert json.dumps(old.arguments)
    one, two = (
        phantom_candidates(8, dict(flaws), seed=3).images
        for flaws in ([("torn", 0.2), ("wrong stain", 0.2)], [("wrong stain", 0.2), ("torn", 0.2)])
    )
    assert (
        one != two and (one.decode() != two.decode()).any()
    )  # what renders differently has another recipe


def test_apportion() -> None:
    labels = np.repeat([0, 1, 2], [588, 411, 1])
    for total in (0, 1, 2, 10, 256, 2304):
        counts = apportion(labels, total)
        assert (
            sum(counts) == total
            and np.abs(np.array(counts) - total * np.array([0.588, 0.411, 0.001])).max() < 1
        )


def test_split_by_group() -> None:
    rng = np.random.default_rng(0)
    groups, labels = [f"p{i}" for i in rng.integers(0, 60, 900)], rng.integers(0, 3, 900)
    parts = split_by_group(groups, labels, {"a": 0.6, "b": 0.4}, seed=0)
    assert np.array_equal(np.sort(np.concatenate(list(parts.values()))), np.arange(900))
    assert not {groups[i] for i in parts["a"]} & {groups[i] for i in parts["b"]}
    assert np.abs(np.bincount(labels[parts["a"]]) / np.bincount(labels) - 0.6).max() < 0.05
    with pytest.raises(ValueError, match="add up to 1"):
        split_by_group(groups, labels, {"a": 0.6, "b": 0.6}, seed=0)
    uneven = split_by_group(
        ["x"] * 8 + ["y", "z"], np.zeros(10, int), {"a": 0.15, "b": 0.05, "c": 0.8}, seed=0
    )
    assert [len(p) for p in uneven.values()] == [1, 1, 8]
    patients = split_by_group(
        [f"p{i // 2}" for i in range(20)],
        np.arange(20) // 10,
        {"a": 0.7, "b": 0.1, "c": 0.2},
        seed=0,
    )
    assert (
        sorted(map(len, patients.values()))[0] >= 2
    )  # ten patients of one class each: every part has one
    with pytest.raises(ValueError, match="2 groups were given for 3 labels"):
        split_by_group(["x", "y"], np.array([0, 1, 1]), {"a": 0.5, "b": 0.5}, seed=0)
    with pytest.raises(ValueError, match="2 groups cannot be split into 3"):
        split_by_group(["x", "y"], np.array([0, 1]), {"a": 0.5, "b": 0.25, "c": 0.25}, seed=0)
