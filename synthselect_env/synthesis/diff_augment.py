"""Differentiable augmentation for small sets (DiffAugment, Zhao et al. 2020, arXiv:2006.10738)."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

BRIGHTNESS, SATURATION, CONTRAST = 0.2, 0.3, 0.2
"""Largest changes of colour, on a scale of -1..1 for brightness and as factors for the others."""

LARGEST_SHIFT = 1 / 4
"""Largest shift, as a share of the image's sides."""


def _uniform(images: Tensor, generator: Generator) -> Tensor:
    """Draw one number in -1..1 per image.  (b, 1, 1, 1)"""
    shape = (len(images), 1, 1, 1)
    draws = torch.rand(shape, device=images.device, generator=generator)
    return 2 * draws - 1


def augment(images: Tensor, generator: Generator) -> Tensor:
    """Change colours and shift by up to a quarter, each image its own way.

    Applied to real and generated images alike: the discriminator cannot memorise the few real ones,
    and the generator does not learn the augmentation. Colours change less than in the original, and
    nothing is cut out, as stain is a signal here.

    :param images: Images (b, 3, h, w) in -1..1
    :param generator: Random generator on the images' device
    :return: Augmented images (b, 3, h, w)
    """
    brightness = BRIGHTNESS * _uniform(images, generator)
    images = images + brightness

    grey = images.mean(1, keepdim=True)
    saturation = 1 + SATURATION * _uniform(images, generator)
    images = grey + (images - grey) * saturation

    mean = images.mean((1, 2, 3), keepdim=True)
    contrast = 1 + CONTRAST * _uniform(images, generator)
    images = mean + (images - mean) * contrast

    return shift(images, generator)


def shift(images: Tensor, generator: Generator) -> Tensor:
    """Shift each image by up to a quarter of its sides.

    The uncovered part is filled by reflection. Black or grey borders would tell the discriminator,
    and through it the generator, where the edges are.

    :param images: Images (b, 3, h, w) of any type
    :param generator: Random generator on the images' device
    :return: Shifted images (b, 3, h, w)
    """

    def places(length: int) -> Tensor:  # (b, length)
        distance = _uniform(images, generator) * length * LARGEST_SHIFT
        pixels = distance.round().long().view(-1, 1)
        moved = pixels + torch.arange(length, device=images.device)
        # Reflect at the first pixel, then at the last.
        last = length - 1
        before_last = last - moved.abs()
        return last - before_last.abs()

    height, width = images.shape[2:]
    rows = places(height)
    columns = places(width)
    return _gather(images, rows, columns)


def crop(images: Tensor, size: tuple[int, int], generator: Generator) -> Tensor:
    """Cut a part out of each image, each at its own place.

    :param images: Images (b, 3, h, w) of any type
    :param size: Height and width of the parts, at most those of the images
    :param generator: Random generator on the images' device
    :return: Parts (b, 3, *size)
    """
    device = images.device

    def places(whole: int, part: int) -> Tensor:  # (b, part)
        n_places = whole - part + 1
        shape = (len(images), 1)
        first = torch.randint(n_places, shape, device=device, generator=generator)
        return first + torch.arange(part, device=device)

    height, width = images.shape[2:]
    rows = places(height, size[0])
    columns = places(width, size[1])
    return _gather(images, rows, columns)


# (b, 3, h, w), (b, h'), (b, w') -> (b, 3, h', w')
def _gather(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Return the pixels at each image's own rows and columns."""
    batch = torch.arange(len(images), device=images.device)
    batch = batch.view(-1, 1, 1)
    rows = rows.unsqueeze(2)
    columns = columns.unsqueeze(1)
    channels_last = images.permute(0, 2, 3, 1)
    gathered = channels_last[batch, rows, columns]  # (b, h', w', 3)
    return gathered.permute(0, 3, 1, 2)
