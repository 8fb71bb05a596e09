"""Build a bank whose flaws are known: a phantom, or spoilt patches.

    synthselect known-truth cervical --short-side 32 --out cervical.h5
    synthselect retrain --bank cervical.h5 --retrainings 32
    synthselect known-truth pcam-planted --out pcam-planted.h5
    synthselect retrain --bank pcam-planted.h5

These commands made the embedded banks of these names. A bank stores features and recipes. Images
are rendered, or taken from the embedded PCam bank and spoilt, when they are asked for.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import tyro

from agents.cli.common import (
    Facts,
    SeededCommand,
    check_bank_to_write,
    train_extractor_with_bar,
)
from synthselect_env import FeatureBank
from synthselect_env.bank.embedded import planted_pcam
from synthselect_env.bank.extraction import EXTRACTOR, extract_bank
from synthselect_env.data import Dataset, cervical_phantom, phantom_candidates

STEPS_PER_EPOCH = 30
"""A pass over a few hundred training images is too short."""


@dataclass(frozen=True, kw_only=True)
class KnownTruth(SeededCommand):
    """Build a bank whose flaws are known: a phantom, or spoilt patches.

    :param name: bank to build
    :param out: bank to write
    :param epochs: epochs of the extractor
    :param steps_per_epoch: steps of the extractor per epoch
    :param short_side: pixels that the extractor sees on the short side
    :param discard_existing: replace a bank at OUT although it holds retrainings, which are lost
    """

    name: Annotated[Literal["cervical", "pcam-planted"], tyro.conf.Positional]
    out: Path
    epochs: int = EXTRACTOR.epochs
    steps_per_epoch: int = STEPS_PER_EPOCH
    short_side: int = min(EXTRACTOR.size)
    discard_existing: bool = False

    def run(self) -> Facts:
        """Make the images, train the extractor, and write the bank."""
        check_bank_to_write(self.out, self.discard_existing)
        images, origin = _make_images(self.name, self.seed)
        config = replace(
            EXTRACTOR,
            epochs=self.epochs,
            steps_per_epoch=self.steps_per_epoch,
            size=(self.short_side, self.short_side),
        ).for_images(*images["train"].image_size)
        extractor = train_extractor_with_bar(images, self.seed, config, self.device)
        provenance = {"images": origin, "seed": self.seed}
        extract_bank(images, extractor, provenance).save(self.out, half=True)
        print(FeatureBank.load(self.out).describe())
        return {"bank": str(self.out)}


def _make_images(name: str, seed: int) -> tuple[dict[str, Dataset], str]:
    """Return the images by split, and a line on their origin."""
    if name == "cervical":
        candidates = phantom_candidates(seed=seed + 1)
        images = {**cervical_phantom(seed), "candidates": candidates}
        return images, "a phantom, drawn by synthselect_env.data.phantom: not tissue"
    return planted_pcam(seed=seed), (
        "patches of the embedded PCam bank (PatchCamelyon, CC0), flaws planted into the candidates"
    )
