"""Training of the network whose features HistoGAN's discriminator judges."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import nn

from synthselect_env.synthesis.networks import FeatureNetwork
from synthselect_env.training.augmentation import colour_jitter, dihedral
from synthselect_env.training.device import autocast, seeded

BATCH_SIZE = 128
"""Images per step, each of which is seen in two views."""

LEARNING_RATE, WARM_UP = 1e-3, 50
"""Peak of AdamW's learning rate, and the steps over which it rises. It falls to zero over all."""

WEIGHT_DECAY = 0.05
"""AdamW's weight decay."""

PROJECTION_SIZES = (256, 64)
"""Hidden and output size of the network on which views are contrasted."""

TEMPERATURE = 0.2
"""Temperature of the contrastive loss."""

SMALLEST_CROP = 0.6
"""Smallest side of a view, as a share of the image's."""

JITTER = 0.4
"""Strength of the views' colour jitter."""


def pretrain(
    network: FeatureNetwork,
    images: torch.Tensor,
    labels: torch.Tensor,
    n_classes: int,
    steps: int,
    seed: int,
    random_flips: bool = True,
) -> Iterator[dict[str, float]]:
    """Train a feature network, and leave it frozen in evaluation mode.

    Two losses have equal weight. Cross-entropy makes the features tell the classes apart. SimCLR's
    contrast between two views of each image (Chen et al. 2020, arXiv:2002.05709) makes them tell
    images apart: features that know only the classes would let a generator repeat one image of
    each.

    :param network: Feature network, changed in place
    :param images: Images uint8 (n, 3, h, w), on the network's device
    :param labels: Labels int (n,)
    :param n_classes: Number of classes
    :param steps: Number of steps, of 128 images each, or of all if there are fewer
    :param seed: Random seed of heads, batches and views
    :param random_flips: Whether views are flipped both ways and transposed
    :return: Iterator over steps: ``step``, ``contrast``, ``cross_entropy``
    """
    device = images.device
    rng = torch.Generator(device).manual_seed(seed)

    # Two heads, which are dropped after the training.
    width = network.channels[-1]
    hidden, length = PROJECTION_SIZES
    with seeded(seed):
        projector = nn.Sequential(
            nn.Linear(width, hidden),
            nn.ReLU(),
            nn.Linear(hidden, length),
        ).to(device)
        classifier = nn.Linear(width, n_classes).to(device)
    network.train().requires_grad_(True)
    trained = nn.ModuleList([network, projector, classifier])
    optimizer = torch.optim.AdamW(
        trained.parameters(),
        lr=LEARNING_RATE,
        weight_decay=WEIGHT_DECAY,
    )

    n = min(BATCH_SIZE, len(images))
    for step in range(steps):
        rising = (step + 1) / WARM_UP
        falling = 1 - step / steps
        rate = min(rising, falling)
        optimizer.param_groups[0]["lr"] = LEARNING_RATE * rate

        # Two views of each image of a batch, one after the other: (2n, d) features.
        index = torch.randint(len(images), (n,), device=device, generator=rng)
        batch = images[index].float() / 255
        with autocast(device):
            coarsest = []
            for _ in range(2):
                view = _view(batch, rng, random_flips)
                coarsest.append(network(view)[-1])
            features = torch.cat(coarsest).mean((2, 3)).float()

        # Gradient step on both losses.
        contrast = _contrastive_loss(projector(features))
        targets = labels[index].repeat(2)
        cross_entropy = F.cross_entropy(classifier(features), targets)
        loss = contrast + cross_entropy
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        yield {
            "step": step + 1,
            "contrast": contrast.item(),
            "cross_entropy": cross_entropy.item(),
        }
    network.eval().requires_grad_(False)


def _contrastive_loss(embeddings: torch.Tensor) -> torch.Tensor:
    """Return the cross-entropy of finding each view's twin among all other views.

    :param embeddings: Embeddings of the first views, then of the second ones (2n, d)
    """
    total = len(embeddings)
    device = embeddings.device
    directions = F.normalize(embeddings, dim=1)
    similarity = directions @ directions.T / TEMPERATURE
    itself = torch.eye(total, dtype=torch.bool, device=device)
    logits = similarity.masked_fill(itself, -torch.inf)
    twins = torch.arange(total, device=device).roll(total // 2)
    return F.cross_entropy(logits, twins)


# (b, 3, h, w) in 0..1 -> (b, 3, h, w) in -1..1
def _view(images: torch.Tensor, rng: torch.Generator, random_flips: bool) -> torch.Tensor:
    """Return images in other colours, perhaps flipped, and all cropped alike."""
    if random_flips:
        images = dihedral(images, rng)
    images = colour_jitter(images, rng, JITTER)

    # One crop for the whole batch, resized to the images' size.
    height, width = images.shape[2:]
    share, down, right = torch.rand(3, device=images.device, generator=rng).tolist()
    share = SMALLEST_CROP + (1 - SMALLEST_CROP) * share
    rows = _part_of(height, share, down)
    columns = _part_of(width, share, right)
    crop = F.interpolate(
        images[:, :, rows, columns],
        size=(height, width),
        mode="bilinear",
        align_corners=False,
    )
    view = 2 * crop - 1
    return view.contiguous(memory_format=torch.channels_last)


def _part_of(side: int, share: float, place: float) -> slice:
    """Return the pixels of a part of a side.

    :param side: Pixels of the side
    :param share: Share of the side that the part takes
    :param place: Place of the part, from 0 (first) to 1 (last)
    """
    length = max(1, round(share * side))
    first = int(place * (side - length + 1))
    return slice(first, first + length)
