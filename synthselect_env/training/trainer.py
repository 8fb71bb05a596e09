"""Trainer: train classifiers on parts of one data set, on a GPU several side by side."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import nn

from synthselect_env.training.augmentation import AUGMENTATIONS
from synthselect_env.training.classifier import Classifier, as_pixels, build_network
from synthselect_env.training.config import TrainingConfig
from synthselect_env.training.device import pick_device, seeded, torch_threads
from synthselect_env.training.padding_pruning import without_padding_weights
from synthselect_env.training.plan import TrainingPlan
from synthselect_env.training.step import CapturedStep, TrainingStep, copy_weights

TRAINING_VERSION = 3
"""Version of the training procedure. Raise it when equal arguments train differently, beyond
rounding, so that cached results are not taken for today's."""

SIDE_BY_SIDE = 16
"""Networks that a GPU trains at a time."""

OnEpoch = Callable[[int, int, dict[str, float]], None]


@dataclass
class _Training:
    """One network in training.

    :param classifier: network and history, as they are handed out in the end
    :param plan: draws of all steps
    :param scored: network to score after an epoch, and to take the weights from
    """

    classifier: Classifier
    plan: TrainingPlan
    scored: Classifier = field(init=False)


class Trainer:
    """Train classifiers on parts of one data set. Images are moved to the device once.

    On the CPU, the same seed and thread count give the same weights. Trainings on different images
    with one seed start from the same weights, and see the images that they share in the same order.

    On a GPU, a training step is captured as a CUDA graph, and several networks train side by side,
    each on a stream of its own. Networks with dropout train one after the other, as they draw from
    one generator.

    .. code-block:: python

        trainer = Trainer(images, labels, n_classes=2, config=SMALL)
        classifiers = list(trainer.train([first_half, second_half], seed=0))

    :param images: uint8 (n, h, w, 3), or (n, 3, h, w) from :func:`as_pixels`
    :param labels: class of each image, int (n,)
    :param n_classes: number of classes
    :param config: training configuration
    :param device: "auto", or a torch device
    :param valid: validation images and labels, to score epochs on; None for none
    :param initial: classifier whose weights are the start; None for random weights
    :param side_by_side: networks to train at a time; None for one on the CPU, and
        :data:`SIDE_BY_SIDE` on a GPU. Those with dropout are trained one at a time
    :param threads: torch threads of a training on the CPU; None for those of the process
    :raises ValueError: if images are of another type or shape, or ``initial`` is another network
    """

    def __init__(
        self,
        images: np.ndarray | torch.Tensor,
        labels: np.ndarray,
        n_classes: int,
        config: TrainingConfig,
        device: str | torch.device = "auto",
        valid: tuple[np.ndarray | torch.Tensor, np.ndarray] | None = None,
        initial: Classifier | None = None,
        side_by_side: int | None = None,
        threads: int | None = None,
    ) -> None:
        self.config, self.n_classes, self.initial = config, n_classes, initial
        self.device = pick_device(device)
        self.labels = np.asarray(labels, np.int64)
        self.pixels = as_pixels(images, self.device)
        self.targets = torch.from_numpy(self.labels).to(self.device)
        self.valid = valid and (as_pixels(valid[0], self.device), np.asarray(valid[1]))
        if initial is not None:
            initial.check_fits(config.architecture, n_classes)
        if side_by_side is None:
            side_by_side = SIDE_BY_SIDE if self.device.type == "cuda" else 1
        if _has_dropout(build_network(config, n_classes, seed=0)):
            side_by_side = 1
        self.side_by_side = side_by_side
        self.threads = threads
        self._captured: list[CapturedStep] = []

    def train(
        self,
        subsets: Sequence[np.ndarray],
        seed: int,
        scored_epochs: int | None = None,
        on_epoch: OnEpoch | None = None,
    ) -> Iterator[Classifier]:
        """Yield one classifier per subset of the images, in the same order.

        :param subsets: positions of the images to train on, one array per classifier
        :param seed: random seed of weights, order and augmentation, shared by all
        :param scored_epochs: number of last epochs that are scored; None for all
        :param on_epoch: callback, called with the number of the subset, the number of epochs done
            and the validation metrics, which are empty if the epoch is not scored
        :raises ValueError: if a class has no training image
        :raises FloatingPointError: if training diverged
        """
        for subset in subsets:
            _check_classes(self.labels[subset], self.n_classes)
        start = 0
        for group in self._groups(subsets):
            with torch_threads(self.threads or torch.get_num_threads(), self.device):
                trained = self._train_group(group, start, int(seed), scored_epochs, on_epoch)
            yield from trained
            start += len(group)

    def _groups(self, subsets: Sequence[np.ndarray]) -> Iterator[Sequence[np.ndarray]]:
        """Yield the subsets that are trained on side by side. They take as many steps each."""
        group: list[np.ndarray] = []
        for subset in subsets:
            same = not group or self._steps(group[0]) == self._steps(subset)
            if not same or len(group) == self.side_by_side:
                yield group
                group = []
            group.append(subset)
        if group:
            yield group

    def _steps(self, subset: np.ndarray) -> int:
        return self.config.steps(len(subset))

    def _train_group(
        self,
        subsets: Sequence[np.ndarray],
        start: int,
        seed: int,
        scored_epochs: int | None,
        on_epoch: OnEpoch | None,
    ) -> list[Classifier]:
        """Train on some subsets side by side, in the order of :meth:`train`.

        :param start: number of the first subset
        """
        config, steps_per_epoch = self.config, self._steps(subsets[0])
        first_scored = 1 if scored_epochs is None else config.epochs - scored_epochs + 1
        trainings = [self._begin(subset, seed) for subset in subsets]
        sizes = [self.pixels.shape[-2:]]
        if self.valid is not None:
            sizes.append(self.valid[0].shape[-2:])

        with ExitStack() as stack:
            for training in trainings:
                network = training.classifier.network
                stack.enter_context(without_padding_weights(network, *sizes))
            steps = self._steps_of(trainings)

            for epoch in range(1, config.epochs + 1):
                # Train. Some architectures have dropout, which draws from the global generator.
                for training in trainings:
                    training.scored.network.train()
                with seeded(seed + epoch, self.device):
                    for _ in range(steps_per_epoch):
                        for step in steps:
                            step()
                    self._wait()

                # Score.
                for number, (training, step) in enumerate(zip(trainings, steps), start):
                    metrics = self._score(training, epoch, step.loss, epoch >= first_scored)
                    if on_epoch:
                        on_epoch(number, epoch, metrics)

            for training in trainings:
                if training.scored is not training.classifier:
                    copy_weights(training.scored.network, training.classifier.network)
        return [training.classifier for training in trainings]

    def _begin(self, subset: np.ndarray, seed: int) -> _Training:
        """Return a training before its first step."""
        config = self.config
        network = build_network(config, self.n_classes, seed)
        if self.initial is not None:
            network.load_state_dict(self.initial.network.state_dict())
        network = network.to(self.device).to(memory_format=torch.channels_last)
        plan = TrainingPlan.draw(
            len(self.labels),
            subset,
            config.epochs * self._steps(subset),
            config.batch_size,
            AUGMENTATIONS[config.augmentation],
            seed,
        )
        return _Training(Classifier(network, config, self.n_classes), plan)

    def _steps_of(self, trainings: list[_Training]) -> Sequence[TrainingStep | CapturedStep]:
        """Return the step of each training, ready for its first call."""
        if self.device.type != "cuda":
            steps = []
            for training in trainings:
                training.scored = training.classifier
                network = training.classifier.network
                steps.append(self._new_step(network, training.plan))
            return steps

        # Captured steps are used again: a capture takes as long as many steps.
        captured, n_steps = self._captured, len(trainings[0].plan.indices)
        if captured and len(captured[0].step.plan.indices) != n_steps:
            captured.clear()
        for training in trainings[len(captured) :]:
            network = copy.deepcopy(training.classifier.network)
            with seeded(0, self.device):  # dropout draws in the steps before the capture
                captured.append(CapturedStep(self._new_step(network, training.plan)))
        for training, ready in zip(trainings, captured):
            ready.step.restart(training.classifier.network, training.plan)
            training.scored = Classifier(
                ready.step.network,
                self.config,
                self.n_classes,
                training.classifier.history,
            )
        self._wait()
        return captured[: len(trainings)]

    def _new_step(self, network: nn.Module, plan: TrainingPlan) -> TrainingStep:
        return TrainingStep(network, self.pixels, self.targets, plan, self.config)

    def _score(
        self, training: _Training, epoch: int, loss: torch.Tensor, scored: bool
    ) -> dict[str, float]:
        """Return the validation metrics of an epoch that is scored, and note them."""
        metrics = {}
        if scored and self.valid is not None:
            scores = training.scored.score(*self.valid)
            metrics = {name: value for name, (value,) in scores.items()}
        if not (loss.isfinite() and np.isfinite(metrics.get("log_likelihood", 0.0))):
            raise FloatingPointError(
                f"{self.config.architecture} diverged in epoch {epoch}; "
                f"lower learning_rate ({self.config.learning_rate})"
            )
        for name, value in metrics.items():
            training.classifier.history.setdefault(name, []).append(value)
        return metrics

    def _wait(self) -> None:
        """Wait for the GPU, if there is one."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def train_classifier(
    images: np.ndarray | torch.Tensor,
    labels: np.ndarray,
    valid_images: np.ndarray | torch.Tensor,
    valid_labels: np.ndarray,
    n_classes: int,
    seed: int,
    config: TrainingConfig,
    device: str | torch.device = "auto",
    scored_epochs: int | None = None,
    on_epoch: Callable[[int, dict[str, float]], None] | None = None,
) -> Classifier:
    """Train one classifier on all images, and score it after each epoch.

    :param images: uint8 (n, h, w, 3), or (n, 3, h, w) from :func:`as_pixels`
    :param labels: class of each image, int (n,)
    :param valid_images: validation images, in either form
    :param valid_labels: class of each validation image, int (v,)
    :param n_classes: number of classes
    :param seed: random seed of weights, order and augmentation
    :param config: training configuration
    :param device: "auto", or a torch device
    :param scored_epochs: number of last epochs that are scored; None for all
    :param on_epoch: callback, called with the number of epochs done and the validation metrics
    :raises ValueError: if a class has no training image
    :raises FloatingPointError: if training diverged
    """
    valid = (valid_images, valid_labels)
    trainer = Trainer(images, labels, n_classes, config, device, valid)

    def told(_: int, epoch: int, metrics: dict[str, float]) -> None:
        if on_epoch:
            on_epoch(epoch, metrics)

    (trained,) = trainer.train([np.arange(len(labels))], seed, scored_epochs, told)
    return trained


def _check_classes(labels: np.ndarray, n_classes: int) -> None:
    """Refuse training labels that lack a class."""
    empty = np.setdiff1d(np.arange(n_classes), labels)
    if len(empty):
        raise ValueError(
            f"class {', '.join(map(str, empty))} of {n_classes} has no training image; "
            "a classifier needs some of each"
        )


def _has_dropout(network: nn.Module) -> bool:
    """Return whether a network leaves out parts of itself at random."""
    names = [type(module).__name__ for module in network.modules()]
    return any("Dropout" in name or "StochasticDepth" in name for name in names)
