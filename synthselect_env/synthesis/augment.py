"""Differentiable augmentation for small training sets (DiffAugment, Zhao et al. 2020, arXiv:2006.10738)."""

from __future__ import annotations

import torch


def augment(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Change brightness, saturation and contrast and shift by up to an eighth, each picture its own way.

    Applied to real and generated pictures alike, so that the discriminator cannot learn the few real ones by heart and the
    generator does not learn the augmentation. Milder than the original and without cutout: stain is a signal here, and under
    the original's strength the discriminator learned nothing in the first thousand steps.

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

    down, right = (uniform() * h / 8).round().long().view(b, 1, 1), (uniform() * w / 8).round().long().view(b, 1, 1)
    y = torch.arange(h, device=images.device).view(1, h, 1) + down
    x = torch.arange(w, device=images.device).view(1, 1, w) + right
    inside = ((y >= 0) & (y < h) & (x >= 0) & (x < w)).unsqueeze(1)
    batch = torch.arange(b, device=images.device).view(b, 1, 1)
    return images.permute(0, 2, 3, 1)[batch, y.clamp(0, h - 1), x.clamp(0, w - 1)].permute(0, 3, 1, 2) * inside
