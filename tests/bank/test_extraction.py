"""From images to a bank: the extractor, the features."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from synthselect_env import load_bank
from synthselect_env.bank.extraction import (
    LEAST_STEPS,
    extract_bank,
    train_extractor,
    training_digest,
)
from synthselect_env.data import Dataset, compute_image_stats
from synthselect_env.training.classifier import Classifier, TrainingConfig

TINY = TrainingConfig(
    architecture="resnet18",
    size=(16, 16),
    epochs=2,
    steps_per_epoch=12,
    batch_size=16,
    learning_rate=1e-3,
)


@pytest.fixture(scope="module")
def pictures() -> dict[str, Dataset]:
    toy = load_bank("toy")
    splits = {
        name: getattr(toy, name).subset(np.arange(len(getattr(toy, name))))
        for name in ("train", "valid", "test", "candidates")
    }
    return {
        name: Dataset.of_images(
            s.images,
            s.labels,
            s.ids,
            toy.classes,
            flaw=s.flaw,
            groups=tuple(f"g{i % 5}" for i in range(len(s))),
        )
        for name, s in splits.items()
    }


@pytest.fixture(scope="module")
def extractor(pictures: dict[str, Dataset]) -> Classifier:
    return train_extractor(pictures["train"], pictures["valid"], 0, TINY, "cpu")


def test_a_bank_holds_what_the_pictures_had(
    pictures: dict[str, Dataset], extractor: Classifier
) -> None:
    bank = extract_bank(pictures, extractor, {"data": "toy"})
    assert (
        bank.n_features == 512 and bank.provenance["data"] == "toy" and "resnet18" in bank.extractor
    )
    assert (
        bank.candidates.flaw == pictures["candidates"].flaw
    ).all() and bank.train.groups == pictures["train"].groups
    agreement = bank.provenance["candidates_that_the_extractor_assigns_to_their_class"]
    assigned = extractor.log_probabilities(pictures["candidates"].images).argmax(1).numpy()
    assert agreement == pytest.approx((assigned == pictures["candidates"].labels).mean(), abs=1e-4)
    assert (bank.valid.features == extractor.features(pictures["valid"].images)).all()


def test_a_banks_pictures_are_those_it_was_made_of(
    pictures: dict[str, Dataset], extractor: Classifier
) -> None:
    bank = extract_bank(pictures, extractor)
    again = extract_bank(bank.pictures, extractor)
    assert again.digest == bank.digest and (again.test.features == bank.test.features).all()
    assert again.train.groups == bank.train.groups and again.candidates.ids == bank.candidates.ids
    assert set(bank.sealed.pictures) == {"train", "valid", "candidates"}
    with pytest.raises(ValueError, match="no pictures in valid; build the bank with them"):
        replace(bank, valid=replace(bank.valid, images=None)).pictures  # noqa: B018


def test_few_pictures_are_passed_often_enough(pictures: dict[str, Dataset], tmp_path: Path) -> None:
    asked = replace(TINY, epochs=1, steps_per_epoch=None)
    trained = train_extractor(pictures["train"], pictures["valid"], 3, asked, "cpu")
    assert trained.config == replace(asked, steps_per_epoch=LEAST_STEPS)
    trained.save(tmp_path / "extractor.pt")
    loaded = Classifier.load(tmp_path / "extractor.pt", "cpu")
    assert loaded.trained_on == training_digest(pictures["train"], 3)
    others = (training_digest(pictures["train"], 4), training_digest(pictures["valid"], 3))
    assert loaded.trained_on not in others and loaded.digest == trained.digest


def test_errors(pictures: dict[str, Dataset], extractor: Classifier) -> None:
    three = {name: replace(p, classes=("a", "b", "c")) for name, p in pictures.items()}
    with pytest.raises(ValueError, match="trained for 2 classes, the pictures have 3"):
        extract_bank(three, extractor)
    with pytest.raises(
        ValueError,
        match="candidates has the classes b, a, train has .*; read its pictures with the classes of train",
    ):
        extract_bank(
            {**pictures, "candidates": replace(pictures["candidates"], classes=("b", "a"))},
            extractor,
        )


def test_a_bank_without_a_test_split_or_by_a_network_from_elsewhere(
    pictures: dict[str, Dataset], extractor: Classifier
) -> None:
    bank = extract_bank(pictures, extractor)
    sealed = extract_bank(bank.sealed.pictures, extractor)
    assert sealed.test is None and sealed.digest == bank.digest
    foreign = extract_bank(pictures, Classifier(extractor.network, TINY, 2))
    assert foreign.digest == bank.digest
    assert "by validation" in bank.extractor and "by validation" not in foreign.extractor
    assert "extractor_validation" not in foreign.provenance


@pytest.mark.parametrize(
    ("height", "width", "size"),
    [(96, 96, (48, 48)), (256, 128, (96, 48)), (128, 256, (48, 96)), (30, 60, (30, 60))],
)
def test_sizes_keep_the_pictures_proportions(
    height: int, width: int, size: tuple[int, int]
) -> None:
    assert TrainingConfig().for_images(height, width).size == size


def test_a_bank_knows_how_pictures_look(
    pictures: dict[str, Dataset], extractor: Classifier
) -> None:
    bank = extract_bank(pictures, extractor)
    size = extractor.config.size
    assert np.array_equal(
        bank.train.image_stats, compute_image_stats(pictures["train"].pixels(size))
    )
    assert np.array_equal(
        bank.candidates.image_stats, compute_image_stats(pictures["candidates"].pixels(size))
    )
