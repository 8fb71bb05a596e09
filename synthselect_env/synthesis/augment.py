"""Differentiable augmentation for small training sets (DiffAugment, Zhao et al. 2020, arXiv:2006.10738)."""

from __future__ import annotations

import torch


def augment(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Change brightness, saturation and contrast and shift by up to a quarter, each picture its own way.

    Applied to real and generated pictures alike, so that the discriminator cannot learn the few real ones by heart and the
    generator does not learn the augmentation. What a shift uncovers is filled by reflection: black or grey borders would tell the
    discriminator, and through it the generator, where the edges are. Colours change less than in the original, and nothing is cut out: stain is
    a signal here.

    :param images: (b, 3, h, w) in -1..1
    :param generator: on the pictures' device
    """

    def uniform() -> torch.Tensor:  # (b, 1, 1, 1) in -1..1
        return 2 * torch.rand(len(images), 1, 1, 1, device=images.device, generator=generator) - 1

    b, _, h, w = images.shape
    images = images + 0.2 * uniform()
    grey = images.mean(1, keepdim=True)
    images = grey + (images - grey) * (1 + 0.3 * uniform())
    mean = images.mean((1, 2, 3), keepdim=True)
    images = mean + (images - mean) * (1 + 0.2 * uniform())

    def shifted(length: int) -> torch.Tensor:  # (b, length), positions reflected at both ends
        moved = torch.arange(length, device=images.device) + (uniform() * length / 4).round().long().view(b, 1)
        return length - 1 - (length - 1 - moved.abs()).abs()

    y, x = shifted(h)[:, :, None], shifted(w)[:, None, :]
    batch = torch.arange(b, device=images.device).view(b, 1, 1)
    return images.permute(0, 2, 3, 1)[batch, y, x].permute(0, 3, 1, 2)
