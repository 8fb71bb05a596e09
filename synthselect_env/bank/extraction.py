"""Images → features → bank: train the extractor on the real training split, and see all pictures through it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from synthselect_env.bank import SPLITS, FeatureBank
from synthselect_env.training.classifier import Classifier, TrainingConfig, train_classifier
from synthselect_env.data import LabelledImages, appearance
from synthselect_env.data.images import pictures_digest
from synthselect_env.metrics import METRICS
from synthselect_env.data.dataset import Split

EXTRACTOR = TrainingConfig(epochs=20, steps_per_epoch=None)
"""The paper's ResNet34, by whole passes over the real training split."""

LEAST_STEPS = 30
"""Of an epoch where passes are asked for: a few hundred pictures are passed too quickly to learn anything."""

ALIGNMENT = 1e-2
"""Ridge of the maps between extractors, as a share of the mean variance of a feature."""

OnEpoch = Callable[[int, dict[str, float]], None]


def train_extractor(
    train: LabelledImages,
    valid: LabelledImages,
    seed: int,
    config: TrainingConfig = EXTRACTOR,
    device: str | torch.device = "auto",
    on_epoch: OnEpoch | None = None,
) -> Classifier:
    """Train a feature extractor; validation chooses its epoch. A pass over few pictures is repeated, to :data:`LEAST_STEPS`.

    :param train: real training pictures, of all classes
    :param valid: real validation pictures
    :param seed: of weights and order
    :param config: how to train, at which size
    :param device: "auto", or a torch device
    :param on_epoch: called with the number of epochs done and the validation metrics
    """
    if config.steps_per_epoch is None:
        config = replace(config, steps_per_epoch=max(LEAST_STEPS, len(train) // config.batch_size))
    pictures = (train.pixels(config.size), train.labels, valid.pixels(config.size), valid.labels)
    extractor = train_classifier(*pictures, len(train.classes), seed, config, device, keep="best", on_epoch=on_epoch)
    extractor.trained_on = training_digest(train, seed)
    return extractor


def training_digest(train: LabelledImages, seed: int) -> str:
    """A name for what a network is trained on: pictures, labels and seed."""
    return f"{pictures_digest(train.images, train.labels)} {seed}"


def extract_bank(
    pictures: Mapping[str, LabelledImages],
    extractor: Classifier,
    provenance: dict[str, Any] | None = None,
    n_folds: int = 0,
    seed: int = 0,
    on_epoch: OnEpoch | None = None,
) -> FeatureBank:
    """A bank of the features that an extractor sees, and of how training pictures and candidates look at its size.

    A network sees the pictures that it was trained on cleaner than any others. With ``n_folds``, the training pictures are seen
    by networks that have not: each is trained on the other folds, and a linear map, fitted on the candidates, brings its features into
    the extractor's space (cross-fitting).

    :param pictures: "train", "valid", "candidates" and, where it is at hand, "test"
    :param extractor: trained on the real training pictures
    :param provenance: JSON-able facts on where the pictures come from
    :param n_folds: of the cross-fitting, 2 or more; 0 for the extractor's own view of its training pictures
    :param seed: of the folds and their networks
    :param on_epoch: called after each epoch of a fold's network
    :raises ValueError: when pictures are of other classes than the training pictures, or the extractor is, or ``n_folds`` is 1 or more
        than there are patients, or patients of a class, to share out
    """
    classes, config = pictures["train"].classes, extractor.config
    if extractor.n_classes != len(classes):
        raise ValueError(f"the extractor was trained for {extractor.n_classes} classes, the pictures have {len(classes)}")
    for name, split in pictures.items():
        if tuple(split.classes) != tuple(classes):
            raise ValueError(
                f"{name} has the classes {', '.join(split.classes)}, train has {', '.join(classes)}; read its pictures with the classes of train"
            )
    folds = draw_folds(pictures["train"], n_folds, seed) if n_folds else None
    pixels = pictures["candidates"].pixels(config.size)  # rendered or decoded once
    assigned = extractor.log_probabilities(pixels).argmax(1).cpu().numpy()
    features = {
        name: extractor.features(pixels if name == "candidates" else pictures[name].pixels(config.size))
        for name in SPLITS
        if name in pictures
    }
    if folds is not None:
        features["train"] = _cross_fitted(pictures, pixels, features["candidates"], extractor, folds, seed, on_epoch)
    if extractor.history:
        best = int(np.argmax(extractor.history["log_likelihood"]))
        when = f", epoch {best + 1} of {config.epochs} by validation"
        measured = {"extractor_validation": {name: round(extractor.history[name][best], 4) for name in METRICS}}
    else:  # of elsewhere
        when, measured = "", {}
    size = "×".join(map(str, config.size))
    looks = {"train": appearance(pictures["train"].pixels(config.size)), "candidates": appearance(pixels)}
    splits = {name: Split(features[name], p.labels, p.ids, p.images, p.groups, p.flaw, looks.get(name)) for name, p in pictures.items()}
    return FeatureBank(
        **{"test": None, **splits},  # type: ignore[arg-type]
        classes=classes,
        extractor=f"{config.architecture} trained on the train split at {size} px{when}"
        + (f"; the train split seen by {n_folds} others, each trained without a part of it" if n_folds else ""),
        provenance={
            **(provenance or {}),
            **measured,
            "candidates_that_the_extractor_assigns_to_their_class": round(float((assigned == pictures["candidates"].labels).mean()), 4),
        },
    )


def draw_folds(train: LabelledImages, n_folds: int, seed: int) -> np.ndarray:
    """A fold for each picture, the classes shared out evenly.  int (n,)

    Whole patients or slides, where they are known: a network that saw others of a patient's pictures knows the patient.

    :param train: the training pictures
    :param n_folds: how many, 2 or more
    :param seed: of the draw
    :raises ValueError: when there are fewer patients, or patients of a class, than folds to share them out to
    """
    if n_folds < 2:
        raise ValueError(f"n_folds must be 0, or 2 and more, got {n_folds}")
    groups = np.arange(len(train)) if train.groups is None else np.unique(train.groups, return_inverse=True)[1]
    n_groups = groups.max() + 1
    if n_folds > n_groups:
        raise ValueError(f"{n_folds} folds need as many patients or slides, train has {n_groups}; take fewer folds")
    counts = np.zeros((n_groups, len(train.classes)), int)
    np.add.at(counts, (groups, train.labels), 1)
    order = np.random.default_rng(seed).permutation(n_groups)
    order = order[np.argsort(counts[order].argmax(1), kind="stable")]  # class by class, so that each is dealt out in turn
    fold_of = np.empty(n_groups, int)
    fold_of[order] = np.arange(n_groups) % n_folds
    for fold in range(n_folds):
        if len(missing := np.flatnonzero(counts[fold_of != fold].sum(0) == 0)):
            raise ValueError(
                f"without fold {fold + 1} of {n_folds} no training picture of class {train.classes[missing[0]]} is left; take fewer folds, or none"
            )
    return fold_of[groups]


def _cross_fitted(
    pictures: Mapping[str, LabelledImages],
    candidates: np.ndarray,
    target: np.ndarray,
    extractor: Classifier,
    fold_of: np.ndarray,
    seed: int,
    on_epoch: OnEpoch | None,
) -> np.ndarray:
    train, config, device = pictures["train"], extractor.config, extractor.device
    features = np.zeros((len(train), target.shape[1]), np.float32)
    for fold in range(fold_of.max() + 1):
        network = train_extractor(train.subset(fold_of != fold), pictures["valid"], seed + 1 + fold, config, device, on_epoch)
        here = network.features(candidates).astype(np.float64)
        centre, middle = here.mean(0), target.mean(0)
        gram = (here - centre).T @ (here - centre)
        ridge = ALIGNMENT * np.trace(gram) / len(gram)
        mapping = np.linalg.solve(gram + ridge * np.eye(len(gram)), (here - centre).T @ (target - middle))
        held_out = fold_of == fold
        features[held_out] = (network.features(train.subset(held_out).pixels(config.size)) - centre) @ mapping + middle
    return features
