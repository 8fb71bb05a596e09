from __future__ import annotations

import hashlib
import inspect
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from synthselect_env import FeatureBank
from synthselect_env.storage import normal_form
from synthselect_env.training import (
    augmentation,
    classifier,
    muon,
    plan,
    small_cnn,
    small_maps,
    step,
    trainer,
)
from synthselect_env.training.augmentation import AUGMENTATIONS, Augmentation
from synthselect_env.training.classifier import Classifier, as_pixels, last_layer
from synthselect_env.training.config import TrainingConfig
from synthselect_env.training.plan import TrainingPlan
from synthselect_env.training.step import TrainingStep
from synthselect_env.training.trainer import TRAINING_VERSION, Trainer, train_classifier

TINY = TrainingConfig(
    "shufflenet_v2_x0_5", size=(16, 16), epochs=2, steps_per_epoch=2, batch_size=16
)
TRAINING_CODE = {
    3: "198d94f630210c21",
}
"""Training version to the digest of its code, without docstrings and comments."""


def train(
    bank: FeatureBank,
    config: TrainingConfig = TINY,
    seed: int = 0,
    indices: np.ndarray | None = None,
    **kwargs,
) -> Classifier:
    """Train on the images of the train split, or on those at the indices."""
    of_trainer = ("images", "labels", "valid", "device", "initial")
    data: dict[str, Any] = {
        "images": bank.train.images,
        "labels": bank.train.labels,
        "valid": (bank.valid.images, bank.valid.labels),
        "device": "cpu",
    }
    data |= {name: kwargs.pop(name) for name in of_trainer if name in kwargs}
    trainer = Trainer(n_classes=2, config=config, **data)
    everything = np.arange(len(data["labels"]))
    (trained,) = trainer.train([everything if indices is None else indices], seed, **kwargs)
    return trained


@pytest.fixture(scope="module")
def trained(toy: FeatureBank) -> Classifier:
    return train(toy)


def test_training_code_has_a_version() -> None:
    """Cached retrainings are keyed by the version, so a change of the code must not go unseen."""
    modules = (plan, step, muon, trainer, augmentation, small_cnn, small_maps)
    parts = (*modules, classifier.build_network, classifier.as_pixels)
    code = [normal_form(inspect.getsource(part)) for part in parts]
    digest = hashlib.sha256("\n".join(code).encode()).hexdigest()[:16]
    assert TRAINING_CODE == {TRAINING_VERSION: digest}, (
        "the training changed: raise TRAINING_VERSION if numbers change, "
        f"then update this digest to {digest}"
    )


@pytest.mark.parametrize("architecture", ["resnet18", "mobilenet_v3_small"])  # one has dropout
def test_same_seed_gives_the_same_numbers(toy: FeatureBank, architecture: str) -> None:
    config = replace(TINY, architecture=architecture, steps_per_epoch=1)
    state = torch.random.get_rng_state(), np.random.get_state()[1].copy()
    first, again, other = train(toy, config), train(toy, config), train(toy, config, seed=1)
    images = toy.test.images[:32]
    assert torch.equal(first.log_probabilities(images), again.log_probabilities(images))
    assert first.history == again.history != other.history
    # Global generators are left alone.
    assert torch.equal(state[0], torch.random.get_rng_state())
    assert np.array_equal(state[1], np.random.get_state()[1])


def test_learns() -> None:
    """Bright against dark images, a chance that no network may miss."""
    rng = np.random.default_rng(0)
    labels = np.arange(64) % 2
    shades = 70 + 110 * labels[:, None, None, None]
    images = np.clip(shades + rng.normal(0, 15, (64, 16, 16, 3)), 0, 255).astype(np.uint8)
    config = replace(TINY, architecture="resnet18", epochs=3, steps_per_epoch=10)
    trained = train_classifier(
        images[:32], labels[:32], images[32:], labels[32:], 2, 0, config, device="cpu"
    )
    assert trained.history["accuracy"][-1] == 1.0


@pytest.mark.parametrize(("scored", "seen"), [(None, [1, 2, 3]), (1, [3]), (0, [])])
def test_last_epochs_are_scored(toy: FeatureBank, scored: int | None, seen: list[int]) -> None:
    told: dict[int, dict[str, float]] = {}

    def tell(number: int, epoch: int, metrics: dict[str, float]) -> None:
        assert number == 0
        told[epoch] = metrics

    config = replace(TINY, epochs=3, steps_per_epoch=1)
    trained = train(toy, config, scored_epochs=scored, on_epoch=tell)
    assert list(told) == [1, 2, 3] and [epoch for epoch in told if told[epoch]] == seen
    for name, values in trained.history.items():
        assert values == [told[epoch][name] for epoch in seen]


def test_features_are_the_input_of_the_last_layer(toy: FeatureBank, trained: Classifier) -> None:
    features = trained.features(toy.valid.images)
    assert features.shape == (128, 1024) and features.dtype == np.float32
    with torch.no_grad():
        log_p = last_layer(trained.network)(torch.from_numpy(features)).log_softmax(1)
    # bf16 where the processor has it.
    assert torch.allclose(log_p, trained.log_probabilities(toy.valid.images), atol=0.05)
    assert trained.features(toy.valid.images[:0]).shape == (0, 1024)
    assert trained.log_probabilities(toy.valid.images[:0]).shape == (0, 2)


def test_images_may_be_moved_to_the_device_once(toy: FeatureBank, trained: Classifier) -> None:
    cpu = torch.device("cpu")
    images = as_pixels(toy.train.images, cpu)
    again = train(toy, images=images, valid=(as_pixels(toy.valid.images, cpu), toy.valid.labels))
    assert again.history == trained.history


def test_images_in_any_memory_layout(toy: FeatureBank) -> None:
    """OpenCV's colours in reverse are a view with a negative stride."""
    reverse = toy.train.images[..., ::-1]
    assert train(toy, images=reverse).history == train(toy, images=reverse.copy()).history


def test_save_and_load(toy: FeatureBank, trained: Classifier, tmp_path: Path) -> None:
    trained.save(tmp_path / "classifier.pt")
    read = Classifier.load(tmp_path / "classifier.pt", device="cpu")
    assert (read.config, read.history) == (trained.config, trained.history)
    assert read.digest == trained.digest
    images = toy.test.images
    assert torch.equal(read.log_probabilities(images), trained.log_probabilities(images))


def test_other_files_are_no_classifiers(trained: Classifier, tmp_path: Path) -> None:
    path = tmp_path / "classifier.pt"
    torch.save(trained.network.state_dict(), path)
    with pytest.raises(ValueError, match="not written by this release's Classifier.save: it lacks"):
        Classifier.load(path)
    path.write_text("no network")
    with pytest.raises(ValueError, match="classifier.pt was not written by .*, or is damaged"):
        Classifier.load(path)
    trained.save(path)
    state = torch.load(path, weights_only=True)
    state["config"]["momentum"] = 0.9
    torch.save(state, path)
    with pytest.raises(ValueError, match="is of a release whose TrainingConfig was another"):
        Classifier.load(path)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"augmentation": "mixup"}, "unknown augmentation 'mixup'; one of none, traditional"),
        ({"epochs": 0}, "must be at least 1, got 0, 50 and 64"),
        ({"steps_per_epoch": 0}, "must be at least 1"),
        ({"batch_size": 0}, "must be at least 1"),
        ({"size": 48}, r"size is \(height, width\), got 48"),
    ],
)
def test_settings_out_of_range(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainingConfig(**settings)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"labels": np.zeros(24, int)}, "class 1 of 2 has no training image"),
        ({"indices": np.arange(12)}, "class 1 of 2 has no training image"),
        ({"config": replace(TINY, architecture="resnet35")}, "no classifier 'resnet35'"),
        ({"images": np.zeros((24, 16, 16, 3))}, r"images are uint8 \(n, h, w, 3\), got float64"),
    ],
)
def test_training_that_is_refused(
    toy: FeatureBank, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        train(toy, **arguments)


def test_divergence_is_told(toy: FeatureBank) -> None:
    with pytest.raises(FloatingPointError, match="diverged in epoch 1; lower learning_rate"):
        train(toy, replace(TINY, learning_rate=1e30))


def test_images_of_another_kind_are_refused(toy: FeatureBank, trained: Classifier) -> None:
    for wrong in (toy.test.images / 255, torch.rand(2, 3, 16, 16), toy.test.images[0]):
        with pytest.raises(ValueError, match=r"images are uint8 \(n, h, w, 3\)"):
            trained.log_probabilities(wrong)
    with pytest.raises(ValueError, match="Conv2d has no linear layer"):
        last_layer(torch.nn.Conv2d(1, 1, 1))


class Watching(Augmentation):
    """Note the mean of each image that a network is trained on, batch by batch."""

    batches: list[list[int]] = []

    def apply(
        self, images: torch.Tensor, flips: torch.Tensor, colours: torch.Tensor
    ) -> torch.Tensor:
        self.batches.append((images.double().mean((1, 2, 3)) * 255).round().int().tolist())
        return images


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """Batches that a network is trained on without augmentation."""
    monkeypatch.setattr(Watching, "batches", [])
    monkeypatch.setitem(AUGMENTATIONS, "none", Watching())
    return Watching.batches


NUMBERED = np.arange(24, dtype=np.uint8)[:, None, None, None] * np.ones((1, 16, 16, 3), np.uint8)
"""Images that are their own number."""


def test_small_set_fills_its_batches(toy: FeatureBank, seen: list[list[int]]) -> None:
    """Otherwise a classifier that is given more images would also see more in each step."""
    config = replace(TINY, steps_per_epoch=5, augmentation="none")
    train(toy, config, images=NUMBERED, indices=np.array([0, 1, 2, 12, 13]))
    assert len(seen) == 10 and {len(batch) for batch in seen} == {16}
    images, counts = np.unique(np.concatenate(seen), return_counts=True)
    assert images.tolist() == [0, 1, 2, 12, 13] and np.ptp(counts) <= 1  # pass by pass


@pytest.mark.parametrize(("batch_size", "steps"), [(4, 6), (64, 1)])
def test_whole_passes(toy: FeatureBank, seen: list[list[int]], batch_size: int, steps: int) -> None:
    config = replace(TINY, steps_per_epoch=None, batch_size=batch_size, augmentation="none")
    trained = train(toy, config, images=NUMBERED)
    assert len(seen) == steps * config.epochs
    assert len(trained.history["accuracy"]) == config.epochs


def test_shared_images_come_in_the_same_order(toy: FeatureBank, seen: list[list[int]]) -> None:
    """Common random numbers: leaving images out does not change the order of the others."""
    config = replace(TINY, augmentation="none", epochs=1, steps_per_epoch=None, batch_size=4)
    train(toy, config, seed=5, images=NUMBERED)
    everything = np.concatenate(seen).tolist()
    seen.clear()
    train(toy, config, seed=5, images=NUMBERED, indices=np.arange(0, 24, 3))
    assert sorted(everything) == list(range(24))
    assert [i for i in everything if i % 3 == 0] == np.concatenate(seen).tolist()


def test_starts_from_given_weights(toy: FeatureBank, trained: Classifier) -> None:
    config = replace(TINY, epochs=1, steps_per_epoch=1, learning_rate=1e-12)
    ours = last_layer(train(toy, config, initial=trained).network).weight
    assert torch.allclose(ours, last_layer(trained.network).weight, atol=1e-6)
    message = "those of a shufflenet_v2_x0_5 for 2 classes; a resnet34 for 2 is to be trained"
    with pytest.raises(ValueError, match=message):
        train(toy, replace(TINY, architecture="resnet34"), initial=trained)


@pytest.mark.filterwarnings("ignore:The default weight initialization of GoogleNet")
def test_network_with_auxiliary_heads(toy: FeatureBank) -> None:
    trained = train(toy, replace(TINY, architecture="googlenet", epochs=1, steps_per_epoch=1))
    assert trained.log_probabilities(toy.test.images[:8]).shape == (8, 2)


def subsets_of(bank: FeatureBank) -> list[np.ndarray]:
    """Five training sets of different sizes and numbers of steps."""
    everything = np.arange(len(bank.train))
    return [everything[i:] for i in (0, 1, 5, 0, 7)]


@pytest.mark.parametrize(("architecture", "muon_rate"), [("small_cnn", 0.03), ("resnet18", None)])
def test_side_by_side_is_the_same_as_one_at_a_time(
    toy: FeatureBank, architecture: str, muon_rate: float | None
) -> None:
    config = replace(TINY, architecture=architecture, muon_rate=muon_rate)
    config = replace(config, steps_per_epoch=None, batch_size=4)

    def trainer(side_by_side: int) -> Trainer:
        data = toy.train.images, toy.train.labels, 2, config, "cpu"
        valid = toy.valid.images, toy.valid.labels
        return Trainer(*data, valid, side_by_side=side_by_side)

    subsets, told = subsets_of(toy), []
    together = list(trainer(3).train(subsets, 0, on_epoch=lambda *seen: told.append(seen[:2])))
    for number, subset in enumerate(subsets):
        (alone,) = trainer(1).train([subset], 0)
        assert together[number].digest == alone.digest
        assert together[number].history == alone.history
    assert sorted(told) == [(number, epoch) for number in range(5) for epoch in (1, 2)]


def test_a_step_can_be_used_again(toy: FeatureBank) -> None:
    """As captured steps are, on a GPU: the second training is as if it were the first."""
    config = replace(TINY, architecture="small_cnn", muon_rate=0.03)
    pixels = as_pixels(toy.train.images, torch.device("cpu"))
    targets = torch.from_numpy(toy.train.labels)

    def ready(seed: int) -> tuple[torch.nn.Module, TrainingPlan]:
        network = classifier.build_network(config, 2, seed).to(memory_format=torch.channels_last)
        chosen = np.arange(len(targets))
        augmentation = AUGMENTATIONS[config.augmentation]
        return network, TrainingPlan.draw(len(targets), chosen, 4, 8, augmentation, seed)

    def run(training: TrainingStep) -> dict[str, torch.Tensor]:
        for _ in range(4):
            training()
        return {name: value.clone() for name, value in training.network.state_dict().items()}

    def new(network: torch.nn.Module, drawn: TrainingPlan) -> TrainingStep:
        return TrainingStep(network, pixels, targets, drawn, config)

    used = new(*ready(0))
    run(used)
    used.restart(*ready(1))
    expected = run(new(*ready(1)))
    for name, value in run(used).items():
        assert torch.equal(value, expected[name]), name


def test_an_image_is_labelled_by_all_its_views(toy: FeatureBank) -> None:
    """Averaged over flips, the label of an image does not depend on how it lies."""
    config = replace(TINY, architecture="small_cnn", average_views=True)
    trained, images = train(toy, config), toy.test.images[:16]
    labelled = trained.log_probabilities(images)
    one_view = Classifier(trained.network, replace(config, average_views=False), 2)
    for turned in (images[:, ::-1], images[:, :, ::-1], images.transpose(0, 2, 1, 3)):
        averaged = (trained.log_probabilities(turned) - labelled).abs().max()
        single = one_view.log_probabilities(turned) - one_view.log_probabilities(images)
        assert averaged < 0.2 * single.abs().max()


def test_muon_trains_all_convolutions_but_the_first(toy: FeatureBank) -> None:
    """It scales their weights to one norm. AdamW does not."""
    for muon_rate, kept in ((0.03, True), (None, False)):
        config = replace(TINY, architecture="small_cnn", muon_rate=muon_rate)
        modules = train(toy, config).network.modules()
        weights = [m.weight.detach() for m in modules if isinstance(m, torch.nn.Conv2d)]
        norms = [float(weight.norm()) / len(weight) ** 0.5 for weight in weights]
        assert (norms == pytest.approx([1.0] * 5, rel=0.2)) is False
        assert (norms[1:] == pytest.approx([1.0] * 4, rel=0.2)) is kept


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_trains_on_cuda(toy: FeatureBank) -> None:
    trained = train(toy, device="auto")
    assert trained.device.type == "cuda"
    assert np.isfinite(trained.history["log_likelihood"]).all()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("architecture", ["small_cnn", "resnet18", "mobilenet_v3_small"])
def test_side_by_side_on_cuda(toy: FeatureBank, architecture: str) -> None:
    """The same as on the CPU up to rounding, also when captured steps are used again."""
    config = replace(TINY, architecture=architecture, steps_per_epoch=3)
    valid = toy.valid.images, toy.valid.labels
    found = {}
    for device, side_by_side in (("cuda", 3), ("cpu", 1)):
        trainer = Trainer(
            toy.train.images, toy.train.labels, 2, config, device, valid, side_by_side=side_by_side
        )
        trained = list(trainer.train(subsets_of(toy), seed=0))
        found[device] = [t.history["log_likelihood"][-1] for t in trained]
    assert found["cuda"] == pytest.approx(found["cpu"], abs=0.05)


@pytest.mark.parametrize("size", [(32, 16), (64, 32), (32, 64)])
def test_small_oblong_images_are_labelled_soundly(size: tuple[int, int]) -> None:
    """In bf16, some processors get them wrong, and not the same way each time."""
    images = np.random.default_rng(0).integers(0, 255, (64, *size, 3)).astype(np.uint8)
    config = replace(TINY, architecture="resnet18", size=size)
    network = classifier.build_network(config, 2, seed=0).to(memory_format=torch.channels_last)
    trained = Classifier(network.eval(), config, 2)
    found = trained.features(images)
    assert np.array_equal(found, trained.features(images))
    with torch.no_grad():
        network.fc = torch.nn.Identity()
        pixels = step.normalise(as_pixels(images, torch.device("cpu")).float() / 255)
        expected = network(pixels).numpy()
    assert found == pytest.approx(expected, rel=0.05, abs=0.05 * float(np.abs(expected).max()))
