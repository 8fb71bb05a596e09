"""From images to a bank: train a feature extractor, then extract features and image statistics."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch

from synthselect_env.bank.feature_bank import SPLITS, FeatureBank
from synthselect_env.data import Dataset, compute_image_stats
from synthselect_env.data.splitting import assign_folds, split_by_group
from synthselect_env.metrics import METRICS
from synthselect_env.training.classifier import Classifier
from synthselect_env.training.config import MANY_IMAGES, SMALL, TrainingConfig, default_config
from synthselect_env.training.device import torch_threads
from synthselect_env.training.trainer import train_classifier

EXTRACTOR = TrainingConfig(epochs=20, steps_per_epoch=None)
"""Training of the paper's ResNet34, in whole passes over the real training split."""


LEAST_STEPS = 30
"""Fewest steps per epoch where passes are asked for. A pass over few images teaches too little."""

OnEpoch = Callable[[int, dict[str, float]], None]


def default_extractor(n_real: int, architecture: str | None = None) -> TrainingConfig:
    """Return the training configuration of a bank's extractor, where a user gives none.

    On few images the small network's features tell candidates apart as well as the ResNet34's, at a
    fraction of its time; see benchmarks/results/recipe.md.

    :param n_real: number of real training images
    :param architecture: name of the network; None for the small one on few images, else ResNet34
    """
    if architecture is None:
        small = n_real < MANY_IMAGES
        architecture = SMALL.architecture if small else EXTRACTOR.architecture
    if architecture == SMALL.architecture:
        return default_config(architecture, n_real)
    return replace(EXTRACTOR, architecture=architecture)


def train_extractor(
    train: Dataset,
    valid: Dataset,
    seed: int,
    config: TrainingConfig = EXTRACTOR,
    device: str | torch.device = "auto",
    on_epoch: OnEpoch | None = None,
) -> Classifier:
    """Train a feature extractor. No look at the validation images changes it.

    A pass over few images is repeated until it has :data:`LEAST_STEPS` steps.

    :param train: real training images of all classes
    :param valid: real validation images
    :param seed: random seed of weights, order and augmentation
    :param config: training configuration
    :param device: "auto", or a torch device
    :param on_epoch: callback, called with the number of epochs done and the validation metrics
    :raises ValueError: if images or classes are missing
    """
    classes = _classes_of(train, "train")
    _classes_of(valid, "valid")
    if config.steps_per_epoch is None:
        config = replace(config, steps_per_epoch=max(LEAST_STEPS, len(train) // config.batch_size))
    extractor = train_classifier(
        train.pixels(config.size),
        train.labels,
        valid.pixels(config.size),
        valid.labels,
        len(classes),
        seed,
        config,
        device,
        on_epoch=on_epoch,
    )
    extractor.trained_on = training_digest(train, seed)
    return extractor


def training_digest(train: Dataset, seed: int) -> str:
    """Return a name for a training: a digest of images and labels, and the seed.

    :param train: training images
    :param seed: random seed of the training
    """
    return f"{train.images_digest} {seed}"


def extract_bank(
    datasets: Mapping[str, Dataset],
    extractor: Classifier,
    provenance: dict[str, Any] | None = None,
) -> FeatureBank:
    """Return a bank with the features that an extractor computes of all images.

    Statistics of training images and candidates are taken at the extractor's image size.

    .. code-block:: python

        extractor = train_extractor(datasets["train"], datasets["valid"], seed=0)
        extract_bank(datasets, extractor).save("mine.h5")

    :param datasets: images by split: "train", "valid", "candidates" and, if available, "test"
    :param extractor: classifier trained on the real training images
    :param provenance: JSON-able facts on the origin of the images
    :raises ValueError: if a split lacks images or classes, or its classes or the extractor's differ
        from those of the training images
    """
    classes = _checked_classes(datasets)
    if extractor.n_classes != len(classes):
        raise ValueError(
            f"the extractor was trained for {extractor.n_classes} classes, "
            f"the images have {len(classes)}"
        )

    # Compute features of each split, decoding it once.
    size = extractor.config.size
    splits: dict[str, Dataset | None] = {"test": None}
    for name, dataset in datasets.items():
        pixels = dataset.pixels(size)
        features = extractor.features(pixels)
        stats = compute_image_stats(pixels) if name in ("train", "candidates") else None
        splits[name] = replace(dataset, features=features, image_stats=stats)
        if name == "candidates":
            assigned = extractor.log_probabilities(pixels).argmax(1).cpu().numpy()

    # Say where they come from, and how good the extractor is.
    description = f"{extractor.config.architecture} trained on the train split at "
    description += f"{size[0]}×{size[1]} px"
    facts = dict(provenance or {})
    if extractor.history:  # a network from elsewhere has none
        reached = {name: round(extractor.history[name][-1], 4) for name in METRICS}
        facts["extractor_validation"] = reached
    agreement = float((assigned == datasets["candidates"].labels).mean())
    facts["candidates_that_the_extractor_assigns_to_their_class"] = round(agreement, 4)

    return FeatureBank(
        **splits,  # type: ignore[arg-type]
        classes=classes,
        extractor=description,
        provenance=facts,
    )


def extract_by_default(
    datasets: Mapping[str, Dataset], seed: int, provenance: dict[str, Any] | None = None
) -> FeatureBank:
    """Train the default extractor on the processor, and return a bank of its features.

    The small network takes one thread, so that features do not depend on the number of cores.

    :param datasets: see :func:`extract_bank`
    :param seed: random seed of the extractor
    :param provenance: JSON-able facts on the origin of the images
    """
    train, cpu = datasets["train"], torch.device("cpu")
    config = default_extractor(len(train)).for_images(*train.image_size)
    small = config.architecture == SMALL.architecture
    with torch_threads(1 if small else torch.get_num_threads(), cpu):
        extractor = train_extractor(train, datasets["valid"], seed, config, cpu)
        return extract_bank(datasets, extractor, provenance)


def without_fold(bank: FeatureBank, fold: int, folds: int, seed: int = 0) -> FeatureBank:
    """Return a bank without a fold of its annotated images, whose labels it does not show.

    The other images are split 3 : 1 into train and valid, and train a new extractor. Retrainings by
    the same folds stay, and hide the fold, see :attr:`Retrainings.without_fold`. The networks behind
    the other folds' scores did see it, which reaches the datamodel's few coefficients only. Other
    retrainings are dropped.

    :param bank: bank with images
    :param fold: number of the fold to leave out, from 0
    :param folds: number of folds
    :param seed: random seed of the split and the extractor
    """
    annotated = Dataset.concatenate([bank.train, bank.valid])
    fold_of = assign_folds(annotated.labels, folds, annotated.groups)
    own = annotated.subset(fold_of != fold)
    parts = split_by_group(own.groups, own.labels, {"train": 0.75, "valid": 0.25}, seed)
    datasets = {name: own.subset(positions) for name, positions in parts.items()}
    datasets["candidates"] = bank.candidates
    images = {
        name: Dataset.of_images(data.images, data.labels, data.ids, bank.classes, data.groups)  # type: ignore[arg-type]
        for name, data in datasets.items()
    }
    without = extract_by_default(images, seed, bank.provenance)
    held = bank.retrainings
    without = replace(without, source=f"{bank.source}, without fold {fold} of {folds}")
    fits = held is not None and held.images_digest == bank.images_digest
    if held is None or not fits or held.folds != folds:
        return without
    kept = replace(held, without_fold=fold, images_digest=without.images_digest)
    return replace(without, retrainings=kept)


def _checked_classes(datasets: Mapping[str, Dataset]) -> tuple[str, ...]:
    """Return the classes of all splits, and refuse what no bank can be made of."""
    missing = [name for name in SPLITS if name not in datasets and name != "test"]
    unknown = [name for name in datasets if name not in SPLITS]
    if missing or unknown:
        raise ValueError(
            f"a bank is made of {', '.join(SPLITS)} (test may be missing), "
            f"got {', '.join(datasets) or 'none'}"
        )
    classes = _classes_of(datasets["train"], "train")
    for name, dataset in datasets.items():
        theirs = _classes_of(dataset, name)
        if theirs != classes:
            raise ValueError(
                f"{name} has the classes {', '.join(theirs)}, train has {', '.join(classes)}; "
                "read its images with the classes of train"
            )
    return classes


def _classes_of(dataset: Dataset, name: str) -> tuple[str, ...]:
    """Return a dataset's class names, and refuse one without classes or images."""
    for what, missing in (("classes", not dataset.classes), ("images", dataset.images is None)):
        if missing:
            raise ValueError(
                f"{name} has no {what}; an extractor needs images of named classes, "
                "as Dataset.of_images and the readers of synthselect_env.data return them"
            )
    return dataset.classes
