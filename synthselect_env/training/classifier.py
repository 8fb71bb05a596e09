"""One training loop for every classifier: the feature extractor, the full retraining, the final check."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from synthselect_env.metrics import classification_metrics
from synthselect_env.storage import atomic_write
from synthselect_env.training.augmentation import AUGMENTATIONS
from synthselect_env.training.checkpoints import load_config, load_state, weights_digest
from synthselect_env.training.device import autocast, pick_device, seeded
from synthselect_env.training.padding_pruning import without_padding_weights

PIXEL_MEAN, PIXEL_STD = 0.5, 0.25
"""Pixels in 0..1 are shifted and scaled by these; H&E fills most of the range, so no statistics of a data set are needed."""


@dataclass(frozen=True)
class TrainingConfig:
    """How a classifier is trained.

    By default the number of steps does not depend on the size of the training set, which keeps the size of a selection out
    of its score: with whole passes, a classifier that is given more images also trains longer.

    :param architecture: name of a torchvision classifier
    :param size: (height, width) to which images are resized
    :param epochs: how often validation is measured; the learning rate falls to zero over all of them
    :param steps_per_epoch: optimizer steps in an epoch, whatever the size of the set; None for one pass over it
    :param batch_size: images a step, of a smaller set some several times
    :param learning_rate: peak of the one-cycle schedule (AdamW)
    :param weight_decay: AdamW's
    :param label_smoothing: share of the target spread over all classes
    :param augmentation: a key of :data:`~synthselect_env.training.augmentation.AUGMENTATIONS`
    """

    architecture: str = "resnet34"
    size: tuple[int, int] = (48, 48)
    epochs: int = 8
    steps_per_epoch: int | None = 50
    batch_size: int = 64
    learning_rate: float = 1.5e-3
    weight_decay: float = 0.05
    label_smoothing: float = 0.1
    augmentation: str = "histology"

    def __post_init__(self) -> None:
        if self.augmentation not in AUGMENTATIONS:
            raise ValueError(
                f"unknown augmentation {self.augmentation!r}; one of {', '.join(AUGMENTATIONS)}"
            )
        if (
            min(
                self.epochs,
                self.batch_size,
                1 if self.steps_per_epoch is None else self.steps_per_epoch,
            )
            < 1
        ):
            raise ValueError(
                f"epochs, steps_per_epoch and batch_size must be at least 1, got {self.epochs}, {self.steps_per_epoch} and {self.batch_size}"
            )
        if np.ndim(self.size) != 1 or len(self.size) != 2:
            raise ValueError(f"size is (height, width), got {self.size!r}")
        object.__setattr__(self, "size", tuple(self.size))

    def for_images(self, height: int, width: int) -> TrainingConfig:
        """This configuration at the images' proportions: their shorter side becomes the size's shorter side, and is never enlarged.

        :param height: of the images, in pixels
        :param width: of the images, in pixels
        """
        scale = min(1.0, min(self.size) / min(height, width))
        return replace(self, size=(round(height * scale), round(width * scale)))


TRAINING_VERSION = 2
"""Version of the training procedure. Raise it when equal arguments train differently, beyond
rounding, so that cached results are not taken for today's."""

QUICK = TrainingConfig(architecture="resnet18", size=(32, 32), batch_size=32, learning_rate=1e-3)
"""For retrainings by the dozen: a thirteenth of the default's arithmetic (benchmarks/retraining_cost.py has the seconds)."""

LONG = replace(QUICK, steps_per_epoch=200, batch_size=64, learning_rate=1.5e-3)
"""Eight times as long: from about 2,000 real PCam patches on the better one, and it gains from the last of 6,688 (benchmarks/recipe.py)."""


@dataclass
class Classifier:
    """A trained network and how it got there.

    :param network: a torchvision classifier
    :param config: how it was trained
    :param history: metric to one value an epoch, on the validation images
    :param trained_on: a digest of the training images and the seed, where it is known
    """

    network: nn.Module
    config: TrainingConfig
    n_classes: int
    history: dict[str, list[float]] = field(default_factory=dict)
    trained_on: str = ""

    @property
    def device(self) -> torch.device:
        """Where the network lies."""
        return next(self.network.parameters()).device

    @property
    def digest(self) -> str:
        """A name for the weights, to key caches by."""
        return weights_digest(self.network)

    def check_fits(self, architecture: str, n_classes: int) -> None:
        """Whether the weights can start a training.

        :raises ValueError: when they are another architecture's, or for another number of classes
        """
        if (self.config.architecture, self.n_classes) != (architecture, n_classes):
            raise ValueError(
                f"the initial weights are those of a {self.config.architecture} for {self.n_classes} classes; "
                f"a {architecture} for {n_classes} is to be trained"
            )

    @torch.no_grad()
    def log_probabilities(self, images: np.ndarray | torch.Tensor) -> torch.Tensor:
        """Class log-probabilities.  uint8 (n, h, w, 3) -> float32 (n, c)"""
        return F.log_softmax(self._batched(self.network, images), dim=1)

    def score(
        self, images: np.ndarray | torch.Tensor, labels: np.ndarray
    ) -> dict[str, list[float]]:
        """Metrics on labelled images, in lists of one, as ``history`` has one value an epoch."""
        targets = torch.from_numpy(np.asarray(labels, np.int64)).to(self.device)
        return {
            name: value.tolist()
            for name, value in classification_metrics(
                self.log_probabilities(images)[None], targets
            ).items()
        }

    @torch.no_grad()
    def features(self, images: np.ndarray | torch.Tensor) -> np.ndarray:
        """The input of the last layer, which is the feature vector of the paper.  uint8 (n, h, w, 3) -> float32 (n, d)"""
        head = last_layer(self.network)
        kept: list[torch.Tensor] = []
        hook = head.register_forward_pre_hook(
            lambda _, inputs: kept.append(inputs[0].float().cpu())
        )
        try:
            self._batched(self.network, images)
        finally:
            hook.remove()
        return torch.cat(kept).numpy() if kept else np.zeros((0, head.in_features), np.float32)

    def _batched(
        self, network: nn.Module, images: np.ndarray | torch.Tensor, batch_size: int = 256
    ) -> torch.Tensor:
        network.eval()
        pictures = as_pixels(images, self.device)
        with autocast(self.device):
            outputs = [
                network(_normalise(batch.float() / 255)).float()
                for batch in pictures.split(batch_size)
            ]
        return torch.cat(outputs) if outputs else torch.zeros(0, self.n_classes, device=self.device)

    def save(self, path: str | Path) -> None:
        """Write weights, configuration and history."""
        with atomic_write(path) as temporary:
            facts = {
                "config": asdict(self.config),
                "n_classes": self.n_classes,
                "history": self.history,
                "trained_on": self.trained_on,
            }
            torch.save({**facts, "network": self.network.state_dict()}, temporary)

    @classmethod
    def load(cls, path: str | Path, device: str = "auto") -> Classifier:
        """Read what :meth:`save` wrote.

        :raises ValueError: when the file holds something else
        """
        state = load_state(path, "Classifier.save", "config", "n_classes", "history", "network")
        config = load_config(TrainingConfig, state["config"], path)
        network = build_network(config, state["n_classes"], seed=0)
        network.load_state_dict(state["network"])
        network = network.to(pick_device(device)).to(memory_format=torch.channels_last)
        return cls(
            network, config, state["n_classes"], state["history"], state.get("trained_on", "")
        )


def build_network(config: TrainingConfig, n_classes: int, seed: int) -> nn.Module:
    """A torchvision classifier with freshly drawn weights.

    :raises ValueError: when torchvision has no classifier of that name
    """
    if config.architecture not in torchvision.models.list_models(module=torchvision.models):
        raise ValueError(
            f"torchvision has no classifier {config.architecture!r}; torchvision.models.list_models() lists them"
        )
    with seeded(seed):
        return torchvision.models.get_model(
            config.architecture, weights=None, num_classes=n_classes
        )


def last_layer(network: nn.Module) -> nn.Linear:
    """The classification head: the last linear layer of the network.

    :raises ValueError: when there is none
    """
    layers = [module for module in network.modules() if isinstance(module, nn.Linear)]
    if not layers:
        raise ValueError(
            f"{type(network).__name__} has no linear layer to take features from; use a classifier with a linear head"
        )
    return layers[-1]


def as_pixels(images: np.ndarray | torch.Tensor, device: torch.device) -> torch.Tensor:
    """Images as one uint8 tensor on the device, channels last in memory.  (n, h, w, 3) -> (n, 3, h, w)

    A tensor is taken to be the result of an earlier call, so that a data set is moved once.

    :raises ValueError: when they are of another type or shape
    """
    if images.dtype not in (np.uint8, torch.uint8) or images.ndim != 4:
        raise ValueError(
            f"pictures are uint8 (n, h, w, 3), got {images.dtype} {tuple(images.shape)}; values in 0..1 are to be times 255"
        )
    if isinstance(images, torch.Tensor):
        return images.to(device)
    return (
        torch.from_numpy(np.ascontiguousarray(images)).to(device).permute(0, 3, 1, 2)
    )  # torch has no negative strides


def train_classifier(
    images: np.ndarray | torch.Tensor,
    labels: np.ndarray,
    valid_images: np.ndarray | torch.Tensor,
    valid_labels: np.ndarray,
    n_classes: int,
    seed: int,
    config: TrainingConfig | None = None,
    device: str | torch.device = "auto",
    keep: str = "last",
    indices: np.ndarray | None = None,
    initial: Classifier | None = None,
    compile: bool = False,
    scored_epochs: int | None = None,
    on_epoch: Callable[[int, dict[str, float]], None] | None = None,
) -> Classifier:
    """Train a classifier, with one look at the validation images an epoch, or after the last epochs only.

    On the CPU, the same seed and thread count give the same weights. Two trainings on different ``indices`` of the same
    ``images`` with one seed start from the same weights and see the images that they share in the same order, pass by pass.

    :param images: uint8 (n, h, w, 3), or (n, 3, h, w) from :func:`as_pixels`
    :param labels: int (n,)
    :param valid_images: as ``images``
    :param valid_labels: int (v,)
    :param n_classes: number of classes
    :param seed: of weights, order and augmentation
    :param config: how to train
    :param device: "auto", or a torch device
    :param keep: "last" for the weights at the end, "best" for those of the epoch with the best validation log-likelihood
    :param indices: positions of the images to train on; None for all
    :param initial: start from its weights; None for weights drawn by the seed
    :param compile: run the steps through ``torch.compile``; shapes are fixed, so that one graph serves every later training of
        the same architecture in the process
    :param scored_epochs: how many epochs, the last ones, end with a look at the validation images; None for all
    :param on_epoch: called with the number of epochs done and their last validation metrics, empty where there was no look
    :raises ValueError: when a class has no training image, ``keep`` is unknown, or ``initial`` is another network
    :raises FloatingPointError: when training diverged
    """
    config = config or TrainingConfig()
    device = pick_device(device)
    if keep not in ("last", "best"):
        raise ValueError(f"keep must be 'last' or 'best', got {keep!r}")
    seed = int(seed)
    indices = np.arange(len(labels)) if indices is None else np.asarray(indices)
    empty = np.setdiff1d(np.arange(n_classes), np.asarray(labels)[indices])
    if len(empty):
        raise ValueError(
            f"class {', '.join(map(str, empty))} of {n_classes} has no training picture; a classifier needs some of each"
        )
    data, targets = (
        as_pixels(images, device),
        torch.from_numpy(np.asarray(labels, np.int64)).to(device),
    )
    positions = torch.from_numpy(indices).to(device)
    valid = as_pixels(valid_images, device)
    network = build_network(config, n_classes, seed)
    if initial is not None:
        initial.check_fits(config.architecture, n_classes)
        network.load_state_dict(initial.network.state_dict())
    network = network.to(device).to(memory_format=torch.channels_last)
    classifier = Classifier(network, config, n_classes)
    with without_padding_weights(network, data.shape[-2:], valid.shape[-2:]):
        forward = torch.compile(network, dynamic=False) if compile else network
        steps = config.steps_per_epoch or max(1, len(positions) // config.batch_size)
        optimizer = torch.optim.AdamW(
            network.parameters(), config.learning_rate, weight_decay=config.weight_decay, fused=True
        )
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, config.learning_rate, total_steps=steps * config.epochs
        )
        batches = _batches(data, targets, positions, config.batch_size, config.augmentation, seed)
        best: tuple[float, dict[str, torch.Tensor]] | None = None

        for epoch in range(1, config.epochs + 1):
            network.train()
            with seeded(seed + epoch, device):  # some architectures have dropout
                for batch, expected in islice(batches, steps):
                    with autocast(device):
                        logits = forward(batch)
                        logits = getattr(
                            logits, "logits", logits
                        )  # GoogLeNet and Inception answer auxiliary ones beside them
                        loss = F.cross_entropy(
                            logits, expected, label_smoothing=config.label_smoothing
                        )
                    optimizer.zero_grad(set_to_none=True)
                    loss.backward()
                    optimizer.step()
                    schedule.step()
            unscored = scored_epochs is not None and epoch <= config.epochs - scored_epochs
            metrics = (
                {}
                if unscored
                else {
                    name: value for name, (value,) in classifier.score(valid, valid_labels).items()
                }
            )
            if not (loss.isfinite() and np.isfinite(metrics.get("log_likelihood", 0.0))):
                raise FloatingPointError(
                    f"{config.architecture} diverged in epoch {epoch}; lower learning_rate ({config.learning_rate})"
                )
            for name, value in metrics.items():
                classifier.history.setdefault(name, []).append(value)
            if keep == "best" and metrics and (best is None or metrics["log_likelihood"] > best[0]):
                best = (metrics["log_likelihood"], copy.deepcopy(network.state_dict()))
            if on_epoch:
                on_epoch(epoch, metrics)
        if best:
            network.load_state_dict(best[1])
    return classifier


def _batches(
    data: torch.Tensor,
    targets: torch.Tensor,
    indices: torch.Tensor,
    size: int,
    augmentation: str,
    seed: int,
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Augmented images and their labels, batch after batch; what is left of a pass goes to the front of the next one, and a batch that is
    larger than the set takes several.

    :param data: all images, of indices or not
    :param targets: all labels
    :param indices: positions of those to train on
    :param size: of a batch
    :param augmentation: a key of :data:`~synthselect_env.training.augmentation.AUGMENTATIONS`
    :param seed: of order and augmentation
    """
    order_rng, augmentation_rng = (
        torch.Generator(data.device).manual_seed(2 * seed + i) for i in range(2)
    )
    augment, order = AUGMENTATIONS[augmentation], indices[:0]
    while True:
        while len(order) < size:
            # keys for others, too, so that images that two sets share keep their order
            keys = torch.rand(len(data), device=data.device, generator=order_rng)
            order = torch.cat([order, indices[keys[indices].argsort()]])
        index, order = order[:size], order[size:]
        yield _normalise(augment(data[index].float() / 255, augmentation_rng)), targets[index]


def _normalise(images: torch.Tensor) -> torch.Tensor:
    return ((images - PIXEL_MEAN) / PIXEL_STD).contiguous(memory_format=torch.channels_last)
