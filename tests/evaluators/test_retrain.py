"""Full retraining, by a network of a few steps."""

from __future__ import annotations

import pickle
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch

from synthselect_env import FeatureBank
from synthselect_env.data import Dataset
from synthselect_env.evaluators import (
    PaperRetrainEvaluator,
    ParallelEvaluator,
    RetrainEvaluator,
    make_evaluator,
)
from synthselect_env.training.classifier import Classifier, build_network
from synthselect_env.training.config import PAPER, SMALL, TrainingConfig, default_config


def test_keeps_the_last_five_epochs_and_reports_each(
    toy: FeatureBank, tiny: TrainingConfig, masks: np.ndarray
) -> None:
    seen: list[tuple[int, int, float | None]] = []
    evaluator = RetrainEvaluator(
        toy,
        config=replace(tiny, epochs=6),
        scored_epochs=5,
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


@pytest.mark.parametrize("kind", [RetrainEvaluator, PaperRetrainEvaluator])
def test_a_dictionary_says_what_differs_from_the_default(
    toy: FeatureBank, kind: type[RetrainEvaluator]
) -> None:
    """One option changes neither the network nor the images' proportions."""
    splits = {
        name: replace(split, images=np.zeros((len(split), 48, 96, 3), np.uint8))
        for name, split in toy.splits.items()
    }
    wide, default = replace(toy, **splits), default_config(kind.default_architecture)
    short = min(default.size)
    proportioned = replace(default, size=(short, 2 * short))
    assert kind(wide).config == proportioned
    without = replace(proportioned, augmentation="none")
    assert kind(wide, config={"augmentation": "none"}).config == without
    assert kind(wide, config={"size": (8, 8)}).config == replace(default, size=(8, 8))


@pytest.mark.parametrize(
    ("name", "config", "scored_epochs"), [("small_cnn", SMALL, 1), ("resnet34", PAPER, 5)]
)
def test_networks_by_name(
    toy: FeatureBank, name: str, config: TrainingConfig, scored_epochs: int
) -> None:
    evaluator = make_evaluator(name, toy, device="cpu")
    assert evaluator.config == config.for_images(16, 16)
    assert evaluator.scored_epochs == scored_epochs
    assert evaluator.description == f"{name} retrained at 16×16 px"
    assert RetrainEvaluator(toy, name, device="cpu").config == evaluator.config


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
    for evaluator in ("small_cnn", "resnet34"):
        with pytest.raises(ValueError, match=f"{name}/images is missing"):
            make_evaluator(evaluator, blind)


def test_labels_no_dataset_without_images(
    toy: FeatureBank, tiny: TrainingConfig, masks: np.ndarray
) -> None:
    evaluator = RetrainEvaluator(toy, config=tiny, device="cpu")
    with pytest.raises(ValueError, match="no images; full retraining needs images"):
        evaluator.predict(masks[:1], 0, Dataset(toy.test.features, toy.test.labels))


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["small_cnn", "resnet18"])
def test_the_same_numbers_everywhere(
    toy: FeatureBank, masks: np.ndarray, architecture: str
) -> None:
    """With one thread, with two, and in another process."""
    short = {"epochs": 2, "steps_per_epoch": 8, "batch_size": 64, "size": (16, 16)}
    evaluator = RetrainEvaluator(toy, architecture, config=short, device="cpu")
    found, threads = [], torch.get_num_threads()
    try:
        for n in (1, 2):
            torch.set_num_threads(n)
            found.append(evaluator.predict(masks[1:3], 0, toy.test))
            assert torch.get_num_threads() == n
    finally:
        torch.set_num_threads(threads)
    with ParallelEvaluator(evaluator, workers=2) as parallel:
        found.append(parallel.predict(masks[1:3], 0, toy.test))
    assert np.array_equal(found[0], found[1]) and np.array_equal(found[0], found[2])


class Recorder(RetrainEvaluator):
    """Note what each network is trained on."""

    trained_on: list[set[int]]

    def _train(self, selections, real, seed, scored_epochs):
        noted = [set(real) | {-1 - i for i in np.flatnonzero(row)} for row in selections]
        self.trained_on = [*getattr(self, "trained_on", []), *noted]
        return super()._train(selections, real, seed, scored_epochs)


@pytest.fixture
def by_folds(toy: FeatureBank, tiny: TrainingConfig) -> Recorder:
    return Recorder(toy, config=tiny, folds=5, device="cpu")


def test_folds_label_no_image_that_they_were_trained_on(
    by_folds: Recorder, toy: FeatureBank, masks: np.ndarray
) -> None:
    """Each annotated image is in one fold. The other folds and the selection train its network."""
    evaluations = by_folds.evaluate(masks[1:3], seed=0)
    n_real = len(toy.train) + len(toy.valid)
    assert len(by_folds.annotated) == n_real and len(by_folds.trained_on) == 10
    selected = [{-1 - i for i in np.flatnonzero(mask)} for mask in masks[1:3]]
    held_out = []
    for number, trained_on in enumerate(by_folds.trained_on):
        real = {i for i in trained_on if i >= 0}
        assert trained_on - real == selected[number % 2]
        held_out.append(set(range(n_real)) - real)
    assert held_out[::2] == held_out[1::2], "the same folds for all selections"
    assert sorted(i for fold in held_out[::2] for i in fold) == list(range(n_real))

    # Metrics are those of all held-out predictions together.
    log_p = by_folds.predict(masks[1:3], 0, by_folds.annotated)
    expected = log_p[:, np.arange(n_real), by_folds.annotated.labels].mean(1)
    assert evaluations.log_likelihood == pytest.approx(expected)


def test_other_images_are_labelled_by_one_network(
    by_folds: Recorder, toy: FeatureBank, masks: np.ndarray
) -> None:
    by_folds.predict(masks[:1], 0, toy.test)
    everything = set(range(len(by_folds.annotated)))
    assert by_folds.trained_on == [everything]
    beside_a_fold = Dataset.concatenate([by_folds.fold(2), toy.candidates])
    by_folds.predict(masks[:1], 0, beside_a_fold)
    held_out = set(np.flatnonzero(by_folds.fold_of == 2))
    assert by_folds.trained_on[1:] == [everything - held_out]


def test_folds_divide_no_patient(toy: FeatureBank, tiny: TrainingConfig) -> None:
    def patients(name: str) -> tuple[str, ...]:
        return tuple(f"{i % 12}" for i in range(len(getattr(toy, name))))

    splits = {name: replace(getattr(toy, name), groups=patients(name)) for name in toy.splits}
    evaluator = RetrainEvaluator(replace(toy, **splits), config=tiny, folds=4, device="cpu")
    groups = np.array(evaluator.annotated.groups)
    seen = [set(groups[evaluator.fold_of == fold]) for fold in range(4)]
    assert sum(map(len, seen)) == 12 == len(set.union(*seen))


def test_an_image_that_looks_like_an_annotated_one_changes_nothing(
    by_folds: Recorder, toy: FeatureBank, masks: np.ndarray
) -> None:
    """A blank patch, perhaps. Only a whole fold is held out."""
    alike = Dataset.concatenate([toy.test, toy.valid.subset([3])])
    by_folds.predict(masks[:1], 0, alike)
    assert by_folds.trained_on == [set(range(len(by_folds.annotated)))]


def rare(bank: FeatureBank) -> FeatureBank:
    """All patients of the second class are one, who is in one fold."""
    splits = {}
    for name in ("train", "valid"):
        split = getattr(bank, name)
        groups = tuple("one" if y else f"{name}-{i}" for i, y in enumerate(split.labels))
        splits[name] = replace(split, groups=groups)
    return replace(bank, **splits)


@pytest.mark.parametrize(
    ("change", "arguments", "message"),
    [
        (rare, {"folds": 3}, "without fold . of 3, no image of class right is left to train on"),
        (
            lambda bank: replace(bank, train=replace(bank.train, groups=("a",) * 24)),
            {"folds": 3},
            "patients are known of only one of train and valid",
        ),
        (None, {"folds": 1000}, "152 images cannot be cut into 1000 folds"),
        (None, {"folds": 1}, "folds must be at least 2, got 1"),
    ],
)
def test_folds_that_cannot_be(
    toy: FeatureBank, tiny: TrainingConfig, change, arguments: dict[str, int], message: str
) -> None:
    bank = change(toy) if change else toy
    with pytest.raises(ValueError, match=message):
        RetrainEvaluator(bank, config=tiny, device="cpu", **arguments)


def test_folds_need_a_training_from_scratch(toy: FeatureBank, tiny: TrainingConfig) -> None:
    network = build_network(tiny, 2, seed=0)
    with pytest.raises(ValueError, match="folds need a training from scratch"):
        RetrainEvaluator(toy, config=tiny, folds=3, initial=Classifier(network, tiny, 2))


def test_an_architecture_in_the_configuration_has_its_own_defaults(toy: FeatureBank) -> None:
    by_name = RetrainEvaluator(toy, "resnet34", device="cpu")
    assert RetrainEvaluator(toy, config={"architecture": "resnet34"}).config == by_name.config
