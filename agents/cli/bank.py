"""``synthselect bank``: build a bank from folders of images, or describe one.

    synthselect bank build --real real --candidates synthetic --out mine.h5
    synthselect bank build --real pcam.zip --counts 1966 1378 --gan runs/histogan/histogan.pt \\
        --out pcam.h5
    synthselect bank describe mine.h5

The second line and ``synthselect retrain`` made the embedded PCam bank, except that its candidates
are stored at quality 90.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from PIL import Image

from agents.cli.common import (
    Command,
    Facts,
    SeededCommand,
    changed_config,
    check_bank_to_write,
    class_names,
    train_extractor_with_bar,
)
from agents.cli.image_options import ImageOptions
from agents.progress import progress_bar
from synthselect_env import FeatureBank
from synthselect_env.bank import resolve_bank
from synthselect_env.bank.extraction import default_extractor, extract_bank, training_digest
from synthselect_env.data import (
    Dataset,
    draw_per_class,
    encode_images,
    find_leaks,
    image_grid,
)
from synthselect_env.data.images import MOST_NAMED
from synthselect_env.synthesis import HistoGAN
from synthselect_env.training.classifier import Classifier

CONFIGURED = ("epochs", "steps_per_epoch", "augmentation")
"""Options that are fields of the extractor's training configuration."""

MIN_SKILL = 1.2
"""Balanced accuracy of a useful extractor, as a multiple of chance."""


@dataclass(frozen=True, kw_only=True)
class ExtractorOptions:
    """Options of the feature extractor. Those not given are the architecture's own.

    :param architecture: network; small_cnn for few training images, else the paper's resnet34
    :param size: height and width that it sees; by default 48 on the short side
    :param epochs: number of epochs
    :param steps_per_epoch: steps per epoch; for resnet34 a pass over the images, at least 30
    :param augmentation: none, traditional, flips or histology
    :param extractor: file of the extractor, which is read if it exists; beside OUT unless given
    """

    architecture: str | None = None
    size: tuple[int, int] | None = None
    epochs: int | None = None
    steps_per_epoch: int | None = None
    augmentation: str | None = None
    extractor: Path | None = None


@dataclass(frozen=True, kw_only=True)
class BuildBank(SeededCommand):
    """Build a bank from folders of real images and candidates.

    Splits, classes and patients are found from the folders' names. Real images without splits are
    split by patient. A bank holds the images, shrunk, and their features.

    :param real: real images: directory, zip or npz
    :param out: bank to write
    :param candidates: synthetic images in class folders; this or --gan
    :param gan: HistoGAN checkpoint that makes the candidates; this or --candidates
    :param counts: number of train images per class; all unless given
    :param per_class: candidates per class from the GAN
    :param truncation: truncation of the GAN's latents: less diverse, more typical, e.g. 1.0
    :param origin: a line on where the real images come from, to be stored; their name unless given
    :param discard_existing: replace a bank at OUT although it holds retrainings, which are lost
    :param images: how folders of images are read
    :param network: how the feature extractor is trained
    """

    real: Path
    out: Path
    candidates: Path | None = None
    gan: Path | None = None
    counts: tuple[int, ...] = ()
    per_class: int = 2048
    truncation: float | None = None
    origin: str = ""
    discard_existing: bool = False
    images: ImageOptions = ImageOptions()
    network: ExtractorOptions = ExtractorOptions()

    def run(self) -> Facts:
        """Read the images, train the extractor, and write the bank."""
        if bool(self.gan) == bool(self.candidates):
            raise ValueError("give either --gan or --candidates")
        if self.truncation is not None and not self.gan:
            raise ValueError("--truncation is for --gan; a folder of candidates is taken as it is")
        check_bank_to_write(self.out, self.discard_existing)

        # Read everything before the extractor is trained, so that all that is wrong shows at once.
        images = self._read_real()
        classes = class_names(images["train"])
        images["candidates"], made_by = self._read_candidates(classes)
        images, left_out = self._encode_all(images)
        images, copies = self._look_for_copies(images)
        check_classes(images)

        # The extractor sees the real train split only.
        extractor = self._get_extractor(images)
        _warn_if_useless(extractor)
        provenance = {
            "real": self.origin or self.real.name,
            "candidates": made_by,
            "seed": self.seed,
        }
        extract_bank(images, extractor, provenance).save(self.out, half=True)
        bank = FeatureBank.load(self.out)
        print(bank.describe())
        return {
            "bank": str(self.out),
            "left_out": left_out,
            "copies": copies,
            "warnings": bank.warnings(),
        }

    def _read_real(self) -> dict[str, Dataset]:
        """Return the real splits."""
        real = self.images.read_real(self.real, self.seed)
        if self.counts:
            drawn = draw_per_class(real["train"].labels, self.counts, self.seed)
            real["train"] = real["train"].subset(drawn)
        return real

    def _read_candidates(self, classes: tuple[str, ...]) -> tuple[Dataset, dict[str, Any]]:
        """Return the candidates, and facts on how they were made."""
        if self.candidates is not None:
            found = self.images.find_candidates(self.candidates, classes)
            print(found.describe())
            return found[None], {"generator": self.candidates.name}
        assert self.gan is not None
        gan = HistoGAN.load(self.gan, self.device)
        if gan.classes != classes:
            raise ValueError(
                f"{self.gan} makes {', '.join(gan.classes)}, the images are {', '.join(classes)}"
            )
        labels = np.repeat(np.arange(len(classes)), self.per_class)
        images = gan.sample(labels, self.seed, truncation=self.truncation)
        ids = tuple(f"{classes[y]}-{i % self.per_class:04d}" for i, y in enumerate(labels))
        made_by = {
            "generator": "HistoGAN",
            "size": gan.size,
            **asdict(gan.config),
            "steps": gan.step,
            "sampling_seed": self.seed,
        }
        if self.truncation is not None:
            made_by["truncation"] = self.truncation
        return Dataset.of_images(images, labels, ids, classes), made_by

    def _encode_all(self, images: dict[str, Dataset]) -> tuple[dict[str, Dataset], list[str]]:
        """Return the datasets with encoded images, and a line on each image that was left out.

        :raises ValueError: if images cannot be read; the message lists all of them
        """
        encoded: dict[str, Dataset] = {}
        left_out: list[str] = []
        broken: list[str] = []
        total = sum(map(len, images.values()))
        with progress_bar(total, "image", "read and encode") as bar:
            for name, dataset in images.items():
                try:
                    encoded[name], lines = encode_images(
                        dataset, self.images.short_side, self.images.skip_unreadable, bar.update
                    )
                    left_out += [f"{name}: {line}" for line in lines]
                except ValueError as error:
                    broken.append(f"{name}: {error}")
        if broken:
            raise ValueError("\n".join([*broken, "or give --skip-unreadable"]))
        for line in left_out:
            print(f"left out: {line}")
        return encoded, left_out

    def _look_for_copies(
        self, images: dict[str, Dataset]
    ) -> tuple[dict[str, Dataset], list[list[str]]]:
        """Say which images are changed copies of those that scores are taken on.

        :return: datasets, without the copies where that is asked for, and the pairs by name
        """
        total = len(images["train"]) + len(images["candidates"])
        with progress_bar(total, "image", "look for copies of valid and test") as bar:
            leaks = find_leaks(images, bar.update)
        named, shown = [], []
        for leak in leaks:
            places = ((leak.pool, leak.copy), (leak.split, leak.original))
            named.append([f"{name}: {_id(images[name], position)}" for name, position in places])
            for name, position in places:
                shown.append(images[name].subset([position]).pixels((96, 96))[0])
        if self.images.exclude_copies:
            for name in {leak.pool for leak in leaks}:
                copies = [leak.copy for leak in leaks if leak.pool == name]
                kept = np.setdiff1d(np.arange(len(images[name])), copies)
                images = {**images, name: images[name].subset(kept)}
        if named:
            file = self.out.with_suffix(".copies.png")
            Image.fromarray(image_grid(np.stack(shown[:64]), columns=8)).save(file)
            listed = "\n  ".join(" is like ".join(line) for line in named[:MOST_NAMED])
            fate = (
                "left out" if self.images.exclude_copies else "give --exclude-copies to drop them"
            )
            print(
                f"warning: {len(named)} images look like changed copies of validation or test "
                f"images, which makes scores too good; {fate}. Pairs side by side: {file}\n  {listed}"
            )
        return images, named

    def _get_extractor(self, images: dict[str, Dataset]) -> Classifier:
        """Read the extractor if it exists, else train and write it."""
        config = default_extractor(len(images["train"]), self.network.architecture)
        config = changed_config(config, self.network, CONFIGURED, images["train"])
        file = self.network.extractor or self.out.with_suffix(".extractor.pt")
        if not file.exists():
            extractor = train_extractor_with_bar(images, self.seed, config, self.device)
            extractor.save(file)
            return extractor
        extractor = Classifier.load(file, self.device)
        if config.steps_per_epoch is None:
            config = replace(config, steps_per_epoch=extractor.config.steps_per_epoch)
        trained_on = training_digest(images["train"], self.seed)
        if (extractor.config, extractor.trained_on) != (config, trained_on):
            raise ValueError(
                f"{file} was trained on other images, by another seed, or otherwise "
                f"({extractor.config}); delete it, or give another --extractor"
            )
        return extractor


@dataclass(frozen=True)
class DescribeBank(Command):
    """Say what a bank holds, where it comes from, and what is doubtful about it.

    :param bank: file, or name of an embedded bank
    """

    bank: Annotated[str, tyro.conf.Positional]

    def run(self) -> Facts:
        """Print the description."""
        bank = resolve_bank(self.bank)
        print(bank.describe())
        counts = {
            split: dict(zip(bank.classes, np.bincount(data.labels).tolist()))
            for split, data in bank.splits.items()
        }
        return {"bank": self.bank, "images": counts, "warnings": bank.warnings()}


def _id(dataset: Dataset, position: int) -> str:
    return dataset.ids[position] if dataset.ids else str(position)


def check_classes(images: Mapping[str, Dataset]) -> None:
    """Refuse real splits without images of a class.

    :param images: datasets by split
    :raises ValueError: if the train split lacks a class, or another has images of one only
    """
    classes = class_names(images["train"])
    for name, split in images.items():
        least = {"train": len(classes), "candidates": 0}.get(name, 2)
        if len(np.unique(split.labels)) < least:
            raise ValueError(
                f"{name} lacks images of a class; the train split needs some of each, "
                "the others of two at least"
            )


def _warn_if_useless(extractor: Classifier) -> None:
    """Warn where the extractor hardly tells the classes apart."""
    accuracy = extractor.history["balanced_accuracy"][-1]
    if accuracy < MIN_SKILL / extractor.n_classes:
        print(
            "warning: the extractor hardly tells the classes apart (validation balanced accuracy "
            f"{accuracy:.2f}), so that its features say little; try more --steps-per-epoch or "
            "--epochs"
        )
