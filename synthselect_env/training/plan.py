"""TrainingPlan: all random draws of a training, made before its first step."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from synthselect_env.training.augmentation import Augmentation

WARM_UP = 0.3
"""Share of the steps over which the learning rate rises."""

FIRST_RATE = 0.04
"""Learning rate of the first step, as a share of the highest one."""


@dataclass(frozen=True, eq=False)
class TrainingPlan:
    """Hold the images and the augmentation of each step.

    All is drawn on the CPU, so devices get the same.

    :param indices: positions of the images, int64 (s, b)
    :param flips: flips of the images, bool (s, 3, b)
    :param colours: factors of their colours, float32 (s, 3, b)
    """

    indices: torch.Tensor
    flips: torch.Tensor
    colours: torch.Tensor

    @classmethod
    def draw(
        cls,
        n_images: int,
        chosen: np.ndarray,
        steps: int,
        batch_size: int,
        augmentation: Augmentation,
        seed: int,
    ) -> TrainingPlan:
        """Draw the batches of a training on some of n images.

        Trainings with one seed see the images that they share in the same order, pass by pass. The
        rest of a pass opens the next one. A batch larger than the training set takes several
        passes.

        :param n_images: number of all images
        :param chosen: positions of the images to train on
        :param steps: number of optimizer steps
        :param batch_size: images per step
        :param augmentation: augmentation whose changes are drawn
        :param seed: random seed of order and augmentation
        """
        order_rng = torch.Generator().manual_seed(2 * seed)
        augmentation_rng = torch.Generator().manual_seed(2 * seed + 1)
        positions = torch.from_numpy(np.asarray(chosen, np.int64))
        n_passes = math.ceil(steps * batch_size / len(positions))
        passes = []
        for _ in range(n_passes):
            # All images get a sort key, so that those that two sets share keep their order.
            keys = torch.rand(n_images, generator=order_rng)
            passes.append(positions[keys[positions].argsort()])
        indices = torch.cat(passes)[: steps * batch_size].view(steps, batch_size)
        flips, colours = augmentation.draw((steps, batch_size), augmentation_rng)
        return cls(indices, flips, colours)

    def to(self, device: torch.device) -> TrainingPlan:
        """Return the plan on a device."""
        return TrainingPlan(self.indices.to(device), self.flips.to(device), self.colours.to(device))

    def copy_from(self, other: TrainingPlan) -> None:
        """Overwrite the draws by another plan's, in place."""
        self.indices.copy_(other.indices)
        self.flips.copy_(other.flips)
        self.colours.copy_(other.colours)


def one_cycle(steps: int) -> torch.Tensor:
    """Return each step's share of the highest learning rate.

    It rises by half a cosine, and falls to zero by another one.

    :param steps: number of optimizer steps
    :return: float32 (steps,), in 0..1
    """
    step = torch.arange(steps, dtype=torch.float64)
    rising = max(1, int(WARM_UP * steps))
    up = 0.5 - 0.5 * torch.cos(math.pi * (step + 1) / rising)
    down = 0.5 + 0.5 * torch.cos(math.pi * (step - rising + 1) / max(1, steps - rising))
    return torch.where(step < rising, FIRST_RATE + (1 - FIRST_RATE) * up, down).float()
