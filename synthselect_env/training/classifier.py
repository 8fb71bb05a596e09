"""Classifier: a trained network, which labels images and gives their features."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
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
from synthselect_env.training.config import SMALL, TrainingConfig
from synthselect_env.training.device import autocast, pick_device, seeded
from synthselect_env.training.small_cnn import SmallCNN
from synthselect_env.training.small_maps import with_small_maps
from synthselect_env.training.step import normalise

Views = Callable[[torch.Tensor], list[torch.Tensor]]
"""Function of images (b, 3, h, w) to several views of them, of the same shape."""

CHUNK_PIXELS = {"cpu": 256 * 48 * 48, "cuda": 8192 * 48 * 48}
"""Pixels that a network sees at once outside training, by kind of device. It bounds memory."""


@dataclass
class Classifier:
    """A trained network, its configuration and its training history.

    .. code-block:: python

        classifier = Classifier.load("extractor.pt")
        classifier.log_probabilities(images).argmax(1)  # images: uint8 (n, h, w, 3)

    :param network: :class:`SmallCNN`, or a torchvision classifier
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

        :param architecture: name of the architecture to train
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
        views = AUGMENTATIONS[self.config.augmentation].views if self.config.average_views else None
        return F.log_softmax(self._logits(images, views), dim=1)

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

    def _logits(
        self, images: np.ndarray | torch.Tensor, views: Views | None = None
    ) -> torch.Tensor:
        """Return the logits of each image, averaged over its views.

        :param images: uint8 (n, h, w, 3), or the result of :func:`as_pixels`
        :param views: function that returns several views; None for the images as they are
        """
        self.network.eval()
        pixels = as_pixels(images, self.device)
        logits = [torch.zeros(0, self.n_classes, device=self.device)]
        height, width = pixels.shape[-2:]
        chunk_pixels = CHUNK_PIXELS.get(self.device.type, CHUNK_PIXELS["cpu"])
        chunk_size = max(1, chunk_pixels // (height * width))
        with autocast(self.device, (height, width)):
            for chunk in pixels.split(chunk_size):
                images = normalise(chunk.float() / 255)
                if torch.is_autocast_enabled(self.device.type):
                    images = images.bfloat16()  # once, and not for each view
                shown = [images] if views is None else views(images)
                passes = [self.network(_channels_last(view)).float() for view in shown]
                logits.append(torch.stack(passes).mean(0))
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
    """Return a classifier with random weights.

    :param config: training configuration, which names the architecture
    :param n_classes: number of classes
    :param seed: random seed of the weights
    :raises ValueError: if there is no classifier of that name
    """
    name = config.architecture
    with seeded(seed):
        if name == SMALL.architecture:
            return SmallCNN(n_classes)
        if name not in torchvision.models.list_models(module=torchvision.models):
            raise ValueError(
                f"torchvision has no classifier {name!r}; torchvision.models.list_models() lists "
                f"them, and {SMALL.architecture} is our own"
            )
        network = torchvision.models.get_model(name, weights=None, num_classes=n_classes)
        return with_small_maps(network)


def _channels_last(images: torch.Tensor) -> torch.Tensor:
    return images.contiguous(memory_format=torch.channels_last)


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
