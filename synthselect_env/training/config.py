"""TrainingConfig: settings of a classifier's training, and the two in use."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from synthselect_env.data.images import shrunk_size
from synthselect_env.training.augmentation import AUGMENTATIONS


@dataclass(frozen=True)
class TrainingConfig:
    """Settings of a classifier's training.

    The number of steps is fixed by default. With whole passes, a classifier that is given more
    images would also train longer, and its score would depend on the size of the selection.

    .. code-block:: python

        config = TrainingConfig("resnet18", size=(32, 32), batch_size=32)

    :param architecture: "small_cnn", or the name of a torchvision classifier
    :param size: (height, width) in pixels, to which images are resized
    :param epochs: number of epochs; the learning rate falls to zero over all of them
    :param steps_per_epoch: optimizer steps per epoch; None for one pass over the training images
    :param batch_size: images per step; a smaller training set fills it by repetition
    :param learning_rate: highest learning rate of AdamW, whose schedule is one cycle
    :param muon_rate: highest learning rate of Muon, which then trains all convolutions but the
        first; None for AdamW alone
    :param weight_decay: weight decay of AdamW
    :param label_smoothing: share of the target that is spread over all classes
    :param augmentation: key of :data:`~synthselect_env.training.augmentation.AUGMENTATIONS`
    :param average_views: whether an image is labelled by its mean logits over all flips that the
        augmentation makes
    :raises ValueError: if a setting is out of range or unknown
    """

    architecture: str = "resnet34"
    size: tuple[int, int] = (48, 48)
    epochs: int = 8
    steps_per_epoch: int | None = 50
    batch_size: int = 64
    learning_rate: float = 1.5e-3
    muon_rate: float | None = None
    weight_decay: float = 0.05
    label_smoothing: float = 0.1
    augmentation: str = "histology"
    average_views: bool = False

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
        return replace(self, size=shrunk_size(height, width, min(self.size)))

    def steps(self, n_images: int) -> int:
        """Return the number of optimizer steps per epoch on n training images."""
        return self.steps_per_epoch or max(1, n_images // self.batch_size)


SMALL = TrainingConfig(
    "small_cnn",
    steps_per_epoch=25,
    learning_rate=1e-2,
    muon_rate=0.05,
    augmentation="flips",
    average_views=True,
)
"""Training of the small network on few images, the default; see benchmarks/results/recipe.md."""

PAPER = TrainingConfig()
"""Training of the paper's ResNet34, at a size that a CPU can bear."""

MANY_IMAGES = 500
"""Number of real images from which an extractor is the paper's ResNet34 by default."""

STEPS_PER_EPOCH = {MANY_IMAGES: 50, 2000: 100, 5000: 200}
"""Number of real images to the small network's steps per epoch from there on. More images need more
steps to be of use; see benchmarks/results/recipe.md."""


def default_config(architecture: str, n_real: int = 0) -> TrainingConfig:
    """Return the training configuration of an architecture, where a user gives none.

    :param architecture: "small_cnn", or the name of a torchvision classifier
    :param n_real: number of real images to train on
    """
    if architecture != SMALL.architecture:
        return replace(PAPER, architecture=architecture)
    reached = [steps for least, steps in STEPS_PER_EPOCH.items() if n_real >= least]
    return replace(SMALL, steps_per_epoch=reached[-1]) if reached else SMALL
