"""Train a HistoGAN on real images.

    synthselect generate train --real pcam.zip --counts 1966 1378 --reference-split valid \\
        --out runs/histogan

The embedded PCam pool came from this command with its defaults. A small network learns the images
first, for the discriminator to look through. Called again with the same run directory, the command
goes on from the last checkpoint.

The Fréchet distance in losses.csv is taken on the features of a small network that is trained on
the same images. It is not the Inception FID, and it swings. histogan.pt is the last checkpoint, and
best.pt the one with the smallest distance, which a collapsed training still has.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from agents.cli.common import Facts, SeededCommand, class_names
from agents.cli.image_options import RealImageOptions
from agents.progress import progress_bar
from synthselect_env.bank.extraction import LEAST_STEPS, training_digest
from synthselect_env.data import Dataset, apportion, decode, draw_per_class, encode_images
from synthselect_env.synthesis import CollapseError, HistoGAN, HistoGANConfig
from synthselect_env.training.classifier import Classifier
from synthselect_env.training.config import SMALL, TrainingConfig
from synthselect_env.training.trainer import train_classifier

FEATURE_NETWORK = SMALL
"""Training configuration of the network on whose features the Fréchet distance is taken."""

MAX_STEPS_PER_EPOCH = 100
"""Steps per epoch of that network, however many images there are."""

DEFAULT_SHORT_SIDE, SIDE_UNIT = 48, 16
"""Pixels of generated images on the short side, and the unit of their sides."""

DEFAULT = HistoGANConfig()
"""Settings of the generator, where none are given."""


@dataclass(frozen=True, kw_only=True)
class TrainGenerator(SeededCommand):
    """Train a HistoGAN on the real images of the train split.

    Images without splits are split as ``bank build`` with the same seed does, so that a generator
    sees no validation and no test image. A small network learns the images first, for the
    discriminator to look through. Called again with the same run directory, the command goes on
    from the last checkpoint. histogan.pt is the last one, and best.pt the one with the smallest
    Fréchet distance.

    :param real: real images: directory, zip or npz
    :param out: run directory
    :param all_images: train on all images, which then cannot judge what is made
    :param counts: images per class; all unless given
    :param size: height and width of the generated images, multiples of 16; unless given,
        48 on the short side, in the images' proportions
    :param no_random_flips: do not flip or transpose images, which have an up
    :param steps: generator steps
    :param batch_size: images per step
    :param width: channels at full resolution
    :param pretraining_steps: steps of the network that the discriminator looks through
    :param reference_split: images to take the Fréchet distance to, e.g. valid
    :param fid_samples: number of them at most, and of generated ones; 0 for no distance
    :param save_every: steps between checkpoints, sample grids and Fréchet distances
    :param images: how folders of images are read
    """

    real: Path
    out: Path = Path("runs/histogan")
    all_images: bool = False
    counts: tuple[int, ...] = ()
    size: tuple[int, int] | None = None
    no_random_flips: bool = False
    steps: int = DEFAULT.steps
    batch_size: int = DEFAULT.batch_size
    width: int = DEFAULT.width
    pretraining_steps: int = DEFAULT.pretraining_steps
    reference_split: Literal["train", "valid", "test"] = "train"
    fid_samples: int = 1024
    save_every: int = 500
    images: RealImageOptions = RealImageOptions()

    def run(self) -> Facts:
        """Train, or go on with a training."""
        splits = self._read_real()
        real = splits["train"]
        if self.counts:
            real = real.subset(draw_per_class(real.labels, self.counts, self.seed))
        gan = _new_or_resumed(self, real)
        print(
            f"{len(real)} images of {', '.join(class_names(real))} at {gan.size[0]}×{gan.size[1]}, "
            f"{gan.config.steps} steps from {gan.step}, on {gan.device}"
        )
        extractor = reference = None
        if self.fid_samples:
            extractor = _feature_network(self, real, gan.size)
            reference = _reference(self, {**splits, "train": real}, gan.size)

        images = real.pixels(gan.size)
        if not gan.pretrained:
            _pretrain(gan, images, real.labels)
            gan.save(self.out / "histogan.pt")
        try:
            _fit(gan, images, real.labels, self, extractor, reference)
        except (CollapseError, FloatingPointError) as error:
            raise SystemExit(f"{error} ({self.out})") from error
        except ValueError as error:
            raise ValueError(f"{error} ({self.out})") from error
        print(f"checkpoints, losses.csv and sample grids in {self.out}")
        return {"run": str(self.out), "checkpoint": str(self.out / "histogan.pt")}

    def _read_real(self) -> dict[str, Dataset]:
        """Return the real images by split; all of them as train, if that is asked for."""
        if not self.all_images:
            splits = self.images.read_real(self.real, self.seed)
        else:
            found = self.images.find_real(self.real)
            print(found.describe())
            splits = {"train": Dataset.concatenate(list(found.datasets.values()))}
        if self.reference_split not in splits:
            raise ValueError(f"--all-images leaves no {self.reference_split} images as a reference")
        used = {"train", self.reference_split}
        return {name: self._readable(splits[name]) for name in used}

    def _readable(self, images: Dataset) -> Dataset:
        """Return images without those that cannot be read, if that is asked for."""
        if not self.images.skip_unreadable:
            return images
        encoded, left_out = encode_images(images, skip_unreadable=True)
        for line in left_out:
            print(f"left out: {line}")
        kept = np.isin(list(images.ids or ()), list(encoded.ids or ()))
        return images.subset(kept)


def _new_or_resumed(args: TrainGenerator, real: Dataset) -> HistoGAN:
    """Return the GAN of the last checkpoint, or a new one."""
    config = HistoGANConfig(
        steps=args.steps,
        batch_size=args.batch_size,
        width=args.width,
        seed=args.seed,
        pretraining_steps=args.pretraining_steps,
        random_flips=not args.no_random_flips,
    )
    size = args.size or _default_size(*real.image_size)
    gan = HistoGAN(size, class_names(real), config, args.device)
    checkpoint = args.out / "histogan.pt"
    if not checkpoint.exists():
        return gan
    saved = HistoGAN.load(checkpoint, args.device)
    saved_config = replace(saved.config, steps=config.steps)  # more steps may be asked for
    if (saved.size, saved.classes, saved_config) != (gan.size, gan.classes, config):
        raise ValueError(
            f"{checkpoint} is of another training ({saved.size}, {saved.classes}, "
            f"{saved.config}); give its arguments, or another --out"
        )
    saved.config = config
    return saved


def _default_size(height: int, width: int) -> tuple[int, int]:
    """Return the size of generated images for real ones of a size."""
    units = DEFAULT_SHORT_SIDE // SIDE_UNIT
    shorter = min(height, width)

    def side(length: int) -> int:
        return SIDE_UNIT * max(1, round(units * length / shorter))

    return side(height), side(width)


def _feature_network(args: TrainGenerator, real: Dataset, size: tuple[int, int]) -> Classifier:
    """Read the network of the Fréchet distance if the run has one, else train and write it.

    It stays with the run, so that the distances of a resumed run continue those before.
    """
    config = _feature_config(len(real), size, args.no_random_flips)
    trained_on = training_digest(real, args.seed)
    file = args.out / "extractor.pt"
    if file.exists():
        extractor = Classifier.load(file, args.device)
        if (extractor.config, extractor.trained_on) != (config, trained_on):
            raise ValueError(
                f"{file} is of other images or arguments; give those, or another --out"
            )
        return extractor
    pixels = real.pixels(config.size)
    extractor = train_classifier(
        pixels,
        real.labels,
        pixels,
        real.labels,
        len(class_names(real)),
        args.seed,
        config,
        args.device,
        scored_epochs=0,
    )
    extractor.trained_on = trained_on
    extractor.save(file)
    return extractor


def _feature_config(n: int, size: tuple[int, int], no_random_flips: bool) -> TrainingConfig:
    """Return the network's configuration: whole passes over few images, capped for many."""
    config = FEATURE_NETWORK.for_images(*size)
    steps = max(LEAST_STEPS, n // config.batch_size)
    config = replace(config, steps_per_epoch=min(MAX_STEPS_PER_EPOCH, steps))
    return replace(config, augmentation="traditional") if no_random_flips else config


def _reference(
    args: TrainGenerator, splits: dict[str, Dataset], size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Return images and labels that the Fréchet distance is taken to."""
    images = splits[args.reference_split]
    counts = apportion(images.labels, min(args.fid_samples, len(images)))
    reference = images.subset(draw_per_class(images.labels, counts, args.seed))
    return reference.pixels(size), reference.labels


def _pretrain(gan: HistoGAN, images: np.ndarray, labels: np.ndarray) -> None:
    """Train the network that the discriminator looks through."""
    with progress_bar(gan.config.pretraining_steps, "step", "pretraining") as bar:
        for row in gan.pretrain(images, labels):
            contrast = f"{row['contrast']:.2f}"
            cross_entropy = f"{row['cross_entropy']:.2f}"
            bar.update()
            bar.set_postfix(contrast=contrast, cross_entropy=cross_entropy, refresh=False)


def _fit(
    gan: HistoGAN,
    images: np.ndarray,
    labels: np.ndarray,
    args: TrainGenerator,
    extractor: Classifier | None,
    reference: tuple[np.ndarray, np.ndarray] | None,
) -> None:
    """Train generator and discriminator."""
    features = None
    if extractor is not None:
        network = extractor

        def features(images: np.ndarray) -> np.ndarray:
            return network.features(decode(images, network.config.size))

    distance: dict[str, float] = {}
    with progress_bar(gan.config.steps, "step", initial=gan.step) as bar:
        for row in gan.fit(images, labels, args.out, args.save_every, features, reference):
            if "frechet" in row:
                distance = {"frechet": row["frechet"]}
            shown = {**row, **distance}
            shown.pop("step")
            bar.update()
            bar.set_postfix({k: f"{v:.2f}" for k, v in shown.items()}, refresh=False)
