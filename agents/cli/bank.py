"""Build a bank from folders of real images and candidates.

    synthselect bank --data real --candidates synthetic --out mine.h5
    synthselect bank --data pcam.zip --counts 1966 1378 --gan runs/histogan/histogan.pt \\
        --out pcam.h5

The second line and ``synthselect retrain`` made the embedded PCam bank, except that its candidates
are stored at quality 90.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from agents.cli.common import (
    add_bank_to_write,
    add_seed_and_device,
    add_size,
    check_bank_to_write,
    class_names,
    train_extractor_with_bar,
)
from agents.progress import progress_bar
from synthselect_env import FeatureBank
from synthselect_env.bank.extraction import (
    EXTRACTOR,
    default_extractor,
    extract_bank,
    training_digest,
)
from synthselect_env.data import Dataset, EncodedImages, draw_per_class, read_class_folders
from synthselect_env.synthesis import HistoGAN
from synthselect_env.training.augmentation import AUGMENTATIONS
from synthselect_env.training.classifier import Classifier
from synthselect_env.training.config import MANY_IMAGES, TrainingConfig

QUALITY = 80
"""WebP quality of all images, so that it tells no candidate from a real image."""

MIN_SKILL = 1.2
"""Balanced accuracy of a useful extractor, as a multiple of chance."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    _add_images(parser)
    _add_extractor(parser)
    add_seed_and_device(parser)
    add_bank_to_write(parser)


def _add_images(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--data",
        type=Path,
        required=True,
        help="train/, valid/ and test/ with class folders, a directory or a zip",
    )
    parser.add_argument(
        "--group",
        help="regular expression that finds a real image's patient or slide in its file name, "
        "e.g. '^[^_]+' (default: not known)",
    )
    parser.add_argument(
        "--classes",
        nargs="+",
        help="class folders in label order (default: by name); of two, the second is positive",
    )
    parser.add_argument(
        "--counts", type=int, nargs="+", help="train images per class (default: all)"
    )
    parser.add_argument(
        "--gan",
        type=Path,
        help="HistoGAN checkpoint that makes the candidates; this or --candidates",
    )
    parser.add_argument(
        "--candidates", type=Path, help="class folders of candidates; this or --gan"
    )
    parser.add_argument(
        "--per-class", type=int, default=2048, help="candidates per class from the GAN"
    )
    parser.add_argument(
        "--truncation",
        type=float,
        help="truncation of the GAN's latents: less diverse, more typical, e.g. 1.0 (default: none)",
    )
    parser.add_argument(
        "--origin",
        default="",
        help="a line on where the real images come from, to be stored (default: name of DATA)",
    )


def _add_extractor(parser: argparse.ArgumentParser) -> None:
    add_size(
        parser,
        f"size that the extractor sees (default: {min(EXTRACTOR.size)} on the short side)",
    )
    parser.add_argument(
        "--architecture",
        help="network of the extractor (default: small_cnn for fewer than "
        f"{MANY_IMAGES} training images, else the paper's resnet34)",
    )
    own = "(default: the architecture's)"
    parser.add_argument("--epochs", type=int, help=f"epochs of the extractor {own}")
    parser.add_argument(
        "--steps-per-epoch",
        type=int,
        help="steps of the extractor per epoch (default: the architecture's; for resnet34 a pass "
        "over the images, at least 30)",
    )
    parser.add_argument(
        "--augmentation",
        choices=AUGMENTATIONS,
        help=f"augmentation of the extractor's training images {own}",
    )
    parser.add_argument(
        "--extractor",
        type=Path,
        help="file of the extractor, which is read if it exists (default: beside OUT)",
    )


def run(args: argparse.Namespace) -> None:
    """Read the images, train the extractor, and write the bank."""
    if bool(args.gan) == bool(args.candidates):
        raise ValueError("give either --gan or --candidates")
    if args.truncation is not None and not args.gan:
        raise ValueError("--truncation is for --gan; a folder of candidates is taken as it is")

    check_bank_to_write(args)

    # Before the extractor is trained, so that all that is wrong with the images shows at once.
    images = _read_real(args)
    classes = class_names(images["train"])
    images["candidates"], made_by = _read_candidates(args, classes)
    images = _encode_all(images)

    # The extractor sees the real train split only.
    extractor = _get_extractor(args, images)
    _warn_if_useless(extractor)

    origin = args.origin or args.data.name
    provenance = {"real": origin, "candidates": made_by, "seed": args.seed}
    extract_bank(images, extractor, provenance).save(args.out, half=True)
    print(FeatureBank.load(args.out).describe())


def _read_real(args: argparse.Namespace) -> dict[str, Dataset]:
    """Return the real splits, at the images' own resolution."""
    wanted = tuple(args.classes) if args.classes else None
    train = read_class_folders(args.data, "train", wanted, args.group)
    classes = class_names(train)
    real = {"train": train}
    for name in ("valid", "test"):
        real[name] = read_class_folders(args.data, name, classes, args.group)
    if args.counts:
        drawn = draw_per_class(train.labels, args.counts, args.seed)
        real["train"] = train.subset(drawn)
    for name, split in real.items():
        least = len(classes) if name == "train" else 2
        if len(np.unique(split.labels)) < least:
            raise ValueError(
                f"{name} lacks images of a class; the train split needs some of each, "
                "the others of two at least"
            )
    return real


def _read_candidates(
    args: argparse.Namespace, classes: tuple[str, ...]
) -> tuple[Dataset, dict[str, Any]]:
    """Return the candidates, and facts on how they were made."""
    if not args.gan:
        candidates = read_class_folders(args.candidates, classes=classes)
        return candidates, {"generator": args.candidates.name}
    gan = HistoGAN.load(args.gan, args.device)
    if gan.classes != classes:
        raise ValueError(
            f"{args.gan} makes {', '.join(gan.classes)}, the images are {', '.join(classes)}"
        )
    labels = np.repeat(np.arange(len(classes)), args.per_class)
    images = gan.sample(labels, args.seed, truncation=args.truncation)
    ids = tuple(f"{classes[y]}-{i % args.per_class:04d}" for i, y in enumerate(labels))
    made_by = {
        "generator": "HistoGAN",
        "size": gan.size,
        **asdict(gan.config),
        "steps": gan.step,
        "sampling_seed": args.seed,
    }
    if args.truncation is not None:
        made_by["truncation"] = args.truncation
    return Dataset.of_images(images, labels, ids, classes), made_by


def _encode_all(images: dict[str, Dataset]) -> dict[str, Dataset]:
    """Return the datasets with encoded images.

    :raises ValueError: if images cannot be read; the message lists all of them
    """
    broken: list[str] = []

    def one_by_one(dataset: Dataset, name: str) -> Iterator[np.ndarray]:
        with progress_bar(len(dataset), "image", f"encode {name}") as bar:
            for i in range(len(dataset)):  # their sizes may differ
                try:
                    yield dataset.subset(np.array([i])).pixels()[0]
                except ValueError as error:
                    broken.append(f"{name}: {error}")
                bar.update()

    encoded = {}
    for name, dataset in images.items():
        compressed = EncodedImages.encode(one_by_one(dataset, name), QUALITY)
        encoded[name] = replace(dataset, images=compressed)
    if broken:
        raise ValueError("\n".join(["these images cannot be read:", *broken]))
    return encoded


def _extractor_config(args: argparse.Namespace, train: Dataset) -> TrainingConfig:
    """Return the configuration that the arguments ask for, at the images' proportions."""
    config = default_extractor(len(train), args.architecture)
    given = {name: getattr(args, name) for name in ("epochs", "steps_per_epoch", "augmentation")}
    config = replace(config, **{name: v for name, v in given.items() if v is not None})
    if args.size:
        return replace(config, size=tuple(args.size))
    return config.for_images(*train.image_size)


def _get_extractor(args: argparse.Namespace, images: dict[str, Dataset]) -> Classifier:
    """Read the extractor if it exists, else train and write it."""
    config = _extractor_config(args, images["train"])
    file = args.extractor or args.out.with_suffix(".extractor.pt")
    if not file.exists():
        extractor = train_extractor_with_bar(images, args.seed, config, args.device)
        extractor.save(file)
        return extractor
    extractor = Classifier.load(file, args.device)
    if config.steps_per_epoch is None:
        config = replace(config, steps_per_epoch=extractor.config.steps_per_epoch)
    trained_on = training_digest(images["train"], args.seed)
    if (extractor.config, extractor.trained_on) != (config, trained_on):
        raise ValueError(
            f"{file} was trained on other images, by another seed, or otherwise "
            f"({extractor.config}); delete it, or give another --extractor"
        )
    return extractor


def _warn_if_useless(extractor: Classifier) -> None:
    """Warn where the extractor hardly tells the classes apart."""
    accuracy = extractor.history["balanced_accuracy"][-1]
    if accuracy < MIN_SKILL / extractor.n_classes:
        print(
            "warning: the extractor hardly tells the classes apart (validation balanced accuracy "
            f"{accuracy:.2f}), so that its features say little; try more --steps-per-epoch or "
            "--epochs"
        )
