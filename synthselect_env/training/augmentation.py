"""Augmentation of image batches: random flips, and random changes of colour.

Random numbers are drawn apart from their use. A whole training can then be drawn beforehand, and
its steps are the same work on any device.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import torch

FLIPS = 3
"""Draws per image for flips: vertical, horizontal, transposed."""

COLOURS = 3
"""Draws per image for colours: brightness, contrast, saturation."""

JITTER_STRENGTH = 0.2
"""Largest relative change of brightness, contrast and saturation."""


@dataclass(frozen=True)
class Augmentation:
    """Random changes under which the class of an image stays what it is.

    .. code-block:: python

        histology = AUGMENTATIONS["histology"]
        flips, colours = histology.draw((64,), torch.Generator().manual_seed(0))
        histology.apply(images, flips, colours)  # images: (64, 3, h, w) in 0..1

    :param vertical: whether images are turned upside down
    :param horizontal: whether images are mirrored
    :param transpose: whether square images are transposed
    :param jitter: largest relative change of brightness, contrast and saturation
    """

    vertical: bool = False
    horizontal: bool = False
    transpose: bool = False
    jitter: float = 0.0

    def draw(
        self, shape: Sequence[int], generator: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Draw the changes of a batch, or of many batches.

        :param shape: (b,), or (s, b) for s batches
        :param generator: random generator on the CPU
        :return: flips, bool (…, 3, b), and factors of the colours, float32 (…, 3, b)
        """
        *batches, size = shape
        flips = torch.rand((*batches, FLIPS, size), generator=generator) < 0.5
        possible = torch.tensor([self.vertical, self.horizontal, self.transpose])
        changes = 2 * torch.rand((*batches, COLOURS, size), generator=generator) - 1
        return flips & possible[:, None], 1 + self.jitter * changes

    def apply(
        self, images: torch.Tensor, flips: torch.Tensor, colours: torch.Tensor
    ) -> torch.Tensor:
        """Return changed images.

        :param images: (b, 3, h, w) in 0..1
        :param flips: flips of each image, bool (3, b)
        :param colours: factors of brightness, contrast and saturation, (3, b)
        :return: (b, 3, h, w) in 0..1
        """
        if self.vertical or self.horizontal or self.transpose:
            images = flip(images, flips)
        return change_colours(images, colours) if self.jitter else images

    def views(self, images: torch.Tensor) -> list[torch.Tensor]:
        """Return the images in all positions that their flips allow.

        :param images: (b, 3, h, w)
        :return: views (b, 3, h, w), the images as they are first
        """
        possible = (self.vertical, self.horizontal, self.transpose and _are_square(images))
        choices = product(*((False, True) if p else (False,) for p in possible))
        shown = []
        for vertical, horizontal, transposed in choices:
            dims = [dim for dim, turned in ((2, vertical), (3, horizontal)) if turned]
            view = images.flip(dims) if dims else images
            shown.append(view.transpose(2, 3) if transposed else view)
        return shown


AUGMENTATIONS: dict[str, Augmentation] = {
    "none": Augmentation(),
    "traditional": Augmentation(horizontal=True, jitter=JITTER_STRENGTH),
    "flips": Augmentation(vertical=True, horizontal=True, transpose=True),
    "histology": Augmentation(
        vertical=True, horizontal=True, transpose=True, jitter=JITTER_STRENGTH
    ),
}
"""Augmentations by name. ``traditional`` is the paper's. ``flips`` transposes and flips both ways,
as tissue has no up. ``histology`` also changes colours, for images of laboratories that were not
trained on."""


def flip(images: torch.Tensor, flips: torch.Tensor) -> torch.Tensor:
    """Flip images both ways and transpose them. Those that are not square are not transposed.

    :param images: (b, 3, h, w)
    :param flips: whether each image is turned upside down, mirrored, transposed, bool (3, b)
    """
    vertical, horizontal, transposed = flips[..., None, None, None]  # (b, 1, 1, 1) each
    images = torch.where(vertical, images.flip(2), images)
    images = torch.where(horizontal, images.flip(3), images)
    if _are_square(images):
        images = torch.where(transposed, images.transpose(2, 3), images)
    return images


def change_colours(images: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
    """Change brightness, contrast and saturation of each image.

    :param images: (b, 3, h, w) in 0..1
    :param factors: factors of brightness, contrast and saturation, (3, b)
    :return: (b, 3, h, w) in 0..1
    """
    brightness, contrast, saturation = factors[..., None, None, None]  # (b, 1, 1, 1) each
    images = images * brightness
    # Contrast changes about the image's mean, saturation about each pixel's grey.
    for dims, factor in (((1, 2, 3), contrast), ((1,), saturation)):
        centre = images.mean(dims, keepdim=True)
        images = centre + (images - centre) * factor
    return images.clamp(0, 1)


def dihedral(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Flip each image both ways and transpose it, at random each, as tissue has no up.

    :param images: (b, 3, h, w); those that are not square are not transposed
    :param generator: random generator on the images' device
    """
    shape = (FLIPS if _are_square(images) else FLIPS - 1, len(images))
    drawn = torch.rand(shape, device=images.device, generator=generator) < 0.5
    flips = drawn.new_zeros(FLIPS, len(images))
    flips[: len(drawn)] = drawn
    return flip(images, flips)


def colour_jitter(
    images: torch.Tensor, generator: torch.Generator, strength: float = JITTER_STRENGTH
) -> torch.Tensor:
    """Change brightness, contrast and saturation of each image at random.

    :param images: (b, 3, h, w) in 0..1
    :param generator: random generator on the images' device
    :param strength: largest relative change; each factor lies in 1 ± strength
    """
    shape = (COLOURS, len(images))
    drawn = torch.rand(shape, device=images.device, generator=generator)
    return change_colours(images, 1 + strength * (2 * drawn - 1))


def _are_square(images: torch.Tensor) -> bool:
    height, width = images.shape[-2:]
    return height == width
