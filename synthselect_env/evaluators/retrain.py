"""The full retraining of the paper: a network on real + selected pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from synthselect_env.bank import FeatureBank
from synthselect_env.data import decode
from synthselect_env.data.dataset import Split
from synthselect_env.evaluators.base import Evaluations, Evaluator
from synthselect_env.metrics import METRICS
from synthselect_env.training.classifier import QUICK, Classifier, TrainingConfig, as_pixels, train_classifier
from synthselect_env.training.device import has_bfloat16, pick_device

LAST_EPOCHS = 5
"""Epochs whose figures are kept: the paper's reward is the best of the last five."""

PROCEDURE = 2
"""Raised whenever the same arguments train differently, beyond rounding, so that remembered figures are not taken for today's."""


class RetrainEvaluator(Evaluator):
    """Trains a torchvision classifier (the paper's ResNet34) on the real train split and each selection.

    Common random numbers: all k selections start from the same weights and see the pictures that they share in the same order.
    The figures are those of the last epoch, on weights that no look at a scored split has chosen; on the validation split,
    ``Evaluations.epochs`` holds the last five. All pictures lie on the device as one uint8 tensor.

    :param bank: must hold pictures in every split that is used
    :param architecture: name of a torchvision classifier, in the place of the configuration's
    :param config: how to train, or a dictionary of what is to differ from :attr:`recipe`; where it names no size, the recipe's is the
        pictures' shorter side (48 pixels, or their own when smaller)
    :param initial: a trained classifier of the same architecture, or the file of one, to start from; None to train from scratch
    :param device: "auto", or a torch device
    :param compile: run training steps through ``torch.compile``, which the first retraining of each process pays for
    :param on_epoch: called after each epoch with the selections done, the epoch, and its validation metrics; empty before the
        last five. Copies in other processes have none
    :raises ValueError: when a split has no pictures, or ``initial`` is another network
    """

    recipe = TrainingConfig()
    """How it trains, at the pictures' proportions, where it is not told otherwise."""

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
                raise ValueError(f"{bank.source}: {name}/images is missing; full retraining needs pictures, the linear probe only features")
        if not isinstance(config, TrainingConfig):
            proportioned = self.recipe.for_pictures(*bank.train.picture_size)
            config = replace(proportioned, **(config or {}))  # type: ignore[arg-type]
        self.config = replace(config, architecture=architecture or config.architecture)
        self.initial = Classifier.load(initial, "cpu") if isinstance(initial, str | Path) else initial
        if self.initial is not None:
            self.initial.check_fits(self.config.architecture, len(bank.classes))
        self.device = pick_device(device)
        self.compile = compile
        self.on_epoch = on_epoch
        self._training: tuple[torch.Tensor, torch.Tensor] | None = None
        self._scored: tuple[str, torch.Tensor] | None = None  # another split, which is likely to be asked for again

    def __getstate__(self) -> dict[str, object]:
        # pictures are decoded again where they are needed; a callback draws a bar, which stays where it is
        return {**self.__dict__, "_training": None, "_scored": None, "on_epoch": None}

    @property
    def description(self) -> str:
        """The classifier's name in tables."""
        return f"{self.config.architecture} retrained at {self.config.size[0]}×{self.config.size[1]} px"

    def settings(self) -> dict[str, object]:
        """What the figures depend on beside the bank."""
        return {
            "config": asdict(self.config),
            "initial": None if self.initial is None else self.initial.digest,
            "device": self.device.type,
            "bfloat16": has_bfloat16(self.device),
            "procedure": PROCEDURE,
        }

    def digest_of(self, split: Split) -> str:
        """A digest of the pictures; another extractor changes no retraining."""
        return split.pictures_digest

    def _pixels(self, *splits: Split) -> torch.Tensor:
        """The splits' pictures on the device."""
        if any(split.images is None for split in splits):
            raise ValueError(f"{self.bank.source}: a split that is to be scored has no images; full retraining needs pictures")
        return as_pixels(np.concatenate([decode(split.images, self.config.size) for split in splits]), self.device)  # type: ignore[arg-type]

    @property
    def _data(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Pictures to train on and validation pictures, decoded once for all selections and calls."""
        if self._training is None:
            self._training = self._pixels(self.bank.train, self.bank.candidates), self._pixels(self.bank.valid)
        return self._training

    def _known_pixels(self, split: Split) -> torch.Tensor:
        """A split's pictures, those that lie on the device already without decoding them again."""
        if self.is_valid(split):
            return self._data[1]
        if split is self.bank.candidates:
            return self._data[0][len(self.bank.train) :]
        digest = self.digest_of(split)
        if self._scored is None or self._scored[0] != digest:
            self._scored = digest, self._pixels(split)
        return self._scored[1]

    def evaluate_on(self, selections: np.ndarray, seed: int, *splits: Split) -> list[Evaluations]:
        """Score k selections, one retraining after the other."""
        scored = [None if self.is_valid(split) else self._known_pixels(split) for split in splits]
        histories: list[list[dict[str, list[float]]]] = [[] for _ in splits]
        for classifier in self.classifiers(selections, seed):
            for history, split, pixels in zip(histories, splits, scored):
                history.append(classifier.history if pixels is None else classifier.score(pixels, split.labels))
        return [Evaluations.from_epochs({m: np.array([h[m][-LAST_EPOCHS:] for h in history]) for m in METRICS}) for history in histories]

    def predict_on(self, selections: np.ndarray, seed: int, *splits: Split) -> list[np.ndarray]:
        """Log-probabilities after each of k retrainings.  float32 (k, m, c), a split each"""
        scored = [self._known_pixels(split) for split in splits]
        predicted: list[list[np.ndarray]] = [[] for _ in splits]
        for classifier in self.classifiers(selections, seed, scored_epochs=0):
            for part, pixels in zip(predicted, scored):
                part.append(classifier.log_probabilities(pixels).float().cpu().numpy())
        return [np.stack(part) for part in predicted]

    def classifiers(self, selections: np.ndarray, seed: int, scored_epochs: int = LAST_EPOCHS) -> Iterator[Classifier]:
        """The retrained classifiers, one after the other.

        :param selections: bool (k, n), a row a selection
        :param seed: of weights, order and augmentation, the same for all k
        :param scored_epochs: how many epochs, the last ones, end with a look at the validation pictures
        :raises ValueError: when the selections have another shape or type
        """
        selections, bank = self.checked(selections), self.bank
        images, valid = self._data
        labels = np.concatenate([bank.train.labels, bank.candidates.labels])
        for done, mask in enumerate(selections):
            yield train_classifier(
                images, labels, valid, bank.valid.labels, len(bank.classes), seed, self.config, self.device,
                members=np.concatenate([np.arange(len(bank.train)), len(bank.train) + np.flatnonzero(mask)]),
                initial=self.initial, compile=self.compile, scored_epochs=scored_epochs,
                on_epoch=None if self.on_epoch is None else partial(self.on_epoch, done),
            )  # fmt: skip


class QuickRetrainEvaluator(RetrainEvaluator):
    """Full retraining of a small network: ResNet18 with the pictures' shorter side at 32 pixels, a thirteenth of the default's arithmetic.

    What the embedded banks' retrainings were made with. Parameters are :class:`RetrainEvaluator`'s.
    """

    recipe = QUICK
