"""Differentiable augmentation for small training sets (DiffAugment, Zhao et al. 2020, arXiv:2006.10738)."""

from __future__ import annotations

import torch


def _uniform(
    images: torch.Tensor, generator: torch.Generator
) -> torch.Tensor:  # (b, 1, 1, 1) in -1..1
    return 2 * torch.rand(len(images), 1, 1, 1, device=images.device, generator=generator) - 1


def augment(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Change brightness, saturation and contrast and shift by up to a quarter, each image its own way.

    Applied to real and generated images alike, so that the discriminator cannot learn the few real ones by heart and the
    generator does not learn the colours' augmentation. Colours change less than in the original, and nothing is cut out: stain is a signal here.

    :param images: (b, 3, h, w) in -1..1
    :param generator: on the images' device
    """
    images = images + 0.2 * _uniform(images, generator)
    grey = images.mean(1, keepdim=True)
    images = grey + (images - grey) * (1 + 0.3 * _uniform(images, generator))
    mean = images.mean((1, 2, 3), keepdim=True)
    images = mean + (images - mean) * (1 + 0.2 * _uniform(images, generator))
    return shift(images, generator)


def shift(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Shift each image by up to a quarter of its sides, and fill what that uncovers by reflection.

    Black or grey borders would tell the discriminator, and through it the generator, where the edges are.

    :param images: (b, 3, h, w), of any type
    :param generator: on the images' device
    """
    b, _, h, w = images.shape

    def places(length: int) -> torch.Tensor:  # (b, length), reflected at both ends
        moved = torch.arange(length, device=images.device) + (
            _uniform(images, generator) * length / 4
        ).round().long().view(b, 1)
        return length - 1 - (length - 1 - moved.abs()).abs()

    return _taken(images, places(h), places(w))


def crop(images: torch.Tensor, size: tuple[int, int], generator: torch.Generator) -> torch.Tensor:
    """Cut a part out of each image, each at its own place.

    :param images: (b, 3, h, w), of any type
    :param size: (height, width) of the parts, at most those of the images
    :param generator: on the images' device
    :return: (b, 3, *size)
    """
    b = len(images)

    def places(whole: int, part: int) -> torch.Tensor:  # (b, part)
        first = torch.randint(whole - part + 1, (b, 1), device=images.device, generator=generator)
        return first + torch.arange(part, device=images.device)

    return _taken(images, places(images.shape[2], size[0]), places(images.shape[3], size[1]))


def _taken(images: torch.Tensor, y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """The pixels at each image's own rows and columns.  (b, 3, h, w), (b, h'), (b, w') -> (b, 3, h', w')"""
    batch = torch.arange(len(images), device=images.device).view(-1, 1, 1)
    return images.permute(0, 2, 3, 1)[batch, y[:, :, None], x[:, None, :]].permute(0, 3, 1, 2)
