"""Augmentation of image batches. Each function draws from the generator that it is given."""

from __future__ import annotations

from collections.abc import Callable

import torch

Augmentation = Callable[[torch.Tensor, torch.Generator], torch.Tensor]
"""Function of images (b, 3, h, w) in 0..1 and a generator on their device. Returns the same shape
and range."""

JITTER_STRENGTH = 0.2
"""Largest relative change of brightness, contrast and saturation."""


def dihedral(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Flip each image both ways and transpose it, at random each, as tissue has no up.

    Images that are not square are not transposed.

    :param images: (b, 3, h, w) in 0..1
    :param generator: random generator on the images' device
    """
    for dim in (2, 3):
        images = _take_half(images.flip(dim), images, generator)
    height, width = images.shape[2:]
    if height == width:
        images = _take_half(images.transpose(2, 3), images, generator)
    return images


def horizontal_flip(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Mirror each image at random.

    :param images: (b, 3, h, w) in 0..1
    :param generator: random generator on the images' device
    """
    return _take_half(images.flip(3), images, generator)


def colour_jitter(
    images: torch.Tensor, generator: torch.Generator, strength: float = JITTER_STRENGTH
) -> torch.Tensor:
    """Change brightness, contrast and saturation of each image at random.

    :param images: (b, 3, h, w) in 0..1
    :param generator: random generator on the images' device
    :param strength: largest relative change; each factor lies in 1 ± strength
    """

    def factor() -> torch.Tensor:
        change = 2 * _uniform(images, generator) - 1
        return 1 + strength * change

    images = images * factor()
    # Contrast changes about the image's mean, saturation about each pixel's grey.
    for dims in ((1, 2, 3), (1,)):
        centre = images.mean(dims, keepdim=True)
        difference = images - centre
        images = centre + difference * factor()
    return images.clamp(0, 1)


def _take_half(
    changed: torch.Tensor,
    images: torch.Tensor,
    generator: torch.Generator,
) -> torch.Tensor:
    """Return about half of the images changed, each by its own draw, and the others as they are."""
    chosen = _uniform(images, generator) < 0.5
    return torch.where(chosen, changed, images)


def _uniform(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Draw one number in 0..1 per image.  (b, 1, 1, 1)"""
    shape = (len(images), 1, 1, 1)
    return torch.rand(shape, device=images.device, generator=generator)


def _traditional(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    images = horizontal_flip(images, generator)
    return colour_jitter(images, generator)


def _histology(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    images = dihedral(images, generator)
    return colour_jitter(images, generator)


def _none(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    return images


AUGMENTATIONS: dict[str, Augmentation] = {
    "none": _none,
    "traditional": _traditional,
    "histology": _histology,
}
"""Augmentations by name. ``traditional`` is the paper's, ``histology`` also transposes and flips
both ways."""
