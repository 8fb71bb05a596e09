"""Build a bank whose flaws are known: a phantom, or spoilt patches.

    synthselect known-truth cervical --short-side 32 --out cervical.h5
    synthselect retrain --bank cervical.h5 --retrainings 32
    synthselect known-truth pcam-planted --out pcam-planted.h5
    synthselect retrain --bank pcam-planted.h5

These commands made the embedded banks of these names. A bank stores features and recipes. Images
are rendered, or taken from the embedded PCam bank and spoilt, when they are asked for.
"""

from __future__ import annotations

import argparse
from dataclasses import replace

from agents.cli.common import (
    add_bank_to_write,
    add_seed_and_device,
    check_bank_to_write,
    train_extractor_with_bar,
)
from synthselect_env import FeatureBank
from synthselect_env.bank.embedded import planted_pcam
from synthselect_env.bank.extraction import EXTRACTOR, extract_bank
from synthselect_env.data import Dataset, cervical_phantom, phantom_candidates

STEPS_PER_EPOCH = 30
"""A pass over a few hundred training images is too short."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("name", choices=("cervical", "pcam-planted"), help="bank to build")
    parser.add_argument(
        "--epochs", type=int, default=EXTRACTOR.epochs, help="epochs of the extractor"
    )
    parser.add_argument(
        "--steps-per-epoch",
        type=int,
        default=STEPS_PER_EPOCH,
        help="steps of the extractor per epoch",
    )
    parser.add_argument(
        "--short-side",
        type=int,
        default=min(EXTRACTOR.size),
        help="pixels that the extractor sees on the short side",
    )
    add_seed_and_device(parser)
    add_bank_to_write(parser)


def run(args: argparse.Namespace) -> None:
    """Make the images, train the extractor, and write the bank."""
    check_bank_to_write(args)
    images, origin = _make_images(args.name, args.seed)
    config = replace(
        EXTRACTOR,
        epochs=args.epochs,
        steps_per_epoch=args.steps_per_epoch,
        size=(args.short_side, args.short_side),
    ).for_images(*images["train"].image_size)
    extractor = train_extractor_with_bar(images, args.seed, config, args.device)
    provenance = {"images": origin, "seed": args.seed}
    extract_bank(images, extractor, provenance).save(args.out, half=True)
    print(FeatureBank.load(args.out).describe())


def _make_images(name: str, seed: int) -> tuple[dict[str, Dataset], str]:
    """Return the images by split, and a line on their origin."""
    if name == "cervical":
        candidates = phantom_candidates(seed=seed + 1)
        images = {**cervical_phantom(seed), "candidates": candidates}
        return images, "a phantom, drawn by synthselect_env.data.phantom: not tissue"
    return planted_pcam(seed=seed), (
        "patches of the embedded PCam bank (PatchCamelyon, CC0), flaws planted into the candidates"
    )
