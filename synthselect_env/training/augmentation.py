"""Batched augmentation on the images' device.  Every function draws from the generator it is given."""

from __future__ import annotations

from collections.abc import Callable

import torch

Augmentation = Callable[[torch.Tensor, torch.Generator], torch.Tensor]
"""(b, 3, h, w) floats in 0..1 and a generator on the same device, to the same shape and range."""


def _uniform(
    images: torch.Tensor, generator: torch.Generator
) -> torch.Tensor:  # (b, 1, 1, 1) in 0..1
    return torch.rand(len(images), 1, 1, 1, device=images.device, generator=generator)


def dihedral(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Flip and transpose each image at random: tissue has no up.  Transposes square images only."""
    for dims in ((2,), (3,)):
        images = torch.where(_uniform(images, generator) < 0.5, images.flip(dims), images)
    if images.shape[2] == images.shape[3]:
        images = torch.where(_uniform(images, generator) < 0.5, images.transpose(2, 3), images)
    return images


def horizontal_flip(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Mirror each image at random."""
    return torch.where(_uniform(images, generator) < 0.5, images.flip(3), images)


def colour_jitter(
    images: torch.Tensor, generator: torch.Generator, strength: float = 0.2
) -> torch.Tensor:
    """Change brightness, contrast and saturation of each image by factors in 1 ± ``strength``."""

    def factor() -> torch.Tensor:
        return 1 + strength * (2 * _uniform(images, generator) - 1)

    images = images * factor()
    for dims in (
        (1, 2, 3),
        (1,),
    ):  # contrast about the image's mean, saturation about each pixel's grey
        centre = images.mean(dims, keepdim=True)
        images = centre + (images - centre) * factor()
    return images.clamp(0, 1)


def _traditional(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    return colour_jitter(horizontal_flip(images, generator), generator)


def _histology(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    return colour_jitter(dihedral(images, generator), generator)


def _none(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    return images


AUGMENTATIONS: dict[str, Augmentation] = {
    "none": _none,
    "traditional": _traditional,
    "histology": _histology,
}
"""``traditional`` is the paper's (horizontal flip, colour jitter); ``histology`` flips and transposes both ways, too."""
