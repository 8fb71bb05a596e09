"""Classifier and train_classifier: one training loop for all classifiers."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
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
"""Shift and scale of pixels in 0..1. Stained tissue fills most of the range, so no statistics of a
data set are needed."""

CHUNK_SIZE = 256
"""Images that a network sees at once outside training, which bounds memory."""

TRAINING_VERSION = 2
"""Version of the training procedure. Raise it when equal arguments train differently, beyond
rounding, so that cached results are not taken for today's."""


@dataclass(frozen=True)
class TrainingConfig:
    """Settings of a classifier's training.

    By default, the number of steps is fixed. With whole passes, a classifier that is given more
    images would also train longer, and its score would depend on the size of the selection.

    .. code-block:: python

        config = TrainingConfig("resnet18", size=(32, 32), batch_size=32)

    :param architecture: name of a torchvision classifier
    :param size: (height, width) in pixels, to which images are resized
    :param epochs: number of epochs; the learning rate falls to zero over all of them
    :param steps_per_epoch: optimizer steps per epoch; None for one pass over the training images
    :param batch_size: images per step; a smaller training set fills it by repetition
    :param learning_rate: peak of the one-cycle schedule of AdamW
    :param weight_decay: weight decay of AdamW
    :param label_smoothing: share of the target that is spread over all classes
    :param augmentation: key of :data:`~synthselect_env.training.augmentation.AUGMENTATIONS`
    :raises ValueError: if a setting is out of range or unknown
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
            known = ", ".join(AUGMENTATIONS)
            raise ValueError(f"unknown augmentation {self.augmentation!r}; one of {known}")
        counts = (self.epochs, self.steps_per_epoch, self.batch_size)
        if any(count is not None and count < 1 for count in counts):
            raise ValueError(
                "epochs, steps_per_epoch and batch_size must be at least 1, "
                f"got {self.epochs}, {self.steps_per_epoch} and {self.batch_size}"
            )
        if np.ndim(self.size) != 1 or len(self.size) != 2:
            raise ValueError(f"size is (height, width), got {self.size!r}")
        object.__setattr__(self, "size", tuple(self.size))

    def for_images(self, height: int, width: int) -> TrainingConfig:
        """Return this configuration at the proportions of the images.

        Their short side is shrunk to the short side of :attr:`size`. Small images stay as they are.

        :param height: height of the images in pixels
        :param width: width of the images in pixels
        """
        scale = min(1.0, min(self.size) / min(height, width))
        return replace(self, size=(round(height * scale), round(width * scale)))


QUICK = TrainingConfig(architecture="resnet18", size=(32, 32), batch_size=32, learning_rate=1e-3)
"""Cheap training for many retrainings; see benchmarks/results for its cost."""

LONG = replace(QUICK, steps_per_epoch=200, batch_size=64, learning_rate=1.5e-3)
"""Training eight times as long as :data:`QUICK`, which pays on thousands of images."""


@dataclass
class Classifier:
    """A trained network, its configuration and its training history.

    .. code-block:: python

        classifier = Classifier.load("extractor.pt")
        classifier.log_probabilities(images).argmax(1)  # images: uint8 (n, h, w, 3)

    :param network: torchvision classifier
    :param config: configuration of its training
    :param n_classes: number of classes
    :param history: metric name to one value per scored epoch, on the validation images
    :param trained_on: digest of the training images and the seed; empty if unknown
    """

    network: nn.Module
    config: TrainingConfig
    n_classes: int
    history: dict[str, list[float]] = field(default_factory=dict)
    trained_on: str = ""

    @property
    def device(self) -> torch.device:
        """Device of the network."""
        return next(self.network.parameters()).device

    @property
    def digest(self) -> str:
        """SHA-256 of the weights, for cache keys."""
        return weights_digest(self.network)

    def check_fits(self, architecture: str, n_classes: int) -> None:
        """Check that a training can start from these weights.

        :param architecture: name of the torchvision classifier to train
        :param n_classes: number of classes to train it for
        :raises ValueError: if the weights are another architecture's, or for other classes
        """
        if (self.config.architecture, self.n_classes) != (architecture, n_classes):
            raise ValueError(
                f"the initial weights are those of a {self.config.architecture} for "
                f"{self.n_classes} classes; a {architecture} for {n_classes} is to be trained"
            )

    @torch.no_grad()
    def log_probabilities(self, images: np.ndarray | torch.Tensor) -> torch.Tensor:
        """Return the log-probability of each class.

        :param images: uint8 (n, h, w, 3), or the result of :func:`as_pixels`
        :return: float32 (n, c)
        """
        return F.log_softmax(self._logits(images), dim=1)

    def score(
        self, images: np.ndarray | torch.Tensor, labels: np.ndarray
    ) -> dict[str, list[float]]:
        """Return the metrics on labelled images, in lists of one value like :attr:`history`.

        :param images: uint8 (n, h, w, 3), or the result of :func:`as_pixels`
        :param labels: class of each image, int (n,)
        """
        targets = torch.from_numpy(np.asarray(labels, np.int64)).to(self.device)
        metrics = classification_metrics(self.log_probabilities(images)[None], targets)
        return {name: value.tolist() for name, value in metrics.items()}

    @torch.no_grad()
    def features(self, images: np.ndarray | torch.Tensor) -> np.ndarray:
        """Return the inputs of the last layer, the feature vectors of the paper.

        :param images: uint8 (n, h, w, 3), or the result of :func:`as_pixels`
        :return: float32 (n, d)
        """
        head = last_layer(self.network)
        collected: list[torch.Tensor] = []

        def collect(_: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            collected.append(inputs[0].float().cpu())

        hook = head.register_forward_pre_hook(collect)
        try:
            self._logits(images)
        finally:
            hook.remove()
        if not collected:
            return np.zeros((0, head.in_features), np.float32)
        return torch.cat(collected).numpy()

    def _logits(self, images: np.ndarray | torch.Tensor) -> torch.Tensor:
        self.network.eval()
        pixels = as_pixels(images, self.device)
        logits = []
        height, width = pixels.shape[-2:]
        with autocast(self.device, (height, width)):
            for chunk in pixels.split(CHUNK_SIZE):
                logits.append(self.network(_normalise(chunk.float() / 255)).float())
        if not logits:
            return torch.zeros(0, self.n_classes, device=self.device)
        return torch.cat(logits)

    def save(self, path: str | Path) -> None:
        """Write weights, configuration and history to a file.

        :param path: file to write
        """
        state = {
            "config": asdict(self.config),
            "n_classes": self.n_classes,
            "history": self.history,
            "trained_on": self.trained_on,
            "network": self.network.state_dict(),
        }
        with atomic_write(path) as temporary:
            torch.save(state, temporary)

    @classmethod
    def load(cls, path: str | Path, device: str = "auto") -> Classifier:
        """Read a file of :meth:`save`.

        :param path: file to read
        :param device: "auto", or a torch device
        :raises ValueError: if the file holds something else, or is damaged
        """
        state = load_state(path, "Classifier.save", "config", "n_classes", "history", "network")
        config = load_config(TrainingConfig, state["config"], path)
        network = build_network(config, state["n_classes"], seed=0)
        network.load_state_dict(state["network"])
        network = network.to(pick_device(device)).to(memory_format=torch.channels_last)
        trained_on = state.get("trained_on", "")
        return cls(network, config, state["n_classes"], state["history"], trained_on)


def build_network(config: TrainingConfig, n_classes: int, seed: int) -> nn.Module:
    """Return a torchvision classifier with random weights.

    :param config: training configuration, which names the architecture
    :param n_classes: number of classes
    :param seed: random seed of the weights
    :raises ValueError: if torchvision has no classifier of that name
    """
    name = config.architecture
    if name not in torchvision.models.list_models(module=torchvision.models):
        raise ValueError(
            f"torchvision has no classifier {name!r}; torchvision.models.list_models() lists them"
        )
    with seeded(seed):
        return torchvision.models.get_model(name, weights=None, num_classes=n_classes)


def last_layer(network: nn.Module) -> nn.Linear:
    """Return the last linear layer of a network, its classification head.

    :param network: classifier
    :raises ValueError: if it has no linear layer
    """
    layers = [module for module in network.modules() if isinstance(module, nn.Linear)]
    if not layers:
        raise ValueError(
            f"{type(network).__name__} has no linear layer to take features from; "
            "use a classifier with a linear head"
        )
    return layers[-1]


def as_pixels(images: np.ndarray | torch.Tensor, device: torch.device) -> torch.Tensor:
    """Return images as one uint8 tensor on a device, channels last in memory.

    :param images: uint8 (n, h, w, 3), or the result of an earlier call, so that a data set is moved
        to the device once
    :param device: torch device
    :return: uint8 (n, 3, h, w)
    :raises ValueError: if the images are of another type or shape
    """
    if images.dtype not in (np.uint8, torch.uint8) or images.ndim != 4:
        raise ValueError(
            f"images are uint8 (n, h, w, 3), got {images.dtype} {tuple(images.shape)}; "
            "multiply values in 0..1 by 255"
        )
    if isinstance(images, torch.Tensor):
        return images.to(device)
    contiguous = np.ascontiguousarray(images)  # torch has no negative strides
    return torch.from_numpy(contiguous).to(device).permute(0, 3, 1, 2)


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
    """Train a classifier and score it on the validation images after each epoch.

    On the CPU, the same seed and thread count give the same weights. Trainings on different
    ``indices`` with one seed start from the same weights. They also see the images that they share
    in the same order, pass by pass.

    :param images: uint8 (n, h, w, 3), or (n, 3, h, w) from :func:`as_pixels`
    :param labels: class of each image, int (n,)
    :param valid_images: validation images, in either form
    :param valid_labels: class of each validation image, int (v,)
    :param n_classes: number of classes
    :param seed: random seed of weights, order and augmentation
    :param config: training configuration; None for the default
    :param device: "auto", or a torch device
    :param keep: "last" for the weights at the end, "best" for those of the epoch with the best
        validation log-likelihood
    :param indices: positions of the images to train on; None for all
    :param initial: classifier whose weights are the start; None for random weights
    :param compile: whether steps run through ``torch.compile``. Shapes are fixed, so one graph
        serves all trainings of an architecture in the process
    :param scored_epochs: number of last epochs that are scored; None for all
    :param on_epoch: callback, called with the number of epochs done and the validation metrics,
        which are empty if the epoch is not scored
    :raises ValueError: if a class has no training image, ``keep`` is unknown, or ``initial`` is
        another network
    :raises FloatingPointError: if training diverged
    """
    config = config or TrainingConfig()
    device, seed = pick_device(device), int(seed)
    if keep not in ("last", "best"):
        raise ValueError(f"keep must be 'last' or 'best', got {keep!r}")
    labels = np.asarray(labels, np.int64)
    indices = np.arange(len(labels)) if indices is None else np.asarray(indices)
    _check_classes(labels[indices], n_classes)

    # Prepare the data and the network.
    pixels = as_pixels(images, device)
    valid_pixels = as_pixels(valid_images, device)
    targets = torch.from_numpy(labels).to(device)
    positions = torch.from_numpy(indices).to(device)
    batches = _batches(pixels, targets, positions, config.batch_size, config.augmentation, seed)
    network = _initial_network(config, n_classes, seed, initial)
    network = network.to(device).to(memory_format=torch.channels_last)
    classifier = Classifier(network, config, n_classes)
    best_weights, best_score = None, -np.inf
    first_scored = 1 if scored_epochs is None else config.epochs - scored_epochs + 1

    with without_padding_weights(network, pixels.shape[-2:], valid_pixels.shape[-2:]):
        forward = torch.compile(network, dynamic=False) if compile else network
        steps = config.steps_per_epoch or max(1, len(positions) // config.batch_size)
        optimizer, schedule = _build_optimizer(network, config, steps)

        for epoch in range(1, config.epochs + 1):
            # Train. Some architectures have dropout, which draws from the global generator.
            network.train()
            with seeded(seed + epoch, device):
                loss = _train_epoch(forward, islice(batches, steps), optimizer, schedule, config)

            # Score on the validation images.
            metrics = {}
            if epoch >= first_scored:
                scores = classifier.score(valid_pixels, valid_labels)
                metrics = {name: value for name, (value,) in scores.items()}
            if not (loss.isfinite() and np.isfinite(metrics.get("log_likelihood", 0.0))):
                raise FloatingPointError(
                    f"{config.architecture} diverged in epoch {epoch}; "
                    f"lower learning_rate ({config.learning_rate})"
                )
            for name, value in metrics.items():
                classifier.history.setdefault(name, []).append(value)

            # Remember the best weights.
            if keep == "best" and metrics and metrics["log_likelihood"] > best_score:
                best_score = metrics["log_likelihood"]
                best_weights = copy.deepcopy(network.state_dict())
            if on_epoch:
                on_epoch(epoch, metrics)

        if best_weights is not None:
            network.load_state_dict(best_weights)
    return classifier


def _check_classes(labels: np.ndarray, n_classes: int) -> None:
    """Refuse training labels that lack a class."""
    empty = np.setdiff1d(np.arange(n_classes), labels)
    if len(empty):
        raise ValueError(
            f"class {', '.join(map(str, empty))} of {n_classes} has no training image; "
            "a classifier needs some of each"
        )


def _initial_network(
    config: TrainingConfig, n_classes: int, seed: int, initial: Classifier | None
) -> nn.Module:
    """Return a network with the weights from which training starts."""
    network = build_network(config, n_classes, seed)
    if initial is not None:
        initial.check_fits(config.architecture, n_classes)
        network.load_state_dict(initial.network.state_dict())
    return network


def _build_optimizer(
    network: nn.Module, config: TrainingConfig, steps: int
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.OneCycleLR]:
    """Return AdamW with a one-cycle schedule over all epochs.

    :param network: network whose current parameters are trained
    :param config: training configuration
    :param steps: optimizer steps per epoch
    """
    rate, decay = config.learning_rate, config.weight_decay
    optimizer = torch.optim.AdamW(network.parameters(), rate, weight_decay=decay, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, rate, total_steps=steps * config.epochs
    )
    return optimizer, schedule


def _train_epoch(
    forward: Callable[[torch.Tensor], torch.Tensor],
    batches: Iterable[tuple[torch.Tensor, torch.Tensor]],
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.OneCycleLR,
    config: TrainingConfig,
) -> torch.Tensor:
    """Take one optimizer step per batch and return the last loss.

    :param forward: network, compiled or not
    :param batches: at least one pair of images and labels
    :param optimizer: optimizer of the network's parameters
    :param schedule: its learning-rate schedule
    :param config: training configuration
    """
    for images, labels in batches:
        with autocast(images.device):
            logits = forward(images)
            # GoogLeNet and Inception return auxiliary logits beside them.
            logits = getattr(logits, "logits", logits)
            loss = F.cross_entropy(logits, labels, label_smoothing=config.label_smoothing)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
    return loss


def _batches(
    pixels: torch.Tensor,
    targets: torch.Tensor,
    indices: torch.Tensor,
    size: int,
    augmentation: str,
    seed: int,
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield batches of augmented images and their labels, without end.

    The rest of a pass opens the next one. A batch larger than the training set takes several
    passes.

    :param pixels: all images, uint8 (n, 3, h, w)
    :param targets: all labels (n,)
    :param indices: positions of the images to train on
    :param size: images per batch
    :param augmentation: key of :data:`~synthselect_env.training.augmentation.AUGMENTATIONS`
    :param seed: random seed of order and augmentation
    """
    order_rng = torch.Generator(pixels.device).manual_seed(2 * seed)
    augmentation_rng = torch.Generator(pixels.device).manual_seed(2 * seed + 1)
    augment = AUGMENTATIONS[augmentation]
    order = indices[:0]
    while True:
        while len(order) < size:
            # All images get a sort key, so that those that two sets share keep their order.
            keys = torch.rand(len(pixels), device=pixels.device, generator=order_rng)
            order = torch.cat([order, indices[keys[indices].argsort()]])
        index, order = order[:size], order[size:]
        images = augment(pixels[index].float() / 255, augmentation_rng)
        yield _normalise(images), targets[index]


def _normalise(images: torch.Tensor) -> torch.Tensor:
    scaled = (images - PIXEL_MEAN) / PIXEL_STD
    return scaled.contiguous(memory_format=torch.channels_last)
