from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from synthselect_env import FeatureBank
from synthselect_env.training.augmentation import AUGMENTATIONS
from synthselect_env.training.classifier import (
    Classifier,
    TrainingConfig,
    as_pixels,
    last_layer,
    train_classifier,
)

TINY = TrainingConfig("resnet18", size=(16, 16), epochs=2, steps_per_epoch=4, batch_size=16)
COMPILER_WARNS = pytest.mark.filterwarnings("ignore:`torch.jit.script:DeprecationWarning")
"""Torch 2.11 imports what it deprecates, where there is a GPU."""


def train(bank: FeatureBank, config: TrainingConfig = TINY, seed: int = 0, **kwargs) -> Classifier:
    return train_classifier(
        bank.train.images,
        bank.train.labels,
        bank.valid.images,
        bank.valid.labels,
        2,
        seed,
        config,
        device="cpu",
        **kwargs,
    )


@pytest.mark.parametrize(
    "architecture", ["resnet18", "mobilenet_v3_small"]
)  # the second one has dropout
def test_same_seed_same_numbers(toy: FeatureBank, architecture: str) -> None:
    config = replace(TINY, architecture=architecture)
    first, again, other = train(toy, config), train(toy, config), train(toy, config, seed=1)
    images = toy.test.images[:32]
    assert torch.equal(first.log_probabilities(images), again.log_probabilities(images))
    assert first.history == again.history != other.history


def test_global_generators_are_left_alone(toy: FeatureBank) -> None:
    before = torch.random.get_rng_state(), np.random.get_state()[1].copy()
    train(toy, replace(TINY, architecture="mobilenet_v3_small"))
    assert (
        torch.equal(before[0], torch.random.get_rng_state())
        and (before[1] == np.random.get_state()[1]).all()
    )


def test_learns() -> None:
    """Bright against dark images, a chance no network may miss."""
    rng = np.random.default_rng(0)
    labels = np.arange(64) % 2
    images = np.clip(
        70 + 110 * labels[:, None, None, None] + rng.normal(0, 15, (64, 16, 16, 3)), 0, 255
    ).astype(np.uint8)
    config = replace(TINY, epochs=3, steps_per_epoch=15)
    classifier = train_classifier(
        images[:32], labels[:32], images[32:], labels[32:], 2, 0, config, device="cpu"
    )
    assert classifier.history["accuracy"][-1] == 1.0


def test_best_epoch_is_kept(toy: FeatureBank) -> None:
    config = replace(TINY, epochs=4)
    best = train(toy, config, keep="best")
    figure = best.score(toy.valid.images, toy.valid.labels)["log_likelihood"][0]
    assert figure == pytest.approx(max(best.history["log_likelihood"]), abs=1e-6)


def test_features_are_the_input_of_the_last_layer(toy: FeatureBank) -> None:
    classifier = train(toy)
    features = classifier.features(toy.valid.images)
    assert features.shape == (128, 512)
    head = last_layer(classifier.network)
    with torch.no_grad():
        log_p = torch.log_softmax(head(torch.from_numpy(features)), dim=1)
    assert torch.allclose(
        log_p, classifier.log_probabilities(toy.valid.images), atol=0.05
    )  # bf16 where the processor has it


def test_pixels_once_on_the_device_give_the_same(toy: FeatureBank) -> None:
    moved = (
        as_pixels(toy.train.images, torch.device("cpu")),
        as_pixels(toy.valid.images, torch.device("cpu")),
    )
    again = train_classifier(
        moved[0], toy.train.labels, moved[1], toy.valid.labels, 2, 0, TINY, device="cpu"
    )
    assert again.history == train(toy).history


def test_save_and_load(toy: FeatureBank, tmp_path: Path) -> None:
    classifier = train(toy)
    classifier.save(tmp_path / "classifier.pt")
    read = Classifier.load(tmp_path / "classifier.pt", device="cpu")
    assert read.config == classifier.config and read.history == classifier.history
    assert torch.equal(
        read.log_probabilities(toy.test.images), classifier.log_probabilities(toy.test.images)
    )


def test_errors(toy: FeatureBank) -> None:
    with pytest.raises(ValueError, match="class 1 of 2 has no training picture"):
        train_classifier(
            toy.train.images, np.zeros(24, np.int64), toy.valid.images, toy.valid.labels, 2, 0, TINY
        )
    with pytest.raises(ValueError, match="no classifier 'resnet35'"):
        train(toy, replace(TINY, architecture="resnet35"))
    with pytest.raises(ValueError, match="unknown augmentation"):
        TrainingConfig(augmentation="mixup")
    for wrong in ({"epochs": 0}, {"steps_per_epoch": 0}, {"batch_size": 0}):
        with pytest.raises(ValueError, match="must be at least 1"):
            TrainingConfig(**wrong)
    with pytest.raises(ValueError, match="no linear layer"):
        last_layer(torch.nn.Conv2d(1, 1, 1))
    with pytest.raises(FloatingPointError, match="diverged in epoch 1; lower learning_rate"):
        train(toy, replace(TINY, learning_rate=1e30))
    with pytest.raises(ValueError, match="keep must be"):
        train(toy, keep="first")
    with pytest.raises(ValueError, match=r"size is \(height, width\), got 48"):
        TrainingConfig(size=48)
    classifier = train(toy)
    for wrong in (toy.test.images / 255, torch.rand(2, 3, 16, 16), toy.test.images[0]):
        with pytest.raises(ValueError, match=r"pictures are uint8 \(n, h, w, 3\)"):
            classifier.log_probabilities(wrong)


def test_a_file_of_weights_alone_is_no_classifier(toy: FeatureBank, tmp_path: Path) -> None:
    torch.save(train(toy).network.state_dict(), tmp_path / "weights.pt")
    with pytest.raises(
        ValueError, match="was not written by this release's Classifier.save: it lacks config"
    ):
        Classifier.load(tmp_path / "weights.pt")
    (tmp_path / "text.pt").write_text("no network")
    with pytest.raises(
        ValueError, match="text.pt was not written by Classifier.save, or is damaged"
    ):
        Classifier.load(tmp_path / "text.pt")
    train(toy).save(tmp_path / "classifier.pt")
    state = torch.load(tmp_path / "classifier.pt", weights_only=True)
    state["config"]["momentum"] = 0.9
    torch.save(state, tmp_path / "classifier.pt")
    with pytest.raises(ValueError, match="is of a release whose TrainingConfig was another"):
        Classifier.load(tmp_path / "classifier.pt")


def test_a_small_set_fills_its_batches(toy: FeatureBank, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise a classifier that is given more images would also see more at each step."""
    seen: list[np.ndarray] = []
    monkeypatch.setitem(
        AUGMENTATIONS,
        "none",
        lambda images, generator: seen.append(images.mean((1, 2, 3)).numpy()) or images,
    )
    train(
        toy,
        replace(TINY, steps_per_epoch=5, batch_size=16, augmentation="none"),
        members=np.array([0, 1, 2, 12, 13]),
    )
    assert {len(batch) for batch in seen} == {16}
    _, counts = np.unique(np.concatenate(seen), return_counts=True)
    assert len(counts) == 5 and np.ptp(counts) <= 1  # pass by pass
    assert (
        len(train(toy, replace(TINY, steps_per_epoch=None, batch_size=64)).history["accuracy"])
        == TINY.epochs
    )


def test_pictures_in_any_memory_layout(toy: FeatureBank) -> None:
    """OpenCV's colours turned round are a view with a negative stride."""
    random_flips = toy.train.images[..., ::-1]
    ours, theirs = (
        train(replace(toy, train=replace(toy.train, images=images)))
        for images in (random_flips, random_flips.copy())
    )
    assert ours.history == theirs.history


@pytest.mark.filterwarnings("ignore:The default weight initialization of GoogleNet")
def test_a_network_with_auxiliary_heads(toy: FeatureBank) -> None:
    classifier = train(
        toy, TrainingConfig("googlenet", size=(16, 16), epochs=1, steps_per_epoch=1, batch_size=8)
    )
    assert classifier.log_probabilities(toy.test.images).shape == (len(toy.test), 2)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_trains_on_cuda(toy: FeatureBank) -> None:
    classifier = train_classifier(
        toy.train.images, toy.train.labels, toy.valid.images, toy.valid.labels, 2, 0, TINY
    )
    assert (
        classifier.device.type == "cuda" and np.isfinite(classifier.history["log_likelihood"]).all()
    )


def test_shared_pictures_come_in_the_same_order(
    toy: FeatureBank, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Common random numbers: leaving images out changes neither the first weights nor the order of the others."""
    images = np.arange(24, dtype=np.uint8)[:, None, None, None] * np.ones(
        (1, 16, 16, 3), np.uint8
    )  # a image is its number
    seen: list[list[int]] = []

    def watch(batch: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        seen[-1] += (batch[:, 0, 0, 0] * 255).round().int().tolist()
        return batch

    monkeypatch.setitem(AUGMENTATIONS, "none", watch)
    config = replace(TINY, augmentation="none", epochs=1, steps_per_epoch=None, batch_size=4)
    labels = np.arange(24) % 2
    for members in (None, np.arange(0, 24, 3)):
        seen.append([])
        train_classifier(
            images, labels, images, labels, 2, 5, config, device="cpu", members=members
        )
    everything, third = seen
    assert sorted(everything) == list(range(24))
    assert [i for i in everything if i % 3 == 0] == third


def test_starts_from_given_weights(toy: FeatureBank) -> None:
    trained = train(toy, replace(TINY, epochs=3))
    frozen = train(
        toy, replace(TINY, epochs=1, steps_per_epoch=1, learning_rate=1e-12), initial=trained
    )
    ours, theirs = (last_layer(c.network).weight for c in (frozen, trained))
    assert torch.allclose(ours, theirs, atol=1e-6)
    with pytest.raises(ValueError, match="those of a resnet18 for 2 classes; a resnet34 for 2"):
        train(toy, replace(TINY, architecture="resnet34"), initial=trained)


@COMPILER_WARNS
def test_one_compiled_graph_serves_every_training(
    toy: FeatureBank, monkeypatch: pytest.MonkeyPatch
) -> None:
    graphs: list[object] = []

    def count(graph: torch.fx.GraphModule, _: object) -> torch.fx.GraphModule:
        graphs.append(graph)
        return graph

    torch.compiler.reset()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=count))
    compiled = [train(toy, seed=s, compile=True, members=np.arange(24 - s)) for s in range(2)]
    assert len(graphs) == 1
    assert compiled[0].history == train(toy, seed=0).history


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@COMPILER_WARNS
def test_compiles_on_cuda(toy: FeatureBank) -> None:
    """The same numbers as without, up to bf16's rounding, from one graph."""
    torch.compiler.reset()
    arguments = (
        toy.train.images,
        toy.train.labels,
        toy.valid.images,
        toy.valid.labels,
        2,
        0,
        replace(TINY, steps_per_epoch=1, epochs=1),
        "cuda",
    )
    ours, theirs = (
        train_classifier(*arguments, compile=c).history["log_likelihood"][-1] for c in (True, False)
    )
    assert ours == pytest.approx(theirs, abs=0.05)
