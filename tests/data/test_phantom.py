"""The cervical phantom: images that are rendered when they are asked for."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from synthselect_env import FeatureBank
from synthselect_env.data import Dataset, RenderedImages, cervical_phantom, phantom_candidates
from synthselect_env.data.flaws import FLAWS
from synthselect_env.data.phantom import (
    COUNTS,
    EOSIN,
    GRADES,
    HAEMATOXYLIN,
    Patient,
    render_phantom,
)

TORN = {"torn": 0.5}


@pytest.fixture(scope="module")
def parts() -> dict[str, Dataset]:
    return cervical_phantom()


def test_counts_are_those_of_the_paper(parts: dict[str, Dataset]) -> None:
    counts = np.array([np.bincount(part.labels) for part in parts.values()])  # (parts, grades)
    assert counts.sum(0).tolist() == list(COUNTS)
    assert np.abs(counts / COUNTS - [[0.7], [0.1], [0.2]]).max() < 0.002
    ids = {i for part in parts.values() for i in part.ids}
    assert len(ids) == sum(COUNTS)
    assert all(part.classes == GRADES for part in parts.values())


def test_no_patient_is_in_two_parts(parts: dict[str, Dataset]) -> None:
    train, valid, test = (set(part.groups) for part in parts.values())
    assert not train & valid and not train & test and not valid & test
    # A few patients may have no image.
    assert [len(train), len(valid), len(test)] == pytest.approx([42, 30, 60], abs=4)


def test_a_patient_is_mostly_of_one_grade(parts: dict[str, Dataset]) -> None:
    patients, index = np.unique(parts["train"].groups, return_inverse=True)
    counts = np.zeros((len(patients), len(GRADES)))
    np.add.at(counts, (index, parts["train"].labels), 1)
    assert counts.max(1).sum() / counts.sum() > 0.8


def test_no_stain_makes_glass_brighter() -> None:
    assert HAEMATOXYLIN[0] > EOSIN[0]
    for seed in range(200):
        stains = Patient.draw(np.random.default_rng(seed)).stains
        assert stains.min() > 0
        assert np.linalg.norm(stains, axis=1) == pytest.approx(1)


def test_images_do_not_depend_on_what_else_is_rendered(parts: dict[str, Dataset]) -> None:
    images = parts["valid"].images
    few = images[[3, 70, 12]].decode()
    assert few.shape == (3, 256, 128, 3) and few.dtype == np.uint8
    assert (few[2] == images[[12]].decode()[0]).all()
    assert images[:2].decode((32, 16)).shape == (2, 32, 16, 3)
    other_seed = cervical_phantom(seed=5)["valid"].images[[3, 70, 12]].decode()
    assert (few != other_seed).any((1, 2, 3)).all()


def middle_ink(grade: int, n: int = 25) -> float:
    """Mean darkness in red, which eosin has little of, between the layers that all grades have."""
    images = []
    for seed in range(n):
        patient = Patient.draw(np.random.default_rng(seed))
        images.append(render_phantom(grade, patient, np.random.default_rng((7, seed))))
    red = np.stack(images)[..., 0].astype(float)  # (n, 256, 128)
    return 255 - red[:, 32:160].mean()


def test_atypia_reaches_higher_with_the_grade() -> None:
    ink = [middle_ink(grade) for grade in range(4)]
    assert (np.diff(ink) > 1).all(), ink


def test_candidates_of_known_truth() -> None:
    spoilt = phantom_candidates(8, {"wrong label": 0.25, "torn": 0.25}, seed=3)
    clean = phantom_candidates(8, {}, seed=3)
    assert np.bincount(spoilt.flaw, minlength=len(FLAWS)).tolist() == [16, 8, 0, 0, 0, 8]
    assert np.bincount(clean.labels).tolist() == [8] * 4
    assert ((spoilt.labels != clean.labels) == (spoilt.flaw == FLAWS.index("wrong label"))).all()
    changed = (spoilt.images.decode() != clean.images.decode()).any((1, 2, 3))
    assert (changed == (spoilt.flaw == FLAWS.index("torn"))).all()


def test_a_position_does_not_tell_the_grade() -> None:
    pool = phantom_candidates()
    assert len(pool) == 4096
    assert (np.diff(pool.labels) != 0).mean() > 0.5


def bank_of(data: Dataset) -> FeatureBank:
    features = np.random.default_rng(0).normal(size=(len(data), 3))
    split = Dataset(features, data.labels, images=data.images, flaw=data.flaw)
    return FeatureBank(split, split, split, split, data.classes)


def test_a_bank_stores_the_recipe(tmp_path: Path) -> None:
    bank = bank_of(phantom_candidates(4, TORN, seed=3))
    bank.save(tmp_path / "bank.h5")
    assert (tmp_path / "bank.h5").stat().st_size < 100_000
    images = FeatureBank.load(tmp_path / "bank.h5").candidates.images
    assert images == bank.candidates.images
    assert (images.decode() == bank.candidates.images.decode()).all()
    assert FeatureBank.load(tmp_path / "bank.h5").images_digest == bank.images_digest


def test_what_renders_differently_has_another_recipe() -> None:
    pool = phantom_candidates(4, {"torn": 0.4, "wrong stain": 0.4}, seed=3)
    reordered = phantom_candidates(4, {"wrong stain": 0.4, "torn": 0.4}, seed=3)
    assert reordered.images != pool.images
    assert (reordered.images.decode() != pool.images.decode()).any()
    assert bank_of(reordered).images_digest != bank_of(pool).images_digest
    other_seed = phantom_candidates(4, {"torn": 0.4, "wrong stain": 0.4}, seed=4)
    assert other_seed.images != pool.images


def test_recipes_that_this_release_cannot_render(tmp_path: Path) -> None:
    path = tmp_path / "bank.h5"
    bank_of(phantom_candidates(4, seed=3)).save(path)
    with h5py.File(path, "r+") as file:
        file["train/images"].attrs["renderer"] = "os:system"
    message = "bank.h5: train/images cannot be rendered .no renderer 'os:system'"
    with pytest.raises(ValueError, match=message):
        FeatureBank.load(path)
    old = RenderedImages("cervical phantom", {"seed": 0, "version": 0}, np.arange(2))
    with pytest.raises(ValueError, match="version 0 of the phantom, this release renders"):
        old.decode()
