"""Images → features → bank: train the extractor on the real training split, and see all images through it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from synthselect_env.bank.feature_bank import SPLITS, FeatureBank
from synthselect_env.data import Dataset, compute_image_stats
from synthselect_env.metrics import METRICS
from synthselect_env.training.classifier import Classifier, TrainingConfig, train_classifier

EXTRACTOR = TrainingConfig(epochs=20, steps_per_epoch=None)
"""The paper's ResNet34, by whole passes over the real training split."""

LEAST_STEPS = 30
"""Of an epoch where passes are asked for: a few hundred images are passed too quickly to learn anything."""

OnEpoch = Callable[[int, dict[str, float]], None]


def train_extractor(
    train: Dataset,
    valid: Dataset,
    seed: int,
    config: TrainingConfig = EXTRACTOR,
    device: str | torch.device = "auto",
    on_epoch: OnEpoch | None = None,
) -> Classifier:
    """Train a feature extractor; validation chooses its epoch. A pass over few images is repeated, to :data:`LEAST_STEPS`.

    :param train: real training images, of all classes
    :param valid: real validation images
    :param seed: of weights and order
    :param config: how to train, at which size
    :param device: "auto", or a torch device
    :param on_epoch: called with the number of epochs done and the validation metrics
    """
    if config.steps_per_epoch is None:
        config = replace(config, steps_per_epoch=max(LEAST_STEPS, len(train) // config.batch_size))
    pictures = (train.pixels(config.size), train.labels, valid.pixels(config.size), valid.labels)
    extractor = train_classifier(
        *pictures, len(train.classes), seed, config, device, keep="best", on_epoch=on_epoch
    )
    extractor.trained_on = training_digest(train, seed)
    return extractor


def training_digest(train: Dataset, seed: int) -> str:
    """A name for what a network is trained on: images, labels and seed."""
    return f"{train.images_digest} {seed}"


def extract_bank(
    pictures: Mapping[str, Dataset],
    extractor: Classifier,
    provenance: dict[str, Any] | None = None,
) -> FeatureBank:
    """A bank of the features that an extractor sees, and of how training images and candidates look at its size.

    :param images: "train", "valid", "candidates" and, where it is at hand, "test"
    :param extractor: trained on the real training images
    :param provenance: JSON-able facts on where the images come from
    :raises ValueError: when images, or the extractor, are of other classes than the training images
    """
    classes, config = pictures["train"].classes, extractor.config
    if extractor.n_classes != len(classes):
        raise ValueError(
            f"the extractor was trained for {extractor.n_classes} classes, the pictures have {len(classes)}"
        )
    for name, split in pictures.items():
        if tuple(split.classes) != tuple(classes):
            raise ValueError(
                f"{name} has the classes {', '.join(split.classes)}, train has {', '.join(classes)}; read its pictures with the classes of train"
            )
    pixels = pictures["candidates"].pixels(config.size)  # rendered or decoded once
    assigned = extractor.log_probabilities(pixels).argmax(1).cpu().numpy()
    features = {
        name: extractor.features(
            pixels if name == "candidates" else pictures[name].pixels(config.size)
        )
        for name in SPLITS
        if name in pictures
    }
    if extractor.history:
        best = int(np.argmax(extractor.history["log_likelihood"]))
        when = f", epoch {best + 1} of {config.epochs} by validation"
        measured = {
            "extractor_validation": {
                name: round(extractor.history[name][best], 4) for name in METRICS
            }
        }
    else:  # of elsewhere
        when, measured = "", {}
    size = "×".join(map(str, config.size))
    looks = {
        "train": compute_image_stats(pictures["train"].pixels(config.size)),
        "candidates": compute_image_stats(pixels),
    }
    splits = {
        name: Dataset(features[name], p.labels, p.ids, p.images, p.groups, p.flaw, looks.get(name))
        for name, p in pictures.items()
    }
    return FeatureBank(
        **{"test": None, **splits},  # type: ignore[arg-type]
        classes=classes,
        extractor=f"{config.architecture} trained on the train split at {size} px{when}",
        provenance={
            **(provenance or {}),
            **measured,
            "candidates_that_the_extractor_assigns_to_their_class": round(
                float((assigned == pictures["candidates"].labels).mean()), 4
            ),
        },
    )
