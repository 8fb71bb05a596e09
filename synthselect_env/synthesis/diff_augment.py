"""Differentiable augmentation for small sets (DiffAugment, Zhao et al. 2020, arXiv:2006.10738)."""

from __future__ import annotations

import torch

BRIGHTNESS, SATURATION, CONTRAST = 0.2, 0.3, 0.2
"""Largest changes of colour, on a scale of -1..1 for brightness and as factors for the others."""

LARGEST_SHIFT = 1 / 4
"""Largest shift, as a share of the image's sides."""


def _uniform(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Draw one number in -1..1 per image.  (b, 1, 1, 1)"""
    draws = torch.rand(len(images), 1, 1, 1, device=images.device, generator=generator)
    return 2 * draws - 1


def augment(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Change colours and shift by up to a quarter, each image its own way.

    Applied to real and generated images alike: the discriminator cannot memorise the few real ones,
    and the generator does not learn the augmentation. Colours change less than in the original, and
    nothing is cut out, as stain is a signal here.

    :param images: Images (b, 3, h, w) in -1..1
    :param generator: Random generator on the images' device
    :return: Augmented images (b, 3, h, w)
    """
    images = images + BRIGHTNESS * _uniform(images, generator)
    grey = images.mean(1, keepdim=True)
    images = grey + (images - grey) * (1 + SATURATION * _uniform(images, generator))
    mean = images.mean((1, 2, 3), keepdim=True)
    images = mean + (images - mean) * (1 + CONTRAST * _uniform(images, generator))
    return shift(images, generator)


def shift(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Shift each image by up to a quarter of its sides.

    The uncovered part is filled by reflection. Black or grey borders would tell the discriminator,
    and through it the generator, where the edges are.

    :param images: Images (b, 3, h, w) of any type
    :param generator: Random generator on the images' device
    :return: Shifted images (b, 3, h, w)
    """
    b, _, h, w = images.shape

    def places(length: int) -> torch.Tensor:  # (b, length), reflected at both ends
        distance = _uniform(images, generator) * length * LARGEST_SHIFT
        moved = torch.arange(length, device=images.device) + distance.round().long().view(b, 1)
        return length - 1 - (length - 1 - moved.abs()).abs()

    rows = places(h)
    columns = places(w)
    return _gather(images, rows, columns)


def crop(images: torch.Tensor, size: tuple[int, int], generator: torch.Generator) -> torch.Tensor:
    """Cut a part out of each image, each at its own place.

    :param images: Images (b, 3, h, w) of any type
    :param size: Height and width of the parts, at most those of the images
    :param generator: Random generator on the images' device
    :return: Parts (b, 3, *size)
    """
    b = len(images)

    def places(whole: int, part: int) -> torch.Tensor:  # (b, part)
        first = torch.randint(whole - part + 1, (b, 1), device=images.device, generator=generator)
        return first + torch.arange(part, device=images.device)

    rows = places(images.shape[2], size[0])
    columns = places(images.shape[3], size[1])
    return _gather(images, rows, columns)


# (b, 3, h, w), (b, h'), (b, w') -> (b, 3, h', w')
def _gather(images: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """Return the pixels at each image's own rows and columns."""
    batch = torch.arange(len(images), device=images.device).view(-1, 1, 1)
    pixels = images.permute(0, 2, 3, 1)
    return pixels[batch, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
