"""RetrainEvaluator: the paper's full retraining on real + selected images."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from synthselect_env.bank import FeatureBank
from synthselect_env.data import Dataset
from synthselect_env.evaluators.base import ClassifierEvaluator, Evaluations
from synthselect_env.metrics import METRICS
from synthselect_env.training.classifier import (
    QUICK,
    TRAINING_VERSION,
    Classifier,
    TrainingConfig,
    as_pixels,
    train_classifier,
)
from synthselect_env.training.device import has_bfloat16, pick_device

LAST_EPOCHS = 5
"""Epochs whose metrics are kept. The paper's reward is the best of the last five."""


class RetrainEvaluator(ClassifierEvaluator):
    """Train a torchvision classifier (the paper's ResNet34) on real + selected images.

    All selections start from the same weights and see shared images in the same order (common
    random numbers). Metrics are those after the last epoch, on weights that no look at a scored
    image has chosen. ``Evaluations.epochs`` holds the last five epochs. All images lie on the
    device as one uint8 tensor.

    .. code-block:: python

        evaluator = RetrainEvaluator(bank, "resnet18", config={"size": (32, 32)})
        evaluator.evaluate(np.zeros((1, len(bank.candidates)), bool), seed=0).accuracy

    :param bank: feature bank with images
    :param architecture: name of a torchvision classifier; None for the configuration's
    :param config: training configuration, or a dictionary of what differs from
        :attr:`default_config`. Without a size, the default's is the images' short side (or their
        own size if smaller)
    :param initial: trained classifier of the same architecture to start from, or its file; None to
        train from scratch
    :param device: "auto", or a torch device
    :param compile: whether training steps run through ``torch.compile``, which the first retraining
        of each process pays for
    :param on_epoch: callback after each epoch, with the number of selections done, the epoch, and
        its validation metrics (empty before the last five). Copies in other processes have none
    :raises ValueError: if a split has no images, or ``initial`` is another network
    """

    version = TRAINING_VERSION
    default_config = TrainingConfig()
    """Training configuration where none is given, at the images' proportions."""

    def __init__(
        self,
        bank: FeatureBank,
        architecture: str | None = None,
        config: TrainingConfig | dict[str, object] | None = None,
        initial: Classifier | str | Path | None = None,
        device: str = "auto",
        compile: bool = False,
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
            proportioned = self.default_config.for_images(*bank.train.image_size)
            config = replace(proportioned, **(config or {}))  # type: ignore[arg-type]
        self.config = replace(config, architecture=architecture or config.architecture)
        if isinstance(initial, str | Path):
            initial = Classifier.load(initial, "cpu")
        self.initial = initial
        if self.initial is not None:
            self.initial.check_fits(self.config.architecture, len(bank.classes))
        self.device = pick_device(device)
        self.compile = compile
        self.on_epoch = on_epoch
        self._training_data: tuple[torch.Tensor, torch.Tensor] | None = None
        self._predicted: tuple[str, torch.Tensor] | None = None  # likely to be asked for again

    def __getstate__(self) -> dict[str, object]:
        # Images are decoded again where they are needed. A callback draws a bar and stays here.
        return {**self.__dict__, "_training_data": None, "_predicted": None, "on_epoch": None}

    @property
    def description(self) -> str:
        """Name of the classifier in tables."""
        height, width = self.config.size
        return f"{self.config.architecture} retrained at {height}×{width} px"

    def settings(self) -> dict[str, object]:
        """Return what the numbers depend on beside bank, selection and seed."""
        return {
            "config": asdict(self.config),
            "initial": None if self.initial is None else self.initial.digest,
            "device": self.device.type,
            "bfloat16": has_bfloat16(self.device),
            "procedure": TRAINING_VERSION,
        }

    def dataset_digest(self, dataset: Dataset) -> str:
        """Return a digest of the images. Another extractor changes no retraining."""
        return dataset.images_digest

    def evaluate(self, selections: np.ndarray, seed: int) -> Evaluations:
        """Score k selections on the validation split, one retraining after the other."""
        histories = [classifier.history for classifier in self.classifiers(selections, seed)]
        return Evaluations.from_epochs(
            {name: np.array([history[name] for history in histories]) for name in METRICS}
        )

    def predict(self, selections: np.ndarray, seed: int, dataset: Dataset) -> np.ndarray:
        """Train once per selection and predict the classes of m images.  float32 (k, m, c)"""
        pixels = self._pixels_of(dataset)
        predictions = [
            classifier.log_probabilities(pixels).float().cpu().numpy()
            for classifier in self.classifiers(selections, seed, scored_epochs=0)
        ]
        return np.stack(predictions)

    def classifiers(
        self, selections: np.ndarray, seed: int, scored_epochs: int = LAST_EPOCHS
    ) -> Iterator[Classifier]:
        """Yield the retrained classifiers, one after the other.

        :param selections: bool (k, n), one row per selection
        :param seed: random seed of weights, order and augmentation, shared by all k
        :param scored_epochs: number of last epochs scored on the validation images
        :raises ValueError: if the selections have another shape or type
        """
        selections, bank = self.checked(selections), self.bank
        images, valid_images = self._data()
        labels = np.concatenate([bank.train.labels, bank.candidates.labels])
        real = np.arange(len(bank.train))
        for done, selection in enumerate(selections):
            selected = len(real) + np.flatnonzero(selection)
            yield train_classifier(
                images,
                labels,
                valid_images,
                bank.valid.labels,
                len(bank.classes),
                seed,
                self.config,
                self.device,
                indices=np.concatenate([real, selected]),
                initial=self.initial,
                compile=self.compile,
                scored_epochs=scored_epochs,
                on_epoch=None if self.on_epoch is None else partial(self.on_epoch, done),
            )

    def _data(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the images to train on and to validate on, decoded once for all calls."""
        if self._training_data is None:
            pool = Dataset.concatenate([self.bank.train, self.bank.candidates])
            self._training_data = self._decoded(pool), self._decoded(self.bank.valid)
        return self._training_data

    def _pixels_of(self, dataset: Dataset) -> torch.Tensor:
        """Return a dataset's images on the device; those of the last call are remembered."""
        digest = dataset.images_digest
        if self._predicted is None or self._predicted[0] != digest:
            self._predicted = digest, self._decoded(dataset)
        return self._predicted[1]

    def _decoded(self, dataset: Dataset) -> torch.Tensor:
        if dataset.images is None:
            raise ValueError(
                f"{self.bank.source}: a split that is to be scored has no images; "
                "full retraining needs images"
            )
        return as_pixels(dataset.pixels(self.config.size), self.device)  # (n, 3, h, w)


class QuickRetrainEvaluator(RetrainEvaluator):
    """Train a ResNet18 on small images (32 px on the short side); quicker than the default.

    The embedded banks' retrainings were made with it. Parameters are
    :class:`RetrainEvaluator`'s.

    .. code-block:: python

        evaluator = QuickRetrainEvaluator(bank, config={"augmentation": "none"})
    """

    default_config = QUICK
