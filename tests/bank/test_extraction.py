"""From images to a bank: the extractor, the features."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from synthselect_env import FeatureBank
from synthselect_env.bank.extraction import (
    extract_bank,
    train_extractor,
    training_digest,
)
from synthselect_env.data import Dataset, compute_image_stats
from synthselect_env.training.classifier import Classifier
from synthselect_env.training.config import TrainingConfig

TINY = TrainingConfig("shufflenet_v2_x0_5", (16, 16), epochs=1, steps_per_epoch=4, batch_size=16)


@pytest.fixture(scope="module")
def datasets(small: FeatureBank) -> dict[str, Dataset]:
    def without_features(split: Dataset) -> Dataset:
        groups = tuple(f"g{i % 5}" for i in range(len(split)))
        return Dataset.of_images(
            split.images, split.labels, split.ids, small.classes, groups, split.flaw
        )

    few = {**small.splits, "test": small.test.subset(np.arange(0, 512, 8))}
    return {name: without_features(split) for name, split in few.items()}


@pytest.fixture(scope="module")
def extractor(datasets: dict[str, Dataset]) -> Classifier:
    return train_extractor(datasets["train"], datasets["valid"], 0, TINY, "cpu")


@pytest.fixture(scope="module")
def bank(datasets: dict[str, Dataset], extractor: Classifier) -> FeatureBank:
    return extract_bank(datasets, extractor, {"data": "toy"})


def test_bank_holds_what_the_images_had(
    bank: FeatureBank, datasets: dict[str, Dataset], extractor: Classifier
) -> None:
    assert bank.n_features == 1024 and bank.classes == ("left", "right")
    assert bank.extractor == "shufflenet_v2_x0_5 trained on the train split at 16×16 px"
    for name, given in datasets.items():
        split = bank.splits[name]
        assert np.array_equal(split.features, extractor.features(given.images))
        assert (split.ids, split.groups) == (given.ids, given.groups)
        assert split.images is given.images and np.array_equal(split.flaw, given.flaw)


def test_provenance_says_how_good_the_extractor_is(
    bank: FeatureBank, datasets: dict[str, Dataset], extractor: Classifier
) -> None:
    pool = datasets["candidates"]
    assigned = extractor.log_probabilities(pool.images).argmax(1).numpy()
    agreement = bank.provenance["candidates_that_the_extractor_assigns_to_their_class"]
    assert agreement == pytest.approx((assigned == pool.labels).mean(), abs=1e-4)
    reached = extractor.score(datasets["valid"].images, datasets["valid"].labels)["accuracy"][0]
    stated = bank.provenance["extractor_validation"]["accuracy"]
    assert stated == pytest.approx(reached, abs=1e-4) and bank.provenance["data"] == "toy"


def test_image_statistics_are_those_of_training_images_and_candidates(
    bank: FeatureBank, datasets: dict[str, Dataset]
) -> None:
    for name in ("train", "candidates"):
        expected = compute_image_stats(datasets[name].pixels(TINY.size))
        assert np.array_equal(bank.splits[name].image_stats, expected)
    assert bank.valid.image_stats is bank.test.image_stats is None


def test_bank_can_be_extracted_again(bank: FeatureBank, extractor: Classifier) -> None:
    again = extract_bank(bank.splits, extractor)
    assert again.digest == bank.digest
    assert np.array_equal(again.test.features, bank.test.features)
    sealed = extract_bank(bank.sealed.splits, extractor)
    assert sealed.test is None and sealed.digest == bank.digest


def test_network_from_elsewhere_has_no_history(
    bank: FeatureBank, datasets: dict[str, Dataset], extractor: Classifier
) -> None:
    foreign = extract_bank(datasets, Classifier(extractor.network, TINY, 2))
    assert foreign.digest == bank.digest
    assert "extractor_validation" not in foreign.provenance


def test_passes_over_few_images_are_repeated(
    datasets: dict[str, Dataset], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("synthselect_env.bank.extraction.LEAST_STEPS", 3)
    for batch_size, steps in ((16, 3), (6, 4)):
        asked = replace(TINY, steps_per_epoch=None, batch_size=batch_size)
        trained = train_extractor(datasets["train"], datasets["valid"], 0, asked, "cpu")
        assert trained.config == replace(asked, steps_per_epoch=steps)


def test_extractor_knows_what_it_was_trained_on(
    datasets: dict[str, Dataset], extractor: Classifier, tmp_path: Path
) -> None:
    train, valid = datasets["train"], datasets["valid"]
    extractor.save(tmp_path / "extractor.pt")
    loaded = Classifier.load(tmp_path / "extractor.pt", "cpu")
    assert loaded.trained_on == training_digest(train, 0) and loaded.digest == extractor.digest
    assert loaded.trained_on not in (training_digest(train, 1), training_digest(valid, 0))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classes": ("b", "a")}, "valid has the classes b, a, train has left, right; read its"),
        ({"classes": None}, "valid has no classes; an extractor needs images of named classes"),
        ({"images": None}, "valid has no images; an extractor needs images of named classes"),
    ],
)
def test_splits_that_are_refused(
    datasets: dict[str, Dataset],
    extractor: Classifier,
    changes: dict[str, object],
    message: str,
) -> None:
    valid = replace(datasets["valid"], **changes)
    with pytest.raises(ValueError, match=message):
        extract_bank({**datasets, "valid": valid}, extractor)


def test_other_refusals(datasets: dict[str, Dataset], extractor: Classifier) -> None:
    three = {name: replace(p, classes=("a", "b", "c")) for name, p in datasets.items()}
    with pytest.raises(ValueError, match="trained for 2 classes, the images have 3"):
        extract_bank(three, extractor)
    with pytest.raises(ValueError, match="made of train, valid, test, candidates .*got train"):
        extract_bank({"train": datasets["train"]}, extractor)
    nameless = replace(datasets["train"], classes=())
    with pytest.raises(ValueError, match="train has no classes"):
        train_extractor(nameless, datasets["valid"], 0, TINY, "cpu")


@pytest.mark.parametrize(
    ("height", "width", "size"),
    [(96, 96, (48, 48)), (256, 128, (96, 48)), (128, 256, (48, 96)), (30, 60, (30, 60))],
)
def test_sizes_keep_the_proportions_of_images(
    height: int, width: int, size: tuple[int, int]
) -> None:
    assert TrainingConfig().for_images(height, width).size == size
