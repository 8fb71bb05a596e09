"""The embedded banks hold what they are said to hold."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from synthselect_env import FeatureBank, load_bank
from synthselect_env.bank import EMBEDDED, SPLITS
from synthselect_env.bank.embedded import draw_few, planted_pcam, resolve_bank
from synthselect_env.data import Dataset, compute_image_stats, decode
from synthselect_env.data.flaws import FLAWS
from synthselect_env.evaluators import (
    DatamodelEvaluator,
    RetrainEvaluator,
    candidate_scores,
    with_retrainings,
)
from synthselect_env.training.config import SMALL

DIGESTS = {
    "pcam-few": ("67af81f9abbd62fd", "a8cd6e7d07f4196e"),
    "pcam": ("799c3d88b53fe920", "c1e0bf4c5ef23aa5"),
    "cervical": ("6c27b803a6427b9a", "b725823c2b7d27ef"),
    "pcam-planted": ("2e45ad3706a53cc6", "d75eb99368dd1f4f"),
    "toy": ("3bbafb9c7e69b774", "3018b140edea84ab"),
}
"""Start of each bank's images digest and digest. Retrainings and caches rely on them."""

WITH_RETRAININGS = ["pcam-few", "pcam", "cervical", "pcam-planted"]


@pytest.fixture
def bank(request: pytest.FixtureRequest) -> FeatureBank:
    fixtures = {"pcam-planted": "planted", "pcam-few": "few"}
    fixture: str = fixtures.get(request.param, request.param)
    return request.getfixturevalue(fixture)


@pytest.mark.parametrize(("bank", "name"), [(name, name) for name in EMBEDDED], indirect=["bank"])
def test_digests_are_those_of_former_versions(bank: FeatureBank, name: str) -> None:
    assert (bank.images_digest[:16], bank.digest[:16]) == DIGESTS[name]


@pytest.mark.parametrize("bank", EMBEDDED, indirect=True)
def test_nothing_looks_wrong_and_provenance_is_told(bank: FeatureBank) -> None:
    assert not bank.warnings() and bank.provenance and bank.extractor
    for split in (bank.train, bank.valid, bank.candidates):
        ends = split.subset([0, len(split) - 1])
        assert ends.pixels().shape[0] == 2


@pytest.mark.parametrize("bank", WITH_RETRAININGS, indirect=True)
def test_retrainings_are_of_these_images(bank: FeatureBank) -> None:
    datamodel = DatamodelEvaluator(bank)  # refuses retrainings of other images
    measured, predicted = datamodel.metrics.log_likelihood, datamodel.leave_one_out()
    # A fold of pcam-few holds 38 images, whose noise no datamodel predicts.
    by_folds = bank.retrainings.training_config.get("folds")
    least = 0.2 if by_folds else 0.5
    assert len(measured) >= 32 and np.corrcoef(measured, predicted)[0, 1] > least


@pytest.mark.parametrize(
    ("bank", "folds"), [("pcam-few", 5), ("pcam-planted", None)], indirect=["bank"]
)
def test_retrainings_can_be_gone_on_with(bank: FeatureBank, folds: int | None) -> None:
    """Their configuration and training version are today's, so further ones may be added."""

    class Stopped(RetrainEvaluator):
        def predict(self, selections: np.ndarray, seed: int, dataset: Dataset) -> np.ndarray:
            raise RuntimeError("would be retrained")

    with pytest.raises(RuntimeError, match="would be retrained"):
        with_retrainings(bank, Stopped(bank, folds=folds), 1, seed=0)


def test_pcam_has_the_papers_counts(pcam: FeatureBank) -> None:
    counts = {name: np.bincount(getattr(pcam, name).labels).tolist() for name in SPLITS}
    assert counts == {
        "train": [1966, 1378],
        "valid": [460, 308],
        "test": [614, 410],
        "candidates": [2048, 2048],
    }
    assert pcam.classes == ("normal", "tumor") and pcam.n_features == 512
    real = (pcam.train, pcam.valid, pcam.test)
    images = {blob for split in real for blob in split.images.blobs}
    ids = {name for split in real for name in split.ids}
    assert len(ids) == len(images) == 3344 + 768 + 1024  # no image in two splits
    for split, side in ((pcam.test, 96), (pcam.candidates, 48)):
        assert split.images[:3].decode().shape == (3, side, side, 3)
    assert pcam.provenance["candidates"]["generator"] == "HistoGAN"
    assert "CC0" in pcam.provenance["real"]


def test_few_images_are_those_that_no_generator_saw(few: FeatureBank, pcam: FeatureBank) -> None:
    counts = {name: len(split) for name, split in few.splits.items()}
    assert counts == {"train": 144, "valid": 48, "test": 1600, "candidates": 2048}
    real = Dataset.concatenate([few.train, few.valid, few.test])
    assert set(real.ids) == {*pcam.valid.ids, *pcam.test.ids}
    assert {*few.train.ids, *few.valid.ids} <= set(pcam.valid.ids)
    generators, sizes = np.unique(few.candidates.groups, return_counts=True)
    assert generators.tolist() == ["generator A", "generator B", "generator C"]
    assert sizes.tolist() == [1280, 384, 384]
    # Images are those of the embedded bank.
    position = few.test.ids.index(pcam.test.ids[5])
    assert np.array_equal(few.test.subset([position]).pixels(), pcam.test.subset([5]).pixels())


@pytest.mark.slow
def test_draws_of_the_few_images(few: FeatureBank, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each draw has real images and features of its own, and the same candidates."""
    short = replace(SMALL, size=(16, 16), epochs=1, steps_per_epoch=2)
    extraction = "synthselect_env.bank.extraction.default_extractor"
    monkeypatch.setattr(extraction, lambda n_real: short)
    first, again, other = (load_bank("pcam-few", draw) for draw in (1, 1, 2))
    assert first.digest == again.digest and first.retrainings is None
    assert len({frozenset(bank.train.ids) for bank in (few, first, other)}) == 3
    for bank in (first, other):
        assert bank.candidates.images_digest == few.candidates.images_digest
        assert {*bank.train.ids, *bank.valid.ids, *bank.test.ids} == {
            *few.train.ids,
            *few.valid.ids,
            *few.test.ids,
        }
        assert not np.array_equal(bank.candidates.features, few.candidates.features)
        assert f"draw {bank.provenance['draw']} of 192" in bank.source and not bank.warnings()
    assert draw_few(few, 3, 64).provenance["annotated"] == 64
    with pytest.raises(ValueError, match="draw 1: only pcam-few has several draws, pcam has one"):
        load_bank("pcam", 1)


def test_cervical_says_that_it_is_a_phantom(cervical: FeatureBank) -> None:
    assert "not tissue" in cervical.describe()
    assert cervical.classes == ("Normal", "CIN1", "CIN2", "CIN3")
    assert [len(batch) for batch in cervical.batches] == [512] * 8
    assert 0.45 < (cervical.candidates.flaw == 0).mean() < 0.55
    assert not set(cervical.train.groups) & set(cervical.valid.groups)


def test_planted_candidates_are_other_patches_of_the_pcam_bank(pcam: FeatureBank) -> None:
    """Sound ones equal a training patch that is not used; flawed ones are changed."""
    parts = planted_pcam(n_real=20, n_candidates=60, seed=4)
    pool, real = parts["candidates"], parts["train"]
    position = {image.tobytes(): i for i, image in enumerate(pcam.train.images.decode())}
    used = {position[image.tobytes()] for image in real.pixels()}
    assert len(used) == 20
    for image, label, flaw in zip(pool.pixels(), pool.labels, pool.flaw):
        found = position.get(image.tobytes())
        if FLAWS[flaw] in ("sound", "wrong label"):
            assert found not in used
            assert (pcam.train.labels[found] == label) == (FLAWS[flaw] == "sound")
        else:
            assert found is None
    for name in ("valid", "test"):
        theirs = pcam.splits[name]
        ends = parts[name].images[[0, 7]].decode(), theirs.images[[0, 7]].decode()
        assert np.array_equal(*ends) and np.array_equal(parts[name].labels, theirs.labels)
    with pytest.raises(ValueError, match="were asked for"):
        planted_pcam(n_real=3000, n_candidates=2048)


def test_images_of_another_pcam_bank_are_refused() -> None:
    images = planted_pcam(20, 20)["train"].images
    images.arguments["pictures"] = "0" * 16
    with pytest.raises(ValueError, match="images of another embedded PCam bank .*train split"):
        images.decode()


def test_flaws_of_another_version_are_refused() -> None:
    images = planted_pcam(20, 20)["candidates"].images
    images.arguments["version"] += 1
    with pytest.raises(ValueError, match="these flaws are of version"):
        images.decode()


@pytest.mark.parametrize(
    ("bank", "size", "stain"),
    # The phantom's patients differ so much in their stains that a shift is hardly seen.
    [("cervical", (64, 32), 0.55), ("pcam-planted", (48, 48), 0.65)],
    indirect=["bank"],
)
def test_image_statistics_tell_what_features_do_not(
    bank: FeatureBank, size: tuple[int, int], stain: float
) -> None:
    """Blur, faded stains and tears lower realism; a wrong label does not show."""
    flaw, realism = bank.candidates.flaw, candidate_scores(bank).realism
    auc = {}
    for kind in np.unique(flaw[flaw > 0]):
        part = (flaw == 0) | (flaw == kind)
        auc[FLAWS[kind]] = roc_auc_score(flaw[part] == kind, -realism[part])
    assert auc["blur and noise"] > 0.95 and auc["wrong stain"] > stain
    assert auc.get("torn", 1) > 0.85 and 0.4 < auc["wrong label"] < 0.6
    # The stored statistics are those of the images.
    some = np.arange(0, len(flaw), 97)
    expected = compute_image_stats(decode(bank.candidates.images[some], size))
    assert bank.candidates.image_stats[some] == pytest.approx(expected, abs=1e-4)


def test_banks_by_name(toy: FeatureBank) -> None:
    assert resolve_bank(toy) is toy and resolve_bank("toy").digest == toy.digest
    with pytest.raises(ValueError, match="no embedded bank 'pcan'; there are pcam-few, .*your own"):
        load_bank("pcan")
    with pytest.raises(
        FileNotFoundError, match="nowhere.h5 is no file and no embedded bank; there are pcam"
    ):
        resolve_bank("nowhere.h5")
