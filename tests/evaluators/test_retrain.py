"""Full retraining, by a network of a few steps."""

from __future__ import annotations

import pickle
from dataclasses import asdict, replace

import numpy as np
import pytest

from synthselect_env import FeatureBank
from synthselect_env.data import Dataset
from synthselect_env.evaluators import QuickRetrainEvaluator, RetrainEvaluator, make_evaluator
from synthselect_env.training.classifier import QUICK, TrainingConfig


def test_keeps_the_last_five_epochs_and_reports_each(
    toy: FeatureBank, tiny: TrainingConfig, masks: np.ndarray
) -> None:
    seen: list[tuple[int, int, float | None]] = []
    evaluator = RetrainEvaluator(
        toy,
        config=replace(tiny, epochs=6),
        device="cpu",
        on_epoch=lambda done, epoch, metrics: seen.append((done, epoch, metrics.get("accuracy"))),
    )
    metrics = evaluator.evaluate(masks[1:3], 0)
    accuracy = metrics.epochs["accuracy"]
    assert accuracy.shape == (2, 5)
    assert metrics.accuracy.tolist() == accuracy[:, -1].tolist()
    assert [row[:2] for row in seen] == [(done, e) for done in (0, 1) for e in range(1, 7)]
    assert accuracy[1].tolist() == [value for done, _, value in seen if done == 1][1:]


def test_a_callback_is_not_sent_along(
    toy: FeatureBank, tiny: TrainingConfig, masks: np.ndarray
) -> None:
    """A callback that draws a bar is often a lambda, which cannot be pickled."""
    told: list[int] = []
    evaluator = RetrainEvaluator(
        toy, config=tiny, device="cpu", on_epoch=lambda done, epoch, metrics: told.append(epoch)
    )
    copied = pickle.loads(pickle.dumps(evaluator)).evaluate(masks[:1], 0)
    assert not told
    original = evaluator.evaluate(masks[:1], 0)
    assert told and (original.log_likelihood == copied.log_likelihood).all()


@pytest.mark.parametrize("kind", [RetrainEvaluator, QuickRetrainEvaluator])
def test_a_dictionary_says_what_differs_from_the_default(
    toy: FeatureBank, kind: type[RetrainEvaluator]
) -> None:
    """One option changes neither the network nor the images' proportions."""
    splits = {
        name: replace(split, images=np.zeros((len(split), 48, 96, 3), np.uint8))
        for name, split in toy.splits.items()
    }
    wide, default = replace(toy, **splits), kind.default_config
    short = min(default.size)
    proportioned = replace(default, size=(short, 2 * short))
    assert kind(wide).config == proportioned
    without = replace(proportioned, augmentation="none")
    assert kind(wide, config={"augmentation": "none"}).config == without
    assert kind(wide, config={"size": (8, 8)}).config == replace(default, size=(8, 8))


def test_the_small_network_has_a_name(toy: FeatureBank) -> None:
    quick = make_evaluator("resnet18", toy, device="cpu")
    assert isinstance(quick, QuickRetrainEvaluator)
    assert quick.config == QUICK.for_images(16, 16)
    assert quick.description == "resnet18 retrained at 16×16 px"


def test_every_dataset_is_labelled_by_its_own_images(
    toy: FeatureBank, tiny: TrainingConfig, masks: np.ndarray
) -> None:
    """Images of the last call are remembered, and the address of a former dataset is used again."""
    evaluator = RetrainEvaluator(toy, config=asdict(tiny), device="cpu")
    nothing = masks[:1]
    together = evaluator.predict(nothing, 0, toy.test)[0]
    for part in (slice(0, 40), slice(200, 240)):
        dataset = Dataset(
            toy.test.features[part], toy.test.labels[part], images=toy.test.images[part]
        )
        alone = evaluator.predict(nothing, 0, dataset)[0]
        del dataset
        assert alone == pytest.approx(together[part], abs=1e-5)


def test_a_dataset_that_is_asked_for_again_is_decoded_once(
    toy: FeatureBank, tiny: TrainingConfig, masks: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the test split is in a comparison, once per selection."""
    evaluator = RetrainEvaluator(toy, config=tiny, device="cpu")
    decoded: list[int] = []
    pixels = Dataset.pixels
    monkeypatch.setattr(
        Dataset, "pixels", lambda data, size: decoded.append(len(data)) or pixels(data, size)
    )
    first, again = (evaluator.predict(masks[:1], 0, replace(toy.test)) for _ in range(2))
    assert sorted(decoded) == [24 + 64, 128, 512], "training pool, validation and test split"
    assert (first == again).all()


@pytest.mark.parametrize("name", ["train", "candidates"])
def test_needs_images(toy: FeatureBank, name: str) -> None:
    blind = replace(toy, **{name: replace(getattr(toy, name), images=None)})
    for evaluator in ("resnet18", "resnet34"):
        with pytest.raises(ValueError, match=f"{name}/images is missing"):
            make_evaluator(evaluator, blind)


def test_labels_no_dataset_without_images(
    toy: FeatureBank, tiny: TrainingConfig, masks: np.ndarray
) -> None:
    evaluator = RetrainEvaluator(toy, config=tiny, device="cpu")
    with pytest.raises(ValueError, match="no images; full retraining needs images"):
        evaluator.predict(masks[:1], 0, Dataset(toy.test.features, toy.test.labels))
