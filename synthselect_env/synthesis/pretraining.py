"""The network that the discriminator looks through learns the real training images first: their classes, and to know each again."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import nn

from synthselect_env.synthesis.networks import FeatureNetwork
from synthselect_env.training.augmentation import colour_jitter, dihedral
from synthselect_env.training.device import autocast, seeded

BATCH_SIZE = 128
LEARNING_RATE, WARM_UP = 1e-3, 50
"""AdamW's peak; it rises over so many steps and falls to zero over all."""
TEMPERATURE = 0.2
LEAST_CROP = 0.6
"""Of the sides of a view."""
JITTER = 0.4


def pretrain(
    network: FeatureNetwork,
    images: torch.Tensor,
    labels: torch.Tensor,
    n_classes: int,
    steps: int,
    seed: int,
    random_flips: bool = True,
) -> Iterator[dict[str, float]]:
    """Train by two losses of equal weight, and leave the network frozen in evaluation mode.

    Cross-entropy of the classes, so that the features tell them apart, and SimCLR's contrast between two views of each image (Chen et al.
    2020, arXiv:2002.05709), so that they tell images apart, too: features that know only the classes would let a generator
    repeat one image of each.

    :param network: changed in place
    :param images: uint8 (n, 3, h, w), on the network's device
    :param labels: int (n,)
    :param n_classes: number of classes
    :param steps: of 128 images, or all when there are fewer
    :param seed: of heads, batches and views
    :param turned: whether views are flipped both ways and transposed
    :return: an iterator over steps: ``step``, ``contrast``, ``cross_entropy``
    """
    device, width = images.device, network.channels[-1]
    rng = torch.Generator(device).manual_seed(seed)
    with seeded(seed):
        projector = nn.Sequential(nn.Linear(width, 256), nn.ReLU(), nn.Linear(256, 64)).to(device)
        classifier = nn.Linear(width, n_classes).to(device)
    network.train().requires_grad_(True)
    parameters = [p for part in (network, projector, classifier) for p in part.parameters()]
    optimizer = torch.optim.AdamW(parameters, LEARNING_RATE, weight_decay=0.05)
    n = min(BATCH_SIZE, len(images))
    twins = torch.arange(2 * n, device=device).roll(n)
    itself = torch.eye(2 * n, dtype=torch.bool, device=device)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = LEARNING_RATE * min(
            (step + 1) / WARM_UP, 1 - step / steps
        )
        index = torch.randint(len(images), (n,), device=device, generator=rng)
        pictures = images[index].float() / 255
        with autocast(device):
            features = (
                torch.cat([network(_view(pictures, rng, random_flips))[-1] for _ in range(2)])
                .mean((2, 3))
                .float()
            )
        directions = F.normalize(projector(features), dim=1)
        likeness = (directions @ directions.T / TEMPERATURE).masked_fill(itself, -torch.inf)
        contrast = F.cross_entropy(likeness, twins)
        cross_entropy = F.cross_entropy(classifier(features), labels[index].repeat(2))
        optimizer.zero_grad(set_to_none=True)
        (contrast + cross_entropy).backward()
        optimizer.step()
        yield {"step": step + 1, "contrast": contrast.item(), "cross_entropy": cross_entropy.item()}
    network.eval().requires_grad_(False)


def _view(pictures: torch.Tensor, rng: torch.Generator, random_flips: bool) -> torch.Tensor:
    """Turned or not, with other colours each, and cropped together.  (b, 3, h, w) in 0..1 -> (b, 3, h, w) in -1..1"""
    pictures = colour_jitter(dihedral(pictures, rng) if random_flips else pictures, rng, JITTER)
    height, width = pictures.shape[2:]
    share, down, right = torch.rand(3, device=pictures.device, generator=rng).tolist()
    share = LEAST_CROP + (1 - LEAST_CROP) * share
    h, w = max(1, round(share * height)), max(1, round(share * width))
    top, left = int(down * (height - h + 1)), int(right * (width - w + 1))
    crop = F.interpolate(
        pictures[:, :, top : top + h, left : left + w],
        (height, width),
        mode="bilinear",
        align_corners=False,
    )
    return (2 * crop - 1).contiguous(memory_format=torch.channels_last)
