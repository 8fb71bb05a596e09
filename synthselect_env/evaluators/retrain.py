"""RetrainEvaluator: retraining of a classifier on real + selected images."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from synthselect_env.bank import FeatureBank
from synthselect_env.data import Dataset, assign_folds
from synthselect_env.evaluators.base import ClassifierEvaluator, Evaluations
from synthselect_env.metrics import METRICS
from synthselect_env.training.classifier import Classifier, as_pixels
from synthselect_env.training.config import SMALL, TrainingConfig, default_config
from synthselect_env.training.device import has_bfloat16, pick_device, torch_threads
from synthselect_env.training.trainer import SIDE_BY_SIDE, TRAINING_VERSION, Trainer

THREADS = 1
"""Torch threads of a retraining on the CPU. Another number would change its rounding, and with it
the metrics. :class:`ParallelEvaluator` uses the other cores."""


class RetrainEvaluator(ClassifierEvaluator):
    """Train a classifier on real + selected images.

    All selections start from the same weights and see shared images in the same order (common
    random numbers). Metrics are those after the last epoch, on weights that no look at a scored
    image has chosen. On the CPU, they depend on selections and seed alone; on a GPU, up to rounding.

    With ``folds``, training and validation images are one set of annotated images. An image of a
    fold is labelled by a network that was trained on the other folds, so a reward needs no images
    beside those. Folds are the same for all selections and seeds, and divide no patient. A selection
    that was made with the labels of a fold looks too good on it; see
    benchmarks/results/fold_leak.md.

    .. code-block:: python

        evaluator = RetrainEvaluator(bank, folds=5)
        evaluator.evaluate(np.zeros((1, len(bank.candidates)), bool), seed=0).accuracy

    :param bank: feature bank with images
    :param architecture: "small_cnn" or the name of a torchvision classifier; None for the
        configuration's
    :param config: training configuration, or a dictionary of what differs from the architecture's
        :func:`~synthselect_env.training.config.default_config`. Without a size, the default's is
        the images' short side (or their own size if smaller)
    :param folds: number of folds; None to train on the train split and score on the valid split
    :param initial: trained classifier of the same architecture to start from, or its file; None to
        train from scratch
    :param scored_epochs: number of last epochs whose metrics are kept. With folds it is one
    :param device: "auto", or a torch device
    :param on_epoch: callback after each epoch, with the number of the training, the epoch, and its
        validation metrics, which are empty unless it is scored. Copies in other processes have none
    :raises ValueError: if a split has no images, a fold cannot be left out, or ``initial`` is
        another network or comes with folds
    """

    version = TRAINING_VERSION
    default_architecture = SMALL.architecture
    """Architecture where none is given."""

    def __init__(
        self,
        bank: FeatureBank,
        architecture: str | None = None,
        config: TrainingConfig | dict[str, object] | None = None,
        folds: int | None = None,
        initial: Classifier | str | Path | None = None,
        scored_epochs: int = 1,
        device: str = "auto",
        on_epoch: Callable[[int, int, dict[str, float]], None] | None = None,
    ) -> None:
        super().__init__(bank)
        for name in ("train", "valid", "candidates"):
            if getattr(bank, name).images is None:
                raise ValueError(
                    f"{bank.source}: {name}/images is missing; full retraining needs images, "
                    "the linear probe only features"
                )
        if not isinstance(config, TrainingConfig):
            n_real = n_trained_on(bank, folds)
            named = architecture or (config or {}).get("architecture", self.default_architecture)
            default = default_config(str(named), n_real)
            proportioned = default.for_images(*bank.train.image_size)
            config = replace(proportioned, **(config or {}))  # type: ignore[arg-type]
        self.config = replace(config, architecture=architecture or config.architecture)
        self.folds = folds
        if folds is not None:
            self.fold_of = self._assign_folds(folds)
            if initial is not None:
                raise ValueError(
                    "folds need a training from scratch: an initial network may know the images "
                    "that it is to be scored on"
                )
        if isinstance(initial, str | Path):
            initial = Classifier.load(initial, "cpu")
        self.initial = initial
        if self.initial is not None:
            self.initial.check_fits(self.config.architecture, len(bank.classes))
        self.scored_epochs = scored_epochs
        self.device = pick_device(device)
        if self.device.type == "cuda":
            self.batch_size = SIDE_BY_SIDE
        self.on_epoch = on_epoch
        self._trainer: Trainer | None = None
        self._decoded_sets: dict[str, torch.Tensor] = {}  # likely to be asked for again

    def __getstate__(self) -> dict[str, object]:
        # Images are decoded again where they are needed. A callback draws a bar and stays here.
        return {**self.__dict__, "_trainer": None, "_decoded_sets": {}, "on_epoch": None}

    def _assign_folds(self, folds: int) -> np.ndarray:
        """Return the fold of each annotated image, after checks that they can be left out.  (n,)"""
        annotated, source = self.annotated, self.bank.source
        has_groups = [split.groups is not None for split in (self.bank.train, self.bank.valid)]
        if has_groups[0] != has_groups[1]:
            raise ValueError(
                f"{source}: patients are known of only one of train and valid; name those of both, "
                "so that folds divide none"
            )
        if folds > len(annotated):
            raise ValueError(f"{source}: {len(annotated)} images cannot be cut into {folds} folds")
        fold_of = assign_folds(annotated.labels, folds, annotated.groups)
        for fold in range(folds):
            left = np.bincount(annotated.labels[fold_of != fold], minlength=len(self.bank.classes))
            if not left.all():
                name = self.bank.classes[int(left.argmin())]
                raise ValueError(
                    f"{source}: without fold {fold} of {folds}, no image of class {name} is left "
                    "to train on; annotate more of it, or take no folds"
                )
        return fold_of

    @property
    def description(self) -> str:
        """Name of the classifier in tables."""
        height, width = self.config.size
        folds = "" if self.folds is None else f", {self.folds} folds"
        return f"{self.config.architecture} retrained at {height}×{width} px{folds}"

    @cached_property
    def annotated(self) -> Dataset:
        """All real images: the train split, then the valid split."""
        return Dataset.concatenate([self.bank.train, self.bank.valid])

    @property
    def scored(self) -> Dataset:
        """Images that :meth:`evaluate` scores: the valid split, or all that are annotated."""
        return self.bank.valid if self.folds is None else self.annotated

    def fold(self, number: int) -> Dataset:
        """Return the annotated images of one fold.

        :param number: number of the fold, from 0
        """
        return self.annotated.subset(self.fold_of == number)

    def settings(self) -> dict[str, object]:
        """Return what the numbers depend on beside bank, selection and seed."""
        return {
            "config": asdict(self.config),
            "folds": self.folds,
            "initial": None if self.initial is None else self.initial.digest,
            "scored_epochs": self.scored_epochs,
            "device": self.device.type,
            "bfloat16": has_bfloat16(self.device),
            "procedure": TRAINING_VERSION,
        }

    def dataset_digest(self, dataset: Dataset) -> str:
        """Return a digest of the images. Another extractor changes no retraining."""
        return dataset.images_digest

    def evaluate(self, selections: np.ndarray, seed: int) -> Evaluations:
        """Score k selections, each by its own retraining, or by one per fold."""
        if self.folds is not None:
            log_probabilities = self.predict(selections, seed, self.annotated)
            return Evaluations.from_predictions(log_probabilities, self.annotated.labels)
        trained = self._train(self.checked(selections), self._real(), seed, self.scored_epochs)
        histories = [classifier.history for classifier in trained]
        return Evaluations.from_epochs(
            {name: np.array([history[name] for history in histories]) for name in METRICS}
        )

    def predict(self, selections: np.ndarray, seed: int, dataset: Dataset) -> np.ndarray:
        """Train once per selection and predict the classes of m images.

        With folds, a fold of which the dataset holds all images is labelled by a network that was
        trained on the others. Several such folds take a network each, and label all further images
        by their mean probability. Without any, one network is trained on all annotated images.

        :return: log-probabilities, float32 (k, m, c)
        """
        selections = self.checked(selections)
        pixels = self._pixels_of(dataset)
        held_out = self._folds_of(pixels)  # (m,)
        present = [fold for fold in np.unique(held_out) if fold >= 0]
        if len(present) <= 1:
            real = self._real(*present)
            return np.stack(self._labelled(selections, real, seed, pixels))

        shape = (len(selections), len(dataset), len(self.bank.classes))
        probability = np.zeros(shape)
        for fold in present:
            labelled = self._labelled(selections, self._real(fold), seed, pixels)
            own, others = held_out == fold, held_out < 0
            for k, log_p in enumerate(labelled):
                probability[k, own] = np.exp(log_p[own].astype(np.float64))
                probability[k, others] += np.exp(log_p[others].astype(np.float64)) / len(present)
        return np.log(probability).astype(np.float32)

    def _labelled(
        self, selections: np.ndarray, real: np.ndarray, seed: int, pixels: torch.Tensor
    ) -> list[np.ndarray]:
        """Train once per selection and return the log-probabilities of some images, (m, c) each."""
        labelled = []
        for classifier in self._train(selections, real, seed, scored_epochs=0):
            with torch_threads(THREADS, self.device):
                labelled.append(classifier.log_probabilities(pixels).float().cpu().numpy())
        return labelled

    def _train(
        self, selections: np.ndarray, real: np.ndarray, seed: int, scored_epochs: int
    ) -> Iterator[Classifier]:
        """Return the retrained classifiers, one per selection, trained as they are asked for.

        :param selections: bool (k, n), one row per selection
        :param real: positions of the real images to train on, among all real images
        :param seed: random seed of weights, order and augmentation, shared by all k
        :param scored_epochs: number of last epochs scored on the valid split
        """
        trainer = self._ready_trainer()
        n_real = len(trainer.labels) - selections.shape[1]
        subsets = [np.concatenate([real, n_real + np.flatnonzero(row)]) for row in selections]
        return trainer.train(subsets, seed, scored_epochs, self.on_epoch)

    def _real(self, held_out: int | None = None) -> np.ndarray:
        """Return the positions of the real images to train on, but those of one fold."""
        if self.folds is None:
            return np.arange(len(self.bank.train))
        if held_out is None:
            return np.arange(len(self.annotated))
        return np.flatnonzero(self.fold_of != held_out)

    def _ready_trainer(self) -> Trainer:
        """Return the trainer of all real images and candidates, decoded once for all calls."""
        if self._trainer is None:
            bank, valid = self.bank, None
            real = bank.train if self.folds is None else self.annotated
            pool = Dataset.concatenate([real, bank.candidates])
            if self.folds is None:
                valid = (self._decoded(bank.valid), bank.valid.labels)
            self._trainer = Trainer(
                self._decoded(pool),
                pool.labels,
                len(bank.classes),
                self.config,
                self.device,
                valid,
                self.initial,
                side_by_side=self.batch_size,
                threads=THREADS,
            )
        return self._trainer

    def _folds_of(self, pixels: torch.Tensor) -> np.ndarray:
        """Return the fold of each image, -1 for those of no whole fold.  (m,)

        Images are recognised by their pixels, so that it does not matter where they come from. A
        single one that looks like an annotated image, a blank patch perhaps, is none of a fold.
        """
        held_out = np.full(len(pixels), -1)
        if self.folds is None:
            return held_out
        own = self._ready_trainer().pixels[: len(self.annotated)]
        annotated = np.array([image.tobytes() for image in own.cpu().numpy()])
        given = np.array([image.tobytes() for image in pixels.cpu().numpy()])
        for fold in range(self.folds):
            images = annotated[self.fold_of == fold]
            if np.isin(images, given).all():
                held_out[np.isin(given, images)] = fold
        return held_out

    def _pixels_of(self, dataset: Dataset) -> torch.Tensor:
        """Return a dataset's images on the device; those of the last two sets are remembered."""
        digest = dataset.images_digest
        if digest not in self._decoded_sets:
            last = list(self._decoded_sets.items())[-1:]
            self._decoded_sets = {**dict(last), digest: self._decoded(dataset)}
        return self._decoded_sets[digest]

    def _decoded(self, dataset: Dataset) -> torch.Tensor:
        if dataset.images is None:
            raise ValueError(
                f"{self.bank.source}: a split that is to be scored has no images; "
                "full retraining needs images"
            )
        return as_pixels(dataset.pixels(self.config.size), self.device)  # (n, 3, h, w)


def n_trained_on(bank: FeatureBank, folds: int | None) -> int:
    """Return the number of real images that a network of the evaluator is trained on.

    :param bank: feature bank
    :param folds: number of folds, or None
    """
    if folds is None:
        return len(bank.train)
    return (len(bank.train) + len(bank.valid)) * (folds - 1) // folds


class PaperRetrainEvaluator(RetrainEvaluator):
    """Train the paper's ResNet34, and keep the last five epochs, of which its reward is the best.

    Parameters are :class:`RetrainEvaluator`'s.

    .. code-block:: python

        evaluator = PaperRetrainEvaluator(bank, config={"size": (96, 96)})
    """

    default_architecture = "resnet34"

    def __init__(self, bank: FeatureBank, *args: object, **kwargs: object) -> None:
        super().__init__(bank, *args, **{"scored_epochs": 5, **kwargs})  # type: ignore[arg-type]
